"""Is a damaged checkpoint refused, with its reason, and the older one taken? Both cases of the comparison with peers.

In the 8-rank job 256 bytes of one file of the newest checkpoint are turned over, or one file is cut in half, and a rank
is killed at once; one time after the checkpoint was verified, the next as soon as it appears. Prints the reason of the
refusal, the step that was resumed from, and how long until the next step; then whether every bit equals the
uninterrupted run.

    python bench/damaged_checkpoints.py [--trials 6] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import time
from pathlib import Path
from typing import Final

import _supervised as bench

from outrider_cli import demo_injector
from outrider_controller.core import records

HOW: Final = ("flipped", "cut")


def main() -> int:
    """Damage, kill and compare; exit status 1 when one was loaded, passed over without a word, or a bit differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    print(f"8 ranks ({bench.MESH}) on two simulated hosts, {options.trials} checkpoints, {bench.load()}", flush=True)
    with contextlib.contextmanager(bench.supervised)("damage", checkpoint_every=4) as job:
        refused = sum(_one(job, HOW[number % 2], number % 4 > 1, chance) for number in range(options.trials))
        job.stop()
        equal = bench.equal_to_plain_run(job.metrics)
    print(f"damaged checkpoints refused with the older one taken: {refused} of {options.trials}, {bench.load()}")
    return int(refused < options.trials or not equal)


def _one(job: bench.Job, how: str, early: bool, chance: random.Random) -> bool:
    generation = job.training()
    path, verified = _newest(job, generation, early)
    if how == "flipped":
        file, _ = demo_injector.flip(path, chance.random())
    else:
        file = chance.choice(sorted(path.glob("*.distcp"))).name
        os.truncate(path / file, (path / file).stat().st_size // 2)
    kill = job.kill(chance.randrange(bench.RANKS))
    step = job.wait(lambda: job.first(records.Training, generation=generation + 1), "the next step")
    planned = job.first(records.AttemptPlanned, generation=generation + 1)
    found = [row.result for row in job.rows(records.EffectDone) if "rejected" in row.result][-1]
    why = next((str(item["why"]) for item in found["rejected"] if item["path"] == str(path)), "")
    assert planned is not None
    good = bool(why) and planned.resume_path != str(path)
    known = "verified before" if verified else "never verified"
    print(
        f"{how:<7} {path.name}/{file} ({known}): next step {step.at - kill.at:.1f} s, from step {planned.resume_step}; "
        f"{'refused: ' + why[:160] if good else 'LOADED OR PASSED OVER: ' + planned.resume_path} ({bench.load()})",
        flush=True,
    )
    return good


def _newest(job: bench.Job, generation: int, early: bool) -> tuple[Path, bool]:
    """The next checkpoint that this attempt saves, at once, or as soon as it was looked at; and whether it was."""
    before = demo_injector.newest(job.checkpoints)

    def fresh() -> Path | None:
        path = demo_injector.newest(job.checkpoints)
        older = len(demo_injector.committed(job.checkpoints)) > 1
        return path if older and path != before else None

    def verified() -> Path | None:
        path = fresh()
        return path if path is not None and _looked_at(job, path) else None

    path = job.wait(fresh if early else verified, "a checkpoint")
    if not early:
        time.sleep(0.1)
    return path, _looked_at(job, path)


def _looked_at(job: bench.Job, path: Path) -> bool:
    return any(row.ok and row.result.get("path") == str(path) and "fingerprint" in row.result for row in _done(job))


def _done(job: bench.Job) -> list[records.EffectDone]:
    return job.rows(records.EffectDone)


if __name__ == "__main__":
    raise SystemExit(main())
