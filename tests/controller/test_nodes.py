"""What the shell makes of an observation: whose job it concerns."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

from outrider import clock
from outrider import records as spoken
from outrider_controller import nodes, progress
from outrider_controller.core import records
from tests.core.world import World


def test_a_full_disk_that_is_told_under_the_name_of_a_job_that_is_over_concerns_the_one_that_runs_there() -> None:
    state = World().submit().train(3).state
    running = state.jobs["job"]
    both = {"former": dataclasses.replace(running, state="completed"), "job": running}
    turns: Any = types.SimpleNamespace(state=dataclasses.replace(state, jobs=both))
    nothing: Any = None
    shell = nodes.Nodes(turns, progress.Progress(), nothing, nothing, clock.RealClock(), 2.0)
    seen = spoken.Observation(1, "disk-full", "error", 5.0, "n0", "/data has no room", "former", device="/data")
    row = shell._row(seen)
    assert isinstance(row, records.Observed)
    assert (row.job, row.observation) == ("job", seen)
    turns.state = dataclasses.replace(state, jobs={"former": both["former"]})
    assert isinstance(shell._row(seen), records.Noted)
