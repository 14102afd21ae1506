"""``outrider replay`` on a real ledger: the same policy decides the same, another one is told apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from outrider_cli import main
from outrider_controller import ledger, runbook_files
from tests.core.world import World


@pytest.fixture
def state(tmp_path: Path) -> Path:
    world = World().submit().train(4, save_every=2).die(0, signal="SIGKILL").train(6)
    book = ledger.Ledger(tmp_path / "ledger.db")
    book.append(0, book.take_epoch(), world.rows)
    book.close()
    return tmp_path


def test_shipped_runbooks_decide_the_same_again(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["replay", str(state), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"decisions": 1, "different": [], "state_equal": True}


def test_other_runbooks_are_answered_with_each_decision_that_would_differ(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    books = tmp_path / "books"
    shutil.copytree(runbook_files.BUILT_IN, books)
    book = books / "rank-killed.md"
    book.write_text(book.read_text().replace("action: restart\n", "action: hold-for-person\n"))
    assert main.main(["replay", str(state / "ledger.db"), "--runbooks", str(books), "--json"]) == 1
    (different,) = json.loads(capsys.readouterr().out)["different"]
    assert different == {
        "incident": "job-1",
        "was": "restart",
        "would_be": "hold-for-person",
        "runbook": "rank-killed",
    }


def test_missing_ledger_and_broken_runbooks_are_refused_with_the_way_out(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["replay", str(tmp_path / "nowhere")]) == 2
    assert "no ledger" in capsys.readouterr().err
    assert main.main(["replay", str(state), "--runbooks", str(tmp_path / "nowhere")]) == 2
    assert "--runbooks" in capsys.readouterr().err
