"""One line that says how it goes: rewritten in place on a terminal, repeated now and then in a file."""

from __future__ import annotations

import contextlib
import shutil
import time
from typing import Final, TextIO

REPEAT_S: Final = 10.0  # in a log file: the line comes again this often, and whenever its first word changes


class ProgressLine:
    """Owns the last line of ``out`` (standard error). Sentences go above it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._live = out.isatty()
        self._shown = ""
        self._printed_at = 0.0
        self._printed_word = ""

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            if text != self._shown:
                self._write("\r\x1b[K" + text[:width])
            self._shown = text
            return
        word = text.partition(" ")[0]
        now = time.monotonic()
        if word != self._printed_word or now - self._printed_at >= REPEAT_S:
            self._printed_word, self._printed_at = word, now
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
