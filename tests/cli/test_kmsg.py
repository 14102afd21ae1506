"""``outrider kmsg``: many kernel logs in, one line of findings each."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from outrider_cli import main
from tests.analysis.kernel_lines import record, xid

KEYS = {"kind", "severity", "device", "text", "evidence", "recovery"}


def asked(capsys: pytest.CaptureFixture[str], path: Path) -> tuple[int, list[dict[str, Any]], str]:
    status = main.main(["kmsg", "--cases", str(path)])
    said = capsys.readouterr()
    return status, [json.loads(line) for line in said.out.splitlines()], said.err


def test_every_case_has_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [{"id": "a", "kmsg": [xid(79), xid(79)]}, {"id": 7, "kmsg": []}, {"id": None, "kmsg": [record("fine")]}]
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(json.dumps(case) for case in cases) + "\n\n")
    status, answers, said = asked(capsys, path)
    assert (status, said) == (1, "")
    assert [answer["id"] for answer in answers] == ["a", 7, None]
    assert [len(answer["observations"]) for answer in answers] == [1, 0, 0]
    found = answers[0]["observations"][0]
    assert set(found) >= KEYS
    assert (found["kind"], found["severity"], found["recovery"]) == ("xid", "fatal", "reboot_node")
    assert found["evidence"]["count"] == 2


def test_a_healthy_log_is_no_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps({"id": 1, "kmsg": [record("NVRM: loading NVIDIA UNIX"), xid(45), xid(63)]}))
    assert asked(capsys, path)[0] == 0


def test_a_line_that_is_no_case_is_named_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = ["{", "[1]", '{"id": 1}', '{"kmsg": []}', '{"id": 1, "kmsg": "x"}', '{"id": 1, "kmsg": [1]}', "\x00\x01"]
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join([*bad, json.dumps({"id": "last", "kmsg": [xid(79)]})]))
    status, answers, said = asked(capsys, path)
    assert status == 2
    assert [answer["id"] for answer in answers] == ["last"]
    assert [f"{path}:{number}:" in said for number in range(1, 9)] == [True] * 7 + [False]


def test_no_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, answers, said = asked(capsys, tmp_path / "absent")
    assert (status, answers) == (2, [])
    assert str(tmp_path / "absent") in said


def test_standard_input_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps({"id": 1, "kmsg": [xid(31)]}))
    with path.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert asked(capsys, Path("-"))[0] == 1
    monkeypatch.setattr("sys.stdin", io.StringIO())
