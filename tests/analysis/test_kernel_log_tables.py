"""Every Xid and SXid leads to what was recorded of it; so does every host message; a boot's noise leads to nothing."""

import pytest

from outrider import vocabulary
from outrider_analysis.kernel_log import judge, rows, sxids, xids
from tests.analysis.kernel_lines import FAULTS, RECORDED, only, record, sxid, xid

HOST = [line.split(" ", 2) for line in (RECORDED / "faults.txt").read_text().splitlines()]
BOOT = (RECORDED / "boot.txt").read_text().splitlines()


@pytest.mark.parametrize("fault", FAULTS["xids"], ids=lambda fault: fault["xid"])
def test_an_xid_has_the_recorded_severity_and_recovery(fault: dict[str, str]) -> None:
    found = only(xid(int(fault["xid"])))
    assert (found.severity, found.recovery) == (fault["severity"], fault["recovery"])
    assert found.evidence["origin"] == fault["category"]
    assert (found.kind, found.device) == ("xid", "0000:3b:00")
    assert f"Xid {fault['xid']}" in found.text


@pytest.mark.parametrize("fault", FAULTS["sxids"], ids=lambda fault: fault["sxid"])
def test_an_sxid_has_the_recorded_severity_and_recovery(fault: dict[str, str]) -> None:
    number = int(fault["sxid"])
    found = only(sxid(number, "Fatal" if fault["severity"] == "fatal" else "Non-fatal"))
    assert (found.severity, found.recovery) == (fault["severity"], fault["recovery"])
    assert only(record(f"nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): {number}")).severity == fault["severity"]
    assert only(sxid(number, "Fatal")).severity == "fatal"
    assert only(sxid(number, "Non-fatal")).severity != "fatal"


def test_the_tables_hold_what_was_recorded_and_nothing_else() -> None:
    assert set(xids.BY_NUMBER) == {fault["xid"] for fault in FAULTS["xids"]}
    assert set(sxids.BY_NUMBER) == {fault["sxid"] for fault in FAULTS["sxids"]}
    assert len(xids.XIDS) == len(xids.BY_NUMBER)
    assert sum(len(fault.numbers) for fault in sxids.SXIDS) == len(sxids.BY_NUMBER)


def test_tables_and_rows_speak_the_words_of_the_vocabulary() -> None:
    for fault in (*xids.XIDS, *sxids.SXIDS, *rows.ROWS):
        assert fault.severity in vocabulary.SEVERITIES
        assert fault.recovery in vocabulary.RECOVERIES
        assert fault.group is None or fault.group in vocabulary.CAUSE_GROUPS
    assert {row.kind for row in rows.ROWS} <= set(vocabulary.OBSERVATION_KINDS)


@pytest.mark.parametrize("number", [0, 1, 177, 999, 100_000])
def test_an_unknown_xid_is_an_error_that_needs_a_person(number: int) -> None:
    found = only(xid(number))
    assert (found.severity, found.recovery) == ("error", "contact_support")


def test_an_unknown_sxid_is_what_its_word_says() -> None:
    assert only(sxid(99999, "Fatal")).severity == "fatal"
    assert only(sxid(99999, "Non-fatal")).severity == "warning"


@pytest.mark.parametrize(("kind", "severity", "text"), HOST)
def test_a_host_message_has_the_recorded_kind_and_severity(kind: str, severity: str, text: str) -> None:
    found = only(record(text))
    assert (found.kind, found.severity) == (kind, severity)
    assert kind in vocabulary.OBSERVATION_KINDS
    assert "{" not in found.text
    assert only(record(text, prio=11)).kind == judge.LOOKALIKE


def test_every_row_has_a_recorded_line() -> None:
    met = {row for row in rows.ROWS for _, _, text in HOST if row.needle in text and row.read(text)}
    boot = {row for row in rows.ROWS for text in BOOT if row.needle in text and row.read(text)}
    assert not [(row.kind, row.needle) for row in rows.ROWS if row not in met | boot]


def test_the_frightening_lines_of_a_boot_are_at_most_information() -> None:
    found = judge.judged(record(text, at_s=1 + number / 100) for number, text in enumerate(BOOT))
    assert not [each for each in found if each.severity != "info"]
    assert len(found) <= 4  # a corrected PCIe error, drives that hold nothing


@pytest.mark.parametrize("text", BOOT)
def test_no_single_line_of_a_boot_is_more_than_information(text: str) -> None:
    for form in (record(text), f"[   12.345678] {text}", f"Nov 21 15:28:01 host kernel: {text}"):
        assert {found.severity for found in judge.judged([form])} <= {"info"}
