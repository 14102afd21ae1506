"""Work that may hang (a dead network mount) in a thread of its own, waited for only so long.

In: a plain function. Out: its result, or TimeoutError. A thread cannot be ended from outside, so one that hangs stays
behind; it is a daemon, which the end of the process does not wait for, and at most THREADS_LEFT_MAX are put up with.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

THREADS_LEFT_MAX: Final = 64

Result = TypeVar("Result")
_left: set[threading.Thread] = set()


async def call(name: str, within_s: float, function: Callable[..., Result], *args: Any) -> Result:
    """``function(*args)`` in a thread; raises what it raises, or TimeoutError after ``within_s``."""
    _left.difference_update([thread for thread in _left if not thread.is_alive()])
    if len(_left) >= THREADS_LEFT_MAX:
        raise TimeoutError(f"{name}: {THREADS_LEFT_MAX} earlier calls hang; is a file system gone?")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Result] = loop.create_future()

    def work() -> None:
        try:
            found = function(*args)
        except Exception as error:  # noqa: BLE001 - it is raised again where the result is awaited
            _tell(loop, answer, None, error)
        else:
            _tell(loop, answer, found, None)

    thread = threading.Thread(target=work, name=name, daemon=True)
    _left.add(thread)
    thread.start()
    async with asyncio.timeout(within_s):
        return await answer


def _tell(loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Any], found: Any, error: Exception | None) -> None:
    def settle() -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(found)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        pass  # the loop has closed meanwhile: nobody waits any more
