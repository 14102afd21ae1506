"""Verifies one checkpoint in a process of its own: starts it, keeps its time, and says what its end means.

In: a ``Request``. Out: a verdict as plain JSON (``core.records.EffectRequested``, verify-checkpoint). It comes from the
process, or from the way it died while it read the metadata, where a stranger's pickle is the only thing at work: too
much processor time, a crash. Everything else (the time we had, a signal, an unreadable disk) says nothing about the
checkpoint, and is an error.

    CouldNotLookError    the file system or the machine kept us from looking; the message says what to do
        OutOfTimeError   it was not finished within the time that was given
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from outrider_analysis.checkpoints import Problem, metadata, problems
from outrider_controller.verification.request import TRUSTED, Request, Verdict, verdict

__all__ = ["TRUSTED", "CouldNotLookError", "OutOfTimeError", "Request", "verify"]

LINE_BYTES_MAX: Final = 4 * 1024 * 1024
REAP_S_MAX: Final = 5.0  # a process in an uninterruptible read of a dead mount does not end when it is killed
VANISH_S_MAX: Final = 2.0  # a folder that is being removed loses its files one after another
CHANGED_TRIES: Final = 2
ERROR_BYTES_MAX: Final = 2000
ANSWERS: Final = frozenset({"verdict", "gone", "changed", "error"})
CRASHES: Final = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})

Progress = Callable[[int], None]


class CouldNotLookError(Exception):
    """Nothing is known about the checkpoint."""


class OutOfTimeError(CouldNotLookError):
    """The time was over."""


async def verify(request: Request, within_s: float | None = None, progress: Progress | None = None) -> Verdict:
    """The verdict on one checkpoint. ``progress`` is given bytes read. Raises CouldNotLookError.

    Cancelled, it leaves no process behind.
    """
    began = time.monotonic()
    try:
        async with asyncio.timeout(within_s):
            found = await _until_settled(request, progress)
    except TimeoutError as error:
        raise OutOfTimeError(f"{request.path}: was not verified within {within_s:g} s") from error
    return {**found, "seconds": round(time.monotonic() - began, 3)}


async def _until_settled(request: Request, progress: Progress | None) -> Verdict:
    """Once; again where files changed under our eyes, and with a last look at whether it is still there."""
    for _ in range(CHANGED_TRIES):
        found = await _once(request, progress)
        if found is not None:
            break
    else:
        raise CouldNotLookError(f"{request.path}: its files keep changing while they are read; who writes there?")
    missing = {p["kind"] for p in found["problems"]} & {"missing", "not-a-folder"}
    return verdict(request, "written", gone=True) if missing and await _vanishes(request.path) else found


async def _vanishes(path: str) -> bool:
    """Whether the folder goes away now: whoever removes a checkpoint takes its files first."""
    until = time.monotonic() + VANISH_S_MAX
    before = await asyncio.to_thread(_count, path)
    while time.monotonic() < until:
        await asyncio.sleep(VANISH_S_MAX / 20)
        now = await asyncio.to_thread(_count, path)
        if now < 0:
            return True
        if now == before:  # nobody is at work
            return False
        before = now
    return False


def _count(path: str) -> int:
    try:
        return len(os.listdir(path))
    except OSError:
        return -1


async def _once(request: Request, progress: Progress | None) -> Verdict | None:
    """A verdict, or None where files changed while they were read."""
    try:
        child = await _started(request)
    except OSError as error:
        raise CouldNotLookError(f"{request.path}: no verifier could be started: {error}") from error
    stage: dict[str, Any] = {}
    try:
        last = await _listen(child, request, stage, progress)
        words = "" if last.keys() & ANSWERS else await _words(child)
        code = await child.wait()
    finally:
        await _ended(child)
    if "verdict" in last:
        return {**verdict(request, "written"), **last["verdict"]}
    if "gone" in last:
        return verdict(request, "written", gone=True)
    if "changed" in last:
        return None
    if "error" in last:
        raise CouldNotLookError(f"{request.path}: {last['error']}. Is its file system whole, and may we read it?")
    return _died(request, code, stage, words)


async def _started(request: Request) -> asyncio.subprocess.Process:
    # -P and -B: nothing is imported from where we happen to stand, and nothing is written.
    urgent = "urgent" if request.urgent else "aside"
    command = [sys.executable, "-P", "-B", "-m", "outrider_controller.verification.child", str(os.getpid()), urgent]
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
        start_new_session=True,
    )


async def _listen(
    child: asyncio.subprocess.Process, request: Request, stage: dict[str, Any], progress: Progress | None
) -> dict[str, Any]:
    """Lines until the last one; ``stage`` is kept up to date."""
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(ConnectionError):
        child.stdin.write(json.dumps(dataclasses.asdict(request)).encode("ascii") + b"\n")
        await child.stdin.drain()
    last: dict[str, Any] = {}
    while line := await child.stdout.readline():
        last = json.loads(line)
        if "stage" in last:
            stage.clear()
            stage.update(last)
        elif "bytes" in last and progress is not None:
            progress(last["bytes"])
    return last


def _died(request: Request, code: int, stage: dict[str, Any], words: str) -> Verdict:
    """It ended without an answer. While it read the metadata, that is the metadata's doing."""
    reason = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    if stage.get("stage") == "metadata" and code < 0:
        if -code == signal.SIGXCPU:
            text = f"takes more than {stage['processor_s']} s of processor time to be read"
            return verdict(request, "rejected", (Problem(metadata.NAME, "endless", text),))
        if -code in CRASHES:
            text = f"makes its reader crash ({reason})"
            return verdict(request, "rejected", (Problem(metadata.NAME, "crash", text),))
    hint = "; is the machine out of memory?" if -code == signal.SIGKILL else ""
    raise CouldNotLookError(f"{request.path}: its verifier ended by {reason}{hint} {words}".rstrip())


async def _words(child: asyncio.subprocess.Process) -> str:
    assert child.stderr is not None
    said = (await child.stderr.read(ERROR_BYTES_MAX)).decode("utf-8", "replace").strip()
    return problems.shown(said.splitlines()[-1]) if said else ""


async def _ended(child: asyncio.subprocess.Process) -> None:
    """Nothing is left of it, or it hangs in the kernel and ends when its file system answers."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REAP_S_MAX):
                await child.wait()
    if (transport := getattr(child, "_transport", None)) is not None:
        transport.close()
