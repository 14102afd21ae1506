"""One thread for one thing that is looked at again and again, and that may hold whoever looks for ever.

Unlike in ``bounded``, a look that comes late is not lost: its answer reaches whoever asked, because a signal that
follows a log hands over each line once. A worker whose look hangs takes no further question, so a hung thing costs one
thread.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar

log = logging.getLogger(__name__)

CLOSE_S: Final = 2.0
LOOK_S: Final = 0.02

T = TypeVar("T")


class Worker(Generic[T]):
    """Asks ``look`` in a daemon thread of its own, which begins with the first question; ``end`` is the last that is
    done there. One owner, an event loop.
    """

    def __init__(self, name: str, look: Callable[[], T], end: Callable[[], None] | None = None) -> None:
        self._name = name
        self._look = look
        self._end = end
        self._asked: queue.SimpleQueue[asyncio.Future[T] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._waits: asyncio.Future[T] | None = None

    @property
    def busy(self) -> bool:
        """Whether a look has not come back yet."""
        return self._waits is not None and not self._waits.done()

    def ask(self) -> asyncio.Future[T]:
        """The answer of one look, or what it raised; of the one that is under way where there is one."""
        if self._waits is not None and self.busy:
            return self._waits
        self._waits = asyncio.get_running_loop().create_future()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"look {self._name}"[:64], daemon=True)
            self._thread.start()
        self._asked.put(self._waits)
        return self._waits

    @property
    def ended(self) -> bool:
        """Whether its thread has nothing to do any more; never while a look hangs."""
        return self._thread is None or not self._thread.is_alive()

    def close(self) -> None:
        """Let the thread end once its look is over."""
        self._asked.put(None)

    def _run(self) -> None:
        while (answer := self._asked.get()) is not None:
            outcome: tuple[Callable[[Any], None], Any]
            try:
                outcome = (answer.set_result, self._look())
            except BaseException as error:  # noqa: BLE001 - whoever asked is told, whatever it is
                outcome = (answer.set_exception, error)
            try:
                answer.get_loop().call_soon_threadsafe(_settle, answer, *outcome)
            except RuntimeError:
                break  # the loop has ended meanwhile, and nobody waits for this
        if self._end is not None:
            try:
                self._end()
            except Exception:
                log.exception("a signal did not end as it should", extra={"signal": self._name})


async def close_all(workers: Iterable[Worker[Any]], within_s: float = CLOSE_S) -> None:
    """Close them and wait until they have ended, but no longer than this; one that hangs is left behind."""
    closing = list(workers)
    for one in closing:
        one.close()
    for _ in range(int(within_s / LOOK_S)):
        if all(one.ended for one in closing):
            return
        await asyncio.sleep(LOOK_S)


def ending(thing: object) -> Callable[[], None] | None:
    """What ends a signal, where something does."""
    found: Callable[[], None] | None = getattr(thing, "close", None)
    return found


def _settle(answer: asyncio.Future[T], set_it: Callable[[Any], None], value: Any) -> None:
    if not answer.done():
        set_it(value)
