"""One line that says how it goes: rewritten in place on a terminal, repeated now and then in a file."""

from __future__ import annotations

import contextlib
import shutil
import time
from typing import Final, TextIO

REPEAT_S: Final = 10.0  # in a log file: a new line comes this often, and whenever its first word changes
UNCHANGED_S: Final = 300.0  # and one that says what the last one said


class ProgressLine:
    """Owns the last line of ``out`` (standard error). Sentences go above it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._live = out.isatty()
        self._shown = ""
        self._printed_at = 0.0
        self._printed = ""

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            if text != self._shown:
                self._write("\r\x1b[K" + text[:width])
            self._shown = text
            return
        now = time.monotonic()
        patience_s = REPEAT_S if text != self._printed else UNCHANGED_S
        if text.partition(" ")[0] != self._printed.partition(" ")[0] or now - self._printed_at >= patience_s:
            self._printed, self._printed_at = text, now
            self._write(f"{text}\n")

    def say(self, sentence: str) -> None:
        """A sentence that stays, above the line."""
        self.clear()
        self._write(f"{sentence}\n")

    def clear(self) -> None:
        """Take the line away, before anything else writes to the terminal."""
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = ""

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that was closed must not end the job
            self._out.write(text)
            self._out.flush()
