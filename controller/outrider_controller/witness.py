"""``ledger.head``: the number and checksum of the ledger's last row, kept beside it, so that a shorter ledger shows.

A ledger whose newest transactions are gone (its log was cut, an older copy was put back) is in itself consistent. The
head is written after each transaction, whole or not at all, and never synchronised: after a crash it may lag behind the
ledger, which says nothing, but it cannot be ahead of it unless rows are missing. One of another ledger says nothing.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SUFFIX: Final = ".head"
BYTES: Final = 128


@dataclass(frozen=True)
class Head:
    """The last row that was confirmed: its number and checksum."""

    seq: int
    sum: str


class Witness:
    """Writes the head of the ledger ``ledger_id`` at ``ledger``. A disk that takes nothing costs the head alone."""

    def __init__(self, ledger: Path, ledger_id: str) -> None:
        self._id = ledger_id
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = os.open(path_of(ledger), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, seq: int, checksum: str) -> None:
        """The ledger's last row is now ``seq``."""
        text = f"{self._id} {seq} {checksum}"
        line = f"{text} {zlib.crc32(text.encode()):08x}\n".encode().ljust(BYTES)
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, line, 0)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def path_of(ledger: Path) -> Path:
    """Where the head of ``ledger`` lies."""
    return ledger.with_suffix(SUFFIX)


def read(ledger: Path, ledger_id: str) -> Head | None:
    """The head of ``ledger``, None where none can be read or where it is another ledger's."""
    try:
        with path_of(ledger).open("rb") as file:
            words = file.read(BYTES).decode("ascii").split()
        found_id, seq, checksum, crc = words if len(words) == 4 else (*words[:2], "", words[2])
        text = f"{found_id} {seq} {checksum}"
        if found_id != ledger_id or f"{zlib.crc32(text.encode()):08x}" != crc:
            return None
        return Head(int(seq), checksum)
    except (OSError, ValueError, IndexError):
        return None
