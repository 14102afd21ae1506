"""``outrider checkpoint list`` and ``verify``: what people and programs are told, and by which exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outrider_cli import main
from tests import saves

ENTRY = {"path", "step", "attempt", "layout", "trust", "problems", "bytes", "files"}


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    """Exit status, the document and what was said beside it."""
    status = main.main(["checkpoint", *arguments, "--json"])
    said = capsys.readouterr()
    return status, json.loads(said.out) if said.out else None, said.err


def test_a_whole_directory_is_listed_newest_first_and_a_whole_checkpoint_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = saves.saved(tmp_path, 8), saves.saved(tmp_path, 16)
    status, document, _ = asked(capsys, "list", str(tmp_path))
    assert status == 0
    assert document["resume_from"] == str(new)
    assert [(item["path"], item["trust"]) for item in document["checkpoints"]] == [
        (str(new), "loadable"),
        (str(old), "loadable"),
    ]
    assert all(set(item) == ENTRY for item in document["checkpoints"])
    status, document, _ = asked(capsys, "verify", str(new))
    assert (status, document["trust"], document["problems"]) == (0, "loadable", [])
    assert set(document) >= {*ENTRY, "seconds"}


def test_a_damaged_one_is_rejected_with_its_reason_and_exit_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = saves.saved(tmp_path, 8), saves.saved(tmp_path, 16)
    saves.flip(new / "__1_0.distcp", 4000)
    status, document, _ = asked(capsys, "list", str(tmp_path))
    assert (status, document["resume_from"]) == (1, str(old))
    status, document, _ = asked(capsys, "list", str(tmp_path), "--quick")
    assert (status, document["resume_from"]) == (0, str(new))  # a flipped bit is not seen without reading
    status, document, _ = asked(capsys, "verify", str(new))
    assert status == 1
    assert {"file": "__1_0.distcp", "kind": "sha256"}.items() <= document["problems"][0].items()
    assert main.main(["checkpoint", "list", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "rejected" in out
    assert "__1_0.distcp has SHA-256" in out
    assert f"resume from: {old}" in out
    saves.flip(old / "__1_0.distcp", 4000)
    assert main.main(["checkpoint", "list", str(tmp_path)]) == 1
    assert "resume from: nothing: none can be trusted" in capsys.readouterr().out  # the job would be held


def test_what_cannot_be_looked_at_is_exit_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["list", str(tmp_path / "none")], ["verify", str(tmp_path / "none")], ["verify", __file__]):
        status, document, said = asked(capsys, *arguments)
        assert (status, document) == (2, None)
        assert arguments[1] in said
    status, _, said = asked(capsys, "check", str(tmp_path))
    assert status == 2
    assert "list, verify" in said


def test_progress_goes_to_standard_error_and_leaves_the_document_alone(tmp_path: Path) -> None:
    saves.saved(tmp_path, 8)
    command = [sys.executable, "-m", "outrider_cli", "checkpoint", "list", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["checkpoints"][0]["step"] == 8
    assert "verifying step-00000008-attempt-000" in done.stderr
