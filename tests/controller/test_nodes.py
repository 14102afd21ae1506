"""What the shell makes of an observation: whose job it concerns."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

from outrider import clock, wire
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


def test_what_marks_told_is_recorded_before_the_end_that_was_seen_afterwards() -> None:
    state = World().submit().train(3).state
    generation = state.jobs["job"].attempt.generation  # type: ignore[union-attr]
    told = progress.Progress()
    saved = spoken.CheckpointMark("/c/5", 5, 4.0, 0)
    turns: Any = types.SimpleNamespace(state=state, acked=lambda node, spool_id: 0)
    nothing: Any = None
    shell = nodes.Nodes(turns, told, nothing, nothing, clock.RealClock(), 2.0)
    told.marks("n0", wire.Marks("job", generation, attached=True, checkpoints=(saved,)), state, 4.5)
    ended = spoken.Observation(1, "rank-exited", "info", 5.0, "n0", "it ended", "job", generation, 0)
    rows = shell._fresh(state, "spool", (ended,))
    assert [type(row) for row in rows] == [records.CheckpointSaved, records.Observed]
    assert rows[0].step == 5
