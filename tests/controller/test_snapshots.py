"""A snapshot is the state of its row or it is not used; either way the controller stands where its ledger does."""

import asyncio
import dataclasses
import logging
from pathlib import Path

import pytest

from outrider_controller import ledger, snapshots
from outrider_controller.core import evolve
from outrider_controller.core import state as states
from tests.controller import house, ledgers


@pytest.mark.parametrize("seed", range(12))
def test_a_snapshot_holds_what_a_full_replay_leads_to_after_every_row(seed: int) -> None:
    state = states.State()
    for seq, row in enumerate(ledgers.history(seed), start=1):
        state = evolve.evolve(state, ledgers.reread(row))
        assert snapshots.restore(snapshots.take(state, seq, "sum"), "sum") == state


@pytest.mark.parametrize("seed", range(6))
def test_a_start_from_a_snapshot_is_a_start_from_the_first_row(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "ledger.db"
    last = ledgers.write(path, ledgers.history(seed, moves=40), snapshot_every=10)
    found = ledgers.start(path).found
    assert found.state == ledgers.replayed(path)
    assert (found.seq, found.seq - found.snapshot_seq) == (last, found.rows_evolved)
    assert 0 < found.rows_evolved + 1 <= 10 + 3


def test_the_newest_three_snapshots_are_kept(tmp_path: Path) -> None:
    ledgers.write(tmp_path / "ledger.db", ledgers.history(1, moves=60), snapshot_every=10)
    book = ledger.Ledger(tmp_path / "ledger.db")
    kept = [found.seq for found in book.snapshots()]
    assert len(kept) == ledger.SNAPSHOTS_KEPT
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > book.last_seq - 13


DAMAGES = {
    "another shape": ("UPDATE snapshots SET shape = 'older'", "another version of Outrider wrote it"),
    "another schema": ("UPDATE snapshots SET schema = schema + 1", "another version of Outrider wrote it"),
    "a flipped byte": ("UPDATE snapshots SET data = replace(data, 'clear', 'clean')", "its checksum is wrong"),
    "half of it": ("UPDATE snapshots SET data = substr(data, 1, 100)", "its checksum is wrong"),
    "no bytes": ("UPDATE snapshots SET data = 7", "its checksum is wrong"),
    "another history": ("UPDATE snapshots SET row_sum = 'other'", "is not the row that it was taken after"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("how_many", ["the newest", "all"])
def test_a_snapshot_that_cannot_be_used_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, how_many: str
) -> None:
    path = tmp_path / "ledger.db"
    ledgers.write(path, ledgers.history(3, moves=60), snapshot_every=10)
    kept = [found.seq for found in ledger.Ledger(path).snapshots()]
    change, words = DAMAGES[damage]
    newest = f" WHERE seq = {kept[0]}" if how_many == "the newest" else ""
    ledgers.edit(path, change + newest)
    with caplog.at_level(logging.WARNING):
        found = ledgers.start(path).found
    assert found.snapshot_seq == (kept[1] if how_many == "the newest" else 0)
    assert found.state == ledgers.replayed(path)
    assert words in str([vars(record)["why"] for record in caplog.records])


def test_another_field_anywhere_in_the_state_is_another_shape() -> None:
    found = "\n".join(snapshots._fields(states.State, {}).values())
    for kind in (states.State, states.JobState, states.NodeState, states.Attempt, states.OpenIncident, states.Spent):
        for field in dataclasses.fields(kind):
            assert f"{field.name}: " in found
    for inner in ("JobSpec", "Limits", "EffectRequested", "Diagnosed", "Decided", "RankExit", "Observation"):
        assert f"{inner}(" in found


def test_a_controller_writes_snapshots_as_it_goes_and_starts_from_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "ROWS_BETWEEN", 5)
    monkeypatch.setattr(snapshots, "ROWS_AT_STOP_MIN", 1)

    async def work() -> None:
        async with house.controller(tmp_path) as running, house.agents(running, tmp_path, "n0", "n1") as made:
            await running.submit_job(house.spec())
            await house.until(lambda: made[0].ordered("start"), "the job starts")
            await running.ask_job("demo", "stop")
            await house.until(lambda: running.state.jobs["demo"].over, "the job is over")
        book = ledger.Ledger(tmp_path / "ledger.db")
        kept = [found.seq for found in book.snapshots()]
        assert kept[0] == book.last_seq  # at the clean stop
        assert len(kept) >= 2
        book.close()
        async with house.controller(tmp_path) as running:
            assert running.state == ledgers.replayed(tmp_path / "ledger.db")

    asyncio.run(work())
