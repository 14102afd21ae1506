"""One rank looked at from outside, twice, by every way there is, without doing anything to it that could harm it.

Flow: /proc -> the rank's control socket (flight recorder, and its stack) -> where that gives no stack, py-spy, and then
the hook's signal -> about a second later /proc and the stack once more -> records.RankEvidence, and the whole answer as
a document. Each step has a bound of its own, and what came is kept as it comes, so that whoever ends the look early
loses nothing. A rank that is stopped or traced is never signalled; py-spy reads it all the same.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from outrider import clock as clock_module
from outrider import records
from outrider_agent import bounded
from outrider_agent.signals import control, processes, stacks
from outrider_analysis.flight_recorder import status

APART_S: Final = 1.0  # between the two looks
ASK_S: Final = 1.5  # for each question; answers took 7 ms at most, of a spinning rank on a quiet machine
# Of the time for a whole look, where it is short.
APART_SHARE: Final = 0.2
ASK_SHARE: Final = 0.3
SIGNAL_SLACK_S: Final = 0.5
# A traceback that the control socket owes us holds a thread of the rank until the interpreter lock is let go.
OWED_MAX: Final = 2
ERROR_CHARS_MAX: Final = 500
KEPT_BYTES_MAX: Final = 3 * 1024 * 1024
RECORD_SHOWN_MAX: Final = 256 * 1024  # in the whole answer; longer ones are not kept twice
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_NOT_ASKED: Final = ("stopped", "traced")


@dataclass(frozen=True)
class Target:
    """Whom to look at, and where it can be asked: its control socket, and the file of its stacks."""

    process: processes.Process
    control: Path
    stacks: Path


@dataclass
class Tools:
    """What all looks of an agent share. ``owed``: tracebacks that control sockets have not answered, by process;
    ``reading``: held by whoever reads a flight record.
    """

    threads: bounded.Threads
    clock: clock_module.Clock
    pyspy: str | None
    owed: dict[tuple[int, int], int] = field(default_factory=dict)
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))  # a record takes 10 MB to be read


class RankLook:
    """One look at one rank. ``run`` may be cancelled at any moment; ``evidence`` then tells what had come by then."""

    def __init__(self, target: Target, tools: Tools, number: int) -> None:
        self._target = target
        self._tools = tools
        self._name = f"{target.process.job}/{target.process.rank} look {number}"
        self._looks: list[processes.Look] = []
        self._frames: list[stacks.Frames] = []
        self._dumps: list[str] = []
        self._source = ""
        self._by_control = False
        self._ask_s = ASK_S
        self._details: records.Json = {}
        self._recorder = b""
        self._status: status.Status | None = None
        self._notes: list[str] = []

    async def run(self, within_s: float) -> None:
        """Look twice; takes about APART_S, and more only where the rank is slow to answer. Raises nothing."""
        self._ask_s = min(ASK_S, within_s * ASK_SHARE)
        if not await self._see():
            return
        ways = (self._by_socket, self._by_pyspy, self._by_signal)
        await asyncio.gather(self._ask_recorder(), self._first_stack(ways))
        await self._tools.clock.sleep(min(APART_S, within_s * APART_SHARE))
        again = [way for way in ways if way.__name__ == self._source]
        await asyncio.gather(self._see(), *(self._stack(way) for way in again))

    def note(self, text: str) -> None:
        """Add to what could not be read."""
        if text not in self._notes:
            self._notes.append(text)

    def evidence(self, frames_max: int, file: str) -> records.RankEvidence:
        """The summary. ``file``: where the whole answer is kept, "" for nowhere."""
        process, seen = self._target.process, self._looks[-1] if self._looks else None
        known, pending = self._status, self._status.pending if self._status is not None else None
        recorded = known is not None and (known.entries > 0 or known.enqueued > 0)
        collective = dataclasses.asdict(pending) if pending is not None else None
        return records.RankEvidence(
            rank=process.rank,
            pid=process.pid,
            state=seen.state if seen is not None else "unknown",
            answered=self._answered(),
            cpu=self._cpu(),
            frames=self._frames[-1][:frames_max] if self._frames else (),
            moved=stacks.moved(*self._frames[:2]) if len(self._frames) > 1 else None,
            pending=pending is not None if recorded else None,
            collective=collective,
            enqueued=known.enqueued if known is not None else None,
            blocked_on=self._blocked_on(),
            file=file,
            error="; ".join(self._notes)[:ERROR_CHARS_MAX],
        )

    def document(self, at: float) -> bytes:
        """The whole answer as JSON, for a person to read. ``at``: Unix seconds."""
        whole: records.Json = {
            "at": at,
            **dataclasses.asdict(self._target.process),
            "looks": [dataclasses.asdict(one) for one in self._looks],
            "stacks_from": self._source.removeprefix("_by_"),
            "stacks": self._dumps,
            "flight_recorder": self._recorder.decode(errors="replace"),
            "kernel": self._details,
            "not_read": self._notes,
        }
        body = msgspec.json.encode(whole)
        if len(body) > KEPT_BYTES_MAX:
            size = len(self._recorder)
            whole |= {
                "flight_recorder": f"{size} bytes, too many to keep",
                "stacks": [d[:100_000] for d in self._dumps],
            }
            body = msgspec.json.encode(whole)
        return body

    # --- the process ------------------------------------------------------------------------------------------------

    async def _see(self) -> bool:
        """Look at the process in /proc; whether there is one to ask."""
        process, clock = self._target.process, self._tools.clock
        first = not self._looks

        def see() -> tuple[processes.Look, records.Json]:
            return processes.look(process, clock.monotonic()), processes.details(process.pid) if first else {}

        try:
            seen, details = await self._tools.threads.ask(f"/proc of {self._name}", see, self._ask_s)
        except bounded.CouldNotLook as error:
            self.note(str(error))
            return True  # it may answer elsewhere
        begun = self._looks[0].started if self._looks else 0
        if begun and seen.started and seen.started != begun:
            seen = dataclasses.replace(seen, state="gone")
        self._looks.append(seen)
        self._details = self._details or details
        if seen.error:
            self.note(seen.error)
        if seen.state in ("gone", "zombie"):
            self.note("its process has ended")
        return seen.state not in ("gone", "zombie")

    def _answered(self) -> str:
        if self._by_control:
            return "control"
        if self._frames:
            return "py-spy" if self._source == "_by_pyspy" else "faulthandler"
        return "proc" if any(not one.error for one in self._looks) else "none"

    def _cpu(self) -> float | None:
        """Cores in use between the two looks."""
        if len(self._looks) < 2:
            return None
        first, last = self._looks[0], self._looks[-1]
        if not first.started or first.started != last.started or last.at <= first.at:
            return None
        return round((last.cpu - first.cpu) / _TICKS_PER_S / (last.at - first.at), 3)

    def _blocked_on(self) -> str:
        where = str(self._details.get("wchan", ""))
        return "" if where == "0" else where

    # --- its own answers --------------------------------------------------------------------------------------------

    async def _ask_recorder(self) -> None:
        """Which collectives it has enqueued and which it waits for, as its flight recorder has it."""
        if self._looks and self._looks[0].state in _NOT_ASKED:
            self.note(f"it is {self._looks[0].state}, so its control socket and its Python code were not asked")
            return
        try:
            record = await control.flight_record(self._target.control, self._ask_s)
            self._by_control = True
            shown = f"{len(record)} bytes, kept with the flight records".encode()
            self._recorder = record if len(record) <= RECORD_SHOWN_MAX else shown
            name = f"flight recorder of {self._name}"
            async with self._tools.reading:
                self._status = await self._tools.threads.ask(name, lambda: status.read_status(record), self._ask_s)
        except (control.ControlError, bounded.CouldNotLook, status.StatusError) as error:
            self.note(str(error))

    async def _first_stack(self, ways: tuple[Callable[[], Awaitable[None]], ...]) -> None:
        """The stack by the first way that gives one."""
        for way in ways:
            await self._stack(way)
            if self._frames:
                return

    async def _stack(self, way: Callable[[], Awaitable[None]]) -> None:
        try:
            await way()
        except (control.ControlError, stacks.NoStack, bounded.CouldNotLook) as error:
            self.note(str(error))

    async def _by_socket(self) -> None:
        if self._looks and self._looks[0].state in _NOT_ASKED:
            return
        key = (self._target.process.pid, self._looks[0].started if self._looks else 0)
        if self._tools.owed.get(key, 0) >= OWED_MAX:
            raise stacks.NoStack(f"{OWED_MAX} tracebacks asked for earlier have not come: its interpreter lock is held")
        try:
            answer = await control.ask(self._target.control, control.TRACEBACK, self._ask_s)
        except control.Silent:
            self._tools.owed[key] = self._tools.owed.get(key, 0) + 1
            raise
        self._tools.owed.pop(key, None)
        self._by_control = True
        text = answer.decode(errors="replace")
        self._keep("_by_socket", text, stacks.of_faulthandler(text))

    async def _by_pyspy(self) -> None:
        if self._tools.pyspy is None:
            return
        pid = self._target.process.pid
        answer = await stacks.ask_pyspy(self._tools.pyspy, pid, self._ask_s)
        self._keep("_by_pyspy", answer.decode(errors="replace"), stacks.of_pyspy(answer, pid))

    async def _by_signal(self) -> None:
        # In the kernel's hands (disk) a signal waits until the process is out of them, and may come at a bad moment.
        if not self._looks or self._looks[0].state not in ("running", "sleeping"):
            return
        pid, started, path = self._target.process.pid, self._looks[0].started, self._target.stacks

        def ask() -> stacks.Dump:
            return stacks.ask_by_signal(pid, started, path, self._ask_s)

        found = await self._tools.threads.ask(f"stacks of {self._name}", ask, self._ask_s + SIGNAL_SLACK_S)
        self._keep("_by_signal", found.text, stacks.of_faulthandler(found.text, found.main))

    def _keep(self, source: str, dump: str, frames: stacks.Frames) -> None:
        self._source = source
        self._dumps.append(dump)
        self._frames.append(frames)
