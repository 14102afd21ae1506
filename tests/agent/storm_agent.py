"""The middle of an agent as a program: a log is followed, each line is an observation, all of it spooled and sent.

``python storm_agent.py STATE LOG``: what stands between a signal and the controller is the real thing (watchers, spool,
reporter); the signal and the judge are as simple as can be, so that a test can count.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from outrider import clock as clocks
from outrider import places, records, wire
from outrider.records import Json
from outrider_agent import readings, report, settings, spool, watchers
from outrider_agent.signals import ranks

LINES_MAX = 200  # of one look, so that what was written down lags behind what there is


class Log:
    """A readings.Signal that remembers how far it has read."""

    name, period_s, deadline_s = "log", 0.01, 5.0

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def read(self) -> readings.Sweep:
        with self._path.open("rb") as file:
            file.seek(self._at)
            lines = [line for line in (file.readline() for _ in range(LINES_MAX)) if line.endswith(b"\n")]
        self._at += sum(map(len, lines))
        events = [readings.Event(1.0, self.name, "xid", "", line.decode().strip(), {}) for line in lines]
        return readings.Sweep(self.name, 1.0, 0.0, "ok", (), tuple(events))

    def memory(self) -> Json | None:
        return {"at": self._at}

    def restore(self, memory: object) -> None:
        self._at = memory["at"] if isinstance(memory, dict) else 0


class Judge:
    """Every event is an observation; the judge counts them, and says the count in each."""

    def __init__(self) -> None:
        self._count = 0

    def take(self, sweep: readings.Sweep) -> list[records.Observation]:
        found = []
        for event in sweep.events:
            self._count += 1
            evidence = {"count": self._count}
            found.append(records.Observation(0, "xid", "error", 1.0, "n0", event.text, evidence=evidence))
        return found

    def silent(self, signal: str, at: float, why: str) -> list[records.Observation]:
        return []

    def memory(self) -> Json:
        return {"count": self._count}

    def restore(self, memory: object) -> None:
        self._count = memory["count"] if isinstance(memory, dict) else 0


async def run(state: Path, log: Path) -> None:
    runtime = places.make_private(places.runtime_dir(state, "n0"))
    kept, clock, board = spool.Spool(runtime / "spool.db"), clocks.RealClock(), ranks.Board()
    given = settings.Settings("n0", state)

    def hello() -> wire.Hello:
        return wire.Hello(wire.PROTOCOL, "test", "n0", "boot", kept.spool_id, "127.0.0.1", 1, False, True, clock.now())

    reporter = report.Reporter(given, clock, kept, board, hello, lambda order: None)
    watched = watchers.Watchers([Log(log)], Judge(), kept, clock, reporter.wake)
    print("up", flush=True)
    await asyncio.gather(reporter.run(), watched.run())


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), Path(sys.argv[2])))
