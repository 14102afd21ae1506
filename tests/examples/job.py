"""Starting the example job from a warm parent, and what came of it."""

import collections.abc
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import typing

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "examples" / "llama4d"
SCRIPT = FOLDER / "train.py"


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a job went."""

    codes: list[int]  # exit code of each rank, negative for a signal
    output: str  # of rank 0
    errors: str  # of all ranks
    metrics: list[dict[str, typing.Any]]

    def bits(self) -> dict[int, tuple[str, str]]:
        """Loss and gradient norm of each step, exactly; a step that came twice has to be the same twice."""
        found: dict[int, tuple[str, str]] = {}
        for line in self.metrics:
            pair = (line["loss_hex"], line["grad_norm_hex"])
            assert found.setdefault(line["step"], pair) == pair, f"step {line['step']} went differently the second time"
        return found

    def gap(self, other: "Ended") -> float:
        """Largest difference in loss or gradient norm over the steps that both did."""
        theirs = {line["step"]: line for line in other.metrics}
        both = [(line, theirs[line["step"]]) for line in self.metrics if line["step"] in theirs]
        assert both, f"no step in common; the other job ended with {other.codes}:\n{other.errors}\n{self.errors}"
        return max(abs(mine[key] - its[key]) for mine, its in both for key in ("loss", "grad_norm"))


class Starter:
    """Runs jobs, one at a time, as forks of a process that has imported torch."""

    def __init__(self) -> None:
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("OUTRIDER_", "TORCHELASTIC_"))
        }
        self._parent = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).with_name("warm_ranks.py")), str(SCRIPT)],
            env={**clean, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self,
        ranks: int,
        *arguments: str,
        script: pathlib.Path = SCRIPT,
        environment: dict[str, str] | None = None,
        path: collections.abc.Sequence[pathlib.Path] = (),
        kill: tuple[int, str] | None = None,
        limit_s: float = 200.0,
        survivors_s: float = 90.0,
    ) -> Ended:
        """Runs a job to its end. `kill` is a rank, and the text in rank 0's output after which it gets SIGKILL.

        After `limit_s`, and `survivors_s` after the first rank that failed, the rest is killed.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            metrics = folder / "metrics.jsonl"
            order = {
                "ranks": ranks,
                "script": str(script),
                "arguments": [*arguments, "--metrics", str(metrics)],
                "environment": environment or {},
                "path": [str(place) for place in path],
                "folder": name,
                "kill": {"rank": kill[0], "after": kill[1]} if kill else None,
                "limit_s": limit_s,
                "survivors_s": survivors_s,
            }
            assert self._parent.stdin is not None
            assert self._parent.stdout is not None
            print(json.dumps(order), file=self._parent.stdin, flush=True)
            codes = json.loads(self._parent.stdout.readline())["codes"]
            errors = "\n".join((folder / f"rank_{rank}.err").read_text() for rank in range(ranks))
            lines = metrics.read_text().splitlines() if metrics.exists() else []
            return Ended(codes, (folder / "rank_0.out").read_text(), errors, [json.loads(line) for line in lines])

    def close(self) -> None:
        """Ends the parent, and with it whatever it started."""
        self._parent.kill()
        self._parent.communicate()
