"""When each signal is looked at: in its period, or when what it waits on is readable, each by a worker of its own.

In: signals and their workers. Out: two calls of the owner, in the event loop: ``answered`` when a look came back,
however late, and ``overdue`` while one does not. No task and no future is kept per signal: a look costs the loop one
timer, which signals that are due together share, and one answer. Looks of a node fall on a grid of GRID_S that begins
at random, so that nodes do not look in step though the signals of one node do.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from outrider_agent import workers

log = logging.getLogger(__name__)

FIRST_WITHIN_S: Final = 0.5  # the first looks are spread over this time
GRID_S: Final = 0.25  # looks of signals that have a period of at least twice this
TOGETHER_S: Final = 0.02  # what is due within this time is asked by the same timer
PERIOD_S_MIN: Final = 0.05
WAITED_S: Final = 2.0  # a signal that can be waited on is looked at so often all the same
AGAIN_S: Final = 1.0  # after a failure of our own

Answered = Callable[[str, float, Any, BaseException | None], None]  # name, seconds since the question, value or error
Overdue = Callable[[str, float], None]  # name, seconds since the question


@dataclass
class Round:
    """One signal's turn. Times are the loop's. ``fileno`` gives what to wait on between looks, None for nothing."""

    name: str
    period_s: float
    deadline_s: float
    worker: workers.Worker[Any]
    fileno: Callable[[], int | None] | None = None
    due: float = 0.0
    asked_at: float | None = None  # while a look is under way
    overdue_at: float = math.inf
    waits_on: int | None = None


class Rounds:
    """The turns of all signals. ``start`` and ``stop`` are called in the event loop, which does all the rest."""

    def __init__(
        self, rounds: Iterable[Round], answered: Answered, overdue: Overdue, chance: random.Random | None = None
    ) -> None:
        self._rounds = tuple(rounds)
        self._answered = answered
        self._overdue = overdue
        self._random = chance or random.Random()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._origin = 0.0

    def start(self) -> None:
        """Begin, or begin anew."""
        self.stop()
        self._loop = asyncio.get_running_loop()
        self._origin = self._loop.time() + self._random.uniform(0, GRID_S)
        for one in self._rounds:
            one.due = self._loop.time() + self._random.uniform(0, min(FIRST_WITHIN_S, one.period_s))
        self._tick()

    def stop(self) -> None:
        """Ask nobody any more; an answer that is still out is not taken."""
        if self._timer is not None:
            self._timer.cancel()
        for one in self._rounds:
            self._wait_no_more(one)
        self._timer, self._loop = None, None

    def _tick(self) -> None:
        """Ask those that are due, tell of those that are overdue, and set the timer for whoever comes next."""
        if self._loop is None:
            return
        now = self._loop.time()
        for one in self._rounds:
            try:
                if one.asked_at is not None:
                    self._look_at_the_clock(one, one.asked_at, now)
                elif one.due <= now + TOGETHER_S:
                    self._ask(one, self._loop)
            except Exception:
                log.exception("a signal could not be asked", extra={"signal": one.name})
                one.due = one.overdue_at = now + AGAIN_S
        self._set_timer()

    def _ask(self, one: Round, loop: asyncio.AbstractEventLoop) -> None:
        self._wait_no_more(one)
        one.asked_at = began = loop.time()
        one.overdue_at = began + one.deadline_s
        one.worker.ask(loop, lambda value, error: self._take(one, began, value, error))

    def _look_at_the_clock(self, one: Round, asked_at: float, now: float) -> None:
        if now < one.overdue_at:
            return
        one.overdue_at = now + max(one.period_s, one.deadline_s)
        self._overdue(one.name, now - asked_at)

    def _take(self, one: Round, began: float, value: Any, error: BaseException | None) -> None:
        loop, one.asked_at = self._loop, None
        if loop is None:
            return
        try:
            self._answered(one.name, loop.time() - began, value, error)
            one.due = self._next(one, began, loop.time())
            self._wait(one, loop)
        except Exception:
            log.exception("what a signal said could not be taken", extra={"signal": one.name})
            one.due = loop.time() + AGAIN_S
        if self._timer is None or one.due < self._timer.when() - TOGETHER_S:
            self._set_timer()

    def _next(self, one: Round, began: float, now: float) -> float:
        due = began + one.period_s
        if one.period_s >= 2 * GRID_S:
            due = self._origin + round((due - self._origin) / GRID_S) * GRID_S
        return max(due, now + PERIOD_S_MIN)

    def _wait(self, one: Round, loop: asyncio.AbstractEventLoop) -> None:
        """Where the signal says what to wait on, look when that is readable, and otherwise seldom."""
        descriptor = one.fileno() if one.fileno is not None else None
        if descriptor is None:
            return
        try:
            loop.add_reader(descriptor, self._ready, one, loop)
        except (OSError, ValueError):  # a plain file is always ready, which epoll refuses to say
            return
        one.waits_on = descriptor
        one.due = max(one.due, loop.time() + WAITED_S)

    def _ready(self, one: Round, loop: asyncio.AbstractEventLoop) -> None:
        self._wait_no_more(one)
        one.due = loop.time() + PERIOD_S_MIN  # what comes in a storm is taken together
        self._set_timer()

    def _wait_no_more(self, one: Round) -> None:
        if one.waits_on is not None and self._loop is not None:
            self._loop.remove_reader(one.waits_on)
        one.waits_on = None

    def _set_timer(self) -> None:
        if self._loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        nexts = [one.overdue_at if one.asked_at is not None else one.due for one in self._rounds]
        self._timer = self._loop.call_at(min(nexts, default=math.inf), self._tick) if nexts else None
