"""A check that the controller asks of an agent: the real `outrider check`, answered, told, and never beside ranks."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.agent import test_supervision, world

CHECK = (sys.executable, "-m", "outrider_cli", "check")
LOST = "3,1,100,-;NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."

Scenario = Callable[[world.Node, world.Controller, Path], Awaitable[None]]


def play(scenario: Scenario) -> None:
    """Run a scenario with a node directory, a controller, and a kernel log that the node's sweep reads."""

    async def all_of_it() -> None:
        with world.node() as node:
            log = node.state / "kmsg"
            log.touch()
            async with world.Controller(node.state) as controller:
                await scenario(node, controller, log)

    asyncio.run(all_of_it())


def told(controller: world.Controller) -> list[tuple[str, bool]]:
    return [(one.severity, bool(one.evidence.get("cleared"))) for one in controller.observed("check-failed")]


def test_a_check_is_answered_and_a_failure_stands_until_the_next_pass() -> None:
    async def scenario(node: world.Node, controller: world.Controller, log: Path) -> None:
        log.write_text(LOST + "\n")
        command = (*CHECK, "--only", "sweep,host-memory", "--kernel-log", str(log))
        node.start(check_command=list(command), sources=None)
        failed = await controller.order("check", {"timeout_s": 60.0}, job="", generation=0)
        assert failed.ok, failed.error
        assert (failed.result["verdict"], failed.result["node"]) == ("fail", "n0")
        assert [one["verdict"] for one in failed.result["checks"]] == ["fail", "pass"]
        (seen,) = await world.until(lambda: controller.observed("check-failed"), "the observation")
        assert "fell off the bus" in seen.text
        assert (seen.severity, seen.recovery, seen.evidence["stops"]) == ("error", "drain", "new jobs")
        assert [one["name"] for one in seen.evidence["checks"]] == ["sweep"]
        again = await controller.order("check", {"timeout_s": 60.0}, job="", generation=0, order="check-0")
        assert again.result == failed.result, "an order that comes again is answered from memory"
        node.agents[0].kill()
        node.agents[0].wait()
        node.start(check_command=list(command), sources=None)
        await world.until(lambda: len(controller.hellos) == 2, "the next agent")
        assert [one.kind for one in controller.hellos[-1].findings] == ["check-failed"]
        log.write_text("6,1,100,-;all is well\n")
        passed = await controller.order("check", {"timeout_s": 60.0}, job="", generation=0)
        assert passed.result["verdict"] == "pass", passed.result["sentence"]
        await world.until(lambda: len(told(controller)) == 2, "the end of it")
        assert told(controller) == [("error", False), ("info", True)]

    play(scenario)


def test_a_node_with_ranks_is_not_checked_and_no_rank_begins_beside_a_check() -> None:
    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        wait = "import sys, time, json; time.sleep(3); print(json.dumps({'verdict': 'pass', 'checks': []}))"
        node.start(check_command=[sys.executable, "-c", wait], sources=None)
        asked = asyncio.create_task(controller.order("check", {}, job="", generation=0, order="check"))
        await world.until(lambda: "the node is checked" in node.log(), "the check")
        refused = await controller.order("start", args, order="too-early")
        assert "is being checked" in refused.error
        second = await controller.order("check", {}, job="", generation=0, order="second")
        assert "is being checked already" in second.error
        assert (await asked).result["verdict"] == "pass"
        assert (await controller.order("start", args, order="begin")).ok
        late = await controller.order("check", {"wait_s": 0.5}, job="", generation=0, order="late")
        assert not late.ok
        assert "2 ranks run on node n0" in late.error

    test_supervision.play(scenario)


def test_a_check_that_hangs_or_says_nothing_is_an_error_with_the_way_out() -> None:
    async def scenario(node: world.Node, controller: world.Controller, log: Path) -> None:
        node.start(check_command=[sys.executable, "-c", "print('hello')"], sources=None)
        mute = await controller.order("check", {}, job="", generation=0)
        assert "gave no document of a check" in mute.error
        wrong = await controller.order("check", {"timeout_s": 0}, job="", generation=0)
        assert "its arguments cannot be read" in wrong.error

    play(scenario)
