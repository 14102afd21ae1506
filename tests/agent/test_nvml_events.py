"""The driver's events, from the fake library through real pynvml to readings.Event."""

import pathlib
import time

import pytest

from outrider_agent.nvml import event_wait
from outrider_agent.signals import nvml_events
from outrider_simulator import fake_nvml
from tests.agent.nvml_worlds import reading, until


def test_xids_and_memory_errors_are_told_once_with_their_gpu(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, driver="580.95.05")
    with reading(world) as gpus:
        assert nvml_events.NvmlEvents(gpus).read().state == "failed"  # nobody knows the GPUs yet
        gpus.read()
        events = nvml_events.NvmlEvents(gpus)
        try:
            until(events, lambda sweep: sweep.state == "ok")
            world.xid(3, 48)
            told = _take(events, 1)
            world.event(5, "double-bit-ecc", 0)
            told += _take(events, 1)
            world.event(6, "recovery-action", 1)
            told += _take(events, 1)
            world.event(2, "pstate", 0)  # not asked for
            world.event(6, "gpu-unavailable", 0)
            told += _take(events, 1)
            assert [(one.device, one.kind, one.evidence["data"]) for one in told] == [
                ("gpu3", "xid", 48),
                ("gpu5", "ecc-double-bit", 0),
                ("gpu6", "recovery-action", 1),
                ("gpu6", "gpu-unavailable", 0),
            ]
            assert told[0].source == "nvml-events"
            assert (told[0].evidence["xid"], told[0].evidence["pci"]) == (48, "0000:5d:00.0")
            assert told[0].evidence["simulated"] is True
            assert not events.read().events
        finally:
            events.close()


def test_a_lost_gpu_neither_spins_nor_hides_the_events_of_others(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, count=3)
    with reading(world) as gpus:
        gpus.read()
        events = nvml_events.NvmlEvents(gpus)
        try:
            until(events, lambda sweep: sweep.state == "ok")
            world.xid(1, 79)
            world.lose_gpu(1)
            assert [one.evidence["xid"] for one in _take(events, 1)] == [79]
            helper = events._helper
            assert helper is not None
            before = _ticks(helper.pid)
            time.sleep(1.5)
            assert _ticks(helper.pid) - before < 75  # of 150: it does not spin
            world.xid(2, 31)
            assert [(one.device, one.evidence["xid"]) for one in _take(events, 1)] == [("gpu2", 31)]
        finally:
            events.close()


def test_a_killed_event_helper_is_replaced(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, count=1)
    with reading(world) as gpus:
        gpus.read()
        events = nvml_events.NvmlEvents(gpus)
        try:
            until(events, lambda sweep: sweep.state == "ok")
            assert events._helper is not None
            events._helper.end()
            until(events, lambda sweep: sweep.state == "failed")
            until(events, lambda sweep: sweep.state == "ok")
            world.xid(0, 13)
            assert [one.evidence["xid"] for one in _take(events, 1)] == [13]
        finally:
            events.close()


def test_a_storm_becomes_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(event_wait.time, "monotonic", lambda: now[0])
    said: list[dict[str, object]] = []
    storm = event_wait.Storm(said.append)
    for _ in range(5000):
        storm.take(3, 1, 0)
        storm.tell()
    assert [one["count"] for one in said] == [1]
    now[0] += 1.5
    storm.tell()
    assert [one["count"] for one in said] == [1, 4999]


def _take(events: nvml_events.NvmlEvents, count: int) -> list[nvml_events.readings.Event]:
    told: list[nvml_events.readings.Event] = []

    def enough(sweep: nvml_events.readings.Sweep) -> bool:
        told.extend(sweep.events)
        return len(told) >= count

    until(events, enough)
    return told


def _ticks(pid: int) -> int:
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])
