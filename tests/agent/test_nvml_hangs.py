"""Calls that do not come back: what is told, what goes on, what is tried again, and what is never counted as a hang."""

import dataclasses
import os
import pathlib
import signal

import pytest

from outrider_agent.nvml import announce, process, ward
from outrider_agent.signals import nvml_events
from outrider_simulator import fake_nvml
from tests.agent.nvml_worlds import QUICK, alive, error, reading, until, value

FOUR = {f"gpu{number}" for number in range(4)}
TEMPERATURE = "nvmlDeviceGetTemperatureV"


@pytest.fixture
def world(tmp_path: pathlib.Path) -> fake_nvml.World:
    return fake_nvml.World(tmp_path, count=4)


def test_a_call_that_never_returns_costs_its_gpu_alone_and_is_named(world: fake_nvml.World) -> None:
    with reading(world) as gpus:
        gpus.read()
        hung = world.hang(1, TEMPERATURE)
        sweep = gpus.read()
        assert alive(sweep) == FOUR - {"gpu1"}  # in the same look
        assert (sweep.state, value(sweep, "gpu1", "power")) == ("partial", "unreadable")
        assert "gpu1" in sweep.error
        sweep = until(gpus, lambda sweep: (value(sweep, "gpu1", "nvml_call_hung") or 0) >= QUICK.act_s)
        assert error(sweep, "gpu1", "nvml_call_hung") == TEMPERATURE
        assert value(sweep, "gpu2", "nvml_call_hung") == 0.0
        # All but that function of the GPU comes back while it still hangs.
        sweep = until(gpus, lambda sweep: isinstance(value(sweep, "gpu1", "power"), float))
        assert value(sweep, "gpu1", "nvml_call_hung") >= QUICK.act_s
        hung.clear()
        sweep = until(gpus, lambda sweep: alive(sweep) == FOUR and value(sweep, "gpu1", "nvml_call_hung") == 0.0)
        assert sweep.state == "ok"


def test_a_gpu_on_which_every_call_hangs_is_left_alone_until_it_answers(world: fake_nvml.World) -> None:
    with reading(world) as gpus:
        gpus.read()
        hung = world.hang(2)
        until(gpus, lambda sweep: len(gpus.readers.ward.leave(2)) > 1)
        sweep = gpus.read()
        assert alive(sweep) == FOUR - {"gpu2"}
        assert value(sweep, "gpu2", "nvml_code") == "unreadable"
        hung.clear()
        until(gpus, lambda sweep: alive(sweep) == FOUR and value(sweep, "gpu2", "nvml_call_hung") == 0.0)


def test_a_gpu_that_hangs_when_the_agent_starts_keeps_nobody_from_the_others(world: fake_nvml.World) -> None:
    hung = world.hang(1)
    with reading(world) as gpus:
        sweep = until(gpus, lambda sweep: alive(sweep) == FOUR - {"gpu1"})
        assert value(sweep, "gpu1", "nvml_call_hung") >= QUICK.warn_s
        hung.clear()
        sweep = until(gpus, lambda sweep: alive(sweep) == FOUR)
        assert sweep.context["devices"]["gpu1"]["pci"] == "0000:2a:00.0"


def test_where_no_gpu_answers_the_node_is_named_and_not_the_gpu_that_was_asked_first(world: fake_nvml.World) -> None:
    spared: list[int] = []
    hung: list[fake_nvml.Fault] = []

    def kill(pid: int) -> None:
        spared.append(pid) if hung else process.kill_for_good(pid)

    with reading(world, kill=kill) as gpus:
        until(gpus, lambda sweep: alive(sweep) == FOUR)
        hung.append(world.hang(None, TEMPERATURE))
        sweep = until(gpus, lambda sweep: (value(sweep, "", "nvml_call_hung") or 0) >= QUICK.act_s)
        said = error(sweep, "", "nvml_call_hung")
        assert said.startswith(f"{TEMPERATURE}; no answer of gpu0, gpu1")
        assert {value(sweep, gpu, "nvml_call_hung") for gpu in FOUR} == {"unreadable"}
        hung.pop().clear()
        for pid in set(spared):
            process.kill_for_good(pid)  # what the kernel did not do before
        until(gpus, lambda sweep: alive(sweep) == FOUR and value(sweep, "", "nvml_call_hung") == 0.0)
        until(gpus, lambda sweep: {value(sweep, gpu, "nvml_call_hung") for gpu in FOUR} == {0.0})


def test_a_driver_that_takes_nobody_in_while_a_gpu_hangs_is_the_node_s(world: fake_nvml.World) -> None:
    with reading(world, limits=dataclasses.replace(QUICK, read_s=0.5)) as gpus:
        until(gpus, lambda sweep: alive(sweep) == FOUR)
        world.hang(None)
        sweep = until(gpus, lambda sweep: (value(sweep, "", "nvml_call_hung") or 0) >= QUICK.act_s)
        assert {value(sweep, gpu, "nvml_call_hung") for gpu in FOUR} == {"unreadable"}
        world.clear()
        until(gpus, lambda sweep: alive(sweep) == FOUR and value(sweep, "gpu0", "nvml_call_hung") == 0.0)


def test_a_slow_call_is_told_once_and_not_as_a_hang(world: fake_nvml.World) -> None:
    with reading(world, limits=dataclasses.replace(QUICK, retry_s=60.0, act_s=30.0)) as gpus:
        gpus.read()
        slow = world.slow(1, TEMPERATURE, 1.2)
        told = []
        until(gpus, lambda sweep: told.append(value(sweep, "gpu1", "nvml_call_hung")) or alive(sweep) == FOUR)
        assert max(told) >= QUICK.warn_s
        sweep = gpus.read()
        assert value(sweep, "gpu1", "nvml_call_hung") == 0.0
        assert value(sweep, "gpu1", "temperature") == 30.0  # by the older function, while the newer is held back
        slow.clear()


def test_an_init_that_hangs_is_told_and_tried_anew(world: fake_nvml.World) -> None:
    hung = world.hang(None, "nvmlInit*")
    with reading(world, limits=dataclasses.replace(QUICK, init_s=1.5, read_s=0.5)) as gpus:
        sweep = until(gpus, lambda sweep: (value(sweep, "", "nvml_call_hung") or 0) >= QUICK.warn_s)
        assert (sweep.state, value(sweep, "", "nvml_init")) == ("failed", "unreadable")
        assert error(sweep, "", "nvml_call_hung") == "nvmlInit"
        until(gpus, lambda sweep: gpus.readers.restarts > 0)
        hung.clear()
        sweep = until(gpus, lambda sweep: sweep.state == "ok")
        assert value(sweep, "", "nvml_call_hung") == 0.0


def test_helpers_that_cannot_be_killed_are_counted_and_bounded(world: fake_nvml.World) -> None:
    spared: list[int] = []
    limits = dataclasses.replace(QUICK, stuck_max=2)
    with reading(world, limits=limits, kill=spared.append) as gpus:
        gpus.read()
        for gpu in (0, 1):
            world.hang(gpu, TEMPERATURE)
        sweep = until(gpus, lambda sweep: value(sweep, "", "nvml_helpers_stuck") == 2.0)
        assert alive(sweep) == {"gpu2", "gpu3"}  # by the one that is there
        world.hang(2, TEMPERATURE)
        sweep = until(gpus, lambda sweep: not alive(sweep))
        assert sweep.state == "failed"
        assert "NVML helpers" in sweep.error
        until(gpus, lambda sweep: value(sweep, "", "nvml_helpers_stuck") == 3.0)
        held = set(spared)
        for _ in range(5):
            assert gpus.read().state == "failed"
        assert (set(spared), gpus.readers.pid) == (held, None)  # no further one is begun
        world.clear()
        for pid in held:
            process.kill_for_good(pid)  # what the kernel did not do before
        until(gpus, lambda sweep: alive(sweep) == FOUR and value(sweep, "", "nvml_helpers_stuck") == 0.0)


def test_a_helper_that_somebody_stopped_is_replaced_and_no_gpu_is_blamed(world: fake_nvml.World) -> None:
    with reading(world) as gpus:
        gpus.read()
        first = gpus.readers.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        sweep = until(gpus, lambda sweep: gpus.readers.pid not in (first, None) and sweep.state == "ok")
        assert [value(sweep, gpu, "nvml_call_hung") for gpu in ("", *sorted(FOUR))] == [0.0] * 5


def test_events_go_on_while_a_reading_hangs(world: fake_nvml.World) -> None:
    with reading(world, limits=dataclasses.replace(QUICK, act_s=30.0)) as gpus:
        gpus.read()
        events = nvml_events.NvmlEvents(gpus)
        try:
            until(events, lambda sweep: sweep.state == "ok")
            world.hang(1, TEMPERATURE)
            gpus.read()
            world.xid(1, 79)
            sweep = until(events, lambda sweep: bool(sweep.events))
            assert [(event.device, event.kind, event.evidence["xid"]) for event in sweep.events] == [
                ("gpu1", "xid", 79)
            ]
        finally:
            events.close()


# ---------------------------------------------------------------- the clock of a silence, and the ward: pure


def test_silence_counts_what_a_call_does_and_not_what_a_machine_does() -> None:
    silence = process.Silence()
    silence.heard(100.0)
    call = announce.Call(7, 100.0, 3, TEMPERATURE)
    assert silence.look(call, 101.0, "S", 5) == pytest.approx(1.0)
    assert silence.look(call, 102.0, "S", 5) == pytest.approx(2.0)
    assert silence.look(call, 102.5, "R", 5) == pytest.approx(2.0)  # ready, and nobody lets it run
    assert silence.look(call, 103.0, "R", 30) == pytest.approx(2.5)  # it spins
    assert silence.look(call, 603.0, "D", 30) == pytest.approx(4.5)  # we slept as well
    assert silence.look(announce.Call(9, 603.0, 3, TEMPERATURE), 603.5, "S", 31) == pytest.approx(0.5)
    assert silence.look(None, 604.0, "S", 31) == 0.0


def test_the_ward_tries_a_gpu_without_the_function_first_then_with_it_and_ever_later() -> None:
    kept = ward.Ward(10.0, 40.0)
    kept.suspect(3)
    assert (kept.blocked, kept.trial(0.0, frozenset())) == (frozenset({3}), None)
    kept.hung(3, "f", 8.0, 0.0)
    trial = kept.trial(0.0, frozenset())
    assert trial == ward.Trial(3, ("f",))
    assert kept.trial(0.0, frozenset({3})) is None  # a helper still sits in there
    kept.tried(trial, 0.0)
    kept.well(trial)
    assert (kept.blocked, kept.leave(3), kept.worst()) == (frozenset(), ("f",), {3: (8.0, "f")})
    waits = []
    now = 0.0
    for _ in range(4):
        begun = now
        while (trial := kept.trial(now, frozenset())) is None:
            now += 1.0
        waits.append(now - begun)
        assert trial == ward.Trial(3, ())
        kept.tried(trial, now)
        kept.hung(3, "f", 8.0, now)
        assert kept.blocked == frozenset()
    assert waits == [10.0, 20.0, 40.0, 40.0]
    kept.well(ward.Trial(3, ()))
    assert (kept.leave(3), kept.worst(), kept.left()) == ((), {}, {})


def test_a_gpu_with_three_hung_functions_is_at_fault_as_a_whole() -> None:
    kept = ward.Ward(10.0, 40.0)
    for function in ("f", "g", "h"):
        kept.suspect(3)
        kept.hung(3, function, 8.0, 0.0)
    assert kept.trial(9.0, frozenset()) is None
    assert kept.trial(10.0, frozenset()) == ward.Trial(3, ())


def test_a_function_that_was_late_once_is_no_hang_and_late_again_is_told() -> None:
    kept = ward.Ward(10.0, 40.0)
    kept.suspect(1)
    kept.late(1, "f", 3.0, 0.0)
    assert (kept.blocked, kept.leave(1), kept.worst()) == (frozenset(), ("f",), {})
    trial = kept.trial(10.0, frozenset())
    assert trial is not None
    kept.tried(trial, 10.0)
    kept.late(1, "f", 4.0, 14.0)
    assert kept.worst() == {1: (4.0, "f")}


def test_an_announcement_is_seen_by_the_other_side_while_the_call_is_made() -> None:
    listener = announce.Listener()
    announcer = announce.Announcer(listener.descriptor)
    seen = []
    answer = announcer.call(4, "nvmlDeviceGetName", lambda name: (seen.append(listener.call()), name)[1], "a name")
    assert (answer, listener.call()) == ("a name", None)
    assert seen[0] is not None
    assert (seen[0].gpu, seen[0].function) == (4, "nvmlDeviceGetName")
    listener.close()
