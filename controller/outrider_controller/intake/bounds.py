"""Bounds on what strangers may send: bytes of a request's body, frames a second of an agent."""

from __future__ import annotations

from starlette import types

from outrider import clock as clock_module
from outrider_controller.intake import failures


class _TooLargeError(Exception):
    """The body has more bytes than are taken."""


class BodyBound:
    """Answers 413 to a body larger than ``bytes_max``, by its announced length or once it has come."""

    def __init__(self, app: types.ASGIApp, bytes_max: int) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced(scope) > self._bytes_max:
            await self._refuse(scope, receive, send)
            return
        taken = 0
        begun = False

        async def bounded_receive() -> types.Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._bytes_max:
                raise _TooLargeError
            return message

        async def noting_send(message: types.Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, bounded_receive, noting_send)
        except _TooLargeError:
            if not begun:
                await self._refuse(scope, receive, send)

    async def _refuse(self, scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        words = f"the body has more than {self._bytes_max} bytes"
        await failures.answer(413, words, "send less")(scope, receive, send)


def _announced(scope: types.Scope) -> int:
    headers: list[tuple[bytes, bytes]] = scope.get("headers", [])
    found = next((value for name, value in headers if name.lower() == b"content-length"), b"0")
    return int(found) if found.isdigit() else 0


class Pace:
    """Lets ``per_s`` things a second pass, ``burst`` at once; says how long the next one has to wait."""

    def __init__(self, clock: clock_module.Clock, per_s: float, burst: float) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at = clock.monotonic()

    def wait_s(self) -> float:
        """Count one thing; seconds to wait before it may pass, 0 as a rule."""
        now = self._clock.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s) - 1.0
        self._at = now
        return max(0.0, -self._left / self._per_s)
