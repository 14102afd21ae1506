"""The agent with real keepers and real ranks: started, watched, killed, stopped, and adopted by the next agent."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from outrider import clock
from outrider_agent import keepers, spool
from outrider_agent.keeper import home
from outrider_agent.signals import ranks
from tests.agent import world

SCRIPT = """
import os, sys, time
import outrider
run = outrider.attach(mesh="dp=2")
for step in range(int(sys.argv[1])):
    run.step(step, tokens=8, loss=1.0 / (step + 1))
    time.sleep(0.05)
"""
LONG, SHORT = "100000", "3"

Scenario = Callable[[world.Node, world.Controller, dict[str, Any]], Awaitable[None]]


def play(scenario: Scenario, steps: str = LONG) -> None:
    """Run a scenario with a controller, a node directory, and the arguments of a start order for two ranks."""

    async def all_of_it() -> None:
        with world.node() as node:
            script = node.state / "train.py"
            script.write_text(SCRIPT)
            async with world.Controller(node.state) as controller:
                await scenario(node, controller, start_arguments(script, steps))

    asyncio.run(all_of_it())


def start_arguments(script: Path, steps: str) -> dict[str, Any]:
    spec = {
        "name": "j",
        "command": [sys.executable, str(script), steps],
        "cwd": str(script.parent),
        "ranks_per_node": 2,
    }
    place = {"attempt": 0, "world_size": 2, "nnodes": 1, "node_rank": 0, "ranks": [0, 1]}
    return {"spec": spec, **place, "master_addr": "127.0.0.1", "master_port": 29999, "resume_path": "", "fence": []}


def steps_of(controller: world.Controller, generation: int = 1) -> dict[int, int]:
    """Newest step of each rank, as marks told."""
    return {
        rank.rank: rank.step
        for message in controller.marks
        if message.generation == generation
        for rank in message.ranks
        if rank.step is not None
    }


async def begin(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> dict[int, int]:
    """Start an agent and the two ranks, and wait for their first steps; pids by rank."""
    node.start()
    result = await controller.order("start", args, order="begin")
    assert result.ok, result.error
    await world.until(lambda: len(steps_of(controller)) == 2, "steps of both ranks")
    return {int(rank): pid for rank, pid in result.result["pids"].items()}


def test_a_job_is_prepared_started_told_of_stopped_and_released() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        node.start()
        prepared = await controller.order("prepare", {"spec": args["spec"]})
        assert prepared.result == {"warm": True, "why_cold": None}
        started = await controller.order("start", args)
        assert started.result["warm"] is True
        pids = {int(rank): pid for rank, pid in started.result["pids"].items()}
        await world.until(lambda: steps_of(controller).get(1, 0) >= 2, "steps")
        assert controller.marks[-1].mesh == "dp=2"
        assert [one.evidence["warm"] for one in controller.observed("ranks-started")] == [True]
        os.kill(pids[1], signal.SIGKILL)
        (died,) = await world.until(lambda: controller.observed("rank-exited"), "the death")
        assert (died.rank, died.severity, died.job, died.generation) == (1, "error", "j", 1)
        assert died.evidence["signal"] == "SIGKILL"
        assert died.evidence["step"] >= 2
        assert died.text == f"rank 1 (pid {pids[1]}) on n0 was killed by SIGKILL at step {died.evidence['step']}"
        stopped = await controller.order("stop", {"grace_s": 5.0})
        assert stopped.result["ranks"] == [0]
        assert not world.alive(pids[0])
        (asked,) = await world.until(
            lambda: [one for one in controller.observed("rank-exited") if one.rank == 0], "the end that was asked for"
        )
        assert (asked.severity, asked.evidence["asked"]) == ("info", True)
        (keeper,) = node.pids()
        assert (await controller.order("release", {})).ok
        assert not world.alive(keeper)
        assert (await controller.order("release", {})).ok, "releasing what is gone is no error"

    play(scenario)


def test_the_gpus_that_the_job_s_environment_gives_its_ranks_are_told_and_outlive_the_agent() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        args["spec"]["env"] = {"CUDA_VISIBLE_DEVICES": "5,3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        agent = node.start()
        started = await controller.order("start", args)
        assert started.result["gpus"] == {"0": "gpu5", "1": "gpu3"}
        agent.kill()
        agent.wait()
        node.start()
        await world.until(lambda: len(controller.hellos) == 2, "the next agent")
        (keeper,) = controller.hellos[1].keepers
        assert (keeper.visible_devices, keeper.device_order) == ("5,3", "PCI_BUS_ID")
        assert (await controller.order("release", {})).ok

    play(scenario)


def test_a_job_that_ends_by_itself_is_information_and_logs_lie_by_attempt() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        node.start()
        assert (await controller.order("start", {**args, "attempt": 2})).ok
        ended = await world.until(lambda: len(controller.observed("rank-exited")) == 2, "both ends")
        assert ended
        assert {(one.severity, one.evidence["code"]) for one in controller.observed("rank-exited")} == {("info", 0)}
        assert (node.state / "logs" / "j" / "attempt-2" / "rank_1.log").exists()

    play(scenario, SHORT)


def test_ranks_train_on_when_the_agent_is_killed_and_the_next_one_adopts_them() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        pids = await begin(node, controller, args)
        node.agents[0].kill()
        node.agents[0].wait()
        os.kill(pids[0], signal.SIGKILL)  # while nobody but the keeper looks
        seen = steps_of(controller)[1]
        node.start()
        await world.until(lambda: len(controller.hellos) == 2, "the next agent")
        (keeper,) = controller.hellos[1].keepers
        assert (keeper.job, keeper.generation, keeper.state) == ("j", 1, "running")
        assert [rank.rank for rank in keeper.ranks if rank.alive] == [1]
        await world.until(lambda: steps_of(controller)[1] > seen, "marks of the rank that went on")
        assert world.alive(pids[1])
        again = await controller.order("start", args, order="begin")
        assert {int(rank): pid for rank, pid in again.result["pids"].items()} == pids, "nothing is done twice"
        other = await controller.order("start", args, order="start-under-another-id")
        assert {int(rank): pid for rank, pid in other.result["pids"].items()} == pids
        await world.until(lambda: controller.observed("rank-exited"), "the death nobody saw")
        assert [one.rank for one in controller.observed("rank-exited")] == [0]
        assert len(controller.observed("ranks-started")) == 1
        assert controller.told_again == 0

    play(scenario)


def test_ranks_train_on_when_agent_and_controller_are_killed_and_every_event_comes_once() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        pids = await begin(node, controller, args)
        await controller.close()
        node.agents[0].kill()
        node.agents[0].wait()
        node.start()
        await asyncio.sleep(0.5)
        os.kill(pids[1], signal.SIGSEGV)
        await asyncio.sleep(0.2)
        node.agents[1].kill()
        node.agents[1].wait()
        assert world.alive(pids[0])
        node.start()
        await controller.open()
        (died,) = await world.until(lambda: controller.observed("rank-exited"), "the death")
        assert (died.rank, died.evidence["signal"]) == (1, "SIGSEGV")
        await controller.close()
        await controller.open()
        await world.until(lambda: len(controller.hellos) >= 3, "the agent to come back")
        assert (await controller.order("stop", {})).result["ranks"] == [0]
        await world.until(lambda: len(controller.observed("rank-exited")) == 2, "both ends")
        assert controller.told_again == 0

    play(scenario)


def test_sigterm_of_the_agent_leaves_ranks_and_keeper_alone() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        pids = await begin(node, controller, args)
        node.agents[0].send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(node.agents[0].wait, world.WAIT_S) == 0
        assert all(world.alive(pid) for pid in pids.values())
        assert len(node.pids()) == 1

    play(scenario)


def test_a_keeper_that_is_killed_takes_its_ranks_and_is_told_of_once() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        pids = await begin(node, controller, args)
        os.kill(node.pids()[0], signal.SIGKILL)
        await world.until(lambda: len(controller.observed("rank-exited")) == 2, "the ends of both ranks")
        (lost,) = controller.observed("keeper-lost")
        assert (lost.severity, lost.job, lost.generation) == ("error", "j", 1)
        assert lost.evidence["pids"] == {str(rank): pid for rank, pid in pids.items()}
        assert {(one.evidence["code"], one.evidence["signal"]) for one in controller.observed("rank-exited")} == {
            (None, None)
        }
        await world.until(lambda: not any(world.alive(pid) for pid in pids.values()), "the ranks to go")
        again = await controller.order("start", {**args, "attempt": 1}, generation=2)
        assert again.ok, "a new keeper takes the next attempt"
        await world.until(lambda: len(steps_of(controller, 2)) == 2, "steps of the next attempt")
        assert len(controller.observed("keeper-lost")) == 1
        assert (await controller.order("stop", {}, generation=2)).result["ranks"] == [0, 1]

    play(scenario)


def test_a_keeper_that_is_killed_while_no_agent_looks_is_told_of_by_the_next() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        pids = await begin(node, controller, args)
        node.agents[0].kill()
        node.agents[0].wait()
        keeper = node.pids()[0]
        os.kill(pids[0], signal.SIGKILL)
        await world.until(lambda: _journal_tells(node, "rank-exited"), "the keeper to see the death")
        os.kill(keeper, signal.SIGKILL)
        await world.until(lambda: not world.alive(keeper), "the keeper to go")
        node.start()
        await world.until(lambda: len(controller.observed("rank-exited")) == 2, "the ends of both ranks")
        ends = {one.rank: one.evidence["signal"] for one in controller.observed("rank-exited")}
        assert ends == {0: "SIGKILL", 1: None}, "what the dead keeper had written down counts"
        assert controller.observed("keeper-lost")[0].evidence["ranks"] == [1]
        node.agents[1].kill()
        node.agents[1].wait()
        node.start()
        await world.until(lambda: len(controller.hellos) == 3, "yet another agent")
        assert (await controller.order("stop", {})).result["ranks"] == []
        assert len(controller.observed("keeper-lost")) == 1

    play(scenario)


def test_ranks_of_a_keeper_that_does_not_answer_yet_are_told_in_the_hello() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        pids = await begin(node, controller, args)
        node.agents[0].kill()
        node.agents[0].wait()
        keeper = node.pids()[0]
        os.kill(keeper, signal.SIGSTOP)  # a keeper on a machine under heavy load, as the agent sees it
        try:
            node.start()
            await world.until(lambda: len(controller.hellos) == 2, "the next agent")
        finally:
            os.kill(keeper, signal.SIGCONT)
        (told,) = controller.hellos[1].keepers
        assert (told.job, told.generation) == ("j", 1)
        assert {rank.rank: rank.pid for rank in told.ranks if rank.alive} == pids

    play(scenario)


def test_a_keeper_that_does_not_answer_yet_is_told_although_its_ranks_have_ended() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        pids = await begin(node, controller, args)
        node.agents[0].kill()
        node.agents[0].wait()
        keeper = node.pids()[0]
        os.kill(keeper, signal.SIGSTOP)
        try:
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
            node.start()
            await world.until(lambda: len(controller.hellos) == 2, "the next agent")
        finally:
            os.kill(keeper, signal.SIGCONT)
        (told,) = controller.hellos[1].keepers
        assert (told.job, told.generation) == ("j", 1)  # a controller that missed it would take its ranks for lost
        await world.until(lambda: len(controller.observed("rank-exited")) == 2, "the ends of both ranks")
        assert {seen.evidence["signal"] for seen in controller.observed("rank-exited")} == {"SIGKILL"}
        assert not controller.observed("keeper-lost")

    play(scenario)


def test_orders_of_an_older_generation_are_refused_and_harm_nothing() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        node.start()
        assert (await controller.order("start", args, generation=5)).ok
        pids = {rank.rank: rank.pid for rank in (await world.until(lambda: _running(controller), "ranks")).values()}
        old = await controller.order("start", args, generation=4)
        assert not old.ok
        assert "older generation" in old.error
        early = await controller.order("start", args, generation=6)
        assert "still run" in early.error
        stop = await controller.order("stop", {}, generation=4)
        assert (stop.ok, stop.result["ranks"]) == (True, [])
        before = steps_of(controller, 5).get(0, 0)
        await world.until(lambda: steps_of(controller, 5).get(0, 0) > before + 2, "marks to go on")
        assert all(world.alive(pid) for pid in pids.values())

    play(scenario)


def test_what_cannot_be_started_is_answered_and_observed() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        node.start(slots=2)
        wide = {**args, "world_size": 3, "ranks": [0, 1, 2]}
        assert "--slots" in (await controller.order("start", wide)).error
        missing = {**args, "spec": {**args["spec"], "command": ["/no/such/program"]}}
        result = await controller.order("start", missing)
        assert not result.ok
        assert "/no/such/program" in result.error
        found = await world.until(lambda: controller.observed("start-failed"), "the observation")
        assert "/no/such/program" in found[0].text

    play(scenario)


def test_a_script_that_is_no_python_is_supervised_too() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        node.start()
        shell = {**args["spec"], "command": ["/bin/sh", "-c", "sleep 0.3; exit 7"]}
        assert (await controller.order("start", {**args, "spec": shell})).ok
        await world.until(lambda: len(controller.observed("rank-exited")) == 2, "both ends")
        assert {one.evidence["code"] for one in controller.observed("rank-exited")} == {7}

    play(scenario)


def test_a_resume_appends_the_jobs_template_to_its_command() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        node.start()
        out = node.state / "out"
        spec = {
            **args["spec"],
            "command": ["/bin/sh", "-c", 'echo "$@" >> "$0"', str(out)],
            "resume": ["--load", "{checkpoint}"],
        }
        assert (await controller.order("start", {**args, "spec": spec, "resume_path": "/c/7"})).ok
        await world.until(lambda: len(controller.observed("rank-exited")) == 2, "both ends")
        assert out.read_text().splitlines() == ["--load /c/7"] * 2

    play(scenario)


def test_an_idle_agent_lets_its_idle_keepers_go_when_it_leaves() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        agent = node.start(leave_idle_s=0.5)
        assert (await controller.order("start", args)).ok
        await world.until(lambda: len(steps_of(controller)) == 2, "steps")
        (keeper,) = node.pids()
        await controller.close()
        await asyncio.sleep(1.5)
        assert agent.poll() is None, "ranks run, so the agent is needed"
        await controller.open()
        assert (await controller.order("stop", {})).ok
        await world.until(lambda: len(controller.observed("rank-exited")) == 2, "both ends")
        await controller.close()
        assert await asyncio.to_thread(agent.wait, world.WAIT_S) == 0
        assert not world.alive(keeper)

    play(scenario)


def _running(controller: world.Controller) -> dict[int, Any]:
    return {rank.rank: rank for message in controller.marks for rank in message.ranks}


def _journal_tells(node: world.Node, kind: str) -> bool:
    return any(kind in path.read_text() for path in node.runtime.glob("keepers/*/events.jsonl"))


def test_a_keeper_that_lives_and_of_which_nothing_is_remembered_is_told_with_its_generation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(runtime: Path) -> None:
        place = home.of(runtime, "j")
        place.path.mkdir(parents=True)
        ticks = home.start_ticks(os.getpid())
        home.write_whole(place.info, {"pid": os.getpid(), "job": "j", "started_at": ticks})  # it has no door yet
        home.write_whole(place.fence, {"generation": 7})
        kept = spool.Spool(runtime / "spool.db")
        held = keepers.Keepers("n0", runtime, kept, ranks.Board(), clock.RealClock(), lambda: None)
        await held.adopt_all()
        assert [(one.job, one.generation, one.ranks) for one in held.states()] == [("j", 7, ())]
        await held.close()
        kept.close()

    monkeypatch.setattr(keepers, "ADOPT_ALL_S", 0.1)
    with world.short_directory() as runtime:
        asyncio.run(scenario(runtime))
