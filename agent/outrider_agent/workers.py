"""One thread for one thing that is looked at again and again, and that may hold whoever looks for ever.

Unlike in ``bounded``, a look that comes late is not lost: its answer reaches whoever asked, because a signal that
follows a log hands over each line once. A worker whose look hangs takes no further question, so a hung thing costs one
thread.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Asks ``look`` in a daemon thread of its own, which begins with the first question. One owner, an event loop."""

    def __init__(self, name: str, look: Callable[[], T]) -> None:
        self._name = name
        self._look = look
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

    def close(self) -> None:
        """Let the thread end once its look is over; nobody waits for it."""
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
                return  # the loop has ended meanwhile, and nobody waits for this


def _settle(answer: asyncio.Future[T], set_it: Callable[[Any], None], value: Any) -> None:
    if not answer.done():
        set_it(value)
