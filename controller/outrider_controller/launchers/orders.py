"""Orders to agents and their answers, across connections that come and go.

In: an order for a node, and how long to wait. Out: its OrderResult, or an OrderError. An order that is not yet
answered is sent again whenever its node reconnects; the agent answers a repeated id with what it did the first time.

    OrderError
      NodeAwayError       the node has been away for longer than the caller can wait
      OrderTimeoutError   the node is there and has not answered in time
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from outrider import clock as clock_module
from outrider import wire
from outrider_controller import codec

FRAMES_WAITING_MAX: Final = 1024
ORDERS_WAITING_MAX: Final = 65536
LOOK_S: Final = 0.2
RETURN_S: Final = 10.0  # after our own start; by then nodes have come back, or are known to be silent

log = logging.getLogger(__name__)


class OrderError(Exception):
    """An order without an answer."""


class NodeAwayError(OrderError):
    """The node's agent is not connected."""


class OrderTimeoutError(OrderError):
    """The agent has not answered in time."""


@dataclass
class Link:
    """One agent's connection. ``heard`` is monotonic; ``out`` holds frames that the connection's writer will send."""

    hello: wire.Hello
    heard: float
    prepared: set[str] = field(default_factory=set)  # jobs for which a keeper was asked to be ready
    unrecorded: deque[wire.Observations] = field(default_factory=deque)  # what the disk did not take, oldest first
    out: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(FRAMES_WAITING_MAX))
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    why: str = ""

    def send(self, message: wire.FromController) -> None:
        """Hand a frame to the connection's writer; an agent that does not read loses the connection, not the order."""
        try:
            self.out.put_nowait(codec.to_agent(message))
        except asyncio.QueueFull:
            self.close(f"the agent leaves {FRAMES_WAITING_MAX} frames unread")

    def close(self, why: str) -> None:
        """Ask the connection's owner to end it."""
        self.why = self.why or why
        self.closing.set()


@dataclass
class _Waiting:
    node: str
    order: wire.Order
    answer: asyncio.Future[wire.OrderResult]


class Orders:
    """All links and all unanswered orders of a controller; lives in one event loop."""

    def __init__(self, clock: clock_module.Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._waiting: dict[str, _Waiting] = {}
        self._left: dict[str, float] = {}  # node -> when its connection ended, monotonic
        self.links: dict[str, Link] = {}

    def add(self, link: Link) -> None:
        """A node is connected: send it every order that it has not answered."""
        node = link.hello.node
        self.links[node] = link
        self._left.pop(node, None)
        for waiting in self._waiting.values():
            if waiting.node == node:
                link.send(waiting.order)

    def remove(self, link: Link) -> bool:
        """A connection ended; whether it was the node's current one."""
        node = link.hello.node
        if self.links.get(node) is not link:
            return False
        del self.links[node]
        self._left[node] = self._clock.monotonic()
        return True

    def answer(self, node: str, result: wire.OrderResult) -> None:
        """Take an agent's answer; one that nobody waits for (any more) is passed over."""
        waiting = self._waiting.get(result.order_id)
        if waiting is None or waiting.node != node or waiting.answer.done():
            log.debug("an answer came that nobody waits for", extra={"node": node})
            return
        waiting.answer.set_result(result)

    def away_s(self, node: str) -> float:
        """Seconds since the node's connection ended (or since we began, if it never had one); 0 while it is there."""
        if node in self.links:
            return 0.0
        return self._clock.monotonic() - self._left.get(node, self._began)

    def expect(self, node: str) -> None:
        """The node has said hello and is about to be connected: what is ordered of it now waits for that."""
        if node not in self.links:
            self._left[node] = self._clock.monotonic()

    async def ask(self, node: str, order: wire.Order, within_s: float, away_s_max: float) -> wire.OrderResult:
        """Send an order and wait for its answer; raises OrderError. Asking twice under one id shares the answer."""
        if len(self._waiting) >= ORDERS_WAITING_MAX:
            raise OrderTimeoutError(f"{ORDERS_WAITING_MAX} orders are unanswered already; {order.kind} was not sent")
        waiting = self._waiting.get(order.order_id)
        if waiting is None:
            waiting = _Waiting(node, order, asyncio.get_running_loop().create_future())
            self._waiting[order.order_id] = waiting
            if (link := self.links.get(node)) is not None:
                link.send(order)
        try:
            return await self._answer(waiting, within_s, away_s_max)
        finally:
            self._waiting.pop(order.order_id, None)

    async def _answer(self, waiting: _Waiting, within_s: float, away_s_max: float) -> wire.OrderResult:
        node, kind = waiting.node, waiting.order.kind
        until = self._clock.monotonic() + within_s
        if away_s_max > 0 and node not in self._left and node not in self.links:
            away_s_max = max(away_s_max, RETURN_S)
        while not waiting.answer.done():
            if (away_s := self.away_s(node)) > away_s_max:
                raise NodeAwayError(f"node {node} is away since {away_s:.1f} s and was not reached for {kind}")
            if self._clock.monotonic() > until:
                raise OrderTimeoutError(f"node {node} did not answer {kind} within {within_s:g} s")
            await asyncio.wait({waiting.answer}, timeout=LOOK_S)
        return waiting.answer.result()
