"""The controller's log: to standard error and, bounded, to ``<state>/logs/controller.log``; fields follow the words."""

from __future__ import annotations

import datetime
import logging
import logging.handlers
from pathlib import Path
from typing import Final, TextIO

BYTES_PER_FILE_MAX: Final = 10 * 1024 * 1024
FILES_KEPT_MAX: Final = 3
FIELD_CHARS_MAX: Final = 500
# The HTTP server's debug level would write request headers, and with them tokens.
LOGGERS: Final = {"outrider_controller": logging.INFO, "uvicorn": logging.WARNING}

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class Formatter(logging.Formatter):
    """``2026-01-31T03:00:00.000Z WARNING the sentence  job=demo node=n1``."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line, and its traceback below."""
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        stamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = [f"{key.rstrip('_')}={_value(value)}" for key, value in vars(record).items() if key not in _PLAIN]
        line = f"{stamp} {record.levelname} {_one_line(record.getMessage())}"
        if fields:
            line += "  " + " ".join(fields)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Quiet(logging.Handler):
    """A log that cannot be written (a full disk) loses lines; it neither stops anything nor talks about itself."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name that logging calls
        """Lose the line."""


class _File(_Quiet, logging.handlers.RotatingFileHandler):
    pass


class _Stream(_Quiet, logging.StreamHandler[TextIO]):
    pass


def to(state: Path, standard_error: bool) -> list[logging.Handler]:
    """Log there from now on; returns the handlers for ``leave``."""
    folder = state / "logs"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        _File(folder / "controller.log", maxBytes=BYTES_PER_FILE_MAX, backupCount=FILES_KEPT_MAX, encoding="utf-8")
    ]
    if standard_error:
        handlers.append(_Stream())
    for name, level in LOGGERS.items():
        logging.getLogger(name).setLevel(level)
        for handler in handlers:
            handler.setFormatter(Formatter())
            logging.getLogger(name).addHandler(handler)
    return handlers


def leave(handlers: list[logging.Handler]) -> None:
    """Stop logging to ``handlers``."""
    for handler in handlers:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(handler)
        handler.close()


def _value(value: object) -> str:
    text = _one_line(str(value))
    return f'"{text}"' if " " in text else text


def _one_line(text: str) -> str:
    """What strangers wrote may not begin a line of its own."""
    shown = text if len(text) <= FIELD_CHARS_MAX else text[:FIELD_CHARS_MAX] + "..."
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in shown)
