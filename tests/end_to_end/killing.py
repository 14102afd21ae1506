"""A standing controller, two agents and their jobs as real processes, to be killed at chosen points of an incident.

The ranks train together without torch: each waits for the other before the next step, as a collective would. They write
down every start, step and commit themselves, so that what was done twice shows even where the ledger would not say so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from outrider_controller import ledger, runbook_files, tokens
from outrider_controller.core import records
from tests import saves
from tests.end_to_end.world import processes, wait_for

STEPS = 22
SAVE_EVERY = 5
STEPS_MAX = 400
FAULT_AFTER = 7  # steps
NODES = ("a1", "a2")

PATIENCE_S = 240.0  # a machine may have twenty times the work that it has cores for


def until(what: Callable[[], Any]) -> Any:
    """The first true answer of ``what``."""
    return wait_for(what, PATIENCE_S)


JOB = """\
import hashlib, json, os, pathlib, shutil, sys, time
import outrider

folder, steps, save_every = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
generation, attempt = int(os.environ["OUTRIDER_GENERATION"]), int(os.environ["OUTRIDER_ATTEMPT"])
resume = os.environ["OUTRIDER_RESUME_FROM"]

def note(name, *words):  # one write of one line: whole, whoever else writes
    with open(folder / name, "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

note("starts", generation, attempt, rank, os.getpid())
done = json.loads((pathlib.Path(resume) / "manifest.json").read_text())["step"] if resume else 0
run = outrider.attach(mesh=f"dp={world}")
peers = folder / f"peers-{generation}"
peers.mkdir(exist_ok=True)

def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

def together(step):  # a collective: everybody has come this far, or somebody has gone
    draft = peers / f".{rank}"
    draft.write_text(f"{os.getpid()} {step}")
    draft.rename(peers / str(rank))
    for peer in range(world):
        while True:
            try:
                pid, its = map(int, (peers / str(peer)).read_text().split())
            except FileNotFoundError:
                pid, its = os.getpid(), -1
            if its >= step:
                break
            if not alive(pid):
                # in the words of gloo, so that it is known for an echo
                raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4242")
            time.sleep(0.005)

def save(step):
    name = f"step-{step:08d}-attempt-{attempt:03d}"
    draft, final = folder / "checkpoints" / f".tmp-{name}-{generation}", folder / "checkpoints" / name
    shutil.copytree(folder.parent / f"content-{step}", draft)
    files = {file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
             for file in draft.iterdir()}
    said = {"format": 1, "step": step, "run": "dummy", "attempt": attempt, "generation": generation, "mesh": "",
            "world_size": world, "saved_at": "2026-01-31T03:00:00+00:00", "files": files}
    (draft / "manifest.json").write_text(json.dumps(said))
    if run.may_commit():
        draft.rename(final)
        note("commits", generation, step)
        run.checkpoint_saved(str(final), step)

together(0)
for step in range(done + 1, steps + 1):
    time.sleep(0.04)
    while step > steps - 20 and (folder / "hold").exists():  # a test still looks at the running job
        time.sleep(0.02)
    together(step)
    run.step(step, tokens=8, loss=1 / step, grad_norm=1.0)
    if rank == 0:
        note("steps", generation, step)
        if step % save_every == 0:
            save(step)
together(steps + 1)
"""


@dataclasses.dataclass(frozen=True)
class Point:
    """When the axe falls: once ``rows`` rows of the fault are in the ledger, and ``after_s`` later."""

    rows: int
    after_s: float
    rank: int
    away_s: float  # until what was killed is started again


def point(seed: int) -> Point:
    """A point of an incident's life: by rows mostly, by the time between them too."""
    chance = random.Random(seed)
    after_s = chance.choice((0.0, 0.0, chance.random() * 0.03, chance.random() * 0.3))
    return Point(chance.randrange(0, 34), after_s, chance.randrange(2), chance.choice((0.0, 0.2, 1.0)))


class Cluster:
    """One state directory with a controller and two agents; ``jobs`` run on it one after the other."""

    def __init__(self) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="okill-"))
        self.state, self.work = self.folder / "state", self.folder / "work"
        self.state.mkdir(mode=0o700)
        self.work.mkdir()
        self.runbooks = self.folder / "runbooks"
        self.runbooks.mkdir()
        for book in runbook_files.BUILT_IN.glob("*.md"):
            # An agent that is started again on a busy machine may take longer than a host is waited for.
            (self.runbooks / book.name).write_text(re.sub(r"silence_s: [\d.]+", "silence_s: 60", book.read_text()))
        (self.work / "job.py").write_text(JOB)
        for step in range(SAVE_EVERY, STEPS_MAX + 1, SAVE_EVERY):
            saves.write(self.work / f"content-{step}", saves.content(step))
        outside = {name: value for name, value in os.environ.items() if not name.startswith("OUTRIDER_")}
        self.environment = outside | {"OUTRIDER_RUNTIME": str(self.folder / "r"), "OUTRIDER_STATE": str(self.state)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.numbers = itertools.count(1)

    def start(self) -> None:
        """Controller and agents, each with its own credential."""
        self.start_controller()
        made = tokens.Tokens(self.state)
        for node in NODES:
            made.make_node(node)
            self.start_agent(node)

    # --- what runs -----------------------------------------------------------------------------------------------

    def start_controller(self) -> None:
        self._start("controller", "controller", "--listen", "127.0.0.1:0", "--runbooks", str(self.runbooks))
        until(self._answers)

    def _answers(self) -> bool:
        assert self.processes["controller"].poll() is None, (self.folder / "controller.out").read_text()[-2000:]
        return self.ask("/healthz", 503) is not None

    def start_agent(self, node: str) -> None:
        self._start(node, "agent", "--supervise", "--allow-root", "--node", node, "--slots", "1", "--simulated")

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "outrider_cli", *arguments],
                cwd=self.work,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def end(self) -> None:
        self.end_processes()
        shutil.rmtree(self.folder, ignore_errors=True)

    def end_processes(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        for pid, _ in processes(str(self.folder)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    # --- what it says --------------------------------------------------------------------------------------------

    def ask(self, path: str, *fine: int, body: dict[str, Any] | None = None) -> Any:
        """The answer of the controller that runs now; None while there is none."""
        try:
            found = json.loads((self.state / "controller.json").read_text())
            if found["pid"] != self.processes["controller"].pid:
                return None
            headers = {"Authorization": f"Bearer {(self.state / 'tokens/act').read_text().strip()}"}
            method = "GET" if body is None else "POST"
            answer = httpx.request(method, found["url"] + path, json=body, headers=headers, timeout=20, trust_env=False)
        except (OSError, ValueError, httpx.HTTPError):
            return None
        assert answer.is_success or answer.status_code in fine, answer.text
        return answer.json()

    def rows(self, job: str) -> list[records.Row]:
        return [row for _, row in ledger.read(self.state / "ledger.db", job=job)]

    def last_seq(self) -> int:
        with sqlite3.connect(f"file:{self.state}/ledger.db?mode=ro", uri=True) as db:
            return int(db.execute("SELECT coalesce(max(seq), 0) FROM rows").fetchone()[0])

    # --- one job -------------------------------------------------------------------------------------------------

    def submit(self, steps: int = STEPS, **limits: float) -> Job:
        name = f"job{next(self.numbers)}"
        job = Job(self, name, self.work / name)
        job.folder.mkdir()
        document = {
            "name": name,
            "command": [sys.executable, str(self.work / "job.py"), str(job.folder), str(steps), str(SAVE_EVERY)],
            "nodes": 2,
            "ranks_per_node": 1,
            "checkpoint_dir": str(job.folder / "checkpoints"),
            **({"limits": limits} if limits else {}),
        }
        until(lambda: self.ask("/v1/jobs", body=document))
        return job


@dataclasses.dataclass
class Job:
    """One job of the cluster and what its ranks wrote down."""

    cluster: Cluster
    name: str
    folder: pathlib.Path

    def lines(self, name: str) -> list[tuple[int, ...]]:
        path = self.folder / name
        return [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []

    def pid(self, rank: int) -> int:
        return next(pid for _, _, its, pid in reversed(self.lines("starts")) if its == rank)

    def fault(self, number: int, rank: int) -> int:
        """Do ``number`` (a signal) to a rank in mid-training; the last row of the ledger before it."""
        until(lambda: len(self.lines("steps")) >= FAULT_AFTER)
        before = self.cluster.last_seq()
        os.kill(self.pid(rank), number)
        return before

    def reach(self, seq: int, after_s: float) -> None:
        """Wait until the ledger has come so far, or the incident is over before it has."""
        with sqlite3.connect(f"file:{self.cluster.state}/ledger.db?mode=ro", uri=True) as db:
            until = time.monotonic() + PATIENCE_S
            while db.execute("SELECT max(seq) FROM rows").fetchone()[0] < seq:
                over = "SELECT 1 FROM rows WHERE job = ? AND kind = 'incident-closed'"
                if db.execute(over, (self.name,)).fetchone() or time.monotonic() > until:
                    break
                time.sleep(0.0005)
        time.sleep(after_s)

    def completed(self) -> bool:
        status = self.cluster.ask(f"/v1/jobs/{self.name}/status")
        if status is None:
            return False
        assert status["state"] not in ("held", "failed"), status["sentence"]
        return bool(status["state"] == "completed")

    def story(self) -> str:
        """Everything in the ledger about it, for a failed assertion."""
        return "\n".join(f"{row.kind}: {row}" for row in self.cluster.rows(self.name))

    def assert_done_once(self, cause: str) -> None:
        """Trained to the end, one incident, nothing twice, every second in one bin."""
        until(self.completed)
        until(lambda: not _unfinished(self.cluster.rows(self.name)))
        rows = self.cluster.rows(self.name)
        incidents = self.cluster.ask(f"/v1/jobs/{self.name}/incidents")["incidents"]
        assert [incident["cause"] for incident in incidents] == [cause], self.story()
        self._assert_effects(rows)
        self._assert_ranks(rows)
        self._assert_time(incidents[0])

    def _assert_effects(self, rows: list[records.Row]) -> None:
        wanted = Counter(row.effect for row in rows if isinstance(row, records.EffectRequested))
        ended = Counter(row.effect for row in rows if isinstance(row, records.EffectDone))
        assert wanted == ended
        assert set(wanted.values()) == {1}
        seen = Counter((r.observation.node, r.observation.seq) for r in rows if isinstance(r, records.Observed))
        assert set(seen.values()) <= {1}
        for kind in (records.IncidentOpened, records.Diagnosed, records.Decided, records.IncidentClosed):
            assert len([row for row in rows if isinstance(row, kind)]) == 1, self.story()

    def _assert_ranks(self, rows: list[records.Row]) -> None:
        planned = [row for row in rows if isinstance(row, records.AttemptPlanned)]
        assert len(planned) == 2, self.story()
        starts = [(generation, rank) for generation, _, rank, _ in self.lines("starts")]
        assert sorted(starts) == sorted((row.generation, rank) for row in planned for rank in range(2)), self.story()
        commits = [step for _, step in self.lines("commits")]
        assert commits == list(range(SAVE_EVERY, STEPS + 1, SAVE_EVERY))
        first, second = (
            [step for generation, step in self.lines("steps") if generation == row.generation] for row in planned
        )
        assert first == list(range(1, len(first) + 1))
        assert second == list(range(planned[1].resume_step + 1, STEPS + 1))
        assert planned[1].resume_step <= len(first)

    def assert_bins(self) -> None:
        report = self.cluster.ask(f"/v1/jobs/{self.name}/report")
        assert abs(sum(report["bins"].values()) - report["elapsed_s"]) <= 0.001

    def _assert_time(self, incident: dict[str, Any]) -> None:
        self.assert_bins()
        length = _seconds(incident["closed_at"]) - _seconds(incident["opened_at"])
        assert (
            abs(sum(incident["phases"].values()) - length) <= 0.0015
        )  # closed_at and opened_at are cut to milliseconds


def _unfinished(rows: list[records.Row]) -> set[str]:
    wanted = {row.effect for row in rows if isinstance(row, records.EffectRequested)}
    return wanted - {row.effect for row in rows if isinstance(row, records.EffectDone)}


def _seconds(text: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def play(cluster: Cluster, seed: int, victims: tuple[str, ...], fault: int = signal.SIGKILL) -> Job:
    """A rank is killed, or sent another ``fault``; then ``victims`` are killed at the seed's point.

    A victim is ``controller`` or ``agent``, the latter of the node whose rank it was.
    """
    at = point(seed)
    job = cluster.submit()
    before = job.fault(fault, at.rank)
    job.reach(before + at.rows, at.after_s)
    node = NODES[at.rank]
    names = [node if victim == "agent" else victim for victim in victims]
    for name in names:
        cluster.kill(name)
    print(f"{' and '.join(names)} ended {cluster.last_seq() - before} rows after rank {at.rank} did", flush=True)
    time.sleep(at.away_s)
    for name in names:
        if name == "controller":
            cluster.start_controller()
        else:
            cluster.start_agent(name)
    return job


class Clusters:
    """One cluster for many jobs, made anew after a job that failed on it."""

    def __init__(self) -> None:
        self._made: Cluster | None = None

    @contextlib.contextmanager
    def lent(self) -> Iterator[Cluster]:
        """The cluster, for one job."""
        if self._made is None:
            self._made = Cluster()
        try:
            if not self._made.processes:
                self._made.start()
            yield self._made
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        if self._made is not None:
            self._made.end()
            self._made = None
