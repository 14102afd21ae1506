"""How a rank ended, in full: what the kernel says, what its error file says, and the end of its log.

Flow: a waitid result and the rank's files -> records.RankExit. A file that is missing or damaged leaves its fields
empty.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from typing import Any, Final

from outrider import records

ERROR_FILE_BYTES_MAX: Final = 1024 * 1024
MESSAGE_CHARACTERS_MAX: Final = 2000
LOG_BYTES_SEEN: Final = 64 * 1024
CAUSE_BYTES_MAX: Final = 1024
THROWN_BYTES_MAX: Final = 16 * 1024  # what() of torch's own exceptions holds a stack of C++
_FATAL: Final = b"Fatal Python error: "
_THROWN: Final = b"terminate called "


@dataclass(frozen=True)
class End:
    """One line of the kernel's report: exit code, or the signal's name."""

    code: int | None
    signal: str | None

    @property
    def clean(self) -> bool:
        """The program ended as it wanted to, with 0."""
        return self.code == 0


def end(result: os.waitid_result) -> End:
    """Read what waitid reported."""
    if result.si_code == os.CLD_EXITED:
        return End(result.si_status, None)
    return End(None, signal_name(result.si_status))


def signal_name(number: int) -> str:
    """SIGKILL for 9; SIG40 for one that has no name of its own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def error(path: str) -> dict[str, str | None]:
    """``error_type``, ``error_message``, ``error_where`` from an error file in torchelastic's format, if any."""
    none: dict[str, str | None] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            document = json.loads(file.read(ERROR_FILE_BYTES_MAX))
    except (OSError, ValueError):
        return none
    inner = document.get("message") if isinstance(document, dict) else None
    if not isinstance(inner, dict):
        return none
    message = str(inner.get("message", ""))
    extra = inner.get("extraInfo")
    return _from_message(message) | (_from_extra(extra) if isinstance(extra, dict) else none)


def log_tail(path: str) -> str:
    """The last whole lines of a rank's log, at most records.LOG_TAIL_BYTES_MAX; the cause of a crash goes before its
    stacks, which may be longer than that.
    """
    most = records.LOG_TAIL_BYTES_MAX
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_BYTES_SEEN))
            seen = file.read(LOG_BYTES_SEEN)
    except OSError:
        return ""
    cause = _cause(seen, most)
    tail = seen[len(cause) - most :]
    if size > len(tail):
        tail = tail.partition(b"\n")[2] or tail
    return (cause + tail).decode(errors="ignore")


def _cause(seen: bytes, most: int) -> bytes:
    """The lines that say why the process crashed, where those are not among the last ``most`` bytes."""
    fatal = _last_line(seen, _FATAL, 0, len(seen))
    if fatal < 0:
        return b""
    thrown = _last_line(seen, _THROWN, max(0, fatal - THROWN_BYTES_MAX), fatal)
    begin = thrown if thrown >= 0 else fatal
    if begin >= len(seen) - most:
        return b""
    whole = seen[begin : seen.find(b"\n", fatal) + 1]
    return whole if len(whole) <= CAUSE_BYTES_MAX else whole[: CAUSE_BYTES_MAX - 1] + b"\n"


def _last_line(seen: bytes, word: bytes, begin: int, end: int) -> int:
    """Where the last line that begins with ``word`` begins; -1 where there is none."""
    found = seen.rfind(b"\n" + word, begin, end)
    return found + 1 if found >= 0 else 0 if begin == 0 and seen.startswith(word) else -1


def oom_kills() -> int:
    """How many processes this host has killed for memory since it was started; 0 where it does not say."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except (OSError, ValueError, IndexError):
        return 0


def _from_message(message: str) -> dict[str, str | None]:
    kind, colon, rest = message.partition(": ")
    named = bool(colon) and kind.replace(".", "").isidentifier()
    return {
        "error_type": kind.rpartition(".")[2] if named else None,
        "error_message": (rest if named else message)[:MESSAGE_CHARACTERS_MAX],
    }


def _from_extra(extra: dict[str, Any]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    if isinstance(extra.get("error_type"), str):
        found["error_type"] = extra["error_type"]
    where = extra.get("where")
    stack = extra.get("py_callstack")
    if not isinstance(where, str) and isinstance(stack, str):
        where = _last_frame(stack)
    if isinstance(where, str):
        found["error_where"] = where[:MESSAGE_CHARACTERS_MAX]
    return found


def _last_frame(stack: str) -> str | None:
    """``file.py:12 in f`` of the innermost ``File "file.py", line 12, in f``."""
    lines = [line.strip() for line in stack.splitlines() if line.strip().startswith('File "')]
    if not lines:
        return None
    file, _, rest = lines[-1][len('File "') :].partition('", line ')
    number, _, name = rest.partition(", in ")
    return f"{file}:{number} in {name}"
