"""Asking a living rank for its flight record: by its pipe, which makes torch's own thread write the rank's file, and by
its control socket, whose answer is the record itself.

Nothing waits longer than it is told to: a pipe is opened without waiting for a reader (there is none where the rank is
gone or torch never made it), and one byte fits or is not written. An answer goes to a file as it comes, so that its
size is the disk's business. A stopped rank takes both and answers neither.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Iterator
from typing import Final

from outrider_agent.flight_recorder import room

PICKLE: Final = "dump_nccl_trace_pickle"
JSON: Final = "dump_nccl_trace_json"
GENERIC: Final = "fr_trace_json"
ANSWER_BYTES_MAX: Final = 64 << 20
HEAD_BYTES_MAX: Final = 64 * 1024
PIECE: Final = 256 * 1024
CROWDED_S: Final = 0.05


class NotAsked(Exception):
    """A rank could not be asked, or gave no answer; the message says why."""


class Unknown(NotAsked):
    """This torch knows no such question."""


class Silent(NotAsked):
    """The question was taken and not answered in time."""


class Broken(NotAsked):
    """The question or its answer broke off: another try may do better."""


def by_pipe(path: str, user: int) -> None:
    """Ask for a dump by one byte. Raises NotAsked."""
    try:
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            raise NotAsked(f"{path} is no pipe")
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISFIFO(found.st_mode) or found.st_uid != user:
                raise NotAsked(f"{path} is of user {found.st_uid}, not of the job's")
            os.write(descriptor, b"\n")
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise NotAsked("it has made no pipe") from None
    except BlockingIOError:
        pass  # full of questions already
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise NotAsked(f"nobody reads {path}") from None
        raise NotAsked(f"{path}: {error.strerror or error}") from None


def by_socket(path: str, handler: str, into: str, until: float, space: room.Room) -> None:
    """Write the answer of ``handler`` to the new file ``into``, until ``time.monotonic()`` is ``until``, as far as
    there is ``space``.

    Raises NotAsked, and leaves no file then.
    """
    with _new(into, handler, space) as file:
        said: list[str] = []
        try:
            _converse(path, handler, file, until, space, said)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotAsked("it has no control socket (torch.distributed is not loaded)") from None
        except TimeoutError:
            raise Silent("".join(said) or f"{os.path.basename(path)} takes no connection") from None
        except room.NoRoom as error:
            raise NotAsked(f"{handler}: {error}") from None
        except OSError as error:
            raise Broken(f"{handler}: {error.strerror or error}") from None


def _converse(path: str, handler: str, file: _File, until: float, space: room.Room, said: list[str]) -> None:
    space.take(file.number, 0)  # before the rank makes an answer that nobody could keep
    with socket.socket(socket.AF_UNIX) as connection:
        _connect(connection, path, until)
        said.append(f"{handler} gave no answer in time")
        ask = f"POST /handler/{handler} HTTP/1.1\r\nHost: rank\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        connection.sendall(ask.encode())
        rest = _head(connection, handler, until)
        _keep(connection, rest, file, until, space)


def _connect(connection: socket.socket, path: str, until: float) -> None:
    """Wait in the line before the socket; where that is full, for a place in it."""
    while True:
        connection.settimeout(_left(until))
        try:
            return connection.connect(path)
        except BlockingIOError:
            time.sleep(CROWDED_S)


def write(descriptor: int, data: bytes) -> None:
    """All of ``data``. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _head(connection: socket.socket, handler: str, until: float) -> bytes:
    """Read the answer's head; what came of its body."""
    came = b""
    while b"\r\n\r\n" not in came:
        connection.settimeout(_left(until))
        piece = connection.recv(HEAD_BYTES_MAX)
        came += piece
        if not piece or len(came) > 2 * HEAD_BYTES_MAX:
            raise Broken(f"{handler}: what answered speaks no HTTP")
    head, _, body = came.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/"):
        raise NotAsked(f"{handler}: what answered speaks no HTTP")
    if words[1] != b"200":
        raise Unknown(f"{handler}: status {words[1][:8].decode(errors='replace')}")
    return body


class _File:
    """A new file, which is removed again where it does not become whole."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.taken = 0
        self.whole = False


@contextlib.contextmanager
def _new(into: str, handler: str, space: room.Room) -> Iterator[_File]:
    try:
        how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = _File(os.open(into, how, 0o600))
    except OSError as error:
        raise NotAsked(f"{handler}: {into}: {error.strerror or error}") from None
    try:
        yield file
    finally:
        os.close(file.number)
        if not file.whole:
            os.unlink(into)
            space.give(file.taken)


def _keep(connection: socket.socket, body: bytes, file: _File, until: float, space: room.Room) -> None:
    total, piece = len(body), body or b"-"
    while piece:
        if total > ANSWER_BYTES_MAX:
            raise NotAsked(f"its answer is longer than {ANSWER_BYTES_MAX} bytes")
        space.take(file.number, len(body))
        file.taken += len(body)
        write(file.number, body)
        connection.settimeout(_left(until))
        piece = body = connection.recv(PIECE)
        total += len(piece)
    file.whole = True
