"""What an earlier run left behind in a state directory: the job that is asked for again, and others in its way.

A run that was killed leaves ranks that train on. The same command line takes its job up again. Any other unfinished
job is in the way of a new one: it is refused while something of it still runs, and given up where nothing does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from outrider import places
from outrider_cli import errors, local_cluster
from outrider_controller import ledger
from outrider_controller.core import evolve, jobs
from outrider_controller.core import state as states


@dataclass(frozen=True)
class Found:
    """``adopt``: the job itself is unfinished and is taken up again. ``give_up``: others, to be ended before it."""

    adopt: bool
    give_up: tuple[str, ...]


def look(state: Path, spec: jobs.JobSpec) -> Found:
    """Read the ledger, if there is one; raises CommandError where another job's ranks still run."""
    path = state / "ledger.db"
    if not path.is_file():
        return Found(False, ())
    try:
        known = evolve.evolve_all(states.State(), (row for _, row in ledger.read(path)))
    except ledger.LedgerError as error:
        raise errors.CommandError(str(error)) from error
    give_up: list[str] = []
    adopt = False
    for name, job in known.jobs.items():
        if job.over:
            continue
        if job.spec == spec and not being_stopped(job):
            adopt = True
            continue
        pids = [pid for node in known.nodes for pid in local_cluster.keeper_pids(places.runtime_dir(state, node), name)]
        if pids and not being_stopped(job):
            raise errors.CommandError(
                f"{state}: job {name} is unfinished and its ranks still run (keepers {', '.join(map(str, pids))}). "
                "Its own command line takes it up again; SIGTERM to these ends it; --state DIR leaves it alone"
            )
        give_up.append(name)
    return Found(adopt, tuple(give_up))


def being_stopped(job: states.JobState) -> bool:
    """A person has asked for its end, and the run that was asked did not live to see it."""
    return job.incident is not None and job.incident.wanted == "stop"
