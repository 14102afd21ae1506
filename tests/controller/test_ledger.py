"""The ledger: what is confirmed stays, nothing is written twice, and one history has one writer."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from outrider import records as spoken
from outrider_controller import codec, directory_lock, ledger
from outrider_controller.core import records

# Appends rows as fast as it can and says the last number that was confirmed.
WRITER = """
import signal
import sys
from pathlib import Path
from outrider_controller import ledger
from outrider_controller.core import records
book = ledger.Ledger(Path(sys.argv[1]))
epoch, seq, left = book.take_epoch(), book.last_seq, int(sys.argv[2])
while True:
    rows = [records.Noted(1.0, "demo", f"{seq + place}") for place in (1, 2, 3)]
    seq = book.append(seq, epoch, rows, [ledger.Acked("n0", "s", seq + 3)])
    print(seq, flush=True)
    left -= 1
    if left == 0:
        signal.pause()
"""


def note(text: str = "x", job: str = "demo") -> records.Noted:
    return records.Noted(1.5, job, text)


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    book = ledger.Ledger(tmp_path / "ledger.db")
    keeper = spoken.KeeperState("demo", 3, 2, "running", True, (spoken.RankState(0, 0, 7, True),))
    seen = spoken.Observation(1, "rank-exited", "error", 2.5, "n0", "ö", "demo", 3, 0, None, {"code": None})
    rows = [
        records.NodeJoined(1.0, "n0", "b", "127.0.0.1", 8, True, False, (keeper,), {"demo": 4}),
        records.Observed(2.0, "demo", seen, 8, 0.25),
        records.AttemptPlanned(3.0, "demo", 1, 2, ("n0", "n1"), "/c/step-8", 8, "demo-1"),
        records.EffectRequested(4.0, "demo", "demo-e1", "start-attempt", {"placement": ["n0"]}),
    ]
    assert book.append(0, book.take_epoch(), rows) == 4
    assert list(book.read()) == list(enumerate(rows, start=1))
    assert [seq for seq, _ in book.read(after=2)] == [3, 4]
    assert [seq for seq, _ in book.read(job="demo")] == [2, 3, 4]


def test_every_kind_of_row_can_be_read_by_its_kind() -> None:
    for kind, cls in records.ROWS.items():
        with pytest.raises(codec.CodecError, match=kind):
            codec.row(kind, 1, b'{"at": "yesterday"}')
        assert cls.kind == kind


def test_rows_are_written_all_or_none(tmp_path: Path) -> None:
    book = ledger.Ledger(tmp_path / "ledger.db")
    epoch = book.take_epoch()
    book.append(0, epoch, [note()])
    for expected in (0, 2):
        with pytest.raises(ledger.WrongSequenceError, match="the last row is 1"):
            book.append(expected, epoch, [note(), note()], [ledger.Acked("n0", "s", 9)])
    assert (book.last_seq, book.acked("n0", "s")) == (1, 0)


def test_an_older_epoch_is_refused_with_the_newer_one_named(tmp_path: Path) -> None:
    first, second = ledger.Ledger(tmp_path / "ledger.db"), ledger.Ledger(tmp_path / "ledger.db")
    old, new = first.take_epoch(), second.take_epoch()
    assert (old, new) == (1, 2)
    with pytest.raises(ledger.FencedError, match="epoch 1, but one with epoch 2"):
        first.append(0, old, [note()])
    assert second.append(0, new, [note()]) == 1


def test_acknowledged_numbers_are_kept_for_each_spool_and_never_fall(tmp_path: Path) -> None:
    book = ledger.Ledger(tmp_path / "ledger.db")
    epoch = book.take_epoch()
    book.append(0, epoch, [], [ledger.Acked("n0", "s", 5)])
    book.append(0, epoch, [], [ledger.Acked("n0", "s", 3), ledger.Acked("n1", "s", 1)])
    assert [book.acked("n0", "s"), book.acked("n1", "s"), book.acked("n0", "t")] == [5, 1, 0]


@pytest.mark.parametrize("moment", range(3))
def test_what_was_confirmed_before_a_kill_is_there_and_nothing_is_half_there(tmp_path: Path, moment: int) -> None:
    path = tmp_path / "ledger.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path), "-1"], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(10 + 17 * moment):
            confirmed = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        confirmed = max([confirmed, *(int(line) for line in writer.stdout.read().split())])
    book = ledger.Ledger(path)
    rows = list(book.read())
    assert [row.text for _, row in rows] == [str(seq) for seq in range(1, len(rows) + 1)]  # type: ignore[union-attr]
    assert len(rows) % 3 == 0
    assert confirmed <= len(rows) <= confirmed + 3
    assert book.acked("n0", "s") == len(rows)
    assert book.append(len(rows), book.take_epoch(), [note()]) == len(rows) + 1


def test_a_full_disk_is_told_and_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    book = ledger.Ledger(tmp_path / "ledger.db")
    epoch = book.take_epoch()
    book.append(0, epoch, [note()])
    book._db.execute(f"PRAGMA max_page_count = {book._db.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(ledger.UnwritableError, match="full"):
        book.append(1, epoch, [note("x" * 100_000)], [ledger.Acked("n0", "s", 1)])
    assert (book.last_seq, book.acked("n0", "s")) == (1, 0)
    book._db.execute("PRAGMA max_page_count = 100000")
    assert book.append(1, epoch, [note("x" * 100_000)]) == 2


def test_a_second_controller_on_one_directory_is_refused_with_the_first_ones_process_id(tmp_path: Path) -> None:
    held = directory_lock.DirectoryLock(tmp_path)
    with pytest.raises(ledger.BusyError, match=f"pid {os.getpid()}"):
        directory_lock.DirectoryLock(tmp_path)
    held.release()
    directory_lock.DirectoryLock(tmp_path).release()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE rows SET schema = 99", "schema 99, this version reads up to 1"),
        ("UPDATE rows SET kind = 'prophecy'", "'prophecy', which this version does not know"),
        ("UPDATE rows SET data = '{'", "cannot be read"),
        ("UPDATE rows SET data = '{\"at\": 1}'", "missing required field"),
    ],
)
def test_a_row_that_cannot_be_understood_is_named_and_never_guessed(tmp_path: Path, change: str, words: str) -> None:
    book = ledger.Ledger(tmp_path / "ledger.db")
    book.append(0, book.take_epoch(), [note()])
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute(change)
    with pytest.raises(ledger.UnreadableError, match="row 1") as caught:
        list(book.read())
    assert words in str(caught.value)


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"garbage " * 1000)
    with pytest.raises(ledger.UnreadableError, match="Set the file aside"):
        ledger.Ledger(tmp_path / "ledger.db")
    with pytest.raises(ledger.UnreadableError, match="there is no ledger here"):
        list(ledger.read(tmp_path / "nothing.db"))


def test_a_ledger_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    ledger.Ledger(tmp_path / "ledger.db").close()
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    with pytest.raises(ledger.UnreadableError, match="format 99"):
        ledger.Ledger(tmp_path / "ledger.db")


def test_the_ledger_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    ledger.Ledger(tmp_path / "ledger.db")
    assert (tmp_path / "ledger.db").stat().st_mode & 0o077 == 0
