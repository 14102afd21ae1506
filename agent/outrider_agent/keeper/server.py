"""The keeper's door: one Unix socket, one client at a time, JSON lines both ways.

Flow: bytes -> lines (garbage is answered with an error line and forgotten); answers and events -> a bounded buffer. A
client that does not read is let go: it connects again and asks for the events from where it stood. A new client takes
the place of the old one, so an agent that came back is never locked out by a half-dead predecessor.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from typing import Any, Final

from outrider_agent.keeper import home as homes
from outrider_agent.keeper import orders

OUT_BYTES_MAX: Final = 8 * 1024 * 1024
PUSH_BYTES: Final = 1024 * 1024  # events wait in the journal while this much is unread
READ_BYTES: Final = 256 * 1024


class Door:
    """The listening socket and the client that is in, registered with the keeper's epoll."""

    def __init__(self, home: homes.Home, epoll: select.epoll) -> None:
        self._path = homes.socket_path(home)
        home.socket.unlink(missing_ok=True)  # left by a keeper that died; the lock says that none lives
        self._epoll = epoll
        self.listener = _listening(self._path)
        self.client: socket.socket | None = None
        self._in = b""
        self._out = b""
        self._skipping = False
        self.parted_at = time.monotonic()  # when the last client left
        epoll.register(self.listener.fileno(), select.EPOLLIN)

    def accept(self) -> bool:
        """Let a new client in; True when there is one to greet."""
        try:
            client, _ = self.listener.accept()
        except OSError:
            return False
        if _peer_uid(client) not in (0, os.geteuid()):
            client.close()
            return False
        self.part()
        client.setblocking(False)
        self.client = client
        self._epoll.register(client.fileno(), select.EPOLLIN)
        return True

    def reopen(self) -> None:
        """Listen anew when nobody is in and the socket's file is gone: ranks must not be out of everyone's reach."""
        if self.client is not None or os.path.lexists(self._path):
            return
        try:
            listener = _listening(self._path)
        except OSError:
            return  # its directory is gone too; that is looked at again
        self._epoll.unregister(self.listener.fileno())
        self.listener.close()
        self.listener = listener
        self._epoll.register(self.listener.fileno(), select.EPOLLIN)

    def part(self) -> None:
        """Let go of the client, if any."""
        if self.client is None:
            return
        self._epoll.unregister(self.client.fileno())
        self.client.close()
        self.client, self._in, self._out, self._skipping = None, b"", b"", False
        self.parted_at = time.monotonic()

    def is_client(self, fd: int) -> bool:
        """Whether ``fd`` is the client's."""
        return self.client is not None and self.client.fileno() == fd

    @property
    def busy(self) -> bool:
        """The client has enough to read for now; more would only pile up here."""
        return len(self._out) > PUSH_BYTES

    def read(self) -> list[bytes]:
        """Whole lines that have come in; a line beyond LINE_BYTES_MAX is answered and skipped to its end."""
        assert self.client is not None
        try:
            data = self.client.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.part()
            return []
        *lines, self._in = (self._in + data).split(b"\n")
        if self._skipping and lines:
            lines, self._skipping = lines[1:], False
        if len(self._in) > orders.LINE_BYTES_MAX or self._skipping:
            if not self._skipping:
                self.send({"id": None, "ok": False, "error": f"a line may have {orders.LINE_BYTES_MAX} bytes at most"})
            self._in, self._skipping = b"", True
        return [line for line in lines if line.strip()]

    def send(self, document: dict[str, Any]) -> None:
        """Queue one line for the client, if there is one."""
        if self.client is None:
            return
        self._out += json.dumps(document).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send what the client takes now."""
        if self.client is None:
            return
        try:
            while self._out:
                self._out = self._out[self.client.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self.part()
            return
        if len(self._out) > OUT_BYTES_MAX:
            self.part()
            return
        wanted = select.EPOLLIN | (select.EPOLLOUT if self._out else 0)
        self._epoll.modify(self.client.fileno(), wanted)


def _listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(8)
    except OSError:
        listener.close()
        raise
    return listener


def _peer_uid(client: socket.socket) -> int:
    size = struct.calcsize("3i")
    return int(struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1])
