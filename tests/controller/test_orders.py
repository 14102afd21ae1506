"""Orders and their answers across connections that come and go."""

import asyncio
from typing import Any

import pytest

from outrider import clock, wire
from outrider_controller import launchers
from outrider_controller.core import jobs
from outrider_controller.launchers import agents, orders
from tests.controller import house


def link(node: str) -> orders.Link:
    return orders.Link(wire.Hello(1, "v", node, "b", "s", "127.0.0.1", 2, True, True, 1.0), 0.0)


def order(identifier: str = "o1", kind: str = "stop") -> wire.Order:
    return wire.Order(identifier, kind, "demo", 1)


def sent(there: orders.Link) -> list[wire.Order]:
    found = []
    while not there.out.empty():
        message = house.read(there.out.get_nowait())
        assert isinstance(message, wire.Order)
        found.append(message)
    return found


def test_an_order_is_sent_again_on_every_connection_until_it_is_answered() -> None:
    async def work() -> None:
        board = orders.Orders(clock.RealClock())
        asked = asyncio.create_task(board.ask("n0", order(), 20.0, 20.0))
        await asyncio.sleep(0)
        for _ in range(3):
            there = link("n0")
            board.add(there)
            assert [o.order_id for o in sent(there)] == ["o1"]
            board.remove(there)
        there = link("n0")
        board.add(there)
        board.answer("n1", wire.OrderResult("o1", True))  # another node's word does not count
        board.answer("n0", wire.OrderResult("o9", True))
        assert not asked.done()
        board.answer("n0", wire.OrderResult("o1", True, None, {"ranks": [1]}))
        board.answer("n0", wire.OrderResult("o1", False))
        assert (await asked).result == {"ranks": [1]}
        board.remove(there)
        again = link("n0")
        board.add(again)
        assert sent(again) == []

    house.run(work())


def test_waiting_for_a_node_that_is_away_and_for_one_that_is_deaf_is_bounded() -> None:
    async def work() -> None:
        board = orders.Orders(clock.RealClock())
        with pytest.raises(orders.NodeAwayError, match="node n0 is away"):
            await board.ask("n0", order(), 20.0, 0.0)
        board.add(link("n0"))
        with pytest.raises(orders.OrderTimeoutError, match="n0 did not answer stop within 0"):
            await board.ask("n0", order(), 0.0, 20.0)

    house.run(work())


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


def test_a_node_is_waited_for_from_its_hello_on_and_longer_right_after_the_controllers_own_start() -> None:
    async def work() -> None:
        hands = Hands()
        board = orders.Orders(hands)
        hands.at += 60.0  # a controller without nodes; then one says hello, and a job is placed on it at once
        board.expect("n0")
        assert board.away_s("n0") == 0.0
        hands = Hands()
        board = orders.Orders(hands)
        hands.at += orders.RETURN_S - 1.0
        asked = asyncio.create_task(board.ask("n0", order(), 60.0, 5.0))
        await asyncio.sleep(0.05)
        board.add(link("n0"))  # its agent dials again
        board.answer("n0", wire.OrderResult("o1", True))
        assert (await asked).ok
        with pytest.raises(orders.NodeAwayError):
            await board.ask("n1", order("o2"), 60.0, 0.0)  # what need not wait does not

    house.run(work())


def test_an_agent_that_leaves_its_frames_unread_loses_the_connection_and_no_order() -> None:
    async def work() -> None:
        board = orders.Orders(clock.RealClock())
        there = link("n0")
        board.add(there)
        for number in range(orders.FRAMES_WAITING_MAX + 1):
            there.send(wire.Ack(number))
        assert there.closing.is_set()
        assert "unread" in there.why

    house.run(work())


class Nodes:
    """Nodes that answer from a table: (node, kind) -> result, error text, or None for silence."""

    def __init__(self, board: orders.Orders, answers: dict[tuple[str, str], Any], *nodes: str) -> None:
        self.board = board
        self.answers = answers
        self.got: list[tuple[str, wire.Order]] = []
        self.links = {node: link(node) for node in nodes}
        for there in self.links.values():
            board.add(there)

    async def work(self) -> None:
        """Answer, for ever."""
        while True:
            for node, there in self.links.items():
                for one in sent(there):
                    self.got.append((node, one))
                    answer = self.answers.get((node, one.kind), {})
                    if isinstance(answer, str):
                        self.board.answer(node, wire.OrderResult(one.order_id, False, answer))
                    elif answer is not None:
                        self.board.answer(node, wire.OrderResult(one.order_id, True, None, answer))
            await asyncio.sleep(0.005)


def plan(**changes: Any) -> launchers.Plan:
    spec = jobs.parse({"name": "demo", "command": ["x"], "nodes": 2, "ranks_per_node": 2})
    return launchers.Plan("demo-e2", spec, 0, 1, ("n0", "n1"), fence=("/c/.outrider-fence",), **changes)


PORT = {("n0", "reserve-port"): {"address": "10.0.0.1", "port": 29500}}
PIDS = {
    ("n0", "start"): {"pids": {"0": 10, "1": 11}, "warm": True, "why_cold": None},
    ("n1", "start"): {"pids": {"2": 12, "3": 13}, "warm": False, "why_cold": "a preload began a thread"},
}


def test_gpus_that_a_node_numbers_anew_are_told_for_its_ranks() -> None:
    async def work(launcher: agents.AgentsLauncher, nodes: Nodes) -> None:
        assert (await launcher.start(plan())).gpus == {2: "gpu5", 3: ""}

    told = {("n1", "start"): {**PIDS["n1", "start"], "gpus": {"2": "gpu5", "3": ""}}}
    with_nodes({**PORT, **PIDS, **told}, work)


def with_nodes(answers: dict[tuple[str, str], Any], work: Any) -> None:
    async def around() -> None:
        board = orders.Orders(clock.RealClock())
        nodes = Nodes(board, answers, "n0", "n1")
        answering = asyncio.create_task(nodes.work())
        launcher = agents.AgentsLauncher(board, clock.RealClock(), "ledger")
        try:
            await work(launcher, nodes)
        finally:
            answering.cancel()
            await launcher.close()

    house.run(around())


def test_an_attempt_starts_on_all_nodes_with_one_address_and_says_why_it_was_cold() -> None:
    async def work(launcher: agents.AgentsLauncher, nodes: Nodes) -> None:
        started = await launcher.start(plan(load="/c/step-8"))
        assert started == launchers.Started(False, {0: 10, 1: 11, 2: 12, 3: 13}, "a preload began a thread")
        starts = {node: one for node, one in nodes.got if one.kind == "start"}
        assert [starts[n].args["ranks"] for n in ("n0", "n1")] == [[0, 1], [2, 3]]
        assert [starts[n].args["node_rank"] for n in ("n0", "n1")] == [0, 1]
        for one in starts.values():
            assert (one.args["master_addr"], one.args["master_port"]) == ("10.0.0.1", 29500)
            assert (one.args["resume_path"], one.args["fence"]) == ("/c/step-8", ["/c/.outrider-fence"])
        assert starts["n1"].order_id == "ledger.demo-e2.start.n1"

    with_nodes({**PORT, **PIDS}, work)


def test_one_node_that_refuses_ends_the_attempt_on_all() -> None:
    async def work(launcher: agents.AgentsLauncher, nodes: Nodes) -> None:
        with pytest.raises(launchers.LaunchError, match="node n1 refused start: no such user"):
            await launcher.start(plan())
        assert {node for node, one in nodes.got if one.kind == "stop"} == {"n0", "n1"}

    with_nodes({**PORT, **PIDS, ("n1", "start"): "no such user: llama"}, work)


def test_a_node_that_answers_nonsense_for_a_port_is_named() -> None:
    async def work(launcher: agents.AgentsLauncher, nodes: Nodes) -> None:
        with pytest.raises(launchers.LaunchError, match="node n0 answered reserve-port with"):
            await launcher.start(plan())

    with_nodes({("n0", "reserve-port"): {"address": "x"}}, work)


def test_nodes_that_cannot_be_asked_to_stop_are_unreached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "STOP_AWAY_S_MAX", 0.0)
    monkeypatch.setattr(agents, "STOP_REPLY_S_MAX", 0.1)

    async def work(launcher: agents.AgentsLauncher, nodes: Nodes) -> None:
        stopped = await launcher.stop("demo-e3", "demo", 1, ("n0", "n1", "n2"), 0.0)
        assert stopped == launchers.Stopped(("n0",), ("n1", "n2"))

    with_nodes({("n1", "stop"): None}, work)
