"""How long a killed rank keeps the 8-rank job from its next step: warm (forked) and cold (afresh), in one run.

Prints, for each kind: kill to all ranks gone, and kill to the next finished step with its phases, medians over the
kills, each beside the load of the machine (most of which is the job's own); then the ratio of cold to warm.

    python bench/restart.py [--kills 3] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import statistics
import time
from typing import Final

import _supervised as bench

from outrider_controller.core import records

STEPS_BETWEEN: Final = 4
PHASES: Final = (
    ("detection", "kill until the incident was opened"),
    ("diagnosis", "until it was decided what to do: all ranks gone, checkpoint found"),
    ("order and start", "until every node had started its ranks"),
    ("imports", "until the script had attached: imports, process groups"),
    ("load, first step", "until the first step was finished: model, checkpoint, first step"),
)


def main() -> int:
    """Measure both kinds and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=3, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the single figures there")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    print(f"8 ranks ({bench.MESH}) on two simulated hosts, {options.kills} kills of each kind, {bench.load()}")
    figures = {kind: _measure(kind, options.kills, chance) for kind in ("warm", "cold")}
    medians = {kind: statistics.median(one["next_step_s"] for one in found) for kind, found in figures.items()}
    print(f"cold / warm, kill to next step: {medians['cold'] / medians['warm']:.2f} ({bench.load()})")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)
    return 0


def _measure(kind: str, kills: int, chance: random.Random) -> list[dict[str, float]]:
    with contextlib.contextmanager(bench.supervised)(kind, cold=kind == "cold") as job:
        found = [_one(job, chance) for _ in range(kills)]
    warm = {one["warm"] for one in found}
    if warm != {float(kind == "warm")}:
        raise SystemExit(f"the {kind} job was not started {kind} each time")
    gone = [one["gone_s"] for one in found]
    print(f"{kind}: kill to all gone: median {statistics.median(gone):.3f} s (of {_list(gone)}), {bench.load()}")
    steps = [one["next_step_s"] for one in found]
    print(f"{kind}: kill to next step: median {statistics.median(steps):.2f} s (of {_list(steps)}), {bench.load()}")
    for phase, words in PHASES:
        print(f"    {phase:<17} {statistics.median(one[phase] for one in found):7.3f} s   {words}")
    regained = statistics.median(one["regained_s"] for one in found)
    print(f"    {'redo':<17} {regained - statistics.median(steps):7.3f} s   until the lost step was regained")
    return found


def _one(job: bench.Job, chance: random.Random) -> dict[str, float]:
    generation = job.wait(job.generation, "an attempt")
    job.wait(lambda: job.first(records.CheckpointSaved, generation=generation), "a checkpoint")
    time.sleep(chance.uniform(0.0, 2.5))
    kill = job.kill(chance.randrange(bench.RANKS))
    following = generation + 1
    first_step = job.wait(lambda: job.first(records.Training, generation=following), "the next step")
    opened = next(row for row in job.rows(records.IncidentOpened) if row.generation == generation)
    decided = job.wait(lambda: job.first(records.Decided, incident=opened.incident), "the decision")
    closed = job.wait(lambda: job.first(records.IncidentClosed, incident=opened.incident), "the incident's end")
    attached = job.first(records.Attached, generation=following)
    started = job.started(following)
    assert attached is not None
    assert started is not None
    ran = min(started.at, attached.at)  # a forked rank may attach before the last node has answered its order
    times = [kill.at, opened.at, decided.at, ran, attached.at, first_step.at]
    phases = {
        phase: after - before for (phase, _), (before, after) in zip(PHASES, itertools.pairwise(times), strict=True)
    }
    return phases | {
        "warm": float(started.result["warm"]),
        "gone_s": kill.gone_s,
        "next_step_s": first_step.at - kill.at,
        "regained_s": closed.at - kill.at,
    }


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    raise SystemExit(main())
