"""What it costs to watch a node: the agent at one look a second over 8 GPUs of the fake NVML library, all signals on.

For so many seconds the CPU time and the resident memory of the agent and of its helper processes are taken each
second, with a scrape of /metrics every 15 s as Prometheus makes it. Then /metrics is scraped 200 times in a row. Where
prometheus-node-exporter is installed it runs beside, for the host part, under the same scrapes. What happens while
warming up does not count: what the agent keeps of the last minute fills up in it. The figures stand beside what the
design asks: under 1 % of a core, under 80 MiB, flat, p99 under 50 ms, under 300 series. The fake library's own work is
part of the helpers': a driver sleeps until there is an event, the fake has to look for one. What that and its answers
cost by themselves is measured beside and said apart.

    python bench/agent_cost.py [--seconds 60] [--warm-up 70]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import _supervised as bench
from prometheus_client import parser as plain_parser
from prometheus_client.openmetrics import parser as open_parser

from outrider_controller import tokens
from outrider_simulator import fake_nvml

OPEN: Final = "application/openmetrics-text; version=1.0.0"
EXPORTER: Final = "prometheus-node-exporter"
SCRAPE_EVERY_S: Final = 15
SCRAPES: Final = 200
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
ALONE: Final = """
import ctypes, sys, threading, time
import pynvml as n
library = ctypes.CDLL(sys.argv[1])
n.nvmlInit()
gpus = [n.nvmlDeviceGetHandleByIndex(number) for number in range(n.nvmlDeviceGetCount())]
events, event = n.nvmlEventSetCreate(), n.c_nvmlEventData_t()
for gpu in gpus:
    n.nvmlDeviceRegisterEvents(gpu, 8, events)
number, count, kind, since = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint(), [0] * len(gpus)
fields, samples = (n.c_nvmlFieldValue_t * 24)(), (n.c_nvmlSample_t * 128)()
for place, field in enumerate([185, 186, 82, 226, 227, 230] + [165] * 18):
    fields[place].fieldId, fields[place].scopeId = field, max(0, place - 6)
def look():
    while True:
        time.sleep(1)
        for place, gpu in enumerate(gpus):
            library.nvmlDeviceGetFieldValues(gpu, 24, fields)
            library.nvmlDeviceGetPowerUsage(gpu, ctypes.byref(number))
            library.nvmlDeviceGetTemperature(gpu, 0, ctypes.byref(number))
            library.nvmlDeviceGetCurrentClocksEventReasons(gpu, ctypes.byref(number))
            count.value = 128
            stamp = ctypes.c_ulonglong(since[place])
            library.nvmlDeviceGetSamples(gpu, 0, stamp, ctypes.byref(kind), ctypes.byref(count), samples)
            since[place] = samples[max(0, count.value - 1)].timeStamp
threading.Thread(target=look, daemon=True).start()
while True:
    library.nvmlEventSetWait_v2(events, ctypes.byref(event), 2000)
"""
REACH: Final = {"cpu": 1.0, "rss": 80.0, "p99": 50.0, "series": 300.0}


@dataclass
class Watched:
    """One program and its children. ``cpu_s`` and ``rss`` (MiB) by sample: of it, and of its children."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    cpu_s: list[tuple[float, float]] = field(default_factory=list)
    rss: list[tuple[float, float]] = field(default_factory=list)
    scrapes_s: list[float] = field(default_factory=list)
    series: int = 0
    shared_once: float = 0.0

    def sample(self) -> None:
        """CPU time so far and memory now."""
        pids = [self.process.pid, *_children(self.process.pid)]
        self.cpu_s.append((_cpu_s(pids[0]), sum(map(_cpu_s, pids[1:]))))
        self.rss.append((_rss(pids[0]), sum(map(_rss, pids[1:]))))

    def weigh(self) -> None:
        """Memory with shared pages counted once."""
        self.shared_once = sum(map(_pss, [self.process.pid, *_children(self.process.pid)]))

    def scrape(self) -> float:
        """One scrape; its seconds, and how many series it had."""
        began = time.perf_counter()
        asked = urllib.request.Request(self.url, headers={"Accept": OPEN})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=10) as answer:
            text, kind = answer.read().decode(), answer.headers["Content-Type"]
        took = time.perf_counter() - began
        parse = open_parser if "openmetrics" in kind else plain_parser
        self.series = sum(len(one.samples) for one in parse.text_string_to_metric_families(text))
        return took


def main() -> int:
    """Measure; 1 where a reach was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--warm-up", type=int, default=70)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ocost-") as name, contextlib.ExitStack() as stack:
        watched = [stack.enter_context(_agent(Path(name)))]
        alone = stack.enter_context(_library_alone(Path(name) / "nvml"))
        if shutil.which(EXPORTER):
            watched.append(stack.enter_context(_node_exporter()))
        else:
            print(f"{EXPORTER} is not installed (apt-get install {EXPORTER}), so there is nothing to compare with")
        _measure(watched, options.warm_up, options.seconds, alone)
        return max([_report(one) for one in watched][:1])


def _measure(watched: list[Watched], warm_up: int, seconds: int, alone: int) -> None:
    print(f"warming up {warm_up} s, then {seconds} s; {bench.load()}", flush=True)
    before = 0.0
    for second in range(warm_up + seconds + 1):
        before = _cpu_s(alone) if second == warm_up else before
        for one in watched:
            if second >= warm_up:
                one.sample()
            if second % SCRAPE_EVERY_S == 0:
                one.scrape()
        time.sleep(1)
    print(f"the fake library by itself, waited on and asked as by the helpers: {_share(alone, before, seconds)}")
    for one in watched:
        one.weigh()
    for _ in range(SCRAPES):
        for one in watched:
            one.scrapes_s.append(one.scrape())
    print(f"measured; {bench.load()}")


def _share(pid: int, before: float, seconds: int) -> str:
    return f"{100 * (_cpu_s(pid) - before) / seconds:.2f} % of one core, in the helpers' figure below"


def _report(one: Watched) -> int:
    """Print one program's figures; 1 where a reach was missed."""
    seconds = len(one.cpu_s) - 1
    own_cpu, helpers_cpu = (100 * (one.cpu_s[-1][part] - one.cpu_s[0][part]) / seconds for part in (0, 1))
    percent = own_cpu + helpers_cpu
    total = [sum(each) for each in one.rss]
    own, helpers = (statistics.median(each[part] for each in one.rss) for part in (0, 1))
    quarter = max(1, len(total) // 4)
    drift = statistics.median(total[-quarter:]) - statistics.median(total[:quarter])
    p99 = 1000 * sorted(one.scrapes_s)[int(0.99 * len(one.scrapes_s)) - 1]
    median = 1000 * statistics.median(one.scrapes_s)
    print(f"{one.name}:")
    print(f"  CPU {percent:.2f} % of one core: itself {own_cpu:.2f}, helpers {helpers_cpu:.2f}")
    print(f"  resident {own:.1f} MiB, helpers {helpers:.1f} MiB, at most {max(total):.1f} MiB together")
    print(f"  with pages that they share counted once: {one.shared_once:.1f} MiB together")
    print(f"  memory of the last quarter against the first: {drift:+.2f} MiB")
    print(f"  scrape median {median:.1f} ms, p99 {p99:.1f} ms of {len(one.scrapes_s)}; {one.series} series")
    found = {"cpu": percent, "rss": own + helpers, "p99": p99, "series": float(one.series)}
    missed = [name for name, most in REACH.items() if found[name] >= most]
    if one.name == "outrider agent":
        print(f"  asked: {REACH}; missed: {', '.join(missed) or 'nothing'}")
    return int(bool(missed))


@contextlib.contextmanager
def _agent(folder: Path) -> Iterator[Watched]:
    world = fake_nvml.World(folder / "nvml")
    world.set(None, "load", fake_nvml.steady(0.8).sine(0.1, 40).noise(0.05))
    port = _port()
    words = [sys.executable, "-m", "outrider_cli", "agent", "--node", "n0", "--state", str(folder / "state")]
    words += ["--nvml-library", str(world.library), "--metrics-listen", f"127.0.0.1:{port}", "--expect-gpus", "8"]
    environment = os.environ | {"OUTRIDER_RUNTIME": str(folder / "r")}
    with _controller(folder / "state"):
        with (folder / "agent.log").open("wb") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
        yield from _running("outrider agent", process, f"http://127.0.0.1:{port}/metrics", folder / "agent.log")


@contextlib.contextmanager
def _library_alone(world: Path) -> Iterator[int]:
    """A process that does nothing but wait for events, and make each second the calls of a look; gives its pid."""
    process = subprocess.Popen([sys.executable, "-c", ALONE, str(world / "libnvidia-ml.so.1")])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait(30)


@contextlib.contextmanager
def _controller(state: Path) -> Iterator[None]:
    """What the agent is connected to; its own cost is not counted."""
    words = [sys.executable, "-m", "outrider_cli", "controller", "--state", str(state), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (state / "controller.json").exists():
            if process.poll() is not None:
                raise SystemExit("the controller did not start")
            time.sleep(0.1)
        controller = tokens.Tokens(state)
        controller.prepare()
        controller.make_node("n0")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextlib.contextmanager
def _node_exporter() -> Iterator[Watched]:
    port = _port()
    words = [EXPORTER, f"--web.listen-address=127.0.0.1:{port}"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield from _running(EXPORTER, process, f"http://127.0.0.1:{port}/metrics", None)


def _running(name: str, process: subprocess.Popen[bytes], url: str, log: Path | None) -> Iterator[Watched]:
    made = Watched(name, process, url)
    try:
        for _ in range(300):
            try:
                made.scrape()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise SystemExit(f"{name} never answered at {url}; {log.read_text()[-2000:] if log else ''}")
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _children(pid: int) -> list[int]:
    """All processes below it."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *_children(child)]
    return found


def _cpu_s(pid: int) -> float:
    """Of it and of the children that it has waited for."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, words[11:15])) / TICKS_PER_S


def _rss(pid: int) -> float:
    """MiB."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return 0.0


def _pss(pid: int) -> float:
    """MiB; a page that n processes share counts 1/n for each."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


if __name__ == "__main__":
    raise SystemExit(main())
