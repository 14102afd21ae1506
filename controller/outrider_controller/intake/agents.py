"""The agents' door: one WebSocket per node, from its token to its last frame.

In: frames of a peer that may be old, broken or hostile. Out: its messages to ``nodes``, its orders and acknowledgements
back. Whoever is not taken gets a Refused frame that names what was wrong and what would help, and the connection ends;
that costs this connection and nothing else. A peer that sends faster than it may is read more slowly.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import fastapi

from outrider import wire
from outrider_controller import codec, ledger, nodes, turns
from outrider_controller.intake import bounds, doors
from outrider_controller.launchers import orders

HELLO_S_MAX: Final = 10.0
CLOSE_S_MAX: Final = 2.0
FRAMES_PER_S_MAX: Final = 200.0  # heartbeats, at most 10 frames of marks a second, a spool being emptied
FRAMES_AT_ONCE_MAX: Final = 1000.0
SLOTS_MAX: Final = 1024
WORD_CHARS_MAX: Final = 256
SHOWN_CHARS_MAX: Final = 300

BAD_FRAME: Final = 4400
NOT_KNOWN: Final = 4401
REPLACED: Final = 4409
UNHEARD: Final = 4408
TRY_AGAIN: Final = 1013

log = logging.getLogger(__name__)


class _RefusedError(Exception):
    """The peer is not taken (any more)."""

    def __init__(self, reason: str, remedy: str, code: int = BAD_FRAME) -> None:
        super().__init__(reason)
        self.remedy = remedy
        self.code = code


class _GoneError(Exception):
    """The peer has closed the connection."""


async def connect(websocket: fastapi.WebSocket) -> None:
    """One agent, as long as it stays."""
    house = doors.house_of(websocket)
    await websocket.accept()
    try:
        hello = await _welcome(websocket, house)
    except _RefusedError as error:
        await _refuse(websocket, error, None)
        return
    except (ledger.LedgerError, turns.StoppedError) as error:
        await _close(websocket, TRY_AGAIN, str(error))
        return
    except (_GoneError, fastapi.WebSocketDisconnect, RuntimeError):
        return
    link = house.nodes.connect(hello)
    try:
        await _talk(websocket, house, link)
    finally:
        await house.nodes.leave(link)


async def _welcome(websocket: fastapi.WebSocket, house: doors.House) -> wire.Hello:
    node = house.tokens.node_of(doors.bearer(websocket.headers))
    if node is None:
        raise _RefusedError(
            "this token belongs to no node",
            "make one with `outrider token node NAME` on the controller's machine and give it to the agent",
            NOT_KNOWN,
        )
    hello = await _hello(websocket)
    _check(hello, node)
    current = house.nodes.link(node)
    if current is not None and hello.sent_at < current.hello.sent_at:
        raise _RefusedError(f"a newer connection of node {node} is open", "end the older agent", REPLACED)
    acked = await house.nodes.join(hello)
    welcome = wire.Welcome(
        wire.PROTOCOL, house.version(), house.controller_id, house.epoch, acked, house.nodes.heartbeat_s
    )
    await websocket.send_text(codec.to_agent(welcome))
    return hello


async def _hello(websocket: fastapi.WebSocket) -> wire.Hello:
    try:
        async with asyncio.timeout(HELLO_S_MAX):
            frame = await _frame(websocket)
    except TimeoutError:
        raise _RefusedError(f"no hello came within {HELLO_S_MAX:g} s", "is this an agent of Outrider?") from None
    spoken = codec.protocol_of(frame)
    if spoken is not None and not wire.PROTOCOL_OLDEST <= spoken <= wire.PROTOCOL:
        age = "older" if spoken < wire.PROTOCOL_OLDEST else "newer"
        raise _RefusedError(
            f"the agent speaks protocol {spoken}, this controller {wire.PROTOCOL_OLDEST} to {wire.PROTOCOL}",
            f"the agent is {age}: install the controller's version of outrider on the node",
        )
    message = _decoded(frame)
    if not isinstance(message, wire.Hello):
        raise _RefusedError(f"the first frame is {message.type}, not hello", "is this an agent of Outrider?")
    return message


def _check(hello: wire.Hello, node: str) -> None:
    if hello.node != node:
        raise _RefusedError(
            f"the token is node {node}'s, but the agent says it is {hello.node[:WORD_CHARS_MAX]!r}",
            f"start the agent with --node {node}, or give it the token of its own node",
            NOT_KNOWN,
        )
    words = (hello.version, hello.boot_id, hello.spool_id, hello.address)
    if any(len(word) > WORD_CHARS_MAX or not word.isprintable() for word in words):
        raise _RefusedError(f"a word of hello is longer than {WORD_CHARS_MAX} or not printable", "update the agent")
    if not 0 <= hello.slots <= SLOTS_MAX:
        raise _RefusedError(f"slots {hello.slots} is not 0 to {SLOTS_MAX}", "start the agent with another --slots")


async def _talk(websocket: fastapi.WebSocket, house: doors.House, link: orders.Link) -> None:
    node = link.hello.node
    tasks = [
        asyncio.create_task(_read(websocket, house, link), name=f"read-{node}"),
        asyncio.create_task(_write(websocket, link), name=f"write-{node}"),
        asyncio.create_task(link.closing.wait(), name=f"close-{node}"),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        failed = next((error for task in done if (error := task.exception()) is not None), None)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await _end(websocket, link, failed)


async def _end(websocket: fastapi.WebSocket, link: orders.Link, failed: BaseException | None) -> None:
    """Say why the connection ends, to whoever can be told."""
    node = link.hello.node
    if isinstance(failed, _RefusedError):
        link.why = str(failed)
        await _refuse(websocket, failed, node)
    elif isinstance(failed, ledger.LedgerError | turns.StoppedError):
        link.why = str(failed)
        await _close(websocket, TRY_AGAIN, "nothing can be recorded now")
    elif failed is None:
        code = REPLACED if "newer" in link.why else UNHEARD
        log.info("a connection is ended", extra={"node": node, "why": link.why})
        await _close(websocket, code, link.why)
    elif not isinstance(failed, _GoneError | fastapi.WebSocketDisconnect | RuntimeError):
        log.error("a connection ended by an error", extra={"node": node}, exc_info=failed)
        await _close(websocket, TRY_AGAIN, "the controller failed at this connection")


async def _read(websocket: fastapi.WebSocket, house: doors.House, link: orders.Link) -> None:
    pace = bounds.Pace(house.clock, FRAMES_PER_S_MAX, FRAMES_AT_ONCE_MAX)
    while True:
        message = _decoded(await _frame(websocket))
        if (wait_s := pace.wait_s()) > 0:
            await house.clock.sleep(wait_s)
        try:
            await house.nodes.take(link, message)
        except nodes.FrameError as error:
            raise _RefusedError(str(error), "update the agent, or find out who holds its token") from error


async def _write(websocket: fastapi.WebSocket, link: orders.Link) -> None:
    while True:
        await websocket.send_text(await link.out.get())


async def _frame(websocket: fastapi.WebSocket) -> str:
    event: dict[str, Any] = dict(await websocket.receive())
    if event["type"] == "websocket.disconnect":
        raise _GoneError
    text = event.get("text")
    if not isinstance(text, str):
        raise _RefusedError("a binary frame came; messages are text frames of JSON", "is this an agent of Outrider?")
    return text


def _decoded(frame: str) -> wire.FromAgent:
    try:
        return codec.from_agent(frame)
    except codec.CodecError as error:
        remedy = "install the controller's version of outrider on the node"
        raise _RefusedError(str(error)[:SHOWN_CHARS_MAX], remedy) from error


async def _refuse(websocket: fastapi.WebSocket, error: _RefusedError, node: str | None) -> None:
    peer = websocket.client.host if websocket.client else "unknown"
    log.warning("a peer was refused", extra={"node": node or "unknown", "peer": peer, "why": error})
    try:
        async with asyncio.timeout(CLOSE_S_MAX):
            await websocket.send_text(codec.to_agent(wire.Refused(str(error), error.remedy)))
    except (TimeoutError, RuntimeError, fastapi.WebSocketDisconnect):
        return
    await _close(websocket, error.code, str(error))


async def _close(websocket: fastapi.WebSocket, code: int, why: str) -> None:
    try:
        async with asyncio.timeout(CLOSE_S_MAX):
            await websocket.close(code, why.encode()[:120].decode(errors="ignore"))
    except (TimeoutError, RuntimeError, fastapi.WebSocketDisconnect):
        pass  # it is gone already
