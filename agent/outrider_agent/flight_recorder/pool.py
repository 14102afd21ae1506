"""Reads many dumps at once in bounded processes, so that a hostile or broken one costs its own answer and no more.

    Source, Source, ... -> Found(nodes, unreadable, seconds)

A process that dies or hangs is replaced. It had said which file it was at: that one is tried once more alone, since the
memory may have gone to those before it, and is unreadable when it ends its reader again; the others go on.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import json
import math
import mmap
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final

from outrider_agent.flight_recorder.child import EXIT_MEMORY, PLACE
from outrider_agent.flight_recorder.files import Source
from outrider_analysis.flight_recorder import model

CHUNK_MAX: Final = 128  # files a process reads for one answer; what their texts have in common is kept once in it
CHUNK_MIN: Final = 8
WORKERS_MAX: Final = 32
ANSWER_BYTES_MAX: Final = 1 << 30
PIPE_BYTES: Final = 1 << 20
REAP_S: Final = 2.0  # a process in a read of a dead mount does not end when it is killed
STARTS_FAILED_MAX: Final = 3
START_S: Final = 20.0  # more for the first file of a process: on a busy machine an interpreter takes long to start
WORDS_MAX: Final = 400

Tell = Callable[[int, int], None]


class PoolError(Exception):
    """No reading process could be started; says nothing about the dumps."""


@dataclass(frozen=True, slots=True)
class Limits:
    """``memory_bytes`` of address space for each process; wall time ``file_s`` for each file, ``all_s`` for all."""

    memory_bytes: int = 1 << 30
    file_s: float = 30.0
    all_s: float = math.inf
    workers: int = 0  # 0: as many as there are cores for us, and at least 2


@dataclass(slots=True)
class Found:
    """Digests by chunk. ``read_s`` and ``digest_s`` are the processes' own, ``wall_s`` from begin to end."""

    nodes: list[model.NodeDigest] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    read_s: float = 0.0
    digest_s: float = 0.0
    wall_s: float = 0.0


class Ahead:
    """One reading process that is started before there is anything to be read; it is good for one ``read``."""

    def __init__(self, limits: Limits = Limits()) -> None:
        """Raises PoolError."""
        self._reader: _Reader | None = _Reader(limits)

    def take(self) -> list[_Reader]:
        """The process, for whoever asks first."""
        reader, self._reader = self._reader, None
        return [reader] if reader is not None else []


def read(
    sources: Sequence[Source], limits: Limits = Limits(), tell: Tell | None = None, ahead: Ahead | None = None
) -> Found:
    """Digest all files. ``tell`` is given how many are done, and of how many. Raises PoolError."""
    began = time.monotonic()
    workers = min(limits.workers or _cores(), max(1, len(sources)))
    size = min(CHUNK_MAX, max(CHUNK_MIN, -(-len(sources) // (workers * 4))))
    run = _Run(limits, tell, len(sources))
    run.work.extend(list(sources[at : at + size]) for at in range(0, len(sources), size))
    for reader in ahead.take() if ahead is not None else ():
        run.readers.append(reader)
        run.selector.register(reader.out, selectors.EVENT_READ, reader)
    try:
        run.all(workers)
    finally:
        run.close()
    run.found.unreadable.sort()
    run.found.wall_s = time.monotonic() - began
    return run.found


def _cores() -> int:
    return min(WORKERS_MAX, max(2, len(os.sched_getaffinity(0))))


class _Reader:
    """One process and what it is at."""

    def __init__(self, limits: Limits) -> None:
        # -P and -B: nothing is imported from where we happen to stand, and nothing is written.
        command = [sys.executable, "-P", "-B", "-m", "outrider_agent.flight_recorder.child"]
        try:
            shared = os.memfd_create("outrider-reading")
            try:
                os.ftruncate(shared, PLACE.size)
                self._place = mmap.mmap(shared, PLACE.size)
                PLACE.pack_into(self._place, 0, -1)
                self.process = subprocess.Popen(
                    [*command, str(os.getpid()), str(limits.memory_bytes), str(shared)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    pass_fds=(shared,),
                )
            finally:
                os.close(shared)
        except OSError as error:
            raise PoolError(f"no process for reading dumps could be started: {error.strerror or error}") from error
        self.out = _pipe(self.process.stdout)
        self.chunk: list[Source] = []
        self.at = -1
        self.begun = False
        self.since = time.monotonic()
        self.parts: list[bytes] = []
        self.length = 0

    def ask(self, chunk: list[Source]) -> None:
        """Begin with a chunk. A process that is gone is noticed at its output's end."""
        self.chunk, self.at, self.since = chunk, -1, time.monotonic()
        PLACE.pack_into(self._place, 0, -1)
        line = json.dumps({"files": [(source.file, source.rank) for source in chunk]}).encode("ascii") + b"\n"
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def look(self) -> None:
        """See which file it is at now. ``since`` is when it was first seen there."""
        at = min(int(PLACE.unpack_from(self._place)[0]), len(self.chunk) - 1)
        if at > self.at:
            self.at, self.begun, self.since = at, True, time.monotonic()

    def lines(self) -> list[bytes] | None:
        """Whole lines that have arrived; None at the end."""
        try:
            data = os.read(self.out, PIPE_BYTES)
        except BlockingIOError:
            return []
        self.length += len(data)
        if not data or self.length > ANSWER_BYTES_MAX:
            return None
        self.since = time.monotonic()
        *whole, rest = data.split(b"\n")
        if not whole:
            self.parts.append(rest)
            return []
        whole[0] = b"".join([*self.parts, whole[0]])
        self.parts = [rest] if rest else []
        self.length = len(rest)
        return whole

    def end(self) -> tuple[int | None, str]:
        """Kill it: its exit status (None while it cannot end), and its last words."""
        with contextlib.suppress(ProcessLookupError):
            if self.process.poll() is None:
                self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(REAP_S)
        words = b""
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            if pipe is self.process.stderr and self.process.returncode is not None:
                words = pipe.read()
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        said = words.decode("utf-8", "replace").strip().splitlines()
        return self.process.returncode, said[-1][:WORDS_MAX] if said else ""


class _Run:
    """The chunks of one call, and the processes that read them. One thread."""

    def __init__(self, limits: Limits, tell: Tell | None, total: int) -> None:
        self.limits, self.tell, self.total = limits, tell, total
        self.work: collections.deque[list[Source]] = collections.deque()
        self.found = Found()
        self.done = self.failed_starts = 0
        self.readers: list[_Reader] = []
        self.known: dict[str, tuple[int, ...]] = {}  # members of groups, which most dumps tell alike
        self.selector = selectors.DefaultSelector()

    def all(self, workers: int) -> None:
        """Until every file is answered."""
        until = time.monotonic() + self.limits.all_s
        while self.work or any(reader.chunk for reader in self.readers):
            if time.monotonic() > until:
                self._stop()
                return
            self._hand_out(workers)
            for key, _ in self.selector.select(min(1.0, self.limits.file_s / 4, self.limits.all_s / 16)):
                self._hear(key.data)
            for reader in list(self.readers):
                reader.look()
                room = self.limits.file_s + (0.0 if reader.begun else START_S)
                if reader.chunk and time.monotonic() - reader.since > room:
                    self._late(reader)
            if self.tell is not None:
                self.tell(self.done + sum(max(0, each.at) for each in self.readers if each.chunk), self.total)

    def _stop(self) -> None:
        """The time is over: what has no answer gets this one."""
        for chunk in [*(reader.chunk for reader in self.readers), *self.work]:
            for source in chunk:
                self._give_up(source, f"was not reached within {self.limits.all_s:.1f} s")

    def close(self) -> None:
        """End all processes."""
        for reader in list(self.readers):
            self._drop(reader)
        self.selector.close()

    def _hand_out(self, workers: int) -> None:
        while self.work and len(self.readers) < workers and all(reader.chunk for reader in self.readers):
            reader = _Reader(self.limits)
            self.readers.append(reader)
            self.selector.register(reader.out, selectors.EVENT_READ, reader)
            reader.ask(self.work.popleft())
        for reader in self.readers:
            if self.work and not reader.chunk:
                reader.ask(self.work.popleft())

    def _hear(self, reader: _Reader) -> None:
        lines = reader.lines()
        if lines is None:
            self._dead(reader)
            return
        for line in lines:
            reader.begun = True
            self.done += len(reader.chunk)
            reader.chunk = []
            if self.work:
                reader.ask(self.work.popleft())  # before its answer is read, so that it does not wait for that
            self._take(json.loads(line))

    def _take(self, said: dict[str, Any]) -> None:
        node = model.from_json(said["node"], self.known)
        self.found.unreadable += node.unreadable
        self.found.nodes.append(model.NodeDigest(node.ranks, node.memberships, node.signatures))
        self.found.read_s += said["read_s"]
        self.found.digest_s += said["digest_s"]

    def _dead(self, reader: _Reader) -> None:
        reader.look()
        chunk, at = reader.chunk, reader.at
        code, words = self._drop(reader)
        if not chunk:
            return
        if not reader.begun:
            self.failed_starts += 1
            if self.failed_starts >= STARTS_FAILED_MAX:
                raise PoolError(f"the process for reading dumps does not start: {words or _ended(code)}")
        if at < 0:
            self.work.appendleft(chunk)
        elif len(chunk) == 1:
            self._give_up(chunk[0], self._why(code))
        else:
            self.work.extendleft(part for part in (chunk[at + 1 :], [chunk[at]], chunk[:at]) if part)

    def _late(self, reader: _Reader) -> None:
        chunk, at = reader.chunk, max(0, reader.at)
        self._drop(reader)
        self._give_up(chunk[at], f"was not read within {self.limits.file_s:g} s")
        self.work.extendleft(part for part in (chunk[at + 1 :], chunk[:at]) if part)

    def _give_up(self, source: Source, why: str) -> None:
        self.found.unreadable.append((source.file, why))
        self.done += 1

    def _why(self, code: int | None) -> str:
        if code == EXIT_MEMORY:
            return f"takes more than {self.limits.memory_bytes >> 20} MiB of memory to be read"
        return f"ends the process that reads it ({_ended(code)})"

    def _drop(self, reader: _Reader) -> tuple[int | None, str]:
        self.selector.unregister(reader.out)
        self.readers.remove(reader)
        return reader.end()


def _ended(code: int | None) -> str:
    return "hangs" if code is None else signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _pipe(pipe: IO[bytes] | None) -> int:
    assert pipe is not None
    os.set_blocking(pipe.fileno(), False)
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return pipe.fileno()
