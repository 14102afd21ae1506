"""The collecting process: asks a job's ranks on this node for their flight records, keeps and digests them, in time.

    a plan, one line of JSON -> lines of JSON, each with all that is known by then; the last counts

It is a process of its own because everything here may hang or grow: disks that are dead, ranks that are stopped, dumps
that are hostile. Whoever started it reads what it says and kills it at the deadline.

A rank with a pipe is asked there, since what torch writes itself has stacks; one without, or that has not written for
half of the time, on its control socket. Where neither gives anything, also for ranks that have ended, the dump counts
that torch has written of itself since this generation began.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from outrider_agent import resident
from outrider_agent.flight_recorder import ask, family, find, groups, keep, pool, reader, room
from outrider_analysis.flight_recorder import memberships

MEMORY_BYTES: Final = 1 << 30
ASK_SHARE: Final = 0.55  # of the time, for asking; the rest is for reading
PATIENCE_SHARE: Final = 0.5  # of that, after which a rank that has not written is asked on its socket too
POLL_S: Final = 0.1
HELD_S: Final = 1.0  # py-spy holds a rank while it reads the stack; on a busy machine that takes long
YOUNG_S: Final = 3.0  # a file that was written so lately may be written on
ASKING_MAX: Final = 64  # ranks on their sockets at a time
STACK_BYTES: Final = 512 * 1024
NOTES_MAX: Final = 48
NOTE_CHARS_MAX: Final = 300


@dataclass(slots=True)
class Rank:
    """One rank. ``copies``: files kept of it, the best first; ``files``: where torch may write, with their stamps."""

    rank: int
    pid: int = 0
    files: dict[str, find.Spot] = field(default_factory=dict)
    before: dict[str, keep.Stamp | None] = field(default_factory=dict)
    seen: dict[str, keep.Stamp] = field(default_factory=dict)
    piped: bool = False
    written: bool = False  # its answer to the pipe has been kept
    launched: bool = False  # by the job's own launcher, or is that: the socket of its number is not its own
    refused: bool = False  # what it wrote is nothing to be kept, and will not be
    copies: list[str] = field(default_factory=list)
    why: str = ""  # why the newest of its files was not kept


class Collection:
    """One capture. ``plan``: home, generation, ranks (pid by rank, 0 for one that has ended), control (prefix of
    the sockets), no_stacks (ranks that are not asked for theirs), keep (folders, the first that can be written counts),
    node, name, until (time.monotonic(), which is one for all processes), rank_bytes, bytes_max.
    """

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = {**plan, "control": os.path.join(os.getcwd(), plan["control"])}  # we leave for the folder below
        now = time.monotonic()
        self.until = plan["until"]
        self.ask_until = now + (self.until - now) * ASK_SHARE
        self.notes: list[str] = []
        self.ranks: dict[int, Rank] = {}
        self.folder = ""
        self.job = find.Job()
        self.threads = futures.ThreadPoolExecutor(ASKING_MAX)
        self.asking: dict[int, futures.Future[None]] = {}
        self.answers: dict[int, list[str]] = {}
        self.silent: list[int] = []  # ranks whose stacks did not come
        self.space = room.Room()
        self.removed: list[str] = []  # older captures, for this one
        self.numbering: dict[str, Any] | None = None

    def run(self) -> None:
        """All of it; says what is known whenever that is more than before."""
        if not self._prepare():
            say(None, {}, self)
            return
        ahead = pool.Ahead()  # starting takes it as long as asking takes us
        self._ask()
        self._take_older()
        self._close_asking()
        chosen = {rank.rank: rank.copies[0] for rank in self.ranks.values() if rank.copies}
        say(None, chosen, self)
        if chosen:
            groups.keep(self.plan["control"], self.ranks, self.note)
            reading = reader.Reading({**self.plan, "folder": self.folder}, self.until, self.note, ahead)
            digest, files = reading.all({rank.rank: rank.copies for rank in self.ranks.values()}, self._again)
            self._tidy(files)
            say(digest, files, self)

    def note(self, text: str) -> None:
        """Add to what could not be had."""
        if text not in self.notes and len(self.notes) < NOTES_MAX:
            self.notes.append(text[:NOTE_CHARS_MAX])

    # --- where to look ----------------------------------------------------------------------------------------------

    def _prepare(self) -> bool:
        pids = find.known(self.plan["ranks"])
        try:
            self.job = find.noted(self.plan["home"], self.plan["generation"])
        except find.NoNote as error:
            self.note(f"where torch writes is not known: {error}")
        for text in self.job.notes:
            self.note(text)
        who = family.Family()
        for spot in self.job.spots[:1]:
            who = find.add_below(self.job, pids, spot.user, spot.since_ns)
        own = self.job.in_own()
        known = pids or dict.fromkeys(self.job.ranks, 0)  # none is known where the keeper has died with its ranks
        for number in sorted({*known, *who.heads, *own})[: find.RANKS_MAX]:
            pipes = [path for spot in self.job.spots if (path := spot.pipe(number))]
            self.ranks[number] = Rank(number, who.pid_of(number, pipes) or pids.get(number, 0))
            self.ranks[number].launched = number in who.heads or number in who.above.values()
        self.numbering = who.numbering()
        for rank in self.ranks.values():
            rank.files = {path: spot for spot in self.job.spots for path in spot.dumps(rank.rank)}
            rank.before = {path: keep.stamp(path) for path in rank.files}
        return bool(self.ranks) and self._make_folder()

    def _make_folder(self) -> bool:
        for above in self.plan["keep"]:
            try:
                self.folder, held = keep.folder(Path(above), self.plan["node"], self.plan["name"], self.removed)
                os.fchdir(held)  # all files below are named within it: its path may lead elsewhere a moment later
                os.close(held)
                return True
            except OSError as error:
                self.note(f"dumps cannot be kept there: {error}")
        return False

    # --- asking -----------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Ask everybody who lives, and take what is written until it is time to read."""
        began = time.monotonic()
        patience = began + (self.ask_until - began) * PATIENCE_SHARE
        for rank in self._able_to_answer():
            if self._by_pipe(rank):
                rank.piped = True
            else:
                self._by_socket(rank)
        while time.monotonic() < self.ask_until:
            waiting = [rank for rank in self.ranks.values() if rank.piped and not self._has_answered(rank)]
            for rank in waiting:
                self._take_new(rank)
                if time.monotonic() > patience and rank.rank not in self.asking and not rank.written:
                    self._by_socket(rank)
            if all(each.done() for each in self.asking.values()) and all(map(self._has_answered, waiting)):
                return
            time.sleep(POLL_S)
        for rank in self.ranks.values():
            if rank.piped and not self._has_answered(rank):
                self.note(
                    f"rank {rank.rank} was asked by its pipe and has not written{f': {rank.why}' * bool(rank.why)}"
                )

    def _able_to_answer(self) -> Iterator[Rank]:
        """Those who live and are not stopped. A look at its stack holds a rank for a moment, which is no stop."""
        waiting = [rank for rank in self.ranks.values() if rank.pid]
        until = min(time.monotonic() + HELD_S, self.ask_until)
        while True:
            stopped = []
            for rank in waiting:
                if family.stopped(rank.pid):
                    stopped.append(rank)
                else:
                    yield rank
            waiting = stopped
            if not waiting or time.monotonic() > until:
                break
            time.sleep(POLL_S)
        for rank in waiting:
            self.note(f"rank {rank.rank} is stopped and was not asked")

    def _has_answered(self, rank: Rank) -> bool:
        return rank.written or rank.refused or bool(self.answers.get(rank.rank))

    def _by_pipe(self, rank: Rank) -> bool:
        for spot in self.job.spots:
            path = spot.pipe(rank.rank)
            if not path:
                continue
            try:
                ask.by_pipe(path, spot.user)
            except ask.NotAsked as error:
                rank.why = str(error)
            else:
                return True
        return False

    def _by_socket(self, rank: Rank) -> None:
        if rank.launched:
            self.note("ranks that a launcher of the job's own has started can be asked by their pipes alone")
            return
        found = self.answers.setdefault(rank.rank, [])
        self.asking[rank.rank] = self.threads.submit(self._ask_socket, rank.rank, found)

    def _ask_socket(self, rank: int, found: list[str]) -> None:
        """NCCL's record with stacks, without them where the interpreter lock is held, and that of other backends."""
        path = f"{self.plan['control']}{rank}.sock"
        into = f"rank_{rank}"
        left = self.ask_until - time.monotonic()
        whys: list[str] = []
        for handler, end, share in (
            (ask.PICKLE, "", 0.4),
            (ask.JSON, ".json", 0.7),
            (ask.GENERIC, ".other.json", 1.0),
        ):
            if handler == ask.JSON and found:
                continue  # it says the same without stacks
            if handler == ask.PICKLE and rank in self.plan["no_stacks"]:
                continue
            file = f"{into}.answer{end}"
            try:
                self._ask_twice(path, handler, file, self.ask_until - left * (1 - share))
                found.append(file)
            except ask.Unknown:
                continue
            except ask.NotAsked as error:
                whys.append(str(error))
                if not isinstance(error, ask.Silent | ask.Broken):
                    break
                if handler == ask.PICKLE and isinstance(error, ask.Silent):
                    self.silent.append(rank)
        if not found and whys:
            self.note(f"rank {rank}: {whys[-1]}")

    def _ask_twice(self, path: str, handler: str, file: str, until: float) -> None:
        try:
            ask.by_socket(path, handler, file, until, self.space)
        except ask.Broken:
            time.sleep(POLL_S)
            ask.by_socket(path, handler, file, until, self.space)

    # --- taking -----------------------------------------------------------------------------------------------------

    def _take_new(self, rank: Rank) -> None:
        """Keep what the rank has written since it was asked, once it stands still."""
        for path, spot in rank.files.items():
            now = keep.stamp(path)
            if now is None or now == rank.before[path]:
                continue
            still = rank.seen.get(path) == now
            rank.seen[path] = now
            rank.why = rank.why if still else "it is being written"
            if still and self._copy(rank, path, spot):
                rank.written = True
                return

    def _take_older(self) -> None:
        """What torch has written of itself in this generation, of whoever has not answered otherwise."""
        for rank in self.ranks.values():
            if rank.written:
                continue
            fresh: list[tuple[int, str, find.Spot]] = []
            for path, spot in rank.files.items():
                found = keep.stamp(path)
                if found is not None and spot.fresh(path, found.written_ns):
                    fresh.append((found.written_ns, path, spot))
            for _, path, spot in sorted(fresh, reverse=True, key=lambda each: each[:2]):
                if self._copy(rank, path, spot):
                    break
            else:
                if fresh and rank.why:
                    self.note(f"rank {rank.rank}: {fresh[0][1]} {rank.why}")

    def _copy(self, rank: Rank, path: str, spot: find.Spot) -> bool:
        into = f"rank_{rank.rank}"
        try:
            rank.seen[path] = keep.copy(path, into, spot.user, self.space)
        except keep.NotKept as error:
            rank.why = str(error)
            rank.refused = not isinstance(error, keep.NotYet)
            return False
        rank.why = ""
        if into not in rank.copies:
            rank.copies.insert(0, into)
        return True

    def _close_asking(self) -> None:
        """Answers that came on the sockets; before what torch had written earlier, after what it wrote when asked."""
        for number, found in self.answers.items():
            rank = self.ranks[number]
            rank.copies = [*rank.copies, *found] if rank.written else [*found, *rank.copies]

    def _again(self, number: int) -> bool | None:
        """Copy a rank's dump once more where it was written anew; None while that may still come, False where not."""
        rank = self.ranks[number]
        for path, taken in list(rank.seen.items()):
            now = keep.stamp(path)
            if now is not None and now != taken and self._copy(rank, path, rank.files[path]):
                return True
        newest = max((each.written_ns for each in rank.seen.values()), default=0)
        return None if time.time_ns() - newest < YOUNG_S * 1e9 else False

    def _tidy(self, files: dict[int, str]) -> None:
        """One file a rank stays, named as torch would."""
        kept = {*files.values(), memberships.FILE}
        for path in os.listdir():
            if path not in kept:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        for number, path in files.items():
            better = f"rank_{number}{'.json' * path.endswith('.json')}"
            with contextlib.suppress(OSError):
                os.replace(path, better)
                files[number] = better


def say(digest: Any, files: dict[int, str], told: Collection) -> None:
    """One line with all that is known."""
    paths = {str(rank): os.path.join(told.folder, path) for rank, path in sorted(files.items())}
    known = {"digest": digest, "files": paths, "notes": told.notes}
    known |= {"silent": sorted(told.silent), "removed": told.removed, "numbering": told.numbering}
    ask.write(1, json.dumps(known, separators=(",", ":")).encode() + b"\n")


def confine(parent: int) -> None:
    """Die with ``parent``, and take no more memory than a digest needs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
    for what, bound in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, max(keep.DUMP_BYTES_MAX, ask.ANSWER_BYTES_MAX)),
        (resource.RLIMIT_AS, MEMORY_BYTES),
    ):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")


def main() -> None:
    """Carry out the plan on standard input."""
    confine(int(sys.argv[1]))
    resident.begin()
    threading.stack_size(STACK_BYTES)
    collection = Collection(json.loads(sys.stdin.readline()))
    try:
        collection.run()
    except (OSError, MemoryError, pool.PoolError) as error:
        collection.note(f"the records could not all be collected: {type(error).__name__}: {error}")
        chosen = {rank.rank: rank.copies[0] for rank in collection.ranks.values() if rank.copies}
        say(None, chosen, collection)
    os._exit(0)  # threads that hang are left to the kernel


if __name__ == "__main__":
    main()
