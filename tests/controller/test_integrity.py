"""What a start makes of a ledger that is not what was written: a torn end goes and is said, a hole is refused."""

import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from outrider_controller import codec, integrity, ledger, salvage
from outrider_controller.core import records
from tests.controller import house, ledgers
from tests.controller.test_ledger import WRITER

RECORDED = pathlib.Path(__file__).parents[1] / "recorded/ledger"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of a few dozen rows, closed."""
    found = tmp_path / "ledger.db"
    ledgers.write(found, ledgers.history(5))
    return found


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A ledger whose writer was killed between two transactions, with everything still in the log."""
    found = tmp_path / "ledger.db"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(found), "20"], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        writer.stdout.read()
    assert (tmp_path / "ledger.db-wal").stat().st_size > 0
    return found


def last(path: Path) -> int:
    with sqlite3.connect(path) as db:
        return int(db.execute("SELECT max(seq) FROM rows").fetchone()[0])


def started(path: Path) -> ledgers.Start | None:
    """What came of a start; None where it was refused, which names the way out."""
    refused = ""
    try:
        return ledgers.start(path)
    except ledger.UnreadableError as error:
        refused = str(error)
    assert "--state DIR" in refused
    return None


def assert_sound(path: Path) -> None:
    """The next start finds nothing to say, and rows can be written."""
    found = ledgers.start(path)
    assert found.said == []
    assert integrity.history(path, found.found.seq) == ""
    book = ledger.Ledger(path)
    book.append(found.found.seq, book.take_epoch(), [records.Noted(1.0, "", "on")])
    book.close()


def test_a_sound_ledger_is_taken_as_it_is(path: Path) -> None:
    rows = [row for _, row in ledger.read(path)]
    found = ledgers.start(path)
    assert (found.said, found.rows) == ([], rows)
    assert not (path.parent / "ledger-cut").exists()


def test_a_ledger_whose_writer_was_killed_is_sound(killed: Path) -> None:
    assert ledgers.start(killed).said == []


def test_a_writer_killed_inside_a_transaction_costs_no_confirmed_row_and_that_is_said(killed: Path) -> None:
    confirmed = len(killed_rows(killed))
    log = killed.with_name("ledger.db-wal")
    ledgers.append_torn_transaction(log)
    found = ledgers.start(killed)
    [said] = found.said
    assert "is not whole. No confirmed row is missing" in said
    assert len(found.rows) == confirmed + 1  # the row that tells of it
    assert_sound(killed)


@pytest.mark.parametrize("column", ["data", "at", "kind", "job", "epoch", "sum", "schema"])
def test_a_last_row_that_was_changed_is_cut_off_kept_aside_and_said(path: Path, column: str) -> None:
    end = last(path)
    change = {"data": "'{\"at\": 1'", "at": "at + 1", "epoch": "epoch + 1", "schema": "0"}.get(
        column, f"{column} || 'x'"
    )
    ledgers.edit(path, f"UPDATE rows SET {column} = {change} WHERE seq = {end}")
    found = ledgers.start(path)
    [cut] = found.cuts
    assert (cut.first, cut.rows, len(found.rows)) == (end, 1, end)
    assert "checksum" in cut.damage
    kept = [json.loads(line) for line in Path(cut.kept).read_text().splitlines()]
    assert [row["seq"] for row in kept] == [end]
    [said] = found.said
    assert said.startswith(f"1 row is lost from row {end} of the ledger on")
    assert "what agents had been told is recorded" in said
    assert found.found.state == ledgers.replayed(path)
    assert_sound(path)


def test_several_bad_rows_at_the_end_go_together(path: Path) -> None:
    end = last(path)
    ledgers.edit(path, f"UPDATE rows SET data = '{{', sum = 'x' || seq WHERE seq > {end - 4}")
    found = ledgers.start(path)
    assert [(cut.first, cut.rows) for cut in found.cuts] == [(end - 3, 4)]
    assert_sound(path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE rows SET data = replace(data, 'n', 'm') WHERE seq = {row}",
        "UPDATE rows SET at = at + 60 WHERE seq = {row}",
        "DELETE FROM rows WHERE seq = {row}",
    ],
)
@pytest.mark.parametrize("back", [2, 5])
def test_damage_that_sound_rows_follow_is_refused_with_the_way_out(path: Path, change: str, back: int) -> None:
    row = last(path) - back
    ledgers.edit(path, change.format(row=row))
    before = path.read_bytes()
    with pytest.raises(ledger.UnreadableError, match=f"row {row}") as caught:
        ledgers.start(path)
    assert "--state DIR" in str(caught.value)
    assert "ranks that run train on" in str(caught.value)
    assert len(before) == path.stat().st_size
    assert integrity.history(path, row + back) != ""


def test_a_row_of_a_newer_version_is_refused_and_not_cut(path: Path) -> None:
    for column, value in (("schema", 99), ("kind", "prophecy")):
        book = ledger.Ledger(path)
        end, before = book._last()
        told = {"epoch": 1, "at": 1.0, "job": "", "kind": "noted", "schema": 1, "data": "{}", column: value}
        values = (end + 1, *told.values())
        book._db.execute(
            "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*values, ledger.checksum(before, *values))
        )
        book.close()
        with pytest.raises(ledger.UnreadableError, match="run the version of Outrider that wrote the ledger"):
            ledgers.start(path)
        assert last(path) == end + 1
        ledgers.edit(path, f"DELETE FROM rows WHERE seq = {end + 1}")


def test_rows_that_were_taken_off_the_end_are_missed(path: Path) -> None:
    end = last(path)
    ledgers.edit(path, f"DELETE FROM rows WHERE seq > {end - 6}")
    found = ledgers.start(path)
    assert [(cut.first, cut.rows, cut.kept) for cut in found.cuts] == [(end - 5, 6, "")]
    assert "up to 6 rows are lost" in found.said[0]
    assert_sound(path)


def test_an_older_copy_that_was_put_back_is_noticed_and_gives_no_number_again(tmp_path: Path) -> None:
    path, rows = tmp_path / "ledger.db", ledgers.history(5, moves=40)
    half = ledgers.write(path, rows[: len(rows) // 2])
    shutil.copy(path, tmp_path / "copy")
    ledgers.write(path, rows[len(rows) // 2 :])
    used = ledgers.replayed(path).jobs["job"]
    shutil.copy(tmp_path / "copy", path)
    found = ledgers.start(path)
    assert [(cut.first, cut.rows) for cut in found.cuts] == [(half + 1, len(rows) - half)]
    job = found.found.state.jobs["job"]
    assert job.effects >= used.effects
    assert job.generation >= used.generation
    assert job.attempts >= used.attempts
    assert job.incidents >= used.incidents
    other = records.JobSubmitted(1.0, "other", {"name": "other", "command": ["x"]})
    from outrider_controller.core import evolve

    assert evolve.evolve(found.found.state, other).jobs["other"].generation == len(rows) - half
    assert_sound(path)


@pytest.mark.parametrize("seed", range(8))
def test_a_log_that_was_cut_anywhere_loses_its_end_and_says_how_much(killed: Path, seed: int) -> None:
    log, confirmed = killed.with_name("ledger.db-wal"), len(killed_rows(killed))
    data = log.read_bytes()
    log.write_bytes(data[: random.Random(seed).randrange(40_000, len(data))])
    found = ledgers.start(killed)
    kept = [row for row in found.rows if isinstance(row, records.Noted)]
    assert [row.text for row in kept] == [str(seq) for seq in range(1, len(kept) + 1)]
    assert sum(cut.rows for cut in found.cuts) == confirmed - len(kept)
    assert len(found.said) == 1
    assert_sound(killed)


def test_garbage_behind_the_log_is_said_and_costs_no_row(killed: Path) -> None:
    confirmed = len(killed_rows(killed))
    log = killed.with_name("ledger.db-wal")
    with log.open("ab") as file:
        file.write(random.Random(1).randbytes(10_000))
    found = ledgers.start(killed)
    assert [cut.rows for cut in found.cuts] == [0]
    assert len(found.rows) == confirmed + 1
    assert "No confirmed row is missing" in found.said[0]
    assert Path(found.cuts[0].kept).stat().st_size >= 10_000
    assert_sound(killed)


def killed_rows(path: Path) -> list[records.Row]:
    """Rows of a copy, so that the log of the original stays as it is."""
    folder = path.parent / "copy"
    folder.mkdir()
    for part in path.parent.glob("ledger.db*"):
        shutil.copy(part, folder / part.name)
    return [row for _, row in ledger.read(folder / "ledger.db")]


@pytest.mark.parametrize("pages", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_a_file_cut_in_its_last_pages_is_rebuilt_from_what_can_be_read(tmp_path: Path, seed: int, pages: int) -> None:
    path = tmp_path / "ledger.db"
    rows = ledgers.history(seed, moves=60)
    ledgers.write(path, rows, at_once=1)
    page = 4096
    size = path.stat().st_size
    os.truncate(path, size - pages * page + random.Random(seed).randrange(page))
    found = started(path)
    if found is None:  # the page was not one of the end of the history
        assert path.stat().st_size < size
        return
    [cut] = found.cuts
    assert found.rows[:-1] == [ledgers.reread(row) for row in rows[: cut.first - 1]]
    assert cut.first - 1 + cut.rows == len(rows)
    assert (Path(cut.kept) / "ledger.db").stat().st_size < size
    assert found.found.state == ledgers.replayed(path)
    assert_sound(path)


@pytest.mark.parametrize("seed", range(40))
def test_no_damage_is_passed_over_in_silence(tmp_path: Path, seed: int) -> None:
    """Bytes anywhere in the file are overwritten: the rows are whole, or their end is cut and said, or refused."""
    chance = random.Random(seed)
    path = tmp_path / "ledger.db"
    rows = ledgers.history(7, moves=40)
    ledgers.write(path, rows, snapshot_every=20)
    with path.open("r+b") as file:
        start = chance.randrange(path.stat().st_size - 64)
        file.seek(start)
        file.write(chance.randbytes(64))
    found = started(path)
    if found is None:
        return
    whole = [ledgers.reread(row) for row in rows]
    own = [row for row in found.rows if not isinstance(row, records.LedgerCut)]
    assert found.cuts or own == whole or integrity.history(path, len(rows)) != ""
    assert own == whole[: len(own)] or integrity.history(path, len(rows)) != ""


def test_a_damaged_index_costs_no_row(path: Path) -> None:
    rows = [row for _, row in ledger.read(path)]
    with sqlite3.connect(path) as db:
        root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'rows_of_job'").fetchone()[0]
    db.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    found = ledgers.start(path)
    assert found.rows[:-1] == rows
    assert [cut.rows for cut in found.cuts] == [0]
    assert_sound(path)


def test_a_file_that_is_no_database_is_refused_and_left(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"garbage " * 1000)
    with pytest.raises(ledger.UnreadableError, match="--state DIR"):
        ledgers.start(path)
    assert path.read_bytes() == b"garbage " * 1000
    assert [found.name for found in tmp_path.iterdir() if "damaged" in found.name or "rebuilt" in found.name] == []


def test_spools_count_as_recorded_no_further_than_the_rows_that_are_left(path: Path) -> None:
    observed = [(seq, row) for seq, row in ledger.read(path) if isinstance(row, records.Observed)]
    book = ledger.Ledger(path)
    node, seen = observed[-1][1].observation.node, observed[-1][1].observation.seq
    book.append(book.last_seq, book.take_epoch(), [], [ledger.Acked(node, "s", seen), ledger.Acked("idle", "t", 9)])
    book.close()
    ledgers.edit(
        path,
        f"UPDATE rows SET data = '{{' WHERE seq >= {observed[-1][0]}",
        f"UPDATE rows SET sum = 'x' || seq WHERE seq >= {observed[-1][0]}",
    )
    ledgers.start(path)
    book = ledger.Ledger(path)
    earlier = [row.observation.seq for _, row in observed[:-1] if row.observation.node == node]
    assert book.acked(node, "s") == max(earlier, default=0)
    assert book.acked("idle", "t") == 0


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A ledger of format 1, as the version before checksums wrote it."""
    found = tmp_path / "ledger.db"
    with sqlite3.connect(found) as db:
        db.executescript((RECORDED / "format1.sql").read_text())
    db.close()
    return found


def test_a_ledger_of_format_1_is_read_and_continued(older: Path) -> None:
    before = [row for _, row in ledger.read(older)]
    found = ledgers.start(older)
    assert (found.said, found.rows) == ([], before)
    job = found.found.state.jobs["job"]
    assert (job.state, job.attempts, job.incidents, job.pending) == ("completed", 2, 1, ())
    ledgers.write(older, ledgers.history(2)[:6])
    assert [len(row.sum) for row in ledger.raw(older)][-7:] == [0] + [32] * 6
    assert_sound(older)


def test_a_half_written_last_row_of_format_1_is_cut_off(older: Path) -> None:
    end = last(older)
    ledgers.edit(older, f"UPDATE rows SET data = substr(data, 1, 40) WHERE seq = {end}")
    assert [(cut.first, cut.rows) for cut in ledgers.start(older).cuts] == [(end, 1)]
    assert_sound(older)


def test_the_older_version_says_that_it_cannot_read_what_this_one_writes(older: Path) -> None:
    ledgers.start(older)
    with sqlite3.connect(older) as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone() == (str(ledger.FORMAT),)


def test_what_is_kept_aside_is_bounded(path: Path) -> None:
    for number in range(integrity.KEPT_MAX + 3):
        integrity._folder(path, ledgers.NOW + number)
    assert len(list((path.parent / integrity.FOLDER).iterdir())) == integrity.KEPT_MAX


def test_a_locked_file_is_no_damaged_one(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert salvage.problem(path) == ""
    other.execute("ROLLBACK")
    other.close()


def test_the_checksum_of_a_row_covers_all_of_it(path: Path) -> None:
    rows = list(ledger.raw(path))
    for before, row in itertools.pairwise(rows):
        told = (row.seq, row.epoch, row.at, row.job, row.kind, row.schema, row.data)
        assert ledger.checksum(before.sum, *told) == row.sum
        assert codec.row(row.kind, row.schema, row.data)


def test_a_controller_that_starts_from_a_snapshot_finds_damage_before_it_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledgers.write(path, ledgers.history(3, moves=60), snapshot_every=20)
    ledgers.edit(path, "UPDATE rows SET at = at + 1 WHERE seq = 7")

    async def work() -> None:
        async with house.controller(tmp_path) as running, house.Api(running) as api:
            await house.until(running.damage, "the damage is found")
            answer = await api.get("/healthz")
            assert answer.status_code == 200
            assert "row 7 has a wrong checksum" in answer.json()["sentence"]

    house.run(work())
