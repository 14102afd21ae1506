"""The demo's job: the example beside this package, sized so that any mesh divides it, and its uninterrupted reference.

The reference runs the same command as plainly spawned processes, with torchrun's environment and nobody watching.
Losses and gradient norms are compared bit for bit, as hexadecimal floats, and a step that was done twice has to
agree with itself too.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outrider import mesh as mesh_module
from outrider_cli import errors

TRAIN: Final = Path(__file__).parent / "examples" / "llama4d" / "train.py"
STEP_FLOOR_S: Final = (
    0.25  # a step takes at least this long, so that faults fall between checkpoints and can be watched
)
REFERENCE_S_MAX: Final = 900.0
CHECKPOINTS: Final = "checkpoints"
METRICS: Final = "metrics.jsonl"
FAULTS: Final = "faults"  # where files tell the running job of faults
POLL_S: Final = 0.2


@dataclass(frozen=True)
class DemoJob:
    """What is trained. ``checkpoint_every``: steps between two checkpoints."""

    mesh: mesh_module.Mesh
    steps: int
    seed: int
    checkpoint_every: int

    def command(self, folder: Path, step_floor_s: float) -> list[str]:
        """The command of one rank, which keeps everything in ``folder``."""
        return [
            *(sys.executable, str(TRAIN), "--mesh", str(self.mesh), "--steps", str(self.steps)),
            *("--seed", str(self.seed), "--metrics", str(folder / METRICS), "--faults-dir", str(folder / FAULTS)),
            *("--checkpoint-dir", str(folder / CHECKPOINTS), "--checkpoint-every", str(self.checkpoint_every)),
            *("--step-floor-s", str(step_floor_s)),
            *_sizes(self.mesh),
        ]


def _sizes(mesh: mesh_module.Mesh) -> list[str]:
    """A model that every axis divides; the example's own sizes wherever they already fit."""
    axes = dict(mesh.axes)
    kv_heads = math.lcm(4, axes["tp"])
    sizes = {
        "layers": max(4, axes["pp"]),
        "kv-heads": kv_heads,
        "heads": 2 * kv_heads,
        "width": 16 * kv_heads,
        "ffn": math.lcm(192, axes["tp"]),
        "vocab": math.lcm(256, axes["tp"]),
        "sequence": math.lcm(64, 2 * axes["cp"], axes["cp"] * axes["tp"]),
        "global-batch": math.lcm(8, 2 * axes["dp"]),
    }
    return [word for name, size in sizes.items() for word in (f"--{name}", str(size))]


def run_reference(job: DemoJob, folder: Path, tell: Callable[[str], None]) -> Path:
    """Train without supervision and without faults; the metrics file. Raises CommandError when it does not end well."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    metrics = folder / METRICS
    command = job.command(folder, step_floor_s=0.0)
    ranks = [
        _spawn(command, rank, job.mesh.world_size, port, folder)
        for port in [_free_port()]
        for rank in range(job.mesh.world_size)
    ]
    try:
        _await(ranks, metrics, job.steps, folder, tell)
    finally:
        for process in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return metrics


def _spawn(command: list[str], rank: int, world_size: int, port: int, folder: Path) -> subprocess.Popen[bytes]:
    # What tells a rank of a supervisor stays out, so that nothing but the faults differs from the supervised run.
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("OUTRIDER_", "TORCHELASTIC_"))
    }
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    meeting = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": inherited.get("OMP_NUM_THREADS", "1"),
    }
    environment = inherited | {name: str(value) for name, value in (place | meeting).items()}
    with (folder / f"rank_{rank}.log").open("wb") as log:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _await(
    ranks: list[subprocess.Popen[bytes]], metrics: Path, steps: int, folder: Path, tell: Callable[[str], None]
) -> None:
    until = time.monotonic() + REFERENCE_S_MAX
    while any(process.poll() is None for process in ranks):
        failed = next((rank for rank, process in enumerate(ranks) if process.returncode), None)
        if failed is not None or time.monotonic() > until:
            break
        tell(f"reference step {_finished(metrics)}/{steps}, without supervision and without faults")
        time.sleep(POLL_S)
    bad = next((rank for rank, process in enumerate(ranks) if process.poll() != 0), None)
    if bad is not None:
        status = ranks[bad].returncode
        end = f"ended with status {status}" if status is not None else f"had not ended after {REFERENCE_S_MAX:g} s"
        raise errors.CommandError(f"the reference run failed: rank {bad} {end}; see {folder / f'rank_{bad}.log'}")


def _finished(metrics: Path) -> int:
    try:
        return metrics.read_bytes().count(b"\n")
    except OSError:
        return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other. ``different``: steps whose bits differ; ``missing``: steps that one of them lacks.

    ``lines``: those that were compared; ``not_finite``: those left out, which say of themselves that they are not.
    """

    steps: int
    lines: int
    different: tuple[int, ...]
    missing: tuple[int, ...]
    not_finite: int = 0

    @property
    def equal(self) -> bool:
        """Every step is there, and every line of it has the reference's bits."""
        return not self.different and not self.missing


def compare(metrics: Path, reference: Path, steps: int, poisoned: bool = False) -> Comparison:
    """Every line of ``metrics`` against the reference's line of that step.

    ``poisoned``: a loss was turned NaN on purpose, so lines without finite numbers are left out; their steps have to be
    there all the same, trained again.
    """
    wanted = {line.step: line.bits for line in lines(reference)}
    every = lines(metrics)
    found = [line for line in every if line.finite or not poisoned]
    done = {line.step for line in found}
    return Comparison(
        steps=steps,
        lines=len(found),
        different=tuple(sorted({line.step for line in found if wanted.get(line.step, line.bits) != line.bits})),
        missing=tuple(step for step in range(1, steps + 1) if step not in wanted or step not in done),
        not_finite=len(every) - len(found),
    )


@dataclass(frozen=True)
class Line:
    """One finished step of one attempt."""

    step: int
    bits: tuple[str, str]  # of loss and gradient norm
    finite: bool


def lines(metrics: Path) -> list[Line]:
    """One for each line of a metrics file; a line cut short by a kill is left out."""
    found = []
    for line in metrics.read_text().splitlines() if metrics.is_file() else []:
        try:
            record = json.loads(line)
            bits = str(record["loss_hex"]), str(record["grad_norm_hex"])
            found.append(Line(int(record["step"]), bits, all(math.isfinite(float.fromhex(one)) for one in bits)))
        except (ValueError, KeyError, TypeError):
            continue
    return found
