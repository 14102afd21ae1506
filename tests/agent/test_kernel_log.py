"""The agent follows a kernel log: what stands there, what comes, rotation, loss, a restart, no permission to look."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from outrider_agent import readings
from outrider_agent.signals import kernel_log, kernel_records
from tests.analysis.kernel_lines import record, xid

BOOT_ID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def procfs(tmp_path: Path) -> Path:
    booted(tmp_path / "proc", BOOT_ID)
    return tmp_path / "proc"


def booted(procfs: Path, boot_id: str) -> None:
    (procfs / "sys/kernel/random").mkdir(parents=True, exist_ok=True)
    (procfs / "sys/kernel/random/boot_id").write_text(boot_id + "\n")


def append(path: Path, *records: str) -> None:
    with path.open("a") as file:
        file.write("".join(f"{each}\n" for each in records))


def told(sweep: readings.Sweep) -> list[tuple[str, object, object]]:
    return [(each.kind, each.evidence.get("xid"), each.evidence["severity"]) for each in sweep.events]


def test_lines_are_told_as_they_come_and_each_once(tmp_path: Path, procfs: Path) -> None:
    log = tmp_path / "kmsg"
    append(log, xid(79))
    signal: readings.Signal = kernel_log.KernelLog(log, procfs)
    first = signal.read()
    assert told(first) == [("xid", 79, "fatal")]
    assert (first.state, first.context["boot_id"]) == ("ok", BOOT_ID)
    event = first.events[0]
    assert (event.source, event.device, event.evidence["recovery"]) == ("kernel-log", "0000:3b:00", "reboot_node")
    assert (event.evidence["boot_id"], event.evidence["seq"], event.evidence["cause_group"]) == (
        BOOT_ID,
        1,
        "Faulty GPU",
    )
    assert not signal.read().events
    append(log, xid(79), xid(31, gpu="5d"))
    assert told(signal.read()) == [("xid", 31, "error")]


def test_half_a_line_waits_for_its_rest(tmp_path: Path, procfs: Path) -> None:
    log = tmp_path / "kmsg"
    text = xid(79)
    log.write_text(text[:30])
    signal = kernel_log.KernelLog(log, procfs)
    assert not signal.read().events
    with log.open("a") as file:
        file.write(text[30:] + "\n")
    assert told(signal.read()) == [("xid", 79, "fatal")]
    log.write_text(text[:-1])
    assert told(kernel_log.KernelLog(log, procfs, once=True).read()) == [("xid", 79, "fatal")]


def test_a_file_that_is_rotated_or_cut_short_is_followed(tmp_path: Path, procfs: Path) -> None:
    log = tmp_path / "kmsg"
    append(log, xid(79))
    signal = kernel_log.KernelLog(log, procfs)
    assert len(signal.read().events) == 1
    log.rename(tmp_path / "kmsg.1")
    assert signal.read().state == "ok"  # between the two there is nothing new, and no failure
    append(log, xid(31))
    assert told(signal.read()) == [("xid", 31, "error")]
    log.write_text("")
    signal.read()
    append(log, xid(48))
    assert told(signal.read()) == [("xid", 48, "fatal")]


def test_a_fifo_is_read_without_waiting_for_its_writer(tmp_path: Path, procfs: Path) -> None:
    fifo = tmp_path / "kmsg"
    os.mkfifo(fifo)
    signal = kernel_log.KernelLog(fifo, procfs)
    assert signal.read().state == "ok"
    assert signal.fileno() is not None
    for number in (79, 31):
        with fifo.open("w") as file:
            file.write(xid(number) + "\n")
            file.flush()
            assert told(signal.read())[0][1] == number
    assert not signal.read().events


def test_a_new_agent_goes_on_where_the_old_one_was_and_tells_nothing_twice(tmp_path: Path, procfs: Path) -> None:
    log, state = tmp_path / "kmsg", tmp_path / "state.json"
    append(log, xid(79))
    first = kernel_log.KernelLog(log, procfs, state)
    assert len(first.read().events) == 1
    first.commit()
    append(log, xid(79), xid(31))
    second = kernel_log.KernelLog(log, procfs, state)
    assert told(second.read()) == [("xid", 31, "error")]
    # This one dies before its events were taken: they are told again, with the same number.
    third = kernel_log.KernelLog(log, procfs, state)
    assert told(third.read()) == [("xid", 31, "error")]


def test_a_reboot_while_no_agent_ran_closes_what_was_wrong(tmp_path: Path, procfs: Path) -> None:
    log, state = tmp_path / "kmsg", tmp_path / "state.json"
    append(log, xid(79))
    first = kernel_log.KernelLog(log, procfs, state)
    first.read()
    first.commit()
    booted(procfs, "another")
    log.write_text("")
    sweep = kernel_log.KernelLog(log, procfs, state).read()
    assert told(sweep) == [("xid", None, "info")]
    assert sweep.events[0].evidence["cleared"]
    assert sweep.events[0].evidence["was"] == "fatal"


@pytest.mark.parametrize("kept", ["", "{", "[]", '{"memory": 3, "position": []}', '{"memory": {"known": 7}}'])
def test_a_state_that_is_damaged_is_begun_anew(tmp_path: Path, procfs: Path, kept: str) -> None:
    log, state = tmp_path / "kmsg", tmp_path / "state.json"
    append(log, xid(79))
    state.write_text(kept)
    signal = kernel_log.KernelLog(log, procfs, state)
    assert [each for each in told(signal.read()) if each[2] == "fatal"]


def test_a_state_that_cannot_be_written_is_said_and_stops_nothing(tmp_path: Path, procfs: Path) -> None:
    log = tmp_path / "kmsg"
    append(log, xid(79))
    signal = kernel_log.KernelLog(log, procfs, tmp_path / "absent/state.json")
    signal.read()
    assert "state.json" in signal.read().context["state_error"]


def test_what_cannot_be_looked_at_is_never_healthy(tmp_path: Path, procfs: Path) -> None:
    sweep = kernel_log.KernelLog(tmp_path / "absent", procfs).read()
    assert (sweep.state, sweep.readings[0].state, sweep.readings[0].value) == ("absent", "unreadable", None)
    sweep = kernel_log.KernelLog(tmp_path, procfs).read()
    assert sweep.state == "failed"
    assert "neither a kernel log nor a file" in sweep.error


def test_no_permission_is_could_not_look_until_there_is_one(
    tmp_path: Path, procfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "kmsg"
    append(log, xid(79))
    signal = kernel_log.KernelLog(log, procfs)

    def refused(self: kernel_records.Plain) -> list[str]:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(kernel_records.Plain, "read", refused)
        sweep = signal.read()
        assert (sweep.state, sweep.readings[0].state) == ("failed", "unreadable")
        assert "Operation not permitted" in sweep.error
    assert told(signal.read()) == [("xid", 79, "fatal")]


def test_records_that_were_overwritten_are_counted_and_told(
    tmp_path: Path, procfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[bytes | OSError] = [
        record("one", seq=5).encode(),
        BrokenPipeError(errno.EPIPE, "overwritten"),
        record("two", seq=105).encode(),
        BlockingIOError(),
    ]

    def read(fd: int, size: int) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(kernel_records, "open_source", lambda path, once: kernel_records.Device(Path(os.devnull)))
    monkeypatch.setattr("outrider_agent.signals.kernel_records.os.read", read)
    sweep = kernel_log.KernelLog(tmp_path, procfs).read()
    (event,) = sweep.events
    assert (event.kind, event.evidence["count"], event.evidence["severity"]) == ("kernel-log-lost", 99, "warning")
    assert {each.name: each.value for each in sweep.readings}["kernel_log_lost"] == 99


def test_the_device_passes_over_what_was_taken_before() -> None:
    device = kernel_records.Device(Path(os.devnull))
    device.go_on({"seq": 7})
    assert not device.read()  # no record there
    assert device.position() == {"seq": 7}
    device.go_on({"seq": "x"})
    assert device.position() == {"seq": -1}
    device.close()


def test_work_of_one_wake_is_bounded(tmp_path: Path, procfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "kmsg"
    append(log, *(xid(79, at / 10) for at in range(100)))
    monkeypatch.setattr(kernel_records, "BYTES_MAX", 1000)
    signal = kernel_log.KernelLog(log, procfs)
    sweeps = [signal.read() for _ in range(20)]
    assert sweeps[0].state == "partial"
    assert sweeps[0].context["behind"]
    assert sweeps[-1].state == "ok"
    assert [each.name for each in sweeps[-1].readings if each.value == 100.0] == ["kernel_log_records"]
    assert told(kernel_log.KernelLog(log, procfs, once=True).read()) == [("xid", 79, "fatal")]


def test_binary_garbage_is_survived(tmp_path: Path, procfs: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_bytes(os.urandom(100_000) + b"\n\0\0\0" + xid(79).encode() + b"\n" + b"x" * 100_000)
    signal = kernel_log.KernelLog(log, procfs)
    assert ("xid", 79, "fatal") in told(signal.read())
    append(log, "", xid(31))
    assert ("xid", 31, "error") in told(signal.read())


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="this machine does not show its kernel log")
def test_the_machines_own_kernel_log_is_read() -> None:
    sweep = kernel_log.KernelLog(once=True).read()
    if sweep.state == "failed":
        assert sweep.readings[0].state == "unreadable"  # a container may show the device and refuse to read it
    else:
        assert sweep.readings[0].value
        assert all(each.at <= sweep.at + 1 for each in sweep.events)
