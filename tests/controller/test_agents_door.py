"""The agents' door: who is taken, who is refused in which words, and that a refusal costs one connection alone."""

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import websockets
from websockets.asyncio import client

from outrider import wire
from outrider_controller import controller as controllers
from outrider_controller import nodes
from tests.controller import house


async def refused(connection: client.ClientConnection) -> tuple[wire.Refused, int]:
    """The refusal and the code with which the connection then ends."""
    answer = house.read(await connection.recv())
    assert isinstance(answer, wire.Refused), answer
    with pytest.raises(websockets.ConnectionClosed) as closed:
        await connection.recv()
    assert closed.value.rcvd is not None
    return answer, closed.value.rcvd.code


def hello(node: str = "n9", **changes: Any) -> dict[str, Any]:
    """A hello as plain JSON."""
    plain: dict[str, Any] = msgspec.to_builtins(house.Agent(Path("/"), node).hello())
    return {**plain, **changes}


async def say(connection: client.ClientConnection, document: Any) -> None:
    """One text frame."""
    await connection.send(msgspec.json.encode(document), text=True)


def with_door(tmp_path: Path, work: Any) -> None:
    """Run ``work`` against a controller that has one good agent, which must still be there afterwards."""

    async def around() -> None:
        async with house.controller(tmp_path) as running, house.agents(running, tmp_path, "n0") as made:
            await work(running)
            await made[0].see("marks-refused")
            await house.until(lambda: made[0].acked == 1, "the good agent goes on")
            assert running.state.nodes["n0"].silent_since is None

    house.run(around())


def test_a_missing_or_wrong_token_is_refused_with_the_way_out(tmp_path: Path) -> None:
    async def work(running: controllers.Controller) -> None:
        for token in ("", "wrong", "x" * 5_000, "ö".encode().decode("latin-1")):
            answer, code = await refused(await house.dial(running, token))
            assert "belongs to no node" in answer.reason
            assert "outrider token node" in answer.remedy
            assert code == 4401

    with_door(tmp_path, work)


def test_the_read_and_act_tokens_open_no_agents_door(tmp_path: Path) -> None:
    async def work(running: controllers.Controller) -> None:
        for name in ("read", "act"):
            answer, _ = await refused(await house.dial(running, running.tokens.file(name).read_text().strip()))
            assert "belongs to no node" in answer.reason

    with_door(tmp_path, work)


def test_a_token_of_another_node_is_refused_with_both_names(tmp_path: Path) -> None:
    async def work(running: controllers.Controller) -> None:
        connection = await house.dial(running, running.tokens.make_node("n9"))
        await say(connection, hello("n0"))
        answer, _ = await refused(connection)
        assert "n9" in answer.reason
        assert "n0" in answer.reason

    with_door(tmp_path, work)


def test_a_token_that_was_withdrawn_or_made_elsewhere_counts_at_once(tmp_path: Path) -> None:
    async def work(running: controllers.Controller) -> None:
        token = running.tokens.make_node("n9")
        assert running.tokens.node_of(token) == "n9"
        running.tokens.node_file("n9").unlink()
        assert running.tokens.node_of(token) is None
        running.tokens.node_file("n10").write_text("made-by-another-process\n")
        assert running.tokens.node_of("made-by-another-process") == "n10"

    with_door(tmp_path, work)


def test_another_protocol_is_refused_with_the_version_to_install(tmp_path: Path) -> None:
    async def work(running: controllers.Controller) -> None:
        for protocol, age in ((0, "older"), (wire.PROTOCOL + 1, "newer")):
            connection = await house.dial(running, running.tokens.make_node("n9"))
            await say(connection, {"type": "hello", "protocol": protocol})  # another version's hello has other keys
            answer, _ = await refused(connection)
            assert f"speaks protocol {protocol}" in answer.reason
            assert age in answer.remedy

    with_door(tmp_path, work)


GARBAGE: dict[str, tuple[Any, str]] = {
    "not-json": ("{oops", "is not a message"),
    "binary": (b"\x00\xff", "binary frame"),
    "empty": ("", "is not a message"),
    "number": ("17", "is not a message"),
    "no-type": ("{}", "is not a message"),
    "foreign-type": ('{"type": "welcome"}', "'welcome' is not a message of an agent"),
    "long-type": ('{"type": "' + "x" * 9999 + '"}', "is not a message of an agent"),
    "nested": ("[" * 50_000, "is not a message"),
    "mistyped": ('{"type": "heartbeat", "sent_at": "noon"}', "Expected `float`, got `str`"),
    "missing": ('{"type": "order-result"}', "missing required field"),
}


@pytest.mark.parametrize("welcomed", [False, True])
def test_garbage_is_refused_with_what_was_wrong_and_costs_one_connection(tmp_path: Path, welcomed: bool) -> None:
    async def work(running: controllers.Controller) -> None:
        for kind, (frame, words) in GARBAGE.items():
            connection = await house.dial(running, running.tokens.make_node("n9"))
            if welcomed:
                await say(connection, hello())
                assert isinstance(house.read(await connection.recv()), wire.Welcome), kind
            await connection.send(frame)
            answer, code = await refused(connection)
            assert words in answer.reason, kind
            assert len(answer.reason) <= 400, kind
            assert code == 4400, kind

    with_door(tmp_path, work)


def test_a_frame_larger_than_the_bound_ends_the_connection(tmp_path: Path) -> None:
    async def work(running: controllers.Controller) -> None:
        connection = await house.dial(running, running.tokens.make_node("n9"))

        async def send_it() -> None:
            await connection.send("x" * (wire.FRAME_BYTES_MAX + 1))
            await connection.recv()

        with pytest.raises(websockets.ConnectionClosed) as closed:
            await send_it()
        # The reset that follows unread bytes may overtake the reason.
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009

    with_door(tmp_path, work)


def item(seq: int, node: str = "n9") -> dict[str, Any]:
    """An observation as plain JSON."""
    plain: dict[str, Any] = msgspec.to_builtins(house.observation(seq, node, "marks-refused", "x"))
    return plain


CANNOT_BE_TRUE = [
    ([item(1), item(1)], "observation 1 follows 1"),
    ([item(0)], "numbers start at 1"),
    ([item(1, "n0")], "speaks of node 'n0'"),
    ([item(seq) for seq in range(1, 258)], "257 observations in one frame"),
]


def test_observations_that_cannot_be_true_are_refused_and_not_recorded(tmp_path: Path) -> None:
    async def work(running: controllers.Controller) -> None:
        for items, words in CANNOT_BE_TRUE:
            connection = await house.dial(running, running.tokens.make_node("n9"))
            await say(connection, hello())
            await connection.recv()
            await say(connection, {"type": "observations", "items": items})
            answer, _ = await refused(connection)
            assert words in answer.reason
        assert await running._turns.know_acked("n9", "spool-n9") == 0

    with_door(tmp_path, work)


def test_a_second_hello_ends_the_connection(tmp_path: Path) -> None:
    async def work(running: controllers.Controller) -> None:
        connection = await house.dial(running, running.tokens.make_node("n9"))
        await say(connection, hello())
        await connection.recv()
        await say(connection, hello())
        answer, _ = await refused(connection)
        assert "second hello" in answer.reason

    with_door(tmp_path, work)


def test_hello_with_impossible_words_is_refused(tmp_path: Path) -> None:
    async def work(running: controllers.Controller) -> None:
        for changes in ({"slots": -1}, {"slots": 5000}, {"address": "x" * 300}, {"boot_id": "a\nb"}):
            connection = await house.dial(running, running.tokens.make_node("n9"))
            await say(connection, hello(**changes))
            await refused(connection)
        assert "n9" not in running.state.nodes

    with_door(tmp_path, work)


def test_a_newer_connection_of_a_node_replaces_the_older_one_and_never_the_other_way_round(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.agents(running, tmp_path, "n0") as made:
            token = running.tokens.make_node("n0")
            older = await house.dial(running, token)
            await say(older, hello("n0", sent_at=time.time() - 60))
            answer, code = await refused(older)
            assert "newer connection of node n0" in answer.reason
            assert code == 4409
            newer = await house.dial(running, token)
            await say(newer, hello("n0", sent_at=time.time() + 1, boot_id="another"))
            assert isinstance(house.read(await newer.recv()), wire.Welcome)
            first = made[0]._connection
            assert first is not None
            await asyncio.wait_for(first.wait_closed(), 10)
            assert first.close_code == 4409
            assert running.state.nodes["n0"].boot_id == "another"
            assert running.state.nodes["n0"].silent_since is None
            await newer.close()

    house.run(work())


def test_an_agent_that_sends_too_fast_is_read_more_slowly_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider_controller.intake.agents.FRAMES_AT_ONCE_MAX", 5.0)

    async def work(running: controllers.Controller) -> None:
        connection = await house.dial(running, running.tokens.make_node("n9"))
        await say(connection, hello())
        await connection.recv()
        for seq in range(1, 31):
            await say(connection, {"type": "observations", "items": [item(seq)]})
        acked = 0
        while acked < 30:
            answer = house.read(await connection.recv())
            assert isinstance(answer, wire.Ack)
            acked = answer.seq
        await connection.close()

    with_door(tmp_path, work)


def test_a_node_between_its_hello_and_its_welcome_is_not_called_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running:
            await asyncio.sleep(4 * house.HEARTBEAT_S)  # a node that does not come back is silent from now on
            hello = house.Agent(tmp_path, "n0").hello()
            await running.nodes.join(hello)
            await asyncio.sleep(2 * house.HEARTBEAT_S)  # a busy machine takes its time for the welcome
            assert running.state.nodes["n0"].silent_since is None
            link = running.nodes.connect(hello)
            await house.until(lambda: link.closing.is_set(), "the connection says nothing")
            await running.nodes.leave(link)
            assert running.state.nodes["n0"].silent_since is not None
            monkeypatch.setattr(nodes, "JOIN_S_MAX", 0.1)
            await running.nodes.join(hello)
            joined_at = running.state.nodes["n0"].joined_at
            await house.until(lambda: running.state.nodes["n0"].silent_since is not None, "it never was welcomed")
            assert running.state.nodes["n0"].silent_since == joined_at

    house.run(work())
