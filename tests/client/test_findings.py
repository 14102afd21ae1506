"""The findings that stand: begun, ended, and bounded."""

from __future__ import annotations

from typing import Any

from outrider import findings, records


def seen(
    text: str, severity: str = "fatal", device: str = "gpu0", kind: str = "xid", **evidence: Any
) -> records.Observation:
    return records.Observation(0, kind, severity, 1.0, "n0", text, device=device, evidence=evidence)


def test_a_finding_stands_until_it_is_said_to_be_over_and_the_gravest_are_kept() -> None:
    standing = findings.Standing()
    standing.take(seen("fell off", xid=79))
    standing.take(seen("an engine", "warning", xid=43))
    standing.take(seen("only so", "info", xid=13))
    assert [one.text for one in standing.all()] == ["fell off", "an engine"]
    assert standing.xids() == {"gpu0": 43}
    again = findings.Standing(standing.all())
    again.take(seen("over", "info", cleared=True, xid=79))
    assert [one.text for one in again.all()] == ["an engine"]
    again.take(seen("all over", "info", cleared=True))
    assert again.all() == []
    for number in range(findings.FINDINGS_MAX):
        again.take(seen("w", "warning", device=f"gpu{number}"))
    again.take(seen("grave", device="gpu999"))
    assert len(again.all()) == findings.FINDINGS_MAX
    assert again.all()[-1].text == "grave"


def test_a_full_disk_is_ended_by_the_word_that_it_has_room_and_what_is_told_has_no_evidence() -> None:
    standing = findings.Standing(
        [seen("full", "error", "/ckpt", "disk-full", lies=["x"]), seen("gone", xid=79, line="y")]
    )
    assert [one.evidence for one in standing.told()] == [{}, {"xid": 79}]
    standing.take(seen("room", "info", "/data", "disk-clear"))
    assert len(standing.all()) == 2
    standing.take(seen("room", "info", "/ckpt", "disk-clear"))
    assert [one.text for one in standing.all()] == ["gone"]
