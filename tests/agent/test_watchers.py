"""Signals are looked at side by side, what they mean is spooled once, and what hangs holds nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider import clock, records
from outrider.records import Json
from outrider_agent import readings, spool, watchers
from tests.agent import world

MIB = 1 << 20


class Source:
    """A signal by hand: counts its looks, hangs while ``gate`` is closed, fails while ``error`` is set."""

    deadline_s = 0.05
    period_s = 0.02

    def __init__(self, name: str) -> None:
        self.name = name
        self.looks = 0
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.events: list[str] = []

    def read(self) -> readings.Sweep:
        self.looks += 1
        self.gate.wait()
        if self.error is not None:
            raise self.error
        told, self.events = self.events, []
        events = tuple(readings.Event(1.0, self.name, "xid", "gpu0", text, {"xid": 79}) for text in told)
        reading = readings.Reading("gpu0", "temperature", float(self.looks), "C")
        return readings.Sweep(self.name, 1.0, 0.001, "ok", (reading,), events, context={"simulated": True})


class Judge:
    """Every event is an observation; remembers how many there were."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.silences: list[str] = []

    def take(self, sweep: readings.Sweep) -> list[records.Observation]:
        self.told += [event.text for event in sweep.events]
        return [seen(event.text) for event in sweep.events]

    def silent(self, signal: str, at: float, why: str) -> list[records.Observation]:
        self.silences.append(f"{signal}: {why}")
        return []

    def memory(self) -> Json:
        return {"told": self.told}

    def restore(self, memory: object) -> None:
        self.told = list(memory["told"]) if isinstance(memory, dict) else []


def seen(text: str, severity: str = "fatal", device: str = "gpu0", **evidence: Any) -> records.Observation:
    return records.Observation(0, "xid", severity, 1.0, "n0", text, device=device, evidence=evidence)


class Watched:
    """Watchers over signals by hand, and where they spool."""

    def __init__(self, folder: Path, *sources: Source) -> None:
        self.spool = spool.Spool(folder / "spool.db")
        self.judge = Judge()
        self.woken = 0
        self.all = watchers.Watchers(sources, self.judge, self.spool, clock.RealClock(), self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def texts(self) -> list[str]:
        return [one.text for one in self.spool.after(0, 100, MIB)]


def play(folder: Path, sources: list[Source], scenario: Any) -> None:
    async def run() -> None:
        watched = Watched(folder, *sources)
        task = asyncio.create_task(watched.all.run())
        try:
            await scenario(watched)
        finally:
            for one in sources:
                one.gate.set()
            task.cancel()
            await watched.all.close()
            watched.spool.close()

    asyncio.run(run())


@pytest.fixture
def folder() -> Iterator[Path]:
    with world.short_directory() as made:
        yield made


def test_a_signal_that_hangs_holds_no_other_and_its_late_answer_is_taken(folder: Path) -> None:
    hung, well = Source("hung"), Source("well")

    async def scenario(watched: Watched) -> None:
        await world.until(lambda: watched.all.health["hung"].success, "a first look")
        hung.gate.clear()
        hung.events.append("seen before it hung")
        await world.until(lambda: watched.all.health["hung"].state == "overdue", "the deadline")
        before = well.looks
        await world.until(lambda: well.looks > before + 5, "the other signal to go on")
        stood = hung.looks
        await world.until(lambda: len(watched.judge.silences) > 2, "the judge to be told again")
        assert hung.looks == stood, "one thread is all that a hung signal costs"
        assert watched.judge.silences[0].startswith("hung: no answer for")
        hung.gate.set()
        await world.until(lambda: watched.texts() == ["seen before it hung"], "the late answer")
        await world.until(lambda: watched.all.health["hung"].state == "ok", "the signal to be well")
        assert watched.woken >= 1

    play(folder, [hung, well], scenario)


def test_a_signal_that_fails_costs_itself_alone_and_its_readings_grow_old(folder: Path) -> None:
    bad, well = Source("bad"), Source("well")

    async def scenario(watched: Watched) -> None:
        await world.until(lambda: bad.looks > 1, "looks")
        bad.error = RuntimeError("no such counter")
        await world.until(lambda: watched.all.health["bad"].state == "failed", "the failure")
        assert watched.all.health["bad"].error == "RuntimeError: no such counter"
        assert not watched.all.health["bad"].success
        before = well.looks
        await world.until(lambda: well.looks > before + 3, "the other signal")
        assert {one.name for one in watched.all.fresh()} == {"temperature"}
        watched.all.health["bad"].succeeded_at = -1e9
        watched.all.health["well"].succeeded_at = None
        assert watched.all.fresh() == []
        assert watched.all.newest.simulated

    play(folder, [bad, well], scenario)


def test_what_was_judged_and_what_was_told_are_on_disk_together(folder: Path) -> None:
    source = Source("one")

    async def first(watched: Watched) -> None:
        source.events += ["a", "b"]
        await world.until(lambda: len(watched.texts()) == 2, "both")
        # As a death would leave it: read by somebody else before anything is closed.
        other = spool.Spool(folder / "spool.db")
        judge = Judge()
        again = watchers.Watchers([source], judge, other, clock.RealClock(), lambda: None)
        assert judge.told == ["a", "b"]
        assert [one.text for one in again.findings.all()] == ["b"], "one kind and device is one finding"
        other.close()

    play(folder, [source], first)


def test_memory_of_another_form_counts_as_none(folder: Path) -> None:
    kept = spool.Spool(folder / "spool.db")
    kept.add_all((), {"judge": b"[1", "findings": b"7", "signal/one": b"\xff"})
    made = watchers.Watchers([Source("one")], Judge(), kept, clock.RealClock(), lambda: None)
    assert made.findings.all() == []
    kept.close()
