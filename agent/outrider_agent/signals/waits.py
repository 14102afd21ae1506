"""Questions that may hang in the kernel, asked all at once from a thread that must not hang with them.

``bounded`` does this for an event loop; this is for a signal's ``read``, which has a thread of its own and no loop.
A question that does not come back loses one thread until the kernel lets go of it, and is not asked again before.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from outrider_agent import bounded

THREADS_MAX: Final = 64  # that may be inside the kernel at a time

T = TypeVar("T")


class Waits(Generic[T]):
    """Asks in threads. One owner, one thread."""

    def __init__(self) -> None:
        self._asking: set[str] = set()
        self._answers: queue.SimpleQueue[tuple[str, T | Exception]] = queue.SimpleQueue()

    @property
    def asking(self) -> frozenset[str]:
        """Names of the questions that have not come back yet."""
        return frozenset(self._asking)

    def ask(self, questions: Mapping[str, Callable[[], T]], within_s: float) -> dict[str, T | Exception]:
        """For each name its answer, what it raised, or bounded.CouldNotLook. Takes ``within_s`` seconds at most."""
        found: dict[str, T | Exception] = {}
        self._take_late()
        for name, question in questions.items():
            if name in self._asking:
                found[name] = bounded.CouldNotLook("an earlier look has not come back yet")
            elif len(self._asking) >= THREADS_MAX:
                found[name] = bounded.CouldNotLook(f"{THREADS_MAX} looks have not come back yet")
            else:
                self._asking.add(name)
                threading.Thread(target=self._run, args=(name, question), name=f"look {name}"[:64], daemon=True).start()
        until = time.monotonic() + within_s
        waiting = {name for name in questions if name not in found}
        while waiting and (left := until - time.monotonic()) > 0:
            try:
                name, answer = self._answers.get(timeout=left)
            except queue.Empty:
                break
            self._asking.discard(name)
            if name in waiting:
                waiting.discard(name)
                found[name] = answer
        for name in waiting:
            found[name] = bounded.CouldNotLook(f"no answer within {within_s:g} s")
        return found

    def _run(self, name: str, question: Callable[[], T]) -> None:
        try:
            self._answers.put((name, question()))
        except Exception as error:  # noqa: BLE001 - whoever asked is told, whatever it is
            self._answers.put((name, error))

    def _take_late(self) -> None:
        """Answers that came after their time count for nothing but that they came."""
        while True:
            try:
                self._asking.discard(self._answers.get_nowait()[0])
            except queue.Empty:
                return
