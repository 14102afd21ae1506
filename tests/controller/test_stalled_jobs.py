"""A stalled job under a real controller: silence, a look over real connections, and what comes of it."""

import asyncio
import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from outrider import records
from outrider_controller import controller as controllers
from outrider_controller import launchers
from outrider_controller.core import records as rows
from tests.controller import house
from tests.core import hanging

LIMITS = {"stall_s": 0.4}  # so that seconds, and not minutes, of silence are too long
HEARTBEAT_S = 1.0  # on a busy machine a node that beats faster is silent now and then, and then nobody is suspected


def progress(agent: house.Agent, step: int) -> tuple[records.RankProgress, ...]:
    at = time.time()
    return tuple(
        records.RankProgress(agent.job, agent.generation, rank, rank % 2, 100 + rank, step, "step", at)
        for rank in agent.ranks
    )


async def train(made: list[house.Agent], steps: range) -> None:
    for step in steps:
        for agent in made:
            await agent.marks(step, ranks=progress(agent, step))
        await asyncio.sleep(0.02)


async def stalls(made: list[house.Agent], how: dict[int, str], otherwise: str = "waits") -> None:
    """From now on nothing comes, and a look at each rank brings this."""
    for agent in made:
        for rank in agent.ranks:
            found = records.RankEvidence(rank, 100 + rank, **hanging.EVIDENCE[how.get(rank, otherwise)])
            agent.evidence[rank] = dataclasses.asdict(found)


def suspicion(running: controllers.Controller) -> Any:
    attempt = running.state.jobs["demo"].attempt
    return attempt.suspicion if attempt is not None else None


def opened(running: controllers.Controller) -> str:
    incident = running.state.jobs["demo"].incident
    return incident.opened_by if incident is not None else ""


def test_a_rank_that_hangs_is_looked_at_named_and_the_job_is_back(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            house.controller(tmp_path, heartbeat_s=HEARTBEAT_S) as running,
            house.agents(running, tmp_path, "n0", "n1") as made,
        ):
            await house.training(running, made, limits=LIMITS)
            await train(made, range(2, 12))
            await stalls(made, {2: "spins"})
            await house.until(lambda: suspicion(running) is not None, "a suspicion")
            assert "no sign of progress" in running.status("demo")["sentence"]
            await house.until(lambda: all(len(agent.ordered("start")) == 2 for agent in made), "a new attempt")
            assert all(len(agent.ordered("capture")) >= 2 for agent in made), "two looks at all ranks"
            [incident] = await running.incidents("demo")
            assert (incident["cause"], incident["suspects"]["ranks"]) == ("rank-hung", [2])
            assert any("data.py:12 in shuffle" in row["text"] for row in incident["evidence"])
            await train(made, range(12, 14))
            await house.until(lambda: running.state.jobs["demo"].incident is None, "the lost step")

    house.run(work())


def test_a_job_that_goes_on_by_itself_is_left_alone(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            house.controller(tmp_path, heartbeat_s=HEARTBEAT_S) as running,
            house.agents(running, tmp_path, "n0", "n1") as made,
        ):
            await house.training(running, made, limits=LIMITS)
            await train(made, range(2, 12))
            await stalls(made, {0: "works"})
            await house.until(lambda: suspicion(running) is not None and suspicion(running).look, "a look")
            assert suspicion(running).look.verdict == "working"
            await train(made, range(12, 14))
            await house.until(lambda: suspicion(running) is None, "the end of the suspicion")
            assert not opened(running)
            assert not any(agent.ordered("stop") for agent in made)

    house.run(work())


@pytest.mark.parametrize("trouble", ["refused", "nonsense"])
def test_agents_that_cannot_look_hold_nothing_up_and_nothing_is_ended_for_it(tmp_path: Path, trouble: str) -> None:
    async def work() -> None:
        async with (
            house.controller(tmp_path, heartbeat_s=HEARTBEAT_S) as running,
            house.agents(running, tmp_path, "n0", "n1") as made,
        ):
            await house.training(running, made, limits=LIMITS)
            await train(made, range(2, 12))
            for agent in made:
                if trouble == "refused":
                    agent.fails["capture"] = "capture: is not an order of this version"
                else:
                    agent.evidence = {rank: {"rank": "zero", "frames": 7} for rank in agent.ranks}
            await house.until(lambda: suspicion(running) is not None and suspicion(running).looks >= 2, "two looks")
            assert suspicion(running).look.verdict == "could-not-look"
            assert not opened(running)
            await made[1].rank_dies(3)  # and any other road is open
            await house.until(lambda: opened(running) == "rank-exited", "the kill")

    house.run(work())


def test_a_node_that_is_away_while_all_are_asked_is_named_and_nobody_waits_for_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            house.controller(tmp_path, heartbeat_s=HEARTBEAT_S) as running,
            house.agents(running, tmp_path, "n0", "n1") as made,
        ):
            await house.training(running, made, limits={"stall_s": 0})
            await stalls(made, {})
            await made[1].go()
            asked = {"n0": (), "n1": ()}
            found = await running._launcher.capture("e1", "demo", 1, asked, 5.0)
            assert isinstance(found, launchers.Captured)
            assert ([item["rank"] for item in found.ranks], found.unanswered) == ([0, 1], ("n1",))

    house.run(work())


def test_the_effect_tells_equal_ranks_once_and_asks_only_the_nodes_of_the_ranks_that_are_wanted(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            house.controller(tmp_path, heartbeat_s=HEARTBEAT_S) as running,
            house.agents(running, tmp_path, "n0", "n1") as made,
        ):
            await house.training(running, made, limits={"stall_s": 0})
            await stalls(made, {3: "spins"})
            job = running.state.jobs["demo"]
            effects = running._runner._effects
            args: dict[str, Any] = {"generation": 1, "placement": ["n0", "n1"], "ranks": []}
            everyone = await effects.perform(
                rows.EffectRequested(0.0, "demo", "e1", "capture-evidence", args), job.spec
            )
            assert everyone.ok
            assert [group["ranks"] for group in everyone.result["ranks"]] == [[0, 1, 2], [3]]
            one = rows.EffectRequested(0.0, "demo", "e2", "capture-evidence", {**args, "ranks": [3]})
            await effects.perform(one, job.spec)
            assert [order.args for order in made[1].ordered("capture")] == [
                {"ranks": [], "deadline_s": 5.0},
                {"ranks": [3], "deadline_s": 5.0},
            ]
            assert len(made[0].ordered("capture")) == 1

    house.run(work())


def test_a_stopped_rank_is_ended_without_any_deadline(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            house.controller(tmp_path, heartbeat_s=HEARTBEAT_S) as running,
            house.agents(running, tmp_path, "n0", "n1") as made,
        ):
            await house.training(running, made, limits={"stall_s": 600})
            await train(made, range(2, 6))
            await stalls(made, {3: "stopped"})
            about = {"job": "demo", "generation": 1, "rank": 3, "evidence": {"pid": 103, "since": time.time()}}
            await made[1].see("rank-stopped", "rank 3 is stopped", **about)
            await house.until(lambda: all(len(agent.ordered("start")) == 2 for agent in made), "a new attempt")
            [incident] = await running.incidents("demo")
            assert (incident["cause"], incident["suspects"]) == (
                "rank-stopped",
                {"ranks": [3], "gpus": [], "nodes": ["n1"], "links": []},
            )

    house.run(work())


def test_what_phases_took_is_known_to_the_next_controller(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            house.controller(tmp_path, heartbeat_s=HEARTBEAT_S) as running,
            house.agents(running, tmp_path, "n0", "n1") as made,
        ):
            await house.training(running, made)
            await train(made, range(2, 12))
            await house.until(lambda: len(running._series.durations("demo").get("step", [])) >= 9, "nine steps")
        async with house.controller(tmp_path, heartbeat_s=HEARTBEAT_S) as running:
            assert len(running._series.durations("demo")["step"]) >= 9
            assert running._series.durations("demo")["start"]

    house.run(work())


def test_a_job_file_may_not_ask_for_a_negative_patience() -> None:
    assert house.spec(limits={"stall_s": 0}).limits.stall_s == 0
    with pytest.raises(ValueError, match=r"limits\.stall_s"):
        house.spec(limits={"stall_s": -1})
