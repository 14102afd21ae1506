"""Seeded worlds of random faults: safety after every step (asserted by World), and progress once the faults end."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outrider_controller import runbook_files
from outrider_controller.core import records
from tests.core.world import World

MOVES = ("train", "kill", "raise", "vanish", "silence", "return", "wait", "hold", "approve", "cordon", "uncordon")
POLICY = runbook_files.load()


def move(world: World, verb: str, number: int) -> None:
    """One move where it is possible; impossible ones are passed over."""
    whole = len(world.alive) == world.nodes * world.ranks_per_node
    node = f"n{number % (world.nodes + world.spares)}"
    if verb == "train" and whole and world.job.state != "held":
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


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 1000)), max_size=30))
def test_job_is_never_stuck_once_all_nodes_are_back_and_a_person_approves(moves: list[tuple[str, int]]) -> None:
    world = World(policy=POLICY).submit()
    for verb, number in moves:
        move(world, verb, number)
    for node in sorted(world.silent):
        world.join(node, holds=node in world.alive.values() or node in world.stale)
    for index in range(world.nodes + world.spares):
        world.ask("uncordon", f"n{index}")
    world.wait(120)
    if world.job.state == "held":
        world.ask("approve").wait(120)
    assert len(world.alive) == world.nodes * world.ranks_per_node
    world.train(max(world.step, 1) + 60)
    assert world.job.state == "training"
    assert world.job.incident is None


@pytest.mark.parametrize("seed", range(5))
def test_every_incident_that_was_opened_is_closed_when_the_job_ends(seed: int) -> None:
    world = World(policy=POLICY).submit()
    for number in range(3):
        world.train(world.step + 3 + seed, save_every=2).die((seed + number) % 4, signal="SIGKILL")
    world.train(world.step + 2).finish()
    opened = {r.incident for r in world.of(records.IncidentOpened)}
    assert opened == {r.incident for r in world.of(records.IncidentClosed)}
    assert world.job.state == "completed"
