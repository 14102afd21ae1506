"""Calls into the kernel that may never return, each in a thread of its own and with a deadline.

A dead network file system or a sick driver holds whoever asks it, and no time-out reaches a thread inside the kernel.
So such a call gets a daemon thread: when it does not come back, the caller is told in time, one thread is lost until
the kernel lets go of it, and the next question of that name is refused instead of losing another. The event loop's own
threads are left alone, because the loop waits for those when it ends.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

THREADS_MAX: Final = 64  # that may be inside the kernel at a time

T = TypeVar("T")


class CouldNotLook(Exception):
    """The question was not answered in time, or not asked; the message says why."""


class Threads:
    """Asks in threads. One owner, an event loop; ``ask`` may be called many times at once."""

    def __init__(self) -> None:
        self._asking: set[str] = set()

    @property
    def asking(self) -> frozenset[str]:
        """Names of the questions that wait for their answer, in time or long past it."""
        return frozenset(self._asking)

    async def ask(self, name: str, question: Callable[[], T], within_s: float) -> T:
        """The answer of ``question``, or what it raised. Raises CouldNotLook after ``within_s`` seconds, while an
        earlier question of this name hangs, and where THREADS_MAX are asking already.
        """
        if name in self._asking:
            raise CouldNotLook(f"{name}: an earlier look has not come back yet")
        if len(self._asking) >= THREADS_MAX:
            raise CouldNotLook(f"{name}: {THREADS_MAX} looks have not come back yet")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(set_it: Callable[[Any], None], value: Any) -> None:
            self._asking.discard(name)
            if not answer.done():
                set_it(value)

        def run() -> None:
            try:
                outcome: tuple[Callable[[Any], None], Any] = (answer.set_result, question())
            except BaseException as error:  # noqa: BLE001 - whoever asked is told, whatever it is
                outcome = (answer.set_exception, error)
            try:
                loop.call_soon_threadsafe(settle, *outcome)
            except RuntimeError:
                pass  # the loop has ended meanwhile, and nobody waits for this

        self._asking.add(name)
        threading.Thread(target=run, name=f"look {name}"[:64], daemon=True).start()
        try:
            async with asyncio.timeout(within_s):
                return await answer
        except TimeoutError:
            raise CouldNotLook(f"{name}: no answer within {within_s:g} s") from None
