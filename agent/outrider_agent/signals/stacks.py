"""Python stacks of a rank from outside: what faulthandler and py-spy write, read; and the two ways to ask for them.

In: the text that torch's ``dump_traceback`` answers or that ``rank_hook`` writes on STACKS_SIGNAL (both are
faulthandler's: threads newest first, so the main thread comes last; of each thread the innermost call first), or
py-spy's JSON. Out: the main thread's frames, innermost first, each ``file.py:12 in f``. A dump names at most 100
threads, and where the main thread is not among them there is no answer, rather than another thread's.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from outrider import records
from outrider_agent import rank_hook
from outrider_agent.signals import host

FRAME_CHARS_MAX: Final = 300
DUMP_BYTES_MAX: Final = 4 * 1024 * 1024
FILE_BYTES_MAX: Final = 1024 * 1024  # a file of stacks that has grown beyond this is cut off before the next question
HEAD_BYTES_MAX: Final = 64
QUIET_S: Final = 0.06  # a dump that has not grown for so long is whole; a thread takes well under 1 ms
PAUSE_S: Final = 0.01
_THREAD: Final = re.compile(r"(?:Current thread|Thread) (0x[0-9a-f]+).*\(most recent call first\):")
_FRAME: Final = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')
_THREAD_START: Final = ("threading.py", "_bootstrap")  # the outermost call of every thread that is not the main one


class NoStack(Exception):
    """There is no stack to be had this way; the message says why."""


Frames = tuple[str, ...]


def of_faulthandler(text: str, main: str = "") -> Frames:
    """Frames of the main thread in faulthandler's ``text``. ``main``: its identity there, where it is known."""
    threads = _threads(text)
    if main:
        found = [frames for identity, frames in threads if int(identity, 16) == int(main, 16)]
        if found:
            return found[-1][: records.EVIDENCE_FRAMES_MAX]
        raise NoStack(f"the main thread is not among the {len(threads)} threads of the dump")
    if not threads:
        raise NoStack("the dump holds no thread")
    frames = threads[-1][1]
    if not frames:
        raise NoStack("the main thread runs no Python code")
    where, _, name = frames[-1].partition(" in ")
    if name == _THREAD_START[1] and _THREAD_START[0] in where:
        raise NoStack(f"the main thread is not among the {len(threads)} threads of the dump")
    return frames[: records.EVIDENCE_FRAMES_MAX]


def of_pyspy(text: bytes, pid: int) -> Frames:
    """Frames of the main thread in the JSON of ``py-spy dump``."""
    try:
        threads = msgspec.json.decode(text, type=list[_PySpyThread])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise NoStack(f"py-spy's answer cannot be read: {error}") from None
    for thread in threads:
        if thread.os_thread_id == pid or (thread.os_thread_id is None and thread.thread_name == "MainThread"):
            frames = [_frame(one.filename, one.line, one.name) for one in thread.frames]
            return tuple(frames[: records.EVIDENCE_FRAMES_MAX])
    raise NoStack(f"the main thread is not among the {len(threads)} threads that py-spy found")


def moved(first: Frames, second: Frames) -> bool:
    """Whether two stacks are different ones. Another line of the innermost function is not: a loop has many lines."""
    return (_function(first), first[1:]) != (_function(second), second[1:])


# --- asking by py-spy -------------------------------------------------------------------------------------------------


class _PySpyFrame(msgspec.Struct):
    name: str
    filename: str
    line: int


class _PySpyThread(msgspec.Struct):
    frames: list[_PySpyFrame]
    os_thread_id: int | None = None
    thread_name: str | None = None


def pyspy() -> str | None:
    """The program, where it is installed: on PATH or beside our interpreter."""
    return shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))


async def ask_pyspy(program: str, pid: int, within_s: float) -> bytes:
    """What ``py-spy dump`` tells of ``pid``. It reads the memory and does not pause the process, stopped or not."""
    words = (program, "dump", "--json", "--nonblocking", "--pid", str(pid))
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(*words, stdin=null, stdout=pipe, stderr=pipe)
    except OSError as error:
        raise NoStack(f"{program} cannot be started: {error.strerror or error}") from None
    try:
        async with asyncio.timeout(within_s):
            out, err = await process.communicate()
    except TimeoutError:
        raise NoStack(f"py-spy gave no answer within {within_s:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode != 0:
        said = err.decode(errors="replace").strip().splitlines()
        raise NoStack(f"py-spy: {said[0] if said else f'status {process.returncode}'}"[:FRAME_CHARS_MAX])
    return out[:DUMP_BYTES_MAX]


# --- asking by signal -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dump:
    """faulthandler's text, and the main thread's identity in it."""

    text: str
    main: str


def ask_by_signal(pid: int, started: int, path: Path, within_s: float) -> Dump:
    """Have process ``pid`` write its stacks to ``path``; blocks for up to ``within_s`` seconds. Raises NoStack.

    A process gets the signal only when it is the one that began at ``started`` (ticks since boot), catches it, and
    holds the very file open that the hook names in the file's first line: anything else could be ended by it.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise NoStack(f"process {pid}: {error.strerror or error}") from None
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        os.close(pidfd)
        raise NoStack("the rank runs no Python that was prepared to answer by signal") from None
    except OSError as error:
        os.close(pidfd)
        raise NoStack(f"{path}: {error.strerror or error}") from None
    try:
        main = _prepared(pid, started, path, file)
        begin = os.fstat(file).st_size
        signal.pidfd_send_signal(pidfd, rank_hook.STACKS_SIGNAL)
        return Dump(_written(file, begin, within_s), main)
    except OSError as error:
        raise NoStack(f"process {pid} cannot be asked by signal: {error.strerror or error}") from None
    finally:
        os.close(pidfd)
        os.close(file)


def _prepared(pid: int, started: int, path: Path, file: int) -> str:
    """Make sure that the hook answers; the main thread's identity. The file belongs to whom the rank belongs to."""
    head = os.pread(file, HEAD_BYTES_MAX, 0).partition(b"\n")[0]
    words = head.decode(errors="replace").split()
    if len(words) != 3 or words[0] != str(pid) or not words[1].isdigit():
        raise NoStack(f"{path.name} is not of process {pid}")
    if not _catches(pid, rank_hook.STACKS_SIGNAL) or host.start_ticks(pid) != started:
        raise NoStack(f"process {pid} is not prepared to answer by signal")
    mine, theirs = os.fstat(file), os.stat(f"/proc/{pid}/fd/{words[1]}")
    same = os.path.samestat(mine, theirs) and mine.st_uid == os.stat(f"/proc/{pid}").st_uid
    if not same or not stat.S_ISREG(mine.st_mode):
        raise NoStack(f"process {pid} has closed the file that it would answer into")
    if mine.st_size > FILE_BYTES_MAX:
        os.ftruncate(file, len(head) + 1)
    return words[2]


def _written(file: int, begin: int, within_s: float) -> str:
    """What comes into ``file`` from ``begin`` on, once it has stopped to grow."""
    until = time.monotonic() + within_s
    size, grew = begin, time.monotonic()
    while (now := time.monotonic()) < until:
        time.sleep(PAUSE_S)
        if (new := os.fstat(file).st_size) != size:
            size, grew = new, now
        elif size > begin and now - grew > QUIET_S:
            break
    if size <= begin:
        raise NoStack(f"the rank did not answer the signal within {within_s:g} s")
    return os.pread(file, min(size - begin, DUMP_BYTES_MAX), begin).decode(errors="replace")


def _catches(pid: int, number: int) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def _threads(text: str) -> list[tuple[str, Frames]]:
    """Every thread of a dump with its frames; lines that are neither are passed over."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if head := _THREAD.match(line):
            found.append((head[1], []))
        elif found and (frame := _FRAME.match(line)):
            number = int(frame[2]) if frame[2].isdigit() else 0
            found[-1][1].append(_frame(frame[1], number, frame[3]))
    return [(identity, tuple(frames)) for identity, frames in found]


def _frame(file: str, line: int, name: str) -> str:
    return f"{file[-FRAME_CHARS_MAX // 2 :]}:{line} in {name[: FRAME_CHARS_MAX // 3]}"


def _function(frames: Frames) -> tuple[str, str]:
    """File and name of the innermost call."""
    if not frames:
        return "", ""
    where, _, name = frames[0].partition(" in ")
    return where.rpartition(":")[0], name
