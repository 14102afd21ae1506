"""Lines in order become findings told once: repeats, first causes and echoes, places, storms, and what is over."""

import json
import os
import pathlib
import random

import pytest

from outrider_analysis.kernel_log import judge, lines, xids
from tests.analysis.kernel_lines import by_xid, only, record, sxid, xid

LINK = "NVLink: fatal error detected on link {}({})"


def registers(first: int = 0, third: int = 0, fourth: int = 0, fifth: int = 0, link: int = 14) -> str:
    return LINK.format(link, ", ".join(hex(value) for value in (first, 0, third, fourth, fifth, 0, 0)))


def told(*records: str) -> list[tuple[str, str]]:
    taker = judge.Judge()
    found = [each for line in lines.parse_all(records) for each in taker.take(line)]
    return [(each.kind, each.severity) for each in found]


def test_the_first_fault_of_a_window_is_the_candidate_and_the_rest_its_echoes() -> None:
    found = by_xid(xid(31, 10.0), xid(43, 10.5), xid(45, 11.0), xid(45, 20.0, gpu="5d"))
    assert found[31].evidence["first"]
    assert found[43].evidence["echo_of"] == "xid 31 on 0000:3b:00"
    seen = judge.judged([xid(31, 10.0), xid(45, 11.0), xid(45, 20.0, gpu="5d")])
    assert [each.evidence.get("echo_of") for each in seen] == [None, "xid 31 on 0000:3b:00", None]


def test_a_dying_gpu_is_the_cause_of_what_its_peers_and_switches_said_before_it() -> None:
    records = [
        xid(74, 10.0, "5d", registers(third=1 << 16)),
        sxid(20034, "Fatal", 10.1),
        xid(45, 10.2, "5d"),
        xid(79, 10.3),
    ]
    found = judge.judged(records)
    assert [each.evidence.get("echo_of") for each in found] == ["xid 79 on 0000:3b:00"] * 3 + [None]
    assert found[-1].evidence["first"]


@pytest.mark.parametrize(("number", "before", "gap_s", "echo"), [
    (137, 74, 25.0, True), (137, 74, 40.0, False), (94, 48, 30.0, True), (94, 31, 30.0, False), (79, 48, 30.0, False),
])  # fmt: skip
def test_some_echoes_come_late(number: int, before: int, gap_s: float, echo: bool) -> None:
    found = by_xid(xid(before, 10.0), xid(number, 10.0 + gap_s))
    assert ("echo_of" in found[number].evidence) == echo


def test_the_drivers_recovery_action_outweighs_the_table() -> None:
    asked = "GPU recovery action changed from 0x0 (None) to 0x{:x} ({})"
    found = by_xid(xid(119, 10.0), xid(154, 10.5, rest=asked.format(2, "Node Reboot Required")))
    assert found[119].recovery == "reboot_node"
    assert (found[154].severity, found[154].recovery) == ("fatal", "reboot_node")
    for code, word, recovery in (
        (0, "None", "none"), (1, "GPU Reset Required", "reset_gpu"), (2, "OS Reboot", "reboot_node"),
        (3, "Drain P2P", "drain"), (4, "Drain and Reset", "reset_gpu"), (9, "Something new", "contact_support"),
    ):  # fmt: skip
        assert only(xid(154, rest=asked.format(code, word))).recovery == recovery


SM = "Graphics SM Warp Exception on (GPC {}, TPC {}, SM 0): Out Of Range Address"


def test_the_same_place_of_a_gpu_again_points_at_silicon() -> None:
    found = only(xid(13, 10.0, rest=SM.format(1, 3)), xid(13, 4000.0, rest=SM.format(1, 3)))
    assert (found.evidence["points_at"], found.recovery, found.severity) == ("hardware", "drain", "error")


@pytest.mark.parametrize("records", [
    [xid(13, 10.0 + tpc / 100, rest=SM.format(1, tpc)) for tpc in range(6)],
    [xid(13, 10.0, rest=SM.format(1, 3)), xid(13, 10.1, rest=SM.format(1, 3))],
    [xid(13, 10.0, rest=SM.format(1, 3)), xid(13, 100_000.0, rest=SM.format(1, 3))],
    [xid(13, 10.0, gpu, SM.format(1, 3)) for gpu in ("3b", "5d", "9b")] + [xid(13, 99.0, rest=SM.format(1, 3))],
    [xid(31, 10.0), xid(31, 500.0)],
])  # fmt: skip
def test_a_burst_many_units_many_gpus_or_one_process_do_not(records: list[str]) -> None:
    for found in judge.judged(records):
        assert found.recovery == "restart_app"
        assert found.evidence.get("points_at") != "hardware"


def test_a_page_fault_of_several_processes_on_one_gpu_points_at_silicon() -> None:
    found = only(xid(31, 10.0, rest="pid=1, name=a, MMU Fault"), xid(31, 900.0, rest="pid=2, name=b, MMU Fault"))
    assert (found.evidence["points_at"], found.recovery) == ("hardware", "drain")


@pytest.mark.parametrize(("text", "reading", "severity", "recovery"), [
    (registers(first=1 << 4), "parity", "fatal", "check_nvlink"),
    (registers(fifth=1 << 28), "parity", "fatal", "check_nvlink"),
    (registers(first=1 << 21), "signal", "fatal", "check_nvlink"),
    (registers(first=1 << 8 | 1 << 20), "seating", "fatal", "check_nvlink"),
    (registers(third=1 << 13), "unexpected", "fatal", "contact_support"),
    (registers(third=1 << 31), "unexpected", "fatal", "contact_support"),
    (registers(third=1 << 16), "repeated", "fatal", "check_nvlink"),
    (registers(fourth=1 << 18), "sympathetic", "fatal", "check_nvlink"),
    (registers(fifth=1 << 20), "threshold", "warning", "none"),
    (registers(first=1 << 23), "ignored", "info", "none"),
    (registers(), None, "fatal", "check_nvlink"),
    ("NVLink: fatal error detected on link 14", None, "fatal", "check_nvlink"),
    (LINK.format(14, "0x0, zz"), None, "fatal", "check_nvlink"),
])  # fmt: skip
def test_the_registers_of_xid_74_are_read(text: str, reading: str | None, severity: str, recovery: str) -> None:
    found = only(xid(74, rest=text))
    assert (found.evidence.get("reading"), found.severity, found.recovery) == (reading, severity, recovery)
    assert found.evidence["link"] == 14


def test_damaged_memory_of_one_link_seen_more_than_twice_condemns_the_gpu() -> None:
    parity = registers(first=1 << 5)
    assert only(*(xid(74, at, rest=parity) for at in (10.0, 60.0))).recovery == "check_nvlink"
    assert only(*(xid(74, at, rest=parity) for at in (10.0, 60.0, 120.0))).recovery == "replace_gpu"
    other = judge.judged([xid(74, at, rest=registers(first=1 << 5, link=at)) for at in (10, 60, 120)])
    assert {each.recovery for each in other} == {"check_nvlink"}


def test_the_details_of_an_sxid_add_nothing_to_it() -> None:
    head = "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, "
    found = only(
        record(f"{head}Non-fatal, Link 46 MC TS crumbstore MCTO (First)"),
        record(f"{head}Severity 0 Engine instance 46 Sub-engine instance 00"),
        record(f"{head}Data {{0x0046002e, 0x0046002e, 0x00000000}}"),
    )
    assert (found.severity, found.evidence["count"], found.evidence["link"]) == ("warning", 1, 46)


def test_the_fabric_managers_words_count_under_its_own_name_alone() -> None:
    words = (
        "[ERROR] [tid 841] detected NVSwitch fatal error 20034 on fid 0 on NVSwitch pci bus id 00000000:86:00.0 "
        "physical id 3 port 33"
    )
    found = only(f"Nov 21 15:28:01 host nv-fabricmanager[9]: {words}")
    assert (found.kind, found.severity, found.device) == ("sxid", "fatal", "0000:86:00.0")
    assert only(f"Nov 21 15:28:01 host root[9]: {words}").severity == "info"


def test_what_is_said_to_be_over_is_over() -> None:
    gone, back = "nfs: server 10.0.0.1 not responding, still trying", "nfs: server 10.0.0.1 OK"
    assert told(record(gone, 1), record(back, 9), record(gone, 99)) == [
        ("nfs-not-responding", "error"), ("nfs-not-responding", "info"), ("nfs-not-responding", "error"),
    ]  # fmt: skip
    found = only(record(gone, 1), record(back, 9))
    assert (found.severity, found.evidence["cleared"], found.evidence["was"]) == ("info", True, "error")
    hot, cool = judge.judged([sxid(10004, "Non-fatal", 1), sxid(10005, "Non-fatal", 60)])
    assert (hot.severity, hot.evidence["cleared"], cool.severity) == ("info", True, "info")


def test_a_boot_closes_what_was_wrong_before_it() -> None:
    records = [xid(79, 100.0), record("Linux version 5.15.0-1053", 0.0), xid(31, 50.0)]
    assert told(*records) == [("xid", "fatal"), ("xid", "info"), ("xid", "error")]
    before, after = judge.judged(records)
    assert (before.severity, before.evidence["cleared_by"]) == ("info", "reboot")
    assert after.severity == "error"
    assert after.evidence["first"]


def test_corrected_errors_are_a_warning_once_they_are_frequent() -> None:
    error = "pcieport 0000:07:00.0: PCIe Bus Error: severity=Corrected, type=Data Link Layer, (Receiver ID)"
    assert told(*(record(error, at * 120) for at in range(30))) == [("pcie-aer", "info")]
    assert told(*(record(error, at) for at in range(30))) == [("pcie-aer", "info"), ("pcie-aer", "warning")]


def test_the_same_thing_after_an_hour_of_silence_is_told_anew() -> None:
    assert told(xid(79, 10.0), xid(79, 3000.0), xid(79, 9000.0)) == [("xid", "fatal"), ("xid", "fatal")]
    assert only(xid(79, 10.0), xid(79, 3000.0), xid(79, 9000.0)).evidence["count"] == 3


def test_what_was_told_is_not_told_again_after_a_restart() -> None:
    first, second = judge.Judge(), judge.Judge()
    for line in lines.parse_all([xid(79, 10.0), xid(31, 20.0)]):
        assert first.take(line)
    second.restore(json.loads(json.dumps(first.memory())))
    assert not [each for line in lines.parse_all([xid(79, 30.0), xid(31, 31.0)]) for each in second.take(line)]
    assert [found.evidence["count"] for found in second.findings()] == [2, 2]
    assert [found.evidence["was"] for found in second.rebooted()] == ["fatal", "error"]


def test_a_memory_that_is_damaged_is_passed_over() -> None:
    taker = judge.Judge()
    taker.restore(
        {
            "known": [
                None,
                [],
                [1] * 9,
                ["x"] * 9,
                [["k"], "xid", "d", "t", "worst", "none", 1, 1, 1],
                [["k"], "xid", "d", "t", "fatal", "none", "z", 1, 1],
            ]
        }
    )
    assert all(found.document() for found in taker.findings())


def test_unlike_things_without_number_are_held_in_bounded_memory() -> None:
    taker = judge.Judge()
    for number in range(5000):
        text = f"INFO: task worker{number}:{number} blocked for more than 120 seconds."
        taker.take(lines.Line(text, number / 100, number, 0, 3))
    taker.take(lines.Line("NVRM: Xid (PCI:0000:3b:00): 79, gone", 60.0, 1, 0, 3))
    assert len(taker.findings()) <= judge.KNOWN_MAX
    assert taker.forgotten == 5001 - len(taker.findings())
    assert taker.findings()[-1].severity == "fatal"


def storm(count: int) -> None:
    """``count`` lines of 29 kinds, processes unlike, must stay 29 findings and take no memory that grows with them."""
    chance = random.Random(29)
    numbers = [fault.number for fault in xids.XIDS if fault.number not in (13, 31)][:29]
    taker = judge.Judge()
    emitted, before = 0, _resident_bytes()
    for seq in range(count):
        rest = f"pid={chance.randrange(4_000_000)}, name=python3, Ch 0000000f"
        line = lines.parse(xid(numbers[seq % 29], 100 + seq / 20_000, rest=rest))
        assert line is not None
        emitted += len(taker.take(line))
    found = taker.findings()
    assert (emitted, len(found)) == (29, 29)
    assert sum(each.evidence["count"] for each in found) == count
    assert _resident_bytes() - before < 64 * 1024 * 1024


def _resident_bytes() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_forty_thousand_lines_of_29_kinds_are_29_findings() -> None:
    storm(40_000)


@pytest.mark.slow
def test_eight_hundred_thousand_lines_of_29_kinds_are_29_findings() -> None:
    storm(800_000)
