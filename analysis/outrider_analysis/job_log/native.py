"""What ended a process below Python: the exception that left a C++ thread, and the call that the main thread was in.

In: the last lines of a log, cleaned. libstdc++ prints ``terminate called ...`` and the exception's ``what()`` before it
aborts, and faulthandler prints ``Fatal Python error: Aborted`` and stacks after that: the first two are the cause.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

WHAT_CHARS_MAX: Final = 400
FRAMES_MAX: Final = 400

_TERMINATE: Final = re.compile(r"^terminate called after throwing an instance of '([^'\n]{1,200})'", re.MULTILINE)
_WHAT: Final = re.compile(r"^\s*what\(\):\s*(.*)$")
_PLACE: Final = re.compile(r"^\[enforce fail at \S+\]\s*")
_FATAL: Final = re.compile(r"^Fatal Python error: ", re.MULTILINE)
_FRAME: Final = re.compile(r'^\s+File "([^"\n]+)", line (\d+) in (\S.*)$')
_OPERATIONS: Final = "/torch/distributed/distributed_c10d.py"
_TORCH: Final = "/torch/"


@dataclass(frozen=True)
class Thrown:
    """An exception of C++ that nobody caught. ``type``: its class; ``what``: its first line, without torch's place."""

    type: str
    what: str

    @property
    def text(self) -> str:
        """``gloo::EnforceNotMet: op.preamble.length <= op.nbytes. 8 vs 4``."""
        return f"{self.type}: {self.what}" if self.what else self.type


@dataclass(frozen=True)
class Call:
    """A collective that the process was in: its name in Python, and where it was called (``train.py:9 in step``)."""

    operation: str
    place: str
    function: str


def thrown(tail: str) -> Thrown | None:
    """The last exception that ended the process."""
    every = list(_TERMINATE.finditer(tail))
    if not every:
        return None
    found = every[-1]
    line = tail[found.end() :].lstrip("\n").partition("\n")[0]
    said = _WHAT.match(line)
    return Thrown(found[1], _PLACE.sub("", said[1])[:WHAT_CHARS_MAX].strip() if said else "")


def call(tail: str) -> Call | None:
    """The collective in the stacks that faulthandler printed, which has the innermost frame first."""
    every = list(_FATAL.finditer(tail))
    if not every:
        return None
    operation = ""
    for line in tail[every[-1].end() :].splitlines()[:FRAMES_MAX]:
        frame = _FRAME.match(line)
        if frame is None:
            operation = ""  # another thread
        elif frame[1].endswith(_OPERATIONS):
            operation = frame[3]
        elif operation and _TORCH not in frame[1]:
            name = frame[1].rsplit("/", 1)[-1]
            return Call(operation, f"{name}:{frame[2]} in {frame[3]}", frame[3])
    return None
