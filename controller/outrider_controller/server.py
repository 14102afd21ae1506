"""The one door in, opened: a socket, uvicorn on it inside the running loop, and the file that says where it is.

In: settings and the application. Out: the address that people and agents can use, also in ``<state>/controller.json``.
Signals are left to whoever owns the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import secrets
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import uvicorn

from outrider import clock as clock_module
from outrider import wire
from outrider_controller import settings as settings_module

CONTROLLER_FILE: Final = "controller.json"
CONNECTIONS_WAITING_MAX: Final = 1024
REQUESTS_AT_ONCE_MAX: Final = 8192  # connections of agents count too
END_S_MAX: Final = 2
START_S_MAX: Final = 10.0
ANNOUNCED_LOOK_S: Final = 2.0

log = logging.getLogger(__name__)


class ServeError(Exception):
    """The door cannot be opened; the message names the address and the way out."""


class _Quiet(uvicorn.Server):
    """Uvicorn without its signal handlers: the process belongs to somebody else."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class Server:
    """A listening controller. ``start`` returns once connections are taken."""

    def __init__(self, settings: settings_module.Settings, app: Any) -> None:
        self._settings = settings
        self._socket = _bind(settings)
        self._server = _Quiet(_config(settings, app))
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it listens; an address that means "everywhere" is given as loopback."""
        host, port = self._socket.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._settings.tls else 'http'}://{shown}:{port}"

    async def start(self) -> None:
        """Take connections."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="server")
        async with asyncio.timeout(START_S_MAX):
            while not self._server.started:
                if self._task.done():
                    self._task.result()
                    raise ServeError("the server ended before it began")
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Close the door and every connection."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()


def announce(state: Path, document: dict[str, Any]) -> None:
    """Write ``controller.json`` whole or not at all."""
    draft = state / f".{CONTROLLER_FILE}-{secrets.token_hex(4)}"
    try:
        draft.write_text(json.dumps(document) + "\n", encoding="ascii")
        os.chmod(draft, 0o600)
        draft.replace(state / CONTROLLER_FILE)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


async def keep_announced(state: Path, document: dict[str, Any], clock: clock_module.Clock) -> None:
    """Write ``controller.json`` again when somebody has removed it, for ever: agents that come back look there."""
    while True:
        await clock.sleep(ANNOUNCED_LOOK_S)
        if not (state / CONTROLLER_FILE).exists():
            announce(state, document)
            log.warning("controller.json had been removed and is written again", extra={"state": state})


def withdraw(state: Path, controller_id: str) -> None:
    """Remove ``controller.json`` where it still speaks of us."""
    path = state / CONTROLLER_FILE
    try:
        if json.loads(path.read_text(encoding="ascii")).get("controller_id") == controller_id:
            path.unlink()
    except (OSError, ValueError, AttributeError):
        pass  # gone, or somebody else's


def _bind(settings: settings_module.Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
    # Only with the protocol named does asyncio set TCP_NODELAY; without it every answer waits 40 ms for an ACK.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((settings.address, settings.port))
        found.listen(CONNECTIONS_WAITING_MAX)
        found.setblocking(False)
    except OSError as error:
        found.close()
        raise ServeError(_words(settings, error)) from error
    return found


def _words(settings: settings_module.Settings, error: OSError) -> str:
    where = f"{settings.address}:{settings.port}"
    if error.errno == errno.EADDRINUSE and settings.port == 0:
        return (
            f"{settings.address}: no port is free; end something that holds many, or give one with --listen HOST:PORT"
        )
    if error.errno == errno.EADDRINUSE:
        return f"{where}: the port is in use; give another with --listen HOST:PORT (port 0 takes a free one)"
    if error.errno == errno.EACCES:
        return f"{where}: this user may not use the port; take one above 1023 with --listen HOST:PORT"
    return f"{where}: cannot be listened on: {error.strerror or error}; give another address with --listen HOST:PORT"


def _config(settings: settings_module.Settings, app: Any) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws_max_size=wire.FRAME_BYTES_MAX,
        ws_per_message_deflate=False,  # frames are small; compressing costs a core more than it saves
        timeout_graceful_shutdown=END_S_MAX,
        limit_concurrency=REQUESTS_AT_ONCE_MAX,
        server_header=False,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ServeError(
            f"--tls-cert {settings.tls_cert} and --tls-key {settings.tls_key}: cannot be used: {error}"
        ) from error
    return config
