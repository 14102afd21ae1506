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
Answered = Callable[[T | None, BaseException | None], None]


class Worker(Generic[T]):
    """Asks ``look`` in a daemon thread of its own, which begins with the first question; ``end`` is the last that is
    done there. One owner, an event loop.
    """

    def __init__(self, name: str, look: Callable[[], T], end: Callable[[], None] | None = None) -> None:
        self._name = name
        self._look = look
        self._end = end
        self._asked: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, Answered[T]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, loop: asyncio.AbstractEventLoop, answered: Answered[T]) -> None:
        """Look once; ``answered`` is called in ``loop`` with the value and None, or with None and what was raised.
        Questions that come while a look is under way wait for it.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"look {self._name}"[:64], daemon=True)
            self._thread.start()
        self._asked.put((loop, answered))

    def asked(self) -> asyncio.Future[T]:
        """The same for somebody who awaits."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(value: T | None, failed: BaseException | None) -> None:
            if answer.done():
                return
            if failed is not None:
                answer.set_exception(failed)
            else:
                answer.set_result(value)  # type: ignore[arg-type]  # one of the two is there

        self.ask(loop, settle)
        return answer

    @property
    def ended(self) -> bool:
        """Whether its thread has nothing to do any more; never while a look hangs."""
        return self._thread is None or not self._thread.is_alive()

    def close(self) -> None:
        """Let the thread end once its look is over."""
        self._asked.put(None)

    def _run(self) -> None:
        while (question := self._asked.get()) is not None:
            loop, answered = question
            value: T | None = None
            failed: BaseException | None = None
            try:
                value = self._look()
            except BaseException as error:  # noqa: BLE001 - whoever asked is told, whatever it is
                failed = error
            try:
                loop.call_soon_threadsafe(answered, value, failed)
            except RuntimeError:
                break  # the loop has ended meanwhile, and nobody waits for this
            del question, answered, value, failed  # what was seen is not kept until the next look
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
