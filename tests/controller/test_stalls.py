"""The watch over silence: when a job is suspected, when it is not, and when the suspicion is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from outrider import records as spoken
from outrider_controller import nodes, series, stalls, turns
from outrider_controller.core import evolve, jobs, records
from outrider_controller.core import state as states

HEARTBEAT_S = 2.0


class HandClock:
    """Time that a test moves. The wall clock may be set; the other one only goes on."""

    def __init__(self) -> None:
        self.wall, self.mono = 1_800_000_000.0, 50.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.mono

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits here")


@dataclass
class Shell:
    """The state and the nodes as the watch sees them; what it says is recorded at once."""

    state: states.State
    clock: HandClock = field(default_factory=HandClock)
    ages: dict[str, float | None] = field(default_factory=lambda: {"n0": 0.1, "n1": 0.1})
    step: int | None = 7
    told: list[records.Row] = field(default_factory=list)

    def heard_s(self, node: str) -> float | None:
        return self.ages[node]

    def job_step(self, job: str) -> int | None:
        return self.step

    async def submit_made(self, make: Callable[[states.State], Sequence[records.Row]]) -> None:
        raise AssertionError("edges are taken by hand here")

    def record(self, rows: Iterable[records.Row]) -> None:
        for row in rows:
            self.told.append(row)
            self.state = evolve.evolve(self.state, row)


class Watch:
    """The watch under test over one job of two nodes with a rank each."""

    def __init__(self, store: series.Series, stall_s: float = 20.0, running: bool = True) -> None:
        self.shell = Shell(_state(stall_s, running))
        self.store = store
        self.watch = self._watch()

    def _watch(self) -> stalls.Stalls:
        shell = cast(Any, self.shell)
        return stalls.Stalls(
            cast(turns.Turns, shell), self.store, self.shell.clock, cast(nodes.Nodes, shell), HEARTBEAT_S
        )

    def restart(self) -> None:
        """Another controller takes the history over."""
        self.shell.clock.mono = 10.0
        self.watch = self._watch()
        self.watch.recovered(self.shell.state)

    def say(self, at: float, step: int | None = None, phase: str = "step", ranks: tuple[int, ...] = (0, 1)) -> None:
        words = [spoken.RankProgress("demo", 1, rank, 0, 9, step, phase, at) for rank in ranks]
        self.watch.take("demo", 1, words)

    def wait(self, seconds: float, deaf: bool = False) -> list[records.Row]:
        """Rounds every half second, as the shell makes them; with ``deaf`` none for that long."""
        before = len(self.shell.told)
        for _ in range(1 if deaf else int(seconds / stalls.LOOK_S)):
            pause = seconds if deaf else stalls.LOOK_S
            self.shell.clock.mono += pause
            self.shell.clock.wall += pause
            self.watch._mind_the_gap(self.shell.clock.mono)
            self.watch.learn("demo")
            self.shell.record(self.watch.edges("demo", self.shell.state))
        return self.shell.told[before:]

    def train(self, steps: int, step_s: float = 1.0) -> None:
        for step in range(1, steps + 1):
            self.wait(step_s)
            self.say(float(step) * step_s, step)


def _state(stall_s: float, running: bool) -> states.State:
    spec = {"name": "demo", "command": ["x"], "nodes": 2, "limits": {"stall_s": stall_s}}
    rows: list[records.Row] = [
        *(records.NodeJoined(0.0, node, "b", "127.0.0.1", 1, True, True) for node in ("n0", "n1")),
        records.JobSubmitted(0.0, "demo", jobs.document(jobs.parse(spec))),
        records.AttemptPlanned(1.0, "demo", 0, 1, ("n0", "n1")),
    ]
    if running:
        rows += [
            records.EffectRequested(1.0, "demo", "demo-e1", "start-attempt", {"generation": 1}),
            records.EffectDone(2.0, "demo", "demo-e1", True),
        ]
    return evolve.evolve_all(states.State(), rows)


@pytest.fixture
def store(tmp_path: Path) -> Iterable[series.Series]:
    made = series.Series(tmp_path / "series.db")
    yield made
    made.close()


def test_silence_past_what_steps_took_is_suspected_once_with_its_basis(store: series.Series) -> None:
    seen = Watch(store)
    seen.train(30)
    [suspected] = seen.wait(60)
    assert isinstance(suspected, records.Suspected)
    assert (suspected.phase, suspected.deadline_s, suspected.act_s, suspected.job_step) == ("step", 10.0, 20.0, 7)
    assert suspected.at - suspected.since == pytest.approx(10.5, abs=0.6)
    assert suspected.basis == "steps of this job took 1 s (median of 29); 10 s without a sign is the floor"
    assert suspected.ranks == (0, 1)


def test_a_sign_ends_the_suspicion_once_and_the_next_silence_is_a_new_one(store: series.Series) -> None:
    seen = Watch(store)
    seen.train(5)
    seen.wait(40)
    seen.say(99.0, 6)
    found = seen.wait(5)
    assert [row.kind for row in found] == ["resumed"]
    assert cast(records.Resumed, found[0]).silent_s == pytest.approx(40, abs=1.1)
    seen.train(3)
    assert [row.kind for row in seen.wait(300)] == ["suspected"]


def test_an_edge_that_was_not_recorded_is_found_again(store: series.Series) -> None:
    seen = Watch(store)
    seen.train(30)
    seen.wait(9)
    seen.shell.clock.mono += 1.9
    first = seen.watch.edges("demo", seen.shell.state)
    assert [row.kind for row in first] == ["suspected"]
    assert [row.kind for row in seen.watch.edges("demo", seen.shell.state)] == ["suspected"]
    seen.shell.record(first)
    assert seen.watch.edges("demo", seen.shell.state) == []


def test_each_phase_has_its_own_patience(store: series.Series) -> None:
    seen = Watch(store)
    seen.train(20)
    seen.say(20.2, 20, "checkpoint", ranks=(0,))
    assert seen.wait(25) == []
    [suspected] = seen.wait(20)
    assert cast(records.Suspected, suspected).phase == "checkpoint"


def test_a_job_that_never_said_anything_is_never_suspected(store: series.Series) -> None:
    assert Watch(store).wait(900) == []


def test_a_start_is_suspected_where_an_earlier_attempt_has_spoken(store: series.Series) -> None:
    seen = Watch(store)
    seen.shell.record([records.Attached(3.0, "demo", 1)])
    [suspected] = seen.wait(200)
    assert cast(records.Suspected, suspected).phase == "start"


@pytest.mark.parametrize("stall_s", [0.0])
def test_stalls_can_be_switched_off(store: series.Series, stall_s: float) -> None:
    seen = Watch(store, stall_s)
    seen.train(5)
    assert seen.wait(900) == []


def test_nothing_is_suspected_while_ranks_are_being_started_and_time_counts_from_then_on(store: series.Series) -> None:
    seen = Watch(store, running=False)
    seen.shell.record([records.Attached(3.0, "demo", 1)])
    assert seen.wait(300) == []
    seen.shell.record(
        [
            records.EffectRequested(4.0, "demo", "demo-e1", "start-attempt", {"generation": 1}),
            records.EffectDone(5.0, "demo", "demo-e1", True),
        ]
    )
    assert seen.wait(50) == []
    assert len(seen.wait(20)) == 1


def test_nothing_is_suspected_while_an_attempt_is_being_stopped_or_over(store: series.Series) -> None:
    seen = Watch(store)
    seen.train(5)
    seen.shell.record([records.EffectRequested(9.0, "demo", "demo-e2", "stop-attempt", {"generation": 1})])
    assert seen.wait(600) == []
    seen.shell.record([records.JobMoved(9.0, "demo", "training", "completed", "done")])
    assert seen.wait(600) == []


def test_last_words_of_ranks_that_are_being_ended_do_not_end_the_suspicion(store: series.Series) -> None:
    seen = Watch(store)
    seen.train(5)
    assert [row.kind for row in seen.wait(60)] == ["suspected"]
    seen.shell.record([records.EffectRequested(9.0, "demo", "demo-e2", "stop-attempt", {"generation": 1})])
    seen.say(99.0, 5, "done", ranks=(0,))
    assert seen.wait(30) == []


@pytest.mark.parametrize("age", [None, 60.0])
def test_nothing_is_suspected_while_a_node_is_not_heard(store: series.Series, age: float | None) -> None:
    seen = Watch(store)
    seen.train(5)
    seen.shell.ages["n1"] = age
    assert seen.wait(600) == []
    seen.shell.ages["n1"] = 0.1
    assert seen.wait(3) == [], "what its ranks said meanwhile is still on its way"
    assert [row.kind for row in seen.wait(3)] == ["suspected"]


def test_a_node_that_the_ledger_calls_silent_is_not_heard_either(store: series.Series) -> None:
    seen = Watch(store)
    seen.train(5)
    seen.shell.record([records.NodeSilent(9.0, "n1", 8.0)])
    assert seen.wait(600) == []


def test_a_machine_that_was_suspended_and_a_clock_that_jumps_are_no_hang(store: series.Series) -> None:
    seen = Watch(store)
    seen.train(5)
    assert seen.wait(3600, deaf=True) == [], "this controller did not run, and so heard nobody"
    seen.shell.clock.wall += 7200
    assert seen.wait(5) == []
    seen.shell.clock.wall -= 20_000
    seen.say(6.0, 6)
    assert seen.wait(5) == []
    [suspected] = seen.wait(20)
    assert suspected.at == seen.shell.told[-1].at


def test_after_a_restart_of_the_controller_time_counts_from_its_start_and_durations_are_kept(
    store: series.Series,
) -> None:
    seen = Watch(store)
    seen.train(40, step_s=3.0)
    seen.wait(15)
    seen.restart()
    seen.say(120.0, 40)  # the same as before: heartbeats repeat where ranks stand
    found = seen.wait(17.5)
    assert found == []
    [suspected] = seen.wait(5)
    assert cast(records.Suspected, suspected).basis.startswith("steps of this job took 3 s (median of 39)")


def test_a_suspicion_that_a_restarted_controller_finds_ends_with_the_next_sign(store: series.Series) -> None:
    seen = Watch(store)
    seen.train(5)
    seen.wait(20)
    seen.restart()
    seen.say(5.0, 5)
    assert seen.wait(30) == [], "no sign, and no second suspicion"
    seen.say(6.0, 6)
    assert [row.kind for row in seen.wait(1)] == ["resumed"]


def test_durations_outlive_attempts_and_the_store_keeps_the_newest_of_each_phase(store: series.Series) -> None:
    store.add_durations("demo", [("step", float(number)) for number in range(600)])
    store.add_durations("demo", [("checkpoint", 4.0)])
    store.add_durations("other", [("step", 9.0)])
    kept = store.durations("demo")
    assert kept["step"] == [float(number) for number in range(88, 600)]
    assert kept["checkpoint"] == [4.0]
    assert store.durations("nobody") == {}
