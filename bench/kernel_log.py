"""How fast is a kernel log judged, and does a storm cost memory? Lines a second, by kind of log, and resident memory.

Three logs: the same 29 lines over and over (a storm as the field knows it), 29 kinds with unlike processes in them, and
ordinary lines that say nothing. Prints one line for each, and the machine's load, which shares the processors.

    python bench/kernel_log.py [--lines 800000]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from outrider_analysis.kernel_log import judge, lines, xids

KINDS: Final = [fault.number for fault in xids.XIDS if fault.number not in (13, 31)][:29]
LOGS: Final[dict[str, Callable[[int], str]]] = {
    "29 lines": lambda n: f"NVRM: Xid (PCI:0000:3b:00): {KINDS[n % 29]}, pid=4242, name=python3, Ch 0000000f",
    "29 kinds": lambda n: f"NVRM: Xid (PCI:0000:3b:00): {KINDS[n % 29]}, pid={n}, name=python3, Ch 0000000f",
    "ordinary": lambda n: f"audit: type=1326 audit(1700000001.{n}:3): nothing that anybody has to know of {n}",
}


def main() -> int:
    """Judge each log once; exit status 1 when a storm is not 29 findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=800_000)
    options = parser.parse_args()
    wrong = 0
    for name, text in LOGS.items():
        before, begun, used = _resident(), time.perf_counter(), time.process_time()
        taker = judge.Judge()
        told = sum(len(taker.take(line)) for line in lines.parse_all(_records(text, options.lines)))
        wall, used = time.perf_counter() - begun, time.process_time() - used
        wrong += told != (0 if name == "ordinary" else len(KINDS))
        print(
            f"{name}: {options.lines} lines in {wall:.1f} s ({used:.1f} s of processor, {options.lines / wall:.0f}"
            f" lines/s), {told} findings, {(_resident() - before) / 2**20:+.1f} MiB resident"
        )
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    return int(wrong > 0)


def _records(text: Callable[[int], str], count: int) -> Iterator[str]:
    for number in range(count):
        yield f"3,{number},{100_000_000 + number * 50},-;{text(number)}"


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    raise SystemExit(main())
