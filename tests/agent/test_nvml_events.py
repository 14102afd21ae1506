"""The driver's events, from the fake library through real pynvml to readings.Event."""

import pathlib
import time

import pytest

from outrider_agent.nvml import event_wait
from outrider_agent.signals import nvml_events
from outrider_simulator import fake_nvml
from tests.agent.nvml_worlds import PATIENT, reading, until, value

CREATE = "nvmlEventSetCreate"
REGISTER = "nvmlDeviceRegisterEvents"


def test_xids_and_memory_errors_are_told_once_with_their_gpu(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, driver="580.95.05")
    with reading(world, limits=PATIENT) as gpus:
        assert nvml_events.NvmlEvents(gpus).read().state == "failed"  # nobody knows the GPUs yet
        gpus.read()
        events = nvml_events.NvmlEvents(gpus)
        try:
            until(events, lambda sweep: sweep.state == "ok")
            world.xid(3, 48)
            world.event(5, "double-bit-ecc", 0)
            world.event(6, "recovery-action", 1)
            world.event(6, "gpu-unavailable", 0)
            world.event(2, "pstate", 0)  # not asked for
            told = _take(events, 4)
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


def test_it_is_not_ok_before_every_gpu_is_registered(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, count=4)
    held = world.hang(2, REGISTER)
    with reading(world, limits=PATIENT) as gpus:
        gpus.read()
        events = nvml_events.NvmlEvents(gpus)
        try:
            sweep = until(events, lambda sweep: _calls(events, REGISTER, 2))
            assert (sweep.state, sweep.error) == ("failed", "the GPUs are not registered for events yet")
            held.clear()
            assert until(events, lambda sweep: sweep.state != "failed").state == "ok"
            for number in range(4):
                world.xid(number, 31)
            assert [one.device for one in _take(events, 4)] == ["gpu0", "gpu1", "gpu2", "gpu3"]
        finally:
            events.close()


def test_nothing_is_lost_or_told_twice_between_two_sets(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, count=3)
    with reading(world, limits=PATIENT) as gpus:
        gpus.read()
        events = nvml_events.NvmlEvents(gpus)
        try:
            until(events, lambda sweep: sweep.state == "ok")
            first, second = world.hang(None, CREATE), world.hang(2, REGISTER)
            world.lose_gpu(1)  # a set that watches a lost one is made anew
            until(events, lambda sweep: _calls(events, CREATE))
            world.xid(2, 31)  # the old set alone hears it
            first.clear()
            until(events, lambda sweep: _calls(events, REGISTER, 2))
            world.xid(0, 13)  # both hear it
            second.clear()
            told = _take(events, 2)
            assert [(one.device, one.evidence["xid"], one.evidence["count"]) for one in told] == [
                ("gpu2", 31, 1),
                ("gpu0", 13, 1),
            ]
            sweep = until(events, lambda sweep: sweep.state == "partial")
            assert sweep.error == "no events are heard of gpu1"
            time.sleep(event_wait.TOGETHER_S + 0.3)  # what comes twice is told as a count by then
            world.xid(0, 45)
            assert [one.evidence["xid"] for one in _take(events, 1)] == [45]
            assert value(events.read(), "", "nvml_events") == 3.0
        finally:
            events.close()


def test_a_lost_gpu_neither_spins_nor_hides_the_events_of_others(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path, count=3)
    with reading(world, limits=PATIENT) as gpus:
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
    with reading(world, limits=PATIENT) as gpus:
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


def _calls(events: nvml_events.NvmlEvents, function: str, gpu: int | None = None) -> bool:
    """Whether the helper is in that call now."""
    call = events._helper.call() if events._helper is not None else None
    return call is not None and call.function == function and gpu in (None, call.gpu)


def _ticks(pid: int) -> int:
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])
