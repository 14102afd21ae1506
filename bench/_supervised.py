"""An 8-rank job under `outrider run`, for the measurements beside this file: start it, kill in it, read the ledger.

Everything is seen from outside: the command is a process, ranks are found in the ledger, their ends in /proc. Times are
Unix seconds. Nothing here is part of Outrider.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from outrider import mesh as meshes
from outrider_cli import demo_job
from outrider_controller import ledger, runbook_files
from outrider_controller.core import records

REPOSITORY: Final = Path(__file__).resolve().parents[1]
TRAIN: Final = REPOSITORY / "examples" / "llama4d" / "train.py"
MESH: Final = "dp=2,pp=2,cp=1,tp=2"
RANKS: Final = 8
WAIT_S_MAX: Final = 600.0
POLL_S: Final = 0.01

Found = TypeVar("Found")
Row = TypeVar("Row", bound=records.Row)


@dataclass(frozen=True)
class Kill:
    """One rank that was killed. ``gone_s``: from the signal until every rank of the attempt was gone."""

    rank: int
    pid: int
    signal: str
    at: float
    generation: int
    gone_s: float


class Job:
    """One supervised job in a directory of its own."""

    def __init__(
        self,
        name: str,
        cold: bool = False,
        checkpoint_every: int = 5,
        step_floor_s: float = 0.0,
        train: tuple[str, ...] = (),
        options: tuple[str, ...] = (),
    ) -> None:
        """``train``: further arguments of the script; ``options``: further options of ``outrider run``."""
        self.folder = Path(tempfile.mkdtemp(prefix="obench-"))
        self.name = name
        self._seen = 0
        self._rows: list[records.Row] = []
        arguments = ["--mesh", MESH, "--steps", "100000", "--checkpoint-every", str(checkpoint_every)]
        arguments += ["--step-floor-s", str(step_floor_s), "--faults-dir", str(self.faults)]
        arguments += ["--checkpoint-dir", str(self.checkpoints), "--metrics", str(self.metrics), *train]
        # A flag of the interpreter that changes nothing here, and that a forked process could not have.
        script = ["--no-python", sys.executable, "-B", str(TRAIN)] if cold else [str(TRAIN)]
        command = ["run", "--job", name, "--nodes", "2", "--nproc-per-node", "4", "--mesh", MESH]
        command += ["--checkpoint-dir", str(self.checkpoints), "--checkpoint-keep", "3"]
        command += ["--runbooks", str(self._patient_runbooks()), *options]
        environment = os.environ | {"OUTRIDER_STATE": str(self.state), "OUTRIDER_RUNTIME": str(self.folder / "r")}
        self._log = (self.folder / "run.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "outrider_cli", *command, *script, *arguments],
            env=environment,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.folder / "state"

    @property
    def checkpoints(self) -> Path:
        """Its directory of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def faults(self) -> Path:
        """Where files tell the job of faults."""
        return self.folder / "faults"

    @property
    def metrics(self) -> Path:
        """The metrics file: a line for each finished step of each attempt."""
        return self.folder / "metrics.jsonl"

    def tell(self, fault: str, point: str) -> None:
        """Put a file where the job looks for faults, whole from the first moment on."""
        self.faults.mkdir(exist_ok=True)
        draft = self.faults / f".{fault}"
        draft.write_text(point)
        draft.replace(self.faults / fault)

    def taken(self, fault: str) -> dict[str, Any] | None:
        """Where and when the job acted on that file; it can be told of again afterwards. None while it has not."""
        path = self.faults / f"{fault}.taken"
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        path.unlink()
        return found

    def stop(self) -> None:
        """Stop it."""
        self._process.send_signal(signal.SIGTERM)  # SIGINT is ignored by what a shell starts in the background
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)

    def end(self) -> None:
        """Stop it and take its directory away."""
        if self._process.poll() is None:
            self.stop()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait(self, what: Callable[[], Found | None], words: str) -> Found:
        """The first true answer of ``what``."""
        until = time.monotonic() + WAIT_S_MAX
        while not (found := what()):
            if self._process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{self.name}: never saw {words}; {(self.folder / 'run.log').read_text()[-2000:]}")
            time.sleep(POLL_S)
        return found

    def rows(self, kind: type[Row]) -> list[Row]:
        """Every row of a kind so far."""
        path = self.state / "ledger.db"
        if (self.state / "controller.json").exists():
            for number, row in ledger.read(path, self._seen):
                self._seen = number
                self._rows.append(row)
        return [row for row in self._rows if isinstance(row, kind)]

    def first(self, kind: type[Row], **fields: Any) -> Row | None:
        """The first row of a kind with these values."""
        wanted = fields.items()
        return next((row for row in self.rows(kind) if all(getattr(row, k) == v for k, v in wanted)), None)

    def generation(self) -> int:
        """Of the newest attempt that was planned."""
        planned = self.rows(records.AttemptPlanned)
        return planned[-1].generation if planned else 0

    def started(self, generation: int) -> records.EffectDone | None:
        """The result that tells the processes of an attempt, once it is there."""
        wanted = [r for r in self.rows(records.EffectRequested) if r.name == "start-attempt"]
        effect = next((r.effect for r in wanted if r.args["generation"] == generation), None)
        done = self.first(records.EffectDone, effect=effect) if effect else None
        return done if done is not None and done.ok else None

    def pids(self, generation: int) -> dict[int, int]:
        """Process of each rank of an attempt."""
        done = self.wait(lambda: self.started(generation), f"the ranks of generation {generation}")
        return {int(rank): pid for rank, pid in done.result["pids"].items()}

    def training(self) -> int:
        """Wait until the newest attempt has saved a checkpoint and nothing is to be regained; its generation."""

        def well() -> int | None:
            saved = self.first(records.CheckpointSaved, generation=self.generation())
            open_ = {row.incident for row in self.rows(records.IncidentOpened)}
            open_ -= {row.incident for row in self.rows(records.IncidentClosed)}
            return self.generation() if saved is not None and not open_ else None

        return self.wait(well, "an attempt that trains")

    def kill(self, rank: int, signal_number: signal.Signals = signal.SIGKILL) -> Kill:
        """Kill a rank of the newest attempt and watch until all of its ranks are gone."""
        generation = self.generation()
        pids = self.pids(generation)
        at, began = time.time(), time.monotonic()
        os.kill(pids[rank], signal_number)
        while any(_runs(pid) for pid in pids.values()) and time.monotonic() - began < WAIT_S_MAX:
            time.sleep(POLL_S / 5)
        gone_s = time.monotonic() - began
        return Kill(rank, pids[rank], signal_number.name, at, generation, gone_s)

    def _patient_runbooks(self) -> Path:
        """The runbooks of this version with brakes for as many kills as a measurement wants."""
        folder = self.folder / "runbooks"
        folder.mkdir()
        for file in sorted(runbook_files.BUILT_IN.glob("*.md")):
            text = re.sub(r"(?m)^(  (?:restarts|same_failure|same_node)): \d+$", r"\1: 0", file.read_text())
            text = re.sub(r"(?m)^(  attempts_without_checkpoint): \d+$", r"\1: 1000", text)
            (folder / file.name).write_text(text)
        return folder


def supervised(*arguments: Any, **named: Any) -> Iterator[Job]:
    """A job for a ``with`` block (through contextlib.contextmanager)."""
    job = Job(*arguments, **named)
    try:
        yield job
    finally:
        job.end()


def equal_to_plain_run(metrics: Path) -> bool:
    """Whether the whole history of a job, faults and all, has the bits of one plain run; says so."""
    steps = max(line.step for line in demo_job.lines(metrics))
    plain = demo_job.DemoJob(meshes.parse(MESH), steps, 0, steps)
    with tempfile.TemporaryDirectory() as folder:
        reference = demo_job.run_reference(plain, Path(folder), lambda _: None)
        compared = demo_job.compare(metrics, reference, steps)
    words = "equal" if compared.equal else f"DIFFERENT: {compared.different} missing: {compared.missing}"
    print(f"bits of loss and gradient norm over {steps} steps, {compared.lines} lines: {words}", flush=True)
    return compared.equal


def load() -> str:
    """The load averages of this moment."""
    return "load " + " ".join(f"{value:.1f}" for value in os.getloadavg())


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
