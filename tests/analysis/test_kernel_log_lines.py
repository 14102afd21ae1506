"""A line of a kernel log is read from whatever form it was kept in, and told apart from what a process wrote."""

import random

import pytest

from outrider_analysis.kernel_log import judge, lines
from tests.analysis.kernel_lines import RECORDED, USER_ERROR, only, record, xid

TEXT = "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."
FORMS = [
    f"3,42,12500000,-;{TEXT}",
    f"3,42,12500000,-,caller=T123;{TEXT}",
    f"3,42,12500000,-;{TEXT}\n SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0",
    f"3,42,12500000,c;{TEXT}",
    f"[   12.500000] {TEXT}",
    f"[   12.500000][  T123] {TEXT}",
    f"<3>[   12.500000] {TEXT}",
    f"kern  :err   : [   12.500000] {TEXT}",
    f"Nov 21 15:28:01 host kernel: [   12.500000] {TEXT}",
    f"kernel: [   12.500000] {TEXT}",
]


@pytest.mark.parametrize("raw", FORMS)
def test_every_form_gives_the_same_text_and_time(raw: str) -> None:
    line = lines.parse(raw)
    assert line is not None
    assert (line.text, line.at_s) == (TEXT, 12.5)
    assert not line.from_user_space


@pytest.mark.parametrize(
    ("raw", "at_s"),
    [
        (f"[Sat Nov 21 15:28:01 2026] {TEXT}", 1795274881.0),
        (f"2026-11-21T15:28:01+0000 host kernel: {TEXT}", 1795274881.0),
        (f"2026-11-21T15:28:01,500000+00:00 {TEXT}", 1795274881.5),
        (f"Nov 21 15:28:01 host kernel: {TEXT}", 974820481.0),
        (TEXT, None),
    ],
)
def test_wall_times_are_read(raw: str, at_s: float | None) -> None:
    line = lines.parse(raw)
    assert line is not None
    assert (line.text, line.at_s) == (TEXT, at_s)


@pytest.mark.parametrize(
    "raw",
    [
        record(TEXT, prio=USER_ERROR),
        record(TEXT, prio=30),
        f"<11>[   12.500000] {TEXT}",
        f"user  :err   : [   12.500000] {TEXT}",
        f"Nov 21 15:28:01 host root[77]: {TEXT}",
        f"2026-11-21T15:28:01+0000 host logger: {TEXT}",
    ],
)
def test_a_line_from_user_space_is_information_whatever_it_says(raw: str) -> None:
    found = only(raw)
    assert (found.kind, found.severity, found.recovery) == (judge.LOOKALIKE, "info", "none")
    assert (found.evidence["looks_like"], found.evidence["xid"]) == ("xid", 79)
    assert "user-space line that looks like xid" in found.text


def test_a_forged_line_does_not_hide_the_kernels_own() -> None:
    severities = [found.severity for found in judge.judged([record(TEXT, prio=USER_ERROR), record(TEXT)])]
    assert severities == ["info", "fatal"]


def test_a_processs_words_within_a_kernel_line_say_nothing() -> None:
    assert not judge.judged([record(f'audit: type=1326 comm="{TEXT}"'), record(f"python3\\x0a{TEXT}[12]: segfault")])


def test_escapes_are_turned_back() -> None:
    assert lines.plain(r"a\x20b\x09c\xe2\x82\xac\xff") == "a b\tc€\ufffd"
    assert only(record(TEXT.replace(" ", r"\x20"))).severity == "fatal"


def test_fragments_are_joined_to_the_record_they_continue() -> None:
    found = only("3,1,1000000,c;NVRM: Xid (PCI:0000:3b:00): ", "3,2,1000001,+;79, gone", "6,3,1000002,-;next")
    assert found.evidence["xid"] == 79


def test_the_dictionary_of_a_record_is_no_line() -> None:
    assert lines.parse(" DEVICE=+pci:0000:3b:00.0") is None
    assert lines.parse("") is None
    assert lines.parse("  \n") is None


@pytest.mark.parametrize(
    "raws",
    [
        [record("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.")],
        [record("NVRM: GPU at PCI:0000:3b:00: has fallen off the bus")],
        [
            record(
                r"NVRM: The NVIDIA GPU 0000:3b:00.0\x0aNVRM: (PCI ID: 10de:2330) installed in this system has"
                r"\x0aNVRM: fallen off the bus and is not responding to commands."
            )
        ],
        [
            "[    9.1] NVRM: The NVIDIA GPU 0000:3b:00.0",
            "[    9.1] NVRM: (PCI ID: 10de:2330) installed in this system has",
            "[    9.1] NVRM: fallen off the bus and is not responding to commands.",
        ],
        [xid(79), record("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.")],
        [
            xid(79),
            record("NVRM: GPU0 nvAssertOkFailedNoLog: Assertion failed: GPU lost from the bus [NV_ERR_GPU_IS_LOST]"),
        ],
    ],
)
def test_a_gpu_off_the_bus_is_xid_79_with_and_without_a_number(raws: list[str]) -> None:
    found = only(*raws)
    assert (found.kind, found.severity, found.recovery, found.device) == ("xid", "fatal", "reboot_node", "0000:3b:00")
    assert found.evidence["xid"] == 79


@pytest.mark.parametrize(
    "text",
    [
        "NVRM: Xid (PCI:0000:3b:00): 48, pid='<unknown>', name=<unknown>, DBE",
        "NVRM: Xid (PCI:0000:3b:00): 48, pid=<n/a>, name=<unknown>, DBE",
        "NVRM: Xid (PCI:0000:3B:00 GPU-I:05): 48, pid=7194, DBE",
        "NVRM: Xid (PCI:00000000:3b:00.0): 48, DBE",
        "NVRM: Xid (0000:3b:00): 48, Channel 00000001",
        "NVRM: Xid (PCI:0000:3b:00): 48",
    ],
)
def test_the_drivers_spellings_of_an_xid_are_understood(text: str) -> None:
    found = only(record(text))
    assert (found.evidence["xid"], found.device, found.severity) == (48, "0000:3b:00", "fatal")


@pytest.mark.parametrize("text", ["NVRM: Xid (PCI:0000:66:00): abc, pid=1", "NVRM: Xid", "NVRM: Xid (PCI:"])
def test_an_xid_that_cannot_be_read_is_an_error(text: str) -> None:
    found = only(record(text))
    assert (found.severity, found.recovery, found.evidence["xid"]) == ("error", "contact_support", None)


def test_mutated_lines_and_garbage_are_survived() -> None:
    chance = random.Random(4)
    seeds = [line.split(" ", 2)[2] for line in (RECORDED / "faults.txt").read_text().splitlines()]
    seeds += [xid(74, rest="NVLink: fatal error detected on link 14(0x0, 0x0, 0x10000, 0x0, 0x0, 0x0, 0x0)"), *FORMS]
    taker = judge.Judge()
    for number in range(4000):
        raw = _mutated(chance.choice(seeds), chance)
        line = lines.parse(raw if number % 3 else record(raw, number / 10, number))
        if line is not None:
            taker.take(line)
    assert all(found.document() for found in taker.findings())


def _mutated(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            text = text[:at]  # half a line
        elif kind == 1:
            text = (
                text[:at] + chance.choice(["\x00", "\ufffd", "\\x0a", ";", ",", "0x", "(", "9" * 30, "\n"]) + text[at:]
            )
        elif kind == 2:
            text = text[:at] + chr(chance.randrange(1, 0x2FFF)) + text[at + 1 :]
        else:
            text = text[at:] + text[:at]
    return text


def test_a_line_of_no_end_is_judged_in_bounded_time() -> None:
    for start in (
        "NVRM: Xid (PCI:",
        "nvme nvme0: I/O 1 ",
        "detected NVSwitch ",
        "INFO: task ",
        "x ",
        "EXT4-fs error (device ",
    ):
        judge.judged([record(start + "a b(c[1] " * 100_000)])
