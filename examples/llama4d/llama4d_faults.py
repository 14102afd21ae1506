"""Faults and slowness on request: what a run was told to do badly, and what a file tells it while it runs.

A file in `--faults-dir` is a fault for the process that finds it, once: `spin.<rank>` makes that rank loop in Python
for ever, `stop.<rank>` makes it send itself SIGSTOP, `cuda.<rank>` makes it fail as a program does whose GPU broke,
and `nan` turns the loss of one step into NaN. What the other files hold is the point where it strikes (a word of
POINTS; empty is the next one). Each rank looks whenever it passes a point, and always before the collectives that
follow there, so that its peers are left waiting. A file that was acted on is renamed to end in `.taken` first: it is
on the disk when and where, and no restart repeats it.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from llama4d_mesh import Mesh
from llama4d_options import POINTS, Options
from llama4d_supervisor import Launch

# The words of torch for a kernel that failed, with the word that this one did not.
CUDA_ERROR = (
    "CUDA error: unspecified launch failure (simulated)\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, "
    "so the stacktrace below might be incorrect."
)


class Faults:
    """What one rank is told to suffer. `passing(point, step)` is called where each point begins."""

    def __init__(self, options: Options, launch: Launch) -> None:
        self._options = options
        self._rank = launch.rank
        self._first_attempt = launch.attempt == 0
        self._folder = Path(options.faults_dir) if options.faults_dir else None
        self._poisons = launch.rank == _loss_speaker(options.mesh)
        self._step_began = 0.0

    def passing(self, point: str, step: int) -> None:
        """Does what is asked for at this point: a slow stretch, or a fault that a file tells of."""
        self._step_began = time.monotonic()
        if self._take(f"spin.{self._rank}", point, step):
            _spin()
        if self._take(f"stop.{self._rank}", point, step):
            os.kill(os.getpid(), signal.SIGSTOP)
        if self._take(f"cuda.{self._rank}", point, step):
            raise RuntimeError(CUDA_ERROR)
        for slow in self._options.slow:
            if slow.point == point and slow.step in (None, step) and slow.rank in (None, self._rank):
                time.sleep(slow.seconds)

    def in_step(self, step: int) -> None:
        """Raises or sleeps in this step where that was asked for on the command line."""
        options = self._options
        if options.slow_rank is not None and options.slow_rank[0] == self._rank:
            time.sleep(options.slow_rank[1])
        if options.raise_at is not None and step == options.raise_at[0] and options.raise_at[1] in (None, self._rank):
            raise RuntimeError(f"rank {self._rank} was told by --raise-at to fail in step {step}")

    def poison(self, step: int) -> bool:
        """Whether this rank's loss is to be NaN in this step. Of a file, one rank alone learns, and that is enough."""
        if step == self._options.nan_at and self._first_attempt:
            return True
        return self._poisons and self._take("nan", "step", step)

    def after_step(self, step: int) -> None:
        """Stretches a step of `--slow-steps` by what it took, times the factor less one."""
        slow = self._options.slow_steps
        if slow is not None and slow.first <= step <= slow.last and slow.rank in (None, self._rank):
            time.sleep((slow.factor - 1.0) * (time.monotonic() - self._step_began))

    def _take(self, name: str, point: str, step: int) -> bool:
        """Whether the file is there and means this point; it is renamed, and says when it was acted on."""
        if self._folder is None:
            return False
        path = self._folder / name
        try:
            wanted = path.read_text().strip()
            if wanted not in ("", point):
                if wanted not in POINTS:
                    print(f"{path}: {wanted!r} is not one of {', '.join(POINTS)}", file=sys.stderr, flush=True)
                return False
            path.rename(taken := path.with_name(f"{name}.taken"))
        except OSError:
            return False  # not there, as a rule
        with contextlib.suppress(OSError):  # a full disk is no reason not to suffer
            about = {"rank": self._rank, "point": point, "step": step, "pid": os.getpid(), "at": time.time()}
            taken.write_text(json.dumps(about) + "\n")
        return True


def _loss_speaker(layout: Mesh) -> int:
    """A rank of the last pipeline stage whose loss is counted: its NaN is everybody's after the sum over the world."""
    return layout.rank({"dp": 0, "pp": layout.size("pp") - 1, "cp": 0, "tp": 0})


def _spin() -> NoReturn:
    """Never returns: busy in Python, as a bug would be, and outside the collective that others wait in."""
    turns = 0
    while True:
        turns += 1
