"""The one outbound connection: what the node saw goes to the controller, what the controller orders comes in.

In: the spool, the board of marks, results of orders. Out: frames of ``outrider.wire``. Observations go at once and in
order, again after every reconnect until they are acknowledged; marks go before them, else at most MARK_FRAMES_PER_S
times a second; a heartbeat as often as the controller wishes. Whatever happens to the connection, nothing else on the
node stops.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Final

import websockets
from websockets.asyncio import client

from outrider import clock as clock_module
from outrider import wire
from outrider_agent import codec, dialing, spool
from outrider_agent import settings as settings_module
from outrider_agent.signals import ranks

log = logging.getLogger(__name__)

MARK_FRAMES_PER_S: Final = 10
BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0
REFUSED_RETRY_S: Final = 30.0
LOOK_AGAIN_S: Final = 0.2  # how often the state directory is looked at while there is no connection
OBSERVATION_BYTES_PER_FRAME_MAX: Final = wire.FRAME_BYTES_MAX // 4
RESULTS_WAITING_MAX: Final = 256
HEARTBEAT_S_MIN: Final = 0.1


class Reporter:
    """Keeps the connection. ``state`` is ``away``, ``refused`` or ``connected``; ``why`` says why not connected."""

    def __init__(
        self,
        settings: settings_module.Settings,
        clock: clock_module.Clock,
        spool_: spool.Spool,
        board: ranks.Board,
        hello: Callable[[], wire.Hello],
        take_order: Callable[[wire.Order], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._spool = spool_
        self._board = board
        self._hello = hello
        self._take_order = take_order
        self._woken = asyncio.Event()
        self._results: deque[wire.OrderResult] = deque(maxlen=RESULTS_WAITING_MAX)
        self._random = random.Random()
        self._sent_seq = 0
        self.state = "away"
        self.why = "not tried yet"
        self.garbage = 0
        self.last_connected = clock.monotonic()

    def wake(self) -> None:
        """There is something new to send."""
        self._woken.set()

    def answer(self, result: wire.OrderResult) -> None:
        """Send ``result``. It may be lost with the connection; the order then comes again and is answered anew."""
        self._results.append(result)
        self._woken.set()

    async def run(self) -> None:
        """Connect, talk, and begin again, for ever."""
        failures = 0
        while True:
            before = dialing.signature(self._settings)
            try:
                where = dialing.target(self._settings)
                connection, welcome = await dialing.dial(where, self._hello())
            except dialing.TurnedAwayError as error:
                self._not_connected("refused", str(error), logging.ERROR)
                await self._pause(before, REFUSED_RETRY_S)
                continue
            except dialing.AwayError as error:
                self._not_connected("away", str(error), logging.INFO)
            else:
                began = self._clock.monotonic()
                await self._talk(connection, welcome)
                failures = 0 if self._clock.monotonic() - began > BACKOFF_MAX_S else failures
                # What stays connected no longer than a moment is no reason to hurry.
                self._not_connected("away", "the connection to the controller ended", logging.WARNING)
            failures += 1
            await self._pause(before, backoff_s(failures, self._random.random()))

    async def _talk(self, connection: client.ClientConnection, welcome: wire.Welcome) -> None:
        self.state, self.why = "connected", ""
        log.info("connected", extra={"controller": welcome.controller_id, "version": welcome.version})
        forgotten = self._spool.serve(welcome.controller_id)
        if forgotten:
            log.warning("what was seen for another controller is forgotten", extra={"observations": forgotten})
        self._spool.acknowledge(welcome.acked_seq)
        self._sent_seq = welcome.acked_seq
        self._results.clear()  # results of orders from before: the controller repeats what it still wants
        heartbeat_s = max(HEARTBEAT_S_MIN, welcome.heartbeat_s)
        tasks = {
            asyncio.create_task(self._read(connection), name="report-read"),
            asyncio.create_task(self._write(connection, heartbeat_s), name="report-write"),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is not None and not isinstance(error, websockets.ConnectionClosed | OSError):
                    log.error("a part of the connection failed", extra={"part": task.get_name()}, exc_info=error)
        finally:
            self.last_connected = self._clock.monotonic()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await connection.close()

    async def _read(self, connection: client.ClientConnection) -> None:
        async for frame in connection:
            try:
                message = codec.decode(frame)
            except codec.CodecError as error:
                self.garbage += 1
                log.warning("the controller sent something that is ignored", extra={"why": error})
                continue
            if isinstance(message, wire.Ack):
                self._spool.acknowledge(message.seq)
            elif isinstance(message, wire.Order):
                self._take_order(message)
            elif isinstance(message, wire.Refused):
                log.warning("the controller refused us", extra={"why": message.reason, "remedy": message.remedy})

    async def _write(self, connection: client.ClientConnection, heartbeat_s: float) -> None:
        heartbeat_due = marks_due = self._clock.monotonic()
        while True:
            self._woken.clear()
            while self._results:
                await self._send(connection, self._results.popleft())
            now = self._clock.monotonic()
            # What ranks said goes before what was seen of them afterwards, so that the checkpoint that a rank saved
            # just before it ended is known before its end is.
            if self._board.dirty and (now >= marks_due or self._spool.newest > self._sent_seq):
                marks_due = now + 1 / MARK_FRAMES_PER_S
                for marks in self._board.flush():
                    await self._send(connection, marks)
            await self._send_observations(connection)
            if now >= heartbeat_due:
                heartbeat_due = now + heartbeat_s
                self._spool.flush()
                await self._send(connection, wire.Heartbeat(self._clock.now(), self._board.progress()))
            due = min(heartbeat_due, marks_due) if self._board.dirty else heartbeat_due
            await self._wait(due - self._clock.monotonic())

    async def _send_observations(self, connection: client.ClientConnection) -> None:
        while self._spool.newest > self._sent_seq:
            items = self._spool.after(self._sent_seq, wire.OBSERVATIONS_PER_FRAME_MAX, OBSERVATION_BYTES_PER_FRAME_MAX)
            if not items:
                self._sent_seq = self._spool.newest
                return
            await self._send(connection, wire.Observations(tuple(items)))
            self._sent_seq = items[-1].seq

    async def _send(self, connection: client.ClientConnection, message: wire.FromAgent) -> None:
        await connection.send(codec.encode(message), text=True)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _pause(self, before: tuple[object, ...], seconds: float) -> None:
        """Wait ``seconds``, or less when the place where the controller and the token are found has changed."""
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(left, LOOK_AGAIN_S))
            if dialing.signature(self._settings) != before:
                return

    def _not_connected(self, state: str, why: str, level: int) -> None:
        if (state, why) != (self.state, self.why):
            log.log(level, "not connected to a controller", extra={"why": why})
        self.state, self.why = state, why


def backoff_s(failures: int, chance: float) -> float:
    """Seconds to wait after so many failures in a row, with ``chance`` in [0, 1) spread so that agents do not return
    in step."""
    return float(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 16)) * (0.5 + chance / 2))
