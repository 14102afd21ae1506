"""Where kernel lines come from: /dev/kmsg, or a plain file or FIFO that stands in its place.

Each source hands over what is new since it was last asked, never blocks, takes at most RECORDS_MAX records or BYTES_MAX
bytes a time, and knows its position, so that whoever restarts goes on where it stopped. The kernel overwrites records
that nobody fetched in time; what was lost is counted.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final, Protocol

from outrider.records import Json

RECORDS_MAX: Final = 20_000
BYTES_MAX: Final = 8 * 1024 * 1024
RECORD_BYTES: Final = 16_384  # the kernel's own limit is 8192 with its escapes; a smaller buffer would lose the record
TAIL_BYTES_MAX: Final = 65_536


class Source(Protocol):
    """``lost``: records that were overwritten before they were fetched; ``behind``: more waits than was handed over."""

    lost: int
    behind: bool

    def read(self) -> list[str]:
        """What is new. Raises OSError where it cannot be looked."""
        ...

    def position(self) -> Json:
        """Where to go on."""
        ...

    def go_on(self, position: Json) -> None:
        """Leave out what ``position`` says was taken."""
        ...

    def fileno(self) -> int | None:
        """What to wait on for more, None where there is nothing to wait on."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def open_source(path: Path, to_the_end: bool = False) -> Source:
    """The source that fits what ``path`` is. ``to_the_end``: an unfinished last line counts. Raises OSError."""
    mode = os.stat(path).st_mode
    if stat.S_ISCHR(mode):
        return Device(path)
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
        return Plain(path, to_the_end)
    raise OSError(errno.EINVAL, "is neither a kernel log nor a file nor a FIFO", str(path))


class Device:
    """/dev/kmsg: one record a read, numbered by the kernel since it booted."""

    def __init__(self, path: Path) -> None:
        self.lost = 0
        self.behind = False
        self._seq = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def read(self) -> list[str]:
        """Records since the last read."""
        found: list[str] = []
        for _ in range(RECORDS_MAX):
            try:
                data = os.read(self._fd, RECORD_BYTES)
            except BlockingIOError:
                self.behind = False
                return found
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EINVAL, errno.EINTR):
                    continue  # EPIPE: the next record was overwritten, and the read after it gives the oldest there is
                raise
            if not data:
                self.behind = False
                return found
            record = data.decode("utf-8", "replace")
            if self._is_new(record):
                found.append(record)
        self.behind = True
        return found

    def position(self) -> Json:
        """The number of the last record."""
        return {"seq": self._seq}

    def go_on(self, position: Json) -> None:
        """Pass over records up to ``position``."""
        seq = position.get("seq")
        self._seq = seq if isinstance(seq, int) else -1

    def fileno(self) -> int | None:
        """The device itself tells when there is more."""
        return self._fd

    def close(self) -> None:
        """Close the device."""
        os.close(self._fd)

    def _is_new(self, record: str) -> bool:
        number = record.split(",", 2)[1:2]
        if not number or not number[0].isdigit():
            return True
        seq = int(number[0])
        if seq <= self._seq:
            return False
        if self._seq >= 0:
            self.lost += seq - self._seq - 1
        self._seq = seq
        return True


class Plain:
    """A file that grows, is rotated or cut short; or a FIFO. Lines are records of /dev/kmsg or of dmesg."""

    def __init__(self, path: Path, to_the_end: bool = False) -> None:
        self.lost = 0
        self.behind = False
        self._path = path
        self._to_the_end = to_the_end
        self._tail = b""
        self._offset = 0
        self._open()

    def read(self) -> list[str]:
        """Whole lines since the last read."""
        data = self._take()
        if not data and self._regular and self._moved():
            self.close()
            self._open()
            self._offset, self._tail = 0, b""
            data = self._take()
        whole, newline, tail = (self._tail + data).rpartition(b"\n")
        if self._to_the_end and not self.behind:
            whole, tail, newline = self._tail + data, b"", b"\n"
        if len(tail) > TAIL_BYTES_MAX:  # a line without an end is no line of a kernel
            self.lost += 1
            tail = b""
        self._tail = tail
        if not newline:
            return []
        text = whole.replace(b"\0", b"").decode("utf-8", "replace")
        return [line for line in text.split("\n") if line]

    def position(self) -> Json:
        """The file and how far its whole lines were taken."""
        return {"file": self._identity, "offset": self._offset - len(self._tail)} if self._regular else {}

    def go_on(self, position: Json) -> None:
        """Go on in the same file, from the beginning in another."""
        offset = position.get("offset")
        if self._regular and position.get("file") == self._identity and isinstance(offset, int) and offset >= 0:
            self._offset = offset

    def fileno(self) -> int | None:
        """A FIFO tells when there is more, a file does not."""
        return None if self._regular else self._fd

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        found = os.fstat(self._fd)
        self._regular = stat.S_ISREG(found.st_mode)
        self._identity = [found.st_dev, found.st_ino]

    def _take(self) -> bytes:
        if not self._regular:
            return self._from_fifo()
        size = os.fstat(self._fd).st_size
        if size < self._offset:  # cut short in place
            self._offset, self._tail = 0, b""
        data = os.pread(self._fd, BYTES_MAX, self._offset)
        self._offset += len(data)
        self.behind = self._offset < size
        return data

    def _from_fifo(self) -> bytes:
        found = b""
        while len(found) < BYTES_MAX:
            try:
                data = os.read(self._fd, RECORD_BYTES)
            except BlockingIOError:
                break
            if not data:
                break
            found += data
        self.behind = len(found) >= BYTES_MAX
        return found

    def _moved(self) -> bool:
        try:
            found = os.stat(self._path)
        except OSError:
            return False  # between two files of a rotation: the old one is kept until there is a new one
        return [found.st_dev, found.st_ino] != self._identity
