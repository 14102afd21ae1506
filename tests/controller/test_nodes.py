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


def _shell(state: Any, told: progress.Progress | None = None) -> nodes.Nodes:
    turns: Any = types.SimpleNamespace(state=state, acked=lambda node, spool_id: 0)
    nothing: Any = None
    return nodes.Nodes(turns, told or progress.Progress(), nothing, nothing, clock.RealClock(), 2.0)


def _seen(kind: str, severity: str, **evidence: Any) -> spoken.Observation:
    return spoken.Observation(
        1, kind, severity, 5.0, "n0", f"{kind} of gpu3", device="gpu3", evidence=evidence, recovery="reset_gpu"
    )


def test_what_ails_a_node_concerns_the_attempt_that_runs_there_and_shows_until_it_is_over() -> None:
    state = World().submit().train(3).state
    shell = _shell(state)
    row = shell._row(_seen("xid", "fatal", xid=79))
    assert isinstance(row, records.NodeFound)
    assert (row.node, row.observation.evidence) == ("n0", {"xid": 79})
    assert isinstance(shell._row(_seen("thermal", "warning")), records.Noted), "a warning is told and interrupts nobody"
    # Long ago by the clock, and still so, because nobody said that it is over.
    assert [one.kind for one in shell.findings("n0")] == ["xid", "thermal"]
    shell._row(_seen("xid", "info", cleared=True))
    assert [one.kind for one in shell.findings("n0")] == ["thermal"]
    assert shell.findings("n1") == []


def test_a_controller_that_starts_learns_from_the_hello_what_is_not_over() -> None:
    shell = _shell(World().submit().train(3).state)
    shell._row(_seen("thermal", "warning"))
    other = dataclasses.replace(_seen("xid", "fatal"), node="n1")
    hello = wire.Hello(
        wire.PROTOCOL, "1", "n0", "b", "s", "a", 2, True, False, 1.0, findings=(_seen("xid", "fatal", xid=48), other)
    )
    shell._know_findings(hello)
    assert [(one.kind, one.node) for one in shell.findings("n0")] == [("xid", "n0")]


def test_a_fault_of_a_node_while_its_job_trains_on_stops_nothing() -> None:
    world = World().submit().train(3)
    row = _shell(world.state)._row(_seen("xid", "fatal", xid=79))
    before = len(world.rows)
    world.feed(row)
    assert not [r for r in world.rows[before:] if isinstance(r, records.IncidentOpened | records.EffectRequested)]
