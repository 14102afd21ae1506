"""The agent's log, on standard error: one constant sentence a line, and what it is about as fields behind it."""

from __future__ import annotations

import datetime
import logging
from typing import Final

FIELD_CHARS_MAX: Final = 1000

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "websocket"}


class Formatter(logging.Formatter):
    """``2026-01-31T03:00:00.000Z INFO the sentence  job=demo rank=3``."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line, and its traceback below."""
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        stamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = f"{stamp} {record.levelname} {_one_line(record.getMessage())}"
        fields = [f"{key}={_value(value)}" for key, value in vars(record).items() if key not in _PLAIN]
        if fields:
            line += "  " + " ".join(fields)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def to_standard_error() -> None:
    """Log there from now on, unless whoever started us has set logging up already."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter())
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def _value(value: object) -> str:
    text = _one_line(str(value))
    return f'"{text}"' if " " in text else text


def _one_line(text: str) -> str:
    """What strangers wrote may not begin a line of its own."""
    shown = text if len(text) <= FIELD_CHARS_MAX else text[:FIELD_CHARS_MAX] + "..."
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in shown)
