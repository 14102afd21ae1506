"""What the ranks say, as they say it: follows the log files of the ranks that a person wants to see.

In: the job's log directory, where each attempt has a folder and each rank a file. Out: lines, with the rank before
them where several are followed. Nothing is ever read twice.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

CHUNK_BYTES_MAX: Final = 256 * 1024  # read of one file in one round; the next round takes the rest


@dataclass
class _Tail:
    offset: int = 0
    partial: bytes = b""


class RankOutput:
    """Follows ``ranks`` of one job from attempt ``first`` on. ``before``: called before anything is written."""

    def __init__(
        self, log_dir: Path, ranks: tuple[int, ...], out: TextIO, first: int = 0, before: Callable[[], object] = int
    ) -> None:
        self._log_dir = log_dir
        self._ranks = ranks
        self._out = out
        self._before = before
        self._tails: dict[Path, _Tail] = {}
        self._attempt = first

    def skip_what_is_there(self) -> None:
        """Begin at the end of what is already written: an adopted job's past was shown by the run before."""
        for file in self._files():
            if file.is_file():
                self._tails[file] = _Tail(offset=file.stat().st_size)

    def poll(self, attempt: int | None = None) -> None:
        """Write what is new, up to and with ``attempt``; None is the one that is followed already."""
        self._read_all()
        while attempt is not None and self._attempt < attempt:
            self.flush()
            self._attempt += 1
            self._read_all()

    def _read_all(self) -> None:
        for file in self._files():
            self._read(file)

    def flush(self) -> None:
        """Write the last line of each file even where it has no end."""
        for file, tail in self._tails.items():
            if tail.partial:
                self._write(file, tail.partial + b"\n")
                tail.partial = b""

    def _files(self) -> list[Path]:
        return [self._log_dir / f"attempt-{self._attempt}" / f"rank_{rank}.log" for rank in self._ranks]

    def _read(self, file: Path) -> None:
        tail = self._tails.setdefault(file, _Tail())
        try:
            with file.open("rb") as stream:
                stream.seek(tail.offset)
                new = stream.read(CHUNK_BYTES_MAX)
        except OSError:
            return  # it does not exist yet
        tail.offset += len(new)
        whole, newline, rest = (tail.partial + new).rpartition(b"\n")
        tail.partial = rest
        self._write(file, whole + newline)

    def _write(self, file: Path, text: bytes) -> None:
        if not text:
            return
        words = text.decode(errors="replace")
        if len(self._ranks) > 1:
            mark = f"[{file.stem.replace('_', ' ')}] "
            words = "".join(mark + line for line in words.splitlines(keepends=True))
        self._before()
        try:
            self._out.write(words)
            self._out.flush()
        except OSError:
            self._reader_has_left()

    def _reader_has_left(self) -> None:
        """Whoever read our output (``| head``) has gone. The job goes on, and its logs lie in files anyway."""
        self._ranks = ()
        with contextlib.suppress(OSError):  # or the interpreter complains at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
