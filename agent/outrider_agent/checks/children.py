"""Runs one piece of work in a process of its own and says what became of it, within a deadline, whatever it does.

In: a task, how long it may take. Out: an Outcome. A driver that hangs hangs the child alone: it is killed with all
that it started, and one that the kernel does not let die is left behind after REAP_S and counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

REAP_S: Final = 3.0
LINE_BYTES_MAX: Final = 4 << 20
TAIL_BYTES: Final = 2000
ROOT: Final = Path(__file__).resolve().parents[2]  # the folder that holds our package
# Our folder comes last, so that the interpreter's own packages are the ones that are found.
START: Final = (
    f"import sys; sys.path.append({str(ROOT)!r}); "
    "import outrider_agent.checks.MODULE as c; sys.exit(c.main(sys.argv[1:]))"
)

DONE, RAISED, HUNG, CRASHED, ENDED, UNSTARTED = "done", "raised", "hung", "crashed", "ended", "unstarted"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What became of a child. ``at``: where it last said to be; ``text``: what there is to say, empty when done."""

    state: str
    seconds: float
    value: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    at: str = ""
    error: str = ""  # class of the exception that it raised


def command(python: str, module: str, *words: str) -> list[str]:
    """The command line of one of our children: ``module`` is below this package."""
    return [python, "-c", START.replace("MODULE", module), *words]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a child is given: ours, GPUs in the order of their addresses as NVML counts them, and ``more``."""
    return {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "PYTHONUNBUFFERED": "1", **(more or {})}


def run(
    task: Mapping[str, Any],
    deadline_s: float,
    tell: Tell = lambda where: None,
    python: str = sys.executable,
    env: Mapping[str, str] | None = None,
    begin: Sequence[str] | None = None,
) -> Outcome:
    """Run ``task`` in a child; blocks at most ``deadline_s`` + REAP_S. ``begin``: other words in place of ours."""
    began = time.monotonic()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    words = [*(begin or command(python, "child")), json.dumps(task), str(writing)]
    with tempfile.TemporaryFile() as errors:
        try:
            process = start(words, writing, errors, environment(env))
        except OSError as error:
            os.close(reading)
            return Outcome(UNSTARTED, 0.0, text=f"{words[0]}: {error.strerror or error}")
        finally:
            os.close(writing)
        try:
            lines, in_time = _listen(reading, began + deadline_s, tell)
        finally:
            os.close(reading)
        if in_time and not _ends(process, max(REAP_S, began + deadline_s - time.monotonic())):
            in_time = False
        left = end(process)
        return _outcome(lines, process, in_time, left, time.monotonic() - began, tail(errors), deadline_s)


def start(
    words: Sequence[str], writing: int, errors: IO[bytes], env: Mapping[str, str], stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """A child in a session of its own that may write to the pipe ``writing``. Raises OSError."""
    return subprocess.Popen(
        words,
        stdin=stdin,
        stdout=errors,
        stderr=errors,
        env=dict(env),
        pass_fds=(writing,),
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes]) -> bool:
    """Kill a child and all of its session; whether it is still there after REAP_S."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return not _ends(process, REAP_S)


def signal_name(number: int) -> str:
    """SIGSEGV for 11; the number where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def ending(returncode: int | None, tail: str) -> str:
    """How a process ended, in words."""
    if returncode is None:
        return "it runs on"
    if returncode < 0:
        name = signal_name(-returncode)
        return (
            f"crashed by {name}" if name != "SIGKILL" else "killed by SIGKILL (the kernel kills so for want of memory)"
        )
    last = next((line.strip() for line in reversed(tail.splitlines()) if line.strip()), "")
    return f"ended with status {returncode}{f': {last}' if last else ''}"


def _listen(reading: int, until: float, tell: Tell) -> tuple[list[dict[str, Any]], bool]:
    """Every line until the pipe is closed, and whether that came in time."""
    held, lines = b"", list[dict[str, Any]]()
    while True:
        left_s = until - time.monotonic()
        if left_s <= 0 or not select.select([reading], [], [], left_s)[0]:
            return lines, False
        piece = os.read(reading, 65536)
        if not piece:
            return lines, True
        *whole, held = (held + piece)[-LINE_BYTES_MAX:].split(b"\n")
        for text in whole:
            line = read_line(text)
            if "at" in line:
                tell(str(line["at"]))
            lines.append(line)
            if "done" in line or "error" in line:
                return lines, True


def read_line(text: bytes) -> dict[str, Any]:
    """One line of a child; empty for what is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _ends(process: subprocess.Popen[bytes], within_s: float) -> bool:
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _outcome(
    lines: list[dict[str, Any]],
    process: subprocess.Popen[bytes],
    in_time: bool,
    left: bool,
    seconds: float,
    tail: str,
    deadline_s: float,
) -> Outcome:
    at = next((str(line["at"]) for line in reversed(lines) if "at" in line), "")
    where = f" at {at}" if at else ""
    last = lines[-1] if lines else {}
    if isinstance(last.get("done"), dict):
        return Outcome(DONE, seconds, last["done"], at=at)
    if "error" in last:
        kind = str(last.get("type") or "Exception")
        return Outcome(RAISED, seconds, text=f"raised {kind}: {last['error']}{where}", at=at, error=kind)
    if not in_time:
        stays = f" and cannot be killed (pid {process.pid}, see /proc/{process.pid}/stack)" if left else ""
        return Outcome(HUNG, seconds, text=f"hung: no answer within {deadline_s:.0f} s{where}{stays}", at=at)
    code = process.returncode
    state = CRASHED if code is not None and code < 0 else ENDED
    return Outcome(state, seconds, text=f"{ending(code, tail)}{where}", at=at)


def tail(file: IO[bytes]) -> str:
    """The end of what a child wrote to its standard error."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL_BYTES))
    return file.read().decode(errors="replace")
