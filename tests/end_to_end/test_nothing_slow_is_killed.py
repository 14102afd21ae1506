"""What is only slow is left alone: seeded runs of the real job in which one thing takes far longer than it ever did.

`--stall-s` is scaled down to a second or less, so that minutes become seconds and the floors protect nothing: what the
job does here is longer than the floor of its phase, or as long as that allows. Where one rank alone is slow, the other
waits for it in a collective all the time, which is just what a hang looks like.
"""

import concurrent.futures
import contextlib
import dataclasses
import pathlib
import random
import sys

import pytest

from outrider_controller.core import records
from tests.end_to_end import world as worlds

TRAIN = pathlib.Path(worlds.__file__).resolve().parents[2] / "examples" / "llama4d" / "train.py"
KINDS = ("checkpoint", "evaluation", "first-step", "machine")
RUNS = 50
AT_ONCE = 4


@dataclasses.dataclass(frozen=True)
class Slow:
    """One run of two ranks. ``usual``: what it does in any case; ``slow``: what takes long, once or for a while."""

    stall_s: float
    usual: tuple[str, ...]
    slow: tuple[str, ...]
    steps: int


def drawn(seed: int) -> Slow:
    """The run of a seed: what is slow, by how much, and whether on one rank or on both."""
    chance = random.Random(f"slow {seed}")
    kind, rank = KINDS[seed % len(KINDS)], chance.choice(["", ":0", ":1"])
    usual = ["--mesh", chance.choice(["dp=2", "tp=2"]), "--checkpoint-every", "6", "--eval-every", "5"]
    if kind == "machine":
        usual += ["--slow", "step:0.3"]
        steps = 12 + (57 if seed % 20 == 3 else 12)  # a minute of steps that take three times as long, or some of it
        return Slow(0.6, tuple(usual), ("--slow-steps", f"12:{steps}:3{rank}"), steps + 4)
    # The floors: three, four and three times stall_s for these phases. Nothing has been learned of a first step.
    stall_s = 1.5
    seconds = {
        "checkpoint": stall_s * chance.uniform(1.5, 2.5),
        "evaluation": stall_s * chance.uniform(2.0, 3.3),
        "first-step": stall_s * chance.uniform(1.5, 2.5),
    }[kind]
    step = {"checkpoint": ":12", "evaluation": ":15", "first-step": ":1"}[kind]
    return Slow(stall_s, tuple(usual), ("--slow", f"{kind}:{seconds:.2f}{step}{rank}"), 20)


def run(slow: Slow, kept: list[str]) -> None:
    """Train to the end under supervision, and find that nobody was accused."""
    with contextlib.contextmanager(worlds.make)() as world:
        saving = ["--checkpoint-dir", str(world.work / "checkpoints")]
        own = ["--nproc-per-node", "2", "--stall-s", str(slow.stall_s), "--job", "slow", *saving]
        job = [*slow.usual, *slow.slow, *saving, "--steps", str(slow.steps)]
        done = world.run("run", *own, str(TRAIN), *job, wait_s=800)
        rows = world.rows()
        said = f"{slow}\n{done.stderr[-3000:]}"
        assert done.returncode == 0, said
        assert [row.text for row in rows if isinstance(row, records.IncidentOpened)] == [], said
        assert sum(isinstance(row, records.AttemptPlanned) for row in rows) == 1, said
        assert f"step {slow.steps}/{slow.steps}" in done.stdout
        looks = sum(isinstance(row, records.Looked) for row in rows)
        kept.append(f"{' '.join(slow.slow)}: {sum(isinstance(r, records.Suspected) for r in rows)} suspicions, {looks}")


def run_all(seeds: range) -> None:
    kept: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for ended in [pool.submit(run, drawn(seed), kept) for seed in seeds]:
            ended.result()
    print("looked at and left alone:", *kept, sep="\n", file=sys.stderr)


def test_a_slow_checkpoint_evaluation_or_first_step_is_no_hang() -> None:
    run_all(range(3))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("first", range(0, RUNS, 10))
def test_fifty_seeded_slow_runs_are_all_left_alone(first: int) -> None:
    run_all(range(first, first + 10))
