"""Seeded worlds of random faults: safety after every step (asserted by World), and progress once the faults end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outrider_controller import runbook_files
from outrider_controller.core import flight_record, health, records
from tests.core import hanging, recorded
from tests.core.world import World

MOVES = (
    *("train", "kill", "raise", "vanish", "silence", "return", "wait", "hold", "approve", "cordon", "uncordon"),
    *("hang", "go-on", "suspect", "resume", "blind", "record"),
)
ALL_MOVES = (*MOVES, "find", "find", "cleared")
FOUND: tuple[tuple[str, dict[str, Any]], ...] = (
    ("xid", {"xid": 79, "recovery": "reboot_node"}),
    ("xid", {"xid": 13, "severity": "error", "recovery": "restart_app"}),
    ("xid", {"xid": 94, "severity": "error", "recovery": "restart_app", "origin": "memory"}),
    ("port-down", {"recovery": "drain"}),
    ("transport-gave-up", {"recovery": "restart_app"}),
    ("power-brake", {"severity": "error", "recovery": "drain"}),
    ("gpu-temperature", {"severity": "error", "recovery": "check_cooling"}),
    ("kernel-panic", {"recovery": "reboot"}),
    ("driver-not-loaded", {"stops": "new jobs"}),
    ("user-space-lookalike", {"severity": "info", "recovery": "none"}),
    ("could-not-look", {"severity": "error", "recovery": "none"}),
)
POLICY = runbook_files.load()


def move(world: World, verb: str, number: int) -> None:
    """One move where it is possible; impossible ones are passed over."""
    whole = len(world.alive) == world.nodes * world.ranks_per_node
    node = f"n{number % (world.nodes + world.spares)}"
    if verb in ("hang", "go-on", "suspect", "resume", "blind", "record"):
        stall(world, verb, number)
    elif verb in ("find", "cleared"):
        ail(world, verb, number, node)
    elif verb == "train" and whole and world.job.state != "held" and set(world.hung.values()) <= {"works"}:
        world.train(max(world.step, world.job.attempt.resume_step if world.job.attempt else 0) + 1 + number % 3, 2)
    elif verb == "kill" and whole:
        world.die(number % len(world.alive), signal="SIGKILL")
    elif verb == "raise" and whole:
        world.die(number % len(world.alive), code=1, error_type="ValueError", error_message=str(number))
    elif verb == "vanish" and node in world.alive.values() and node not in world.silent:
        world.vanish(node)
    elif verb == "silence" and node in world.state.nodes and node not in world.silent:
        world.silence(node)
    elif verb == "return" and node in world.silent:
        world.join(node, holds=node in world.alive.values() or node in world.stale)
    elif verb == "wait":
        world.wait(float(number % 40))
    elif verb in ("hold", "approve"):
        world.ask(verb)
    elif verb in ("cordon", "uncordon"):
        world.ask(verb, node)


def write_record(world: World, number: int) -> None:
    """From now on the ranks' flight records come to this, right or wrong, for looks and for what the dead left."""
    kinds = (*recorded.SENTENCES, "")
    kind = kinds[number % len(kinds)]
    ranks = (number % 4,) if kind not in ("none", "all-joined-stuck") else ()
    world.recorded = recorded.verdict(kind, *ranks, confidence=0.3 + number % 7 / 10) if kind else None
    world.dumped = world.recorded if number % 3 else None


def ail(world: World, verb: str, number: int, node: str) -> None:
    """A node's agent finds something, or that everything is over; impossible where it is not heard."""
    if node in world.silent:
        return
    if verb == "cleared":
        world.cleared(node)
        return
    kind, more = FOUND[number % len(FOUND)]
    world.find(node, kind, f"gpu{number % 2}", **more)


def stall(world: World, verb: str, number: int) -> None:
    """A move of a rank that stands still, or of those who look at it; impossible ones are passed over."""
    attempt = world.job.attempt
    suspicion = attempt.suspicion if attempt is not None else None
    if verb == "record":
        write_record(world, number)
    elif verb == "hang" and number % 4 in world.alive:
        world.hang(number % 4, hanging.HOW[number % len(hanging.HOW)])
    elif verb == "go-on" and number % 4 in world.alive:
        world.go_on(number % 4)
    elif verb == "blind":
        world.look_fails = "" if number % 2 else "nobody answered"
    elif verb == "resume" and suspicion is not None:
        world.resume()
    elif verb == "suspect" and attempt is not None and may_be_suspected(world):
        if not world.hung and number % 4 in world.alive:
            world.hang(number % 4, ("spins", "sleeps", "works")[number % 3])
        world.suspect(10.0 + number % 30).wait(float(number % 20))


def may_be_suspected(world: World) -> bool:
    """The watch over silence asks for as much before it says anything."""
    attempt = world.job.attempt
    if attempt is None or attempt.running_at is None or attempt.stop_wanted or world.job.over:
        return False
    return not world.silent & set(attempt.placement) and not (attempt.suspicion and attempt.suspicion.silent)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(ALL_MOVES), st.integers(0, 1000)), max_size=30))
def test_job_is_never_stuck_once_all_nodes_are_back_and_a_person_approves(moves: list[tuple[str, int]]) -> None:
    world = World(policy=POLICY).submit()
    for verb, number in moves:
        move(world, verb, number)
    for node in sorted(world.silent):
        world.join(node, holds=node in world.alive.values() or node in world.stale)
    for index in range(world.nodes + world.spares):
        world.cleared(f"n{index}").ask("uncordon", f"n{index}")
    world.wait(120)
    for rank in tuple(world.hung):
        world.go_on(rank)
    if world.job.attempt is not None and world.job.attempt.suspicion is not None:
        world.resume()
    for _ in range(2):  # the second time with its reason: the failures had spoken against every checkpoint as well
        if world.job.state == "held":
            world.ask("approve").wait(120)
    assert len(world.alive) == world.nodes * world.ranks_per_node
    world.train(max(world.step, 1) + 60)
    assert world.job.state == "training"
    assert world.job.incident is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(ALL_MOVES), st.integers(0, 1000)), max_size=30))
def test_no_attempt_is_ended_for_a_stall_unless_its_last_two_looks_blame_alike(moves: list[tuple[str, int]]) -> None:
    world = World(policy=POLICY).submit()
    for verb, number in moves:
        move(world, verb, number)
    for place, row in enumerate(world.rows):
        if isinstance(row, records.IncidentOpened) and row.opened_by == "stalled":
            looks = [r for r in world.rows[:place] if isinstance(r, records.Looked) and r.generation == row.generation]
            assert len(looks) >= 2
            assert looks[-1].agrees
            former = looks[-2].by_looks if looks[-1].verdict != looks[-2].verdict else looks[-2].verdict
            assert looks[-1].verdict == former
            assert looks[-1].verdict in flight_record.HUNG


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(ALL_MOVES), st.integers(0, 1000)), max_size=30))
def test_no_node_is_taken_out_for_its_hardware_unless_something_grave_was_found_of_it(
    moves: list[tuple[str, int]],
) -> None:
    world = World(policy=POLICY).submit()
    for verb, number in moves:
        move(world, verb, number)
    for place, row in enumerate(world.rows):
        before = [r.observation for r in world.rows[:place] if isinstance(r, records.NodeFound)]
        weights = {(seen.node, health.weight(seen)) for seen in before}
        if isinstance(row, records.NodeMarked) and row.lifts:
            assert {(row.node, w) for w in (health.BREAKS, health.DEGRADES)} & weights
        if isinstance(row, records.IncidentOpened) and row.opened_by == "node-finding" and not row.planned:
            assert not row.interrupted or health.BREAKS in {w for _, w in weights}
        if isinstance(row, records.AttemptPlanned):
            assert all(world.state.nodes[node].supervises for node in row.placement)
    decided = [r for r in world.rows if isinstance(r, records.Decided) and r.decision.startswith("restart")]
    assert len(decided) <= 2 * len(moves) + 2, "no loop of restarts"


@pytest.mark.parametrize("seed", range(5))
def test_every_incident_that_was_opened_is_closed_when_the_job_ends(seed: int) -> None:
    world = World(policy=POLICY).submit()
    for number in range(3):
        world.train(world.step + 3 + seed, save_every=2).die((seed + number) % 4, signal="SIGKILL")
    world.train(world.step + 2).finish()
    opened = {r.incident for r in world.of(records.IncidentOpened)}
    assert opened == {r.incident for r in world.of(records.IncidentClosed)}
    assert world.job.state == "completed"
