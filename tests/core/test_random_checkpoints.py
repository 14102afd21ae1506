"""Seeded worlds of damaged checkpoints, lost numbers and full disks among kills.

World asserts after every fact that nothing refused, distrusted or from after a NaN is loaded; here that the job never
begins anew behind a person's back, that what interrupts nothing stops nothing, and that the job comes back.
"""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outrider import records as spoken
from outrider_controller import runbook_files
from outrider_controller.core import records
from tests.core.world import World

MOVES = ("train", "train", "kill", "crash", "unloadable", "nan", "damage", "repair", "full", "clear", "look", "approve")
POLICY = runbook_files.load()


def move(world: World, verb: str, number: int) -> None:
    """One move where it is possible; impossible ones are passed over."""
    attempt = world.job.attempt
    whole = attempt is not None and len(world.alive) == world.nodes * world.ranks_per_node
    if verb == "approve":
        world.ask("approve")
    elif verb == "look":
        world.wait(601)
    elif verb in ("full", "clear"):
        disk(world, f"disk-{verb}", f"/m{number % 2}")
    elif verb == "damage" and world.checkpoints:
        kind = ("sha256", "missing")[number % 2]
        world.damage(world.checkpoints[number % len(world.checkpoints)], kind)
    elif verb == "repair":
        world.damaged.clear()
    elif attempt is None or not whole or world.job.state == "held":
        return
    elif verb == "train":
        world.train(max(world.step if attempt.training_at else 0, attempt.resume_step) + 1 + number % 6, 3)
    elif verb == "kill":
        world.die(number % 4, signal="SIGKILL")
    elif verb == "crash":
        world.die(
            number % 4, code=1, error_type="ValueError", error_message=f"{number % 3} of a kind {'x' * (number % 3)}"
        )
    elif verb == "unloadable" and attempt.resume_path and attempt.training_at is None:
        world.die(number % 4, code=1, phase="load", error_type="EOFError", error_message="Ran out of input")
    elif verb == "nan" and attempt.training_at is not None and world.step > attempt.resume_step:
        world.nan(world.step - number % (world.step - attempt.resume_step))


def disk(world: World, kind: str, mount: str) -> None:
    world.seq += 1
    seen = spoken.Observation(world.seq, kind, "error", world.now, "n0", f"{mount} has no room", device=mount)
    world.feed(records.Observed(world.now, world.name, seen, world.step or None))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 1000)), max_size=25))
def test_job_comes_back_from_the_newest_good_checkpoint_or_asks_a_person(moves: list[tuple[str, int]]) -> None:
    world = World(policy=POLICY).submit()
    for verb, number in moves:
        move(world, verb, number)
    world.wait(120)
    never_begins_anew_unasked(world)
    each_finding_is_told_alone(world)
    world.damaged.clear()
    if world.job.state == "held":
        world.ask("approve").wait(120)
    if world.job.state == "held":  # as the reason asks: what was saved after a NaN is moved away by the person
        world.checkpoints.clear()
        world.ask("approve").wait(120)
    assert len(world.alive) == world.nodes * world.ranks_per_node
    world.train(max(world.step, 1) + 60)
    assert (world.job.state, world.job.incident, world.job.findings) == ("training", None, ())


def never_begins_anew_unasked(world: World) -> None:
    """An attempt begins at step 0 only while no checkpoint is known that is sound and from before a NaN."""
    found: dict[str, object] = {}
    for row in world.rows:
        if isinstance(row, records.EffectDone) and "judged" in row.result:
            found = row.result
        if isinstance(row, records.AttemptPlanned) and not row.resume_path and row.attempt:
            assert not found.get("path"), "a good one was found"
            assert not found.get("judged"), "there was one, and it was refused for its files"


def each_finding_is_told_alone(world: World) -> None:
    rows = world.rows
    for place, row in enumerate(rows):
        if isinstance(row, records.IncidentOpened) and not row.interrupted:
            kinds = [type(r) for r in rows[place : place + 5]]
            assert kinds == [
                records.IncidentOpened,
                records.Diagnosed,
                records.Decided,
                records.IncidentClosed,
                records.EffectRequested,
            ]
            assert rows[place + 4].args["event"] == "opened"  # type: ignore[union-attr]
