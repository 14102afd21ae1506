"""What the ranks say, as they say it: follows the log files of the ranks that a person wants to see.

In: the job's log directory, where each attempt has a folder and each rank a file. Out: lines, with the rank before them
where several are followed. A new attempt's files are found by themselves; nothing is ever read twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

CHUNK_BYTES_MAX: Final = 256 * 1024  # read of one file in one round; the next round takes the rest


@dataclass
class _Tail:
    offset: int = 0
    partial: bytes = b""


class RankOutput:
    """Follows ``ranks`` of one job. ``poll`` is called every now and then and writes what is new to ``out``."""

    def __init__(self, log_dir: Path, ranks: tuple[int, ...], out: TextIO) -> None:
        self._log_dir = log_dir
        self._ranks = ranks
        self._out = out
        self._tails: dict[Path, _Tail] = {}
        self._attempt = 0

    def skip_what_is_there(self) -> None:
        """Begin at the end of what is already written: an adopted job's past was shown by the run before."""
        while self._folder(self._attempt + 1).is_dir():
            self._attempt += 1
        for file in self._files():
            if file.is_file():
                self._tails[file] = _Tail(offset=file.stat().st_size)

    def poll(self) -> bool:
        """Write what is new; whether there was any."""
        said = any([self._read(file) for file in self._files()])
        while self._folder(self._attempt + 1).is_dir():
            self.flush()
            self._attempt += 1
            said = any([self._read(file) for file in self._files()]) or said
        return said

    def flush(self) -> None:
        """Write the last line of each file even where it has no end."""
        for file, tail in self._tails.items():
            if tail.partial:
                self._write(file, tail.partial + b"\n")
                tail.partial = b""

    def _folder(self, attempt: int) -> Path:
        return self._log_dir / f"attempt-{attempt}"

    def _files(self) -> list[Path]:
        return [self._folder(self._attempt) / f"rank_{rank}.log" for rank in self._ranks]

    def _read(self, file: Path) -> bool:
        tail = self._tails.setdefault(file, _Tail())
        try:
            with file.open("rb") as stream:
                stream.seek(tail.offset)
                new = stream.read(CHUNK_BYTES_MAX)
        except OSError:
            return False
        tail.offset += len(new)
        whole, newline, rest = (tail.partial + new).rpartition(b"\n")
        tail.partial = rest
        self._write(file, whole + newline)
        return bool(new)

    def _write(self, file: Path, text: bytes) -> None:
        if not text:
            return
        words = text.decode(errors="replace")
        if len(self._ranks) > 1:
            mark = f"[{file.stem.replace('_', ' ')}] "
            words = "".join(mark + line for line in words.splitlines(keepends=True))
        self._out.write(words)
        self._out.flush()
