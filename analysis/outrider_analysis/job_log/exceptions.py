"""Find the Python exception that ended a process, in the text it left behind.

In: the last lines of a log, possibly cut at the front, with torch's ``[rank3]:`` prefix before each line, with other
output between and after. Out: the chain of exceptions of the last traceback, from the root cause to the one that ended
the process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

LOG_CHARS_MAX = 65536  # of one log; the last ones count (an agent sends records.LOG_TAIL_BYTES_MAX of them)
MESSAGE_LINES_MAX = 12  # NCCL's message has its verdict on the second line, and the cause of it on the fourth
MESSAGE_CHARS_MAX = 2000
TEXT_CHARS_MAX = 240

_TORCH: Final = "/torch/"
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# torch's excepthook writes "[rank3]: ", torchrun's tee "[default3]:", srun --label "3: ".
_PREFIX: Final = re.compile(r"^(?:\[(?:rank|default)\d+\]:[ ]?|\d{1,6}: )")
# The members of an exception group stand behind rails: "  | ", "  +-+------- 1 -------".
_GROUP: Final = re.compile(r"^\s*(?:\+[-+\s\d.]*(?=$|Exception Group)|\|[ ]?)")
_HEAD: Final = re.compile(r"^\s*(?:Exception Group )?Traceback \(most recent call last\):\s*$")
_FRAME: Final = re.compile(r'^\s+File "(?P<file>[^"\n]+)", line (?P<line>\d+)(?:, in (?P<function>\S.*))?\s*$')
# Classes begin with a capital letter, but for a few old ones (socket.timeout, struct.error, socket.gaierror).
_RAISED: Final = re.compile(
    r"^(?P<type>(?:[A-Za-z_][\w<>]*\.)*(?:_*[A-Z]\w*|\w*error|timeout))(?::\s?(?P<message>.*))?$"
)
_CPP_PLACE: Final = re.compile(r"^\[\S+\.(?:cc|cpp|cu|h|hpp):\d+\]\s*")
_DURING: Final = re.compile(r"^(?:During handling of the above exception|The above exception was the direct cause)")
# Lines that libraries print after a traceback; they belong to no message.
_NATIVE_LINE: Final = re.compile(
    r"^\[[EWIF]\d{3,4} |^\[W\d|^Exception (?:ignored|in thread)|^[\w.-]+:\d+:\d+ \[\d+\] NCCL "
)


@dataclass(frozen=True)
class Frame:
    """One line of a traceback. ``function`` is empty where Python names none (a syntax error)."""

    file: str
    line: int
    function: str

    @property
    def where(self) -> str:
        """``train.py:12 in main``, the form of ``RankExit.error_where``."""
        name = self.file.rsplit("/", 1)[-1]
        return f"{name}:{self.line} in {self.function}" if self.function else f"{name}:{self.line}"


@dataclass(frozen=True)
class PythonError:
    """One exception. ``type`` is as printed (``torch.OutOfMemoryError``); ``frames`` run from the outermost inwards."""

    type: str
    message: str = ""
    frames: tuple[Frame, ...] = ()

    @property
    def name(self) -> str:
        """Class name without its module: an error file gives it so, a traceback with the module before it."""
        return self.type.rsplit(".", 1)[-1]

    @property
    def innermost(self) -> Frame | None:
        """Where it was raised."""
        return self.frames[-1] if self.frames else None

    @property
    def users(self) -> Frame | None:
        """The innermost frame that is not torch's, where it was raised within torch."""
        if self.innermost is None or _TORCH not in self.innermost.file:
            return None
        return next((frame for frame in reversed(self.frames) if _TORCH not in frame.file), None)

    @property
    def text(self) -> str:
        """``KeyError: 'layer.3'``: the first line only, bounded, without the place in torch's C++ before it."""
        first = _CPP_PLACE.sub("", self.message.splitlines()[0])[:TEXT_CHARS_MAX] if self.message else ""
        return f"{self.name}: {first}" if first else self.name


def find(text: str) -> tuple[PythonError, ...]:
    """The exceptions of the last traceback in ``text``: root cause first, the one that ended the process last."""
    lines = clean(text)
    chains: list[list[PythonError]] = []
    index, linked = 0, False
    while index < len(lines):
        cut = not chains and _FRAME.match(lines[index])  # a deep stack's head lies before the log's last lines
        if cut or _HEAD.match(lines[index]):
            error, index = _block(lines, index if cut else index + 1)
            if error is not None:
                if linked and chains:
                    chains[-1].append(error)
                else:
                    chains.append([error])
            linked = False
            continue
        linked = linked or bool(_DURING.match(lines[index]))
        index += 1
    return tuple(chains[-1]) if chains else ()


def clean(text: str) -> list[str]:
    """Lines without colours, rank prefixes and the rails of exception groups."""
    lines = [_PREFIX.sub("", line) for line in _COLOURS.sub("", text[-LOG_CHARS_MAX:]).splitlines()]
    if any("Exception Group Traceback" in line for line in lines):
        lines = [_GROUP.sub("", line) for line in lines]
    return [line.rstrip() for line in lines]


def innermost_from_where(where: str | None) -> Frame | None:
    """Read ``train.py:12 in main`` back; None when there is nothing to read."""
    found = re.match(r"^(?P<file>.+?):(?P<line>\d+)(?: in (?P<function>.+))?$", where or "")
    if not found:
        return None
    return Frame(found["file"], int(found["line"]), found["function"] or "")


def _block(lines: list[str], index: int) -> tuple[PythonError | None, int]:
    """Read one traceback from the line after its head; gives the exception and the index of the first line after it."""
    frames: list[Frame] = []
    while index < len(lines):
        line = lines[index]
        frame = _FRAME.match(line)
        if frame:
            frames.append(Frame(frame["file"], int(frame["line"]), (frame["function"] or "").strip()))
        elif _HEAD.match(line):
            return None, index
        elif raised := _RAISED.match(line):
            message, index = _message(lines, index + 1, raised["message"] or "")
            return PythonError(raised["type"], message, tuple(frames)), index
        index += 1
    return None, index


def _message(lines: list[str], index: int, first: str) -> tuple[str, int]:
    """The first line of a message and those that follow it, up to a blank line, another traceback or native output."""
    found = [first]
    while index < len(lines) and len(found) < MESSAGE_LINES_MAX:
        line = lines[index]
        if not line or _HEAD.match(line) or _DURING.match(line) or _NATIVE_LINE.match(line):
            break
        found.append(line)
        index += 1
    return "\n".join(found)[:MESSAGE_CHARS_MAX], index
