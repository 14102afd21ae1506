"""Is the first dead rank named rightly, with its signal? Random ranks of the 8-rank job are killed at random moments.

The moments are in turn: during training, during a checkpoint (its unfinished directory is on the disk), and during
start-up (before the attempt's first step). Seven others die within a tenth of a second of each, so the order of deaths
is all there is to tell the first from the rest. Prints each case that was named wrongly, and how many were right.

    python bench/first_dead.py [--kills 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import time
from typing import Final

import _supervised as bench

from outrider_controller.core import records

MOMENTS: Final = ("training", "checkpoint", "start-up")
SIGNALS: Final = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV)
STARTUP_S: Final = 2.5  # from the fork to the first step; a quarter of the kills falls into the imports of a cold start


def main() -> int:
    """Kill and compare; exit status 1 when one was named wrongly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    right = 0
    tally = {moment: [0, 0] for moment in MOMENTS}
    with contextlib.contextmanager(bench.supervised)("kills", checkpoint_every=2) as job:
        for number in range(options.kills):
            moment = MOMENTS[number % len(MOMENTS)]
            good = _one(job, moment, chance)
            right += good
            tally[moment][0] += good
            tally[moment][1] += 1
    details = ", ".join(f"{moment} {good} of {of}" for moment, (good, of) in tally.items())
    print(f"first dead rank and signal named rightly: {right} of {options.kills} ({details}), {bench.load()}")
    return int(right < options.kills)


def _one(job: bench.Job, moment: str, chance: random.Random) -> bool:
    generation = _await(job, moment, chance)
    kill = job.kill(chance.randrange(bench.RANKS), chance.choice(SIGNALS))
    said = job.wait(lambda: _diagnosis(job, generation), "the diagnosis")
    good = said.ranks == (kill.rank,) and kill.signal in said.sentence
    if not good:
        print(f"WRONG during {moment}: rank {kill.rank} got {kill.signal}; said was: {said.ranks} {said.sentence}")
    return good


def _await(job: bench.Job, moment: str, chance: random.Random) -> int:
    """Wait for the moment in the newest attempt; its generation."""
    generation = job.wait(job.generation, "an attempt")
    if job.first(records.IncidentOpened, generation=generation):
        generation += 1
    job.wait(lambda: job.generation() == generation, f"generation {generation}")
    job.pids(generation)
    if moment == "start-up":
        time.sleep(chance.uniform(0.0, STARTUP_S))
        return generation
    job.wait(lambda: job.first(records.CheckpointSaved, generation=generation), "a checkpoint")
    if moment == "training":
        time.sleep(chance.uniform(0.0, 1.5))
    else:
        job.wait(lambda: any(job.checkpoints.glob(".tmp-*")), "a checkpoint on its way")
        time.sleep(chance.uniform(0.0, 0.15))
    return generation


def _diagnosis(job: bench.Job, generation: int) -> records.Diagnosed | None:
    opened = job.first(records.IncidentOpened, generation=generation)
    return job.first(records.Diagnosed, incident=opened.incident) if opened else None


if __name__ == "__main__":
    raise SystemExit(main())
