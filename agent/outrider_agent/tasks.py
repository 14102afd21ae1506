"""Background work with a name, one owner and a guard: whatever ends unasked says so in the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

log = logging.getLogger(__name__)

TASKS_MAX: Final = 512
AGAIN_S: Final = 1.0


class Tasks:
    """The tasks of one owner, at most TASKS_MAX at a time."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def running(self, name: str) -> bool:
        """Whether a task of this name runs."""
        return name in self._tasks

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        """Run ``work`` under ``name``, which no other running task of this owner has."""
        if len(self._tasks) >= TASKS_MAX:
            work.close()
            raise RuntimeError(f"{TASKS_MAX} tasks run already; {name} cannot start")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[name] = task
        task.add_done_callback(self._ended)

    async def wait(self, seconds: float) -> None:
        """Wait for those that run now, at most ``seconds``; none is ended."""
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=seconds)

    async def cancel(self) -> None:
        """End them all and wait until they have."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if self._tasks.get(task.get_name()) is task:
            del self._tasks[task.get_name()]
        if not task.cancelled() and task.exception() is not None:
            log.error("a part of the agent ended unasked", extra={"part": task.get_name()}, exc_info=task.exception())


async def keep_going(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work`` for ever: an error in one part of the agent costs that part a second, and the others nothing."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("a part of the agent failed and begins again", extra={"part": name})
        await asyncio.sleep(AGAIN_S)
