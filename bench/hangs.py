"""Is a rank that hangs found, named and replaced? The 8-rank job is stopped (SIGSTOP) and made to spin at every point.

The points are those of the example job: before its first word, before the load, in the load, in the first step of an
attempt, in a step, in an evaluation, in a checkpoint; and for SIGSTOP also any moment, from outside. A spinning rank
loops in Python before the collectives that the seven others wait in. Nobody tells the supervisor. Prints for each: how
long until it was suspected, until the incident was opened, who was named, and how long until the next step; then how
many were named rightly, and whether every bit equals the uninterrupted run.

    python bench/hangs.py [--hangs 20] [--seed 0] [--only stop|spin] [--point POINT] [--stall-s SECONDS]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import time
from dataclasses import dataclass
from typing import Final

import _supervised as bench

from outrider_controller.core import records

POINTS: Final = ("step", "start", "checkpoint", "before-load", "evaluation", "first-step", "load")
OF_A_RESTART: Final = ("start", "before-load", "load", "first-step")
ANY: Final = "any moment"
CONFIDENT: Final = 0.7
CAUSES: Final = {"stop": "rank-stopped", "spin": "rank-hung"}


@dataclass(frozen=True)
class Trial:
    """One hang and what came of it; times in seconds after it began."""

    kind: str
    point: str
    rank: int
    named: tuple[int, ...]
    cause: str
    suspected_s: float | None
    incident_s: float
    next_step_s: float
    recorded: tuple[str, tuple[int, ...], float]  # verdict, culprits and confidence of the flight records

    @property
    def right(self) -> bool:
        """Whether that rank and nobody else was named, with what had happened to it."""
        return self.named == (self.rank,) and self.cause == CAUSES[self.kind]


def main() -> int:
    """Hang, look and compare; exit status 1 when a name was wrong or a bit differs."""
    options = _options()
    chance = random.Random(options.seed)
    kinds = [options.only] if options.only else ["stop", "spin"]
    points = [options.point] if options.point else [*POINTS, ANY]
    cases = [(kind, point) for point in points for kind in kinds if (kind, point) != ("spin", ANY)]
    print(f"8 ranks ({bench.MESH}) on two simulated hosts, {options.hangs} hangs, {bench.load()}", flush=True)
    train = ("--eval-every", "3", "--timeout-s", str(options.timeout_s))
    own = ("--stall-s", str(options.stall_s)) if options.stall_s is not None else ()
    with contextlib.contextmanager(bench.supervised)("hangs", checkpoint_every=4, train=train, options=own) as job:
        trials = [_one(job, *cases[number % len(cases)], chance) for number in range(options.hangs)]
        job.stop()
        equal = bench.equal_to_plain_run(job.metrics)
    return _summary(trials, equal)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hangs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(CAUSES))
    parser.add_argument("--point", choices=[*POINTS, ANY])
    parser.add_argument("--stall-s", type=float, help="the job's floor; its default when left out")
    parser.add_argument("--timeout-s", type=float, default=600.0, help="of the job's collectives: they must not help")
    return parser.parse_args()


def _one(job: bench.Job, kind: str, point: str, chance: random.Random) -> Trial:
    generation = job.training()
    rank = chance.randrange(bench.RANKS)
    time.sleep(chance.uniform(0.0, 2.0))
    if point == ANY:
        at = time.time()
        os.kill(job.pids(generation)[rank], signal.SIGSTOP)
    else:
        job.tell(f"{kind}.{rank}", point)
        if point in OF_A_RESTART:
            job.kill(chance.choice([other for other in range(bench.RANKS) if other != rank]))
            generation += 1
        at = float(job.wait(lambda: job.taken(f"{kind}.{rank}"), f"rank {rank} at {point}")["at"])
    opened = job.wait(
        lambda: job.first(records.IncidentOpened, generation=generation), f"an incident ({kind}, {point})"
    )
    said = job.wait(lambda: job.first(records.Diagnosed, incident=opened.incident), "the diagnosis")
    step = job.wait(lambda: job.first(records.Training, generation=generation + 1), "the next step")
    suspicions = [row for row in job.rows(records.Suspected) if row.generation == generation and row.at > at]
    suspected = suspicions[-1] if suspicions else None  # a former one was resumed
    trial = Trial(
        kind,
        point,
        rank,
        said.ranks,
        said.cause,
        suspected.at - at if suspected is not None else None,
        opened.at - at,
        step.at - at,
        _recorded(job, said.flight_recorder),
    )
    _tell(trial, said)
    return trial


def _recorded(job: bench.Job, effect: str) -> tuple[str, tuple[int, ...], float]:
    """What the flight records said, as it stands in the ledger."""
    found = next((row.result for row in job.rows(records.EffectDone) if effect and row.effect == effect), {})
    told = found.get("flight_recorder") or {"verdict": "none read", "culprits": [], "confidence": 0.0}
    return told["verdict"], tuple(told["culprits"]), told["confidence"]


def _tell(trial: Trial, said: records.Diagnosed) -> None:
    suspected = "-" if trial.suspected_s is None else f"{trial.suspected_s:.1f} s"
    verdict = "right" if trial.right else f"WRONG: {said.sentence}"
    kind, culprits, confidence = trial.recorded
    print(
        f"{trial.kind:<4} {trial.point:<11} rank {trial.rank}: suspected {suspected}, "
        f"incident {trial.incident_s:.1f} s, next step {trial.next_step_s:.1f} s; "
        f"named {list(trial.named)} {trial.cause}: {verdict}; flight records: {kind} {list(culprits)} {confidence:.2f} "
        f"({bench.load()})",
        flush=True,
    )


def _summary(trials: list[Trial], equal: bool) -> int:
    right = sum(trial.right for trial in trials)
    for kind in CAUSES:
        for words, points in (("training", {*POINTS, ANY} - set(OF_A_RESTART)), ("starting", set(OF_A_RESTART))):
            found = [trial for trial in trials if trial.kind == kind and trial.point in points]
            if found:
                incident = statistics.median(trial.incident_s for trial in found)
                back = [trial.next_step_s for trial in found]
                print(
                    f"{kind} while {words}: {len(found)} hangs, incident after {incident:.1f} s (median), "
                    f"next step after {statistics.median(back):.1f} s ({min(back):.1f} to {max(back):.1f})"
                )
    exact = sum(trial.recorded[1] == (trial.rank,) for trial in trials)
    false = [trial for trial in trials if set(trial.recorded[1]) - {trial.rank}]
    sure = sum(trial.recorded[2] >= CONFIDENT for trial in false)
    print(f"hung rank named rightly: {right} of {len(trials)}, {bench.load()}")
    print(f"by the flight records: it alone {exact}, another rank too or instead {len(false)} ({sure} with confidence)")
    return int(right < len(trials) or not equal)


if __name__ == "__main__":
    raise SystemExit(main())
