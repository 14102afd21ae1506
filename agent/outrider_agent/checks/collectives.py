"""Sums over ranks of this node: each with itself, all together, and two by two, so that a bad one is named.

One process for each device, told what to do turn by turn; a turn has a store of its own and ends for everybody when its
time is over. A rank that hangs or crashes is ended, named, and begun anew for the next turn. GPUs use NCCL, and a node
without one uses Gloo over the loopback interface, which tries torch and the kernel and no network.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from outrider_agent.checks import children

OK, WRONG, RAISED, HUNG, ENDED = "ok", "wrong", "raised", "hung", "ended"
ANSWER_SLACK_S: Final = 5.0  # beyond the time-out that ranks are given themselves, which is the more telling one
MATES_S: Final = 2.0
LEFT: Final = "left"  # by a member of its group that ended
STARTS_MAX: Final = 6  # of one rank
TEXT_CHARS_MAX: Final = 300

Groups = Sequence[Sequence[int]]
Command = Callable[[int, str, int], Sequence[str]]


@dataclass(frozen=True)
class Member:
    """One rank. ``name``: gpu0 or rank0; ``index``: of the GPU as torch counts, None for the CPU."""

    name: str
    index: int | None = None
    core: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a rank came to in one turn. ``state``: ok, wrong, raised, hung or ended."""

    state: str
    text: str = ""
    seconds: float = 0.0
    bytes: int = 0


@dataclass(frozen=True)
class Given:
    """How the turns are done."""

    backend: str
    size: int  # bytes summed
    repeats: int
    start_s: float  # for importing torch and meeting the device
    turn_s: float
    env: dict[str, str]
    python: str


class Ranks:
    """The processes of all members; a context manager that leaves none behind."""

    def __init__(self, members: Sequence[Member], given: Given, command: Command | None = None) -> None:
        self.members = list(members)
        self._given = given
        self._command = command or self._ours
        self._folder = tempfile.TemporaryDirectory(prefix="outrider-check-", ignore_cleanup_errors=True)
        self._running: dict[int, _Process] = {}
        self._starts = [0] * len(members)
        self._turn = 0
        self.model = ""  # of the devices, as the driver names them

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *about: object) -> None:
        for rank in list(self._running):
            self._end(rank)
        self._folder.cleanup()

    def ready(self, ranks: Sequence[int]) -> dict[int, Answer]:
        """Have these ranks running and waiting; those that are not, and why."""
        begun = [rank for rank in ranks if rank not in self._running]
        for rank in begun:
            self._start(rank)
        waiting = [rank for rank in begun if rank in self._running]
        said = self._listen(waiting, lambda line: bool(line.get("ready")), self._given.start_s)
        self.model = next((str(line["model"]) for line in said.values() if isinstance(line, dict)), self.model)
        answers = {rank: self._answer(rank, said.get(rank), self._given.start_s) for rank in begun}
        return {rank: answer for rank, answer in answers.items() if answer.state != OK}

    def turn(self, groups: Groups) -> dict[int, Answer]:
        """All groups at once, each in a group of its own; what came of each rank."""
        everybody = [rank for group in groups for rank in group]
        answers = self.ready(everybody)
        self._turn += 1
        asked = []
        for number, group in enumerate(groups):
            if set(group) & set(answers):
                answers |= {
                    rank: Answer(RAISED, "its partner could not begin") for rank in group if rank not in answers
                }
                continue
            store = Path(self._folder.name) / f"store-{self._turn}-{number}"
            asked += [rank for place, rank in enumerate(group) if self._send(rank, place, len(group), store)]
        turn = self._turn
        within_s = self._given.turn_s + ANSWER_SLACK_S
        said = self._listen(asked, lambda line: line.get("turn") == turn, within_s, groups)
        return answers | {
            rank: self._answer(rank, said.get(rank), within_s) for rank in everybody if rank not in answers
        }

    def _ours(self, rank: int, task: str, pipe: int) -> Sequence[str]:
        return children.command(self._given.python, "work.ranks", task, str(pipe))

    def _start(self, rank: int) -> None:
        if self._starts[rank] >= STARTS_MAX:
            return
        self._starts[rank] += 1
        member, given = self.members[rank], self._given
        about = {"index": member.index, "core": member.core, "backend": given.backend, "timeout_s": given.turn_s}
        with contextlib.suppress(OSError):
            self._running[rank] = _Process(self._command, rank, json.dumps(about), children.environment(given.env))

    def _send(self, rank: int, place: int, world: int, store: Path) -> bool:
        turn = {"turn": self._turn, "store": str(store), "rank": place, "world": world}
        return self._running[rank].send({**turn, "bytes": self._given.size, "repeats": self._given.repeats})

    def _listen(
        self, ranks: Sequence[int], wanted: Callable[[dict[str, Any]], bool], within_s: float, groups: Groups = ()
    ) -> dict[int, Any]:
        """The wanted line of each rank, None for one whose pipe is closed, HUNG or LEFT for one without.

        Who is in a group with one that ended waits for nothing, and has MATES_S to notice. Who is still silent so long
        after another gave up waiting is the one that was waited for.
        """
        began, said = time.monotonic(), dict[int, Any]()
        until = dict.fromkeys(ranks, began + within_s)
        while left := {self._running[rank].reading: rank for rank in ranks if rank not in said}:
            now = time.monotonic()
            for rank in [rank for rank in left.values() if now >= until[rank]]:
                mates = [mate for group in groups if rank in group for mate in group]
                said[rank] = LEFT if any(mate in said and said[mate] is None for mate in mates) else HUNG
            left_s = max(0.0, min(until[rank] for rank in left.values()) - now)
            for fd in select.select([*left], [], [], left_s)[0]:
                lines = self._running[left[fd]].take()
                found = None if lines is None else next((line for line in lines if wanted(line)), False)
                if found is not False:
                    said[left[fd]] = found
                if found is None or (isinstance(found, dict) and "error" in found):
                    mates = [rank for group in groups if left[fd] in group for rank in group]
                    until |= {rank: min(until[rank], now + MATES_S) for rank in mates}
        return said

    def _answer(self, rank: int, said: Any, within_s: float) -> Answer:
        """The answer of a rank; one that can be used no more is ended."""
        if isinstance(said, dict) and "error" not in said:
            wrong = int(said.get("wrong") or 0)
            text = f"{wrong} elements of the sum are wrong" if wrong else ""
            return Answer(WRONG if wrong else OK, text, float(said.get("seconds") or 0.0), int(said.get("bytes") or 0))
        if isinstance(said, dict):
            # What a failed group of NCCL leaves on a device is unknown, and what a failed beginning leaves in torch.
            if self._given.backend != "gloo" or not said.get("joined"):
                self._end(rank)
            return Answer(RAISED, f"raised {said.get('type')}: {said['error']}"[:TEXT_CHARS_MAX])
        if said == LEFT:
            self._end(rank)
            return Answer(RAISED, "waited for one of its group that had ended")
        if said == HUNG:
            self._end(rank)
            return Answer(HUNG, f"hung: no answer within {within_s:.0f} s")
        return Answer(ENDED, self._end(rank) or f"could not be started, or ended {STARTS_MAX} times")

    def _end(self, rank: int) -> str:
        process = self._running.pop(rank, None)
        return process.end() if process is not None else ""


class _Process:
    """One rank's process and the two ends that we hold of it. Raises OSError when it cannot be started."""

    def __init__(self, command: Command, rank: int, task: str, env: dict[str, str]) -> None:
        self.reading, writing = os.pipe2(os.O_CLOEXEC)
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._held = b""
        try:
            words = command(rank, task, writing)
            self._process = children.start(words, writing, self._errors, env, subprocess.PIPE)
        except OSError:
            os.close(self.reading)
            self._errors.close()
            raise
        finally:
            os.close(writing)

    def send(self, line: dict[str, Any]) -> bool:
        """One line to its standard input; one that is gone shows when it is listened to."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(line).encode() + b"\n")
            self._process.stdin.flush()
        return True

    def take(self) -> list[dict[str, Any]] | None:
        """Whole lines that have come; None when the pipe is closed."""
        piece = os.read(self.reading, 65536)
        if not piece:
            return None
        *whole, self._held = (self._held + piece).split(b"\n")
        return [found for text in whole if (found := children.read_line(text))]

    def end(self) -> str:
        """Kill it; how it had ended where it had by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)  # a pipe closes a moment before its process is gone
        code = self._process.poll()
        children.end(self._process)
        text = children.ending(code, children.tail(self._errors)) if code is not None else ""
        os.close(self.reading)
        self._errors.close()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        return text
