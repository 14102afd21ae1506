"""A controller that stands by itself: until a signal ends it, or another controller has taken over."""

from __future__ import annotations

import asyncio
import signal
import sys

from outrider import vocabulary
from outrider_controller import controller as controllers
from outrider_controller import settings as settings_module


async def serve(settings: settings_module.Settings) -> None:
    """A standing controller, until SIGTERM or SIGINT. Raises one of controller.FAILURES."""
    controller = controllers.Controller(settings)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await controller.start()
    waits = [asyncio.create_task(ended.wait(), name="signals"), asyncio.create_task(controller.wait_stopped())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        stopped = waits[1].result() if waits[1].done() else None
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        await controller.stop()
    if isinstance(stopped, Exception):
        raise stopped


async def main(settings: settings_module.Settings) -> int:
    """``serve``, with what keeps it from serving said on standard error; an exit status."""
    try:
        await serve(settings)
    except controllers.FAILURES as error:
        print(f"outrider controller: {error}", file=sys.stderr)
        return vocabulary.EXIT_COULD_NOT
    return vocabulary.EXIT_DONE
