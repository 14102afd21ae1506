"""Is the ledger what was written? Asked at each start, before anything is concluded from it.

    damaged pages             rebuilt from the rows that can be read, where only the end is missing (``salvage``)
    a torn end of the log     a transaction that was never confirmed, or was cut off later: SQLite has dropped it; said
    rows that do not fit      wrong checksum, unreadable: cut off where nothing sound follows, refused in the middle
    a shorter ledger          its head (``witness``) tells of rows that are not there: said

What is cut off is kept aside under ``ledger-cut/`` and becomes a row of its own (``records.LedgerCut``), so that it is
never silent. Damage that is not at the end is refused with UnreadableError. Rows of a newer version are no damage.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outrider_controller import codec, ledger, salvage, witness, write_ahead_log
from outrider_controller.core import records

FOLDER: Final = "ledger-cut"
KEPT_MAX: Final = 8
TAIL_BYTES_MAX: Final = 64 * 1024 * 1024
ROWS_UNKNOWN: Final = 1_000  # how many rows count as lost where nobody can say; numbers are skipped, nothing else
CONFIRMED: Final = (
    "what agents had been told is recorded may be among them and is not sent again; "
    "each attempt that the ledger forgot is ended and its job restarts"
)


@dataclass(frozen=True)
class Cut:
    """What is not in the ledger any more: row ``first`` and, in all, ``rows`` of them (at most)."""

    first: int
    rows: int
    damage: str
    kept: str = ""


class _BadRowError(Exception):
    """A row that is not what was written."""


def open_ledger(path: Path, now: float) -> tuple[ledger.Ledger, list[Cut]]:
    """The ledger at ``path``, sound in its pages, and what had to be given up for that. ``now``: Unix seconds."""
    if not path.is_file() or path.stat().st_size == 0:
        return ledger.Ledger(path), []
    if not (damage := salvage.problem(path)):
        torn = _look_at_log(path, now)
        return ledger.Ledger(path), [torn] if torn else []
    folder = _folder(path, now)
    last = salvage.rebuild(path, folder)
    found = ledger.Ledger(path)
    head = witness.read(path, found.id)
    lost = max(0, head.seq - last) if head else ROWS_UNKNOWN
    if lost:
        found.cut(last + 1, _observed(path, last))
    return found, [Cut(last + 1, lost, f"pages of the file were damaged ({damage})", str(folder))]


def sound_rows(
    book: ledger.Ledger, after: int, before: str, now: float, cuts: list[Cut]
) -> Iterator[tuple[int, records.Row]]:
    """Rows behind number ``after``, whose checksum is ``before``; a bad end is cut off and added to ``cuts``.

    Raises UnreadableError for a bad row that sound ones follow, and for one that a newer version wrote.
    """
    last = after
    for found in ledger.raw(book.path, after):
        if found.seq != last + 1:
            raise salvage.refusal(book.path, f"row {last + 1} is missing, row {found.seq} is there")
        try:
            row = _checked(book.path, found, before)
        except _BadRowError as error:
            cuts.append(_cut(book, found.seq, str(error), now))
            return
        yield found.seq, row
        last, before = found.seq, found.sum


def missing_end(last: int, head: witness.Head | None, known: int) -> Cut | None:
    """Rows behind ``last`` that the ledger's head knows of, beyond those ``known`` to be missing."""
    if head is None or head.seq - last <= known:
        return None
    words = "the newest rows are not in the file; was its log removed, or an older copy put back?"
    return Cut(last + 1, head.seq - last - known, words)


def history(path: Path, until: int) -> str:
    """What is wrong with the rows up to number ``until``, in words; empty where nothing is. Takes its time."""
    before, last = "", 0
    try:
        for found in ledger.raw(path):
            if found.seq > until:
                break
            if found.seq != last + 1:
                return f"row {last + 1} is missing"
            _checked(path, found, before)
            last, before = found.seq, found.sum
        if path.stat().st_size > salvage.CHECKED_BYTES_MAX:
            with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
                verdict = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
                return "" if verdict == "ok" else verdict
    except _BadRowError as error:
        return f"row {last + 1} {error}"
    except (ledger.UnreadableError, sqlite3.Error, OSError) as error:
        return str(error)
    return ""


def said(cut: Cut) -> str:
    """The cut in one sentence."""
    kept = f"; what was left of it lies in {cut.kept}" if cut.kept else ""
    if cut.rows == 0:
        return f"the ledger's end was torn: {cut.damage}. No confirmed row is missing{kept}"
    rows = "1 row is" if cut.rows == 1 else f"up to {cut.rows} rows are"
    return f"{rows} lost from row {cut.first} of the ledger on: {cut.damage}; {CONFIRMED}{kept}"


def _checked(path: Path, found: ledger.RawRow, before: str) -> records.Row:
    """The row, if it is what was written after a row with checksum ``before``."""
    told = (found.seq, found.epoch, found.at, found.job, found.kind, found.schema, found.data)
    plain = not found.sum and not before  # format 1 wrote no checksums
    if not plain and found.sum != ledger.checksum(before, *told):
        raise _BadRowError("has a wrong checksum")
    try:
        return codec.row(found.kind, found.schema, found.data.encode("utf-8", "surrogateescape"))
    except codec.CodecError as error:
        if plain and not isinstance(error, codec.UnknownRowError):
            raise _BadRowError(f"cannot be read ({error})") from error
        raise ledger.UnreadableError(f"{path}: row {found.seq}: {error}") from error


def _cut(book: ledger.Ledger, first: int, why: str, now: float) -> Cut:
    """Cut off row ``first`` and what follows it; raises UnreadableError where a sound row follows."""
    bad: list[ledger.RawRow] = []
    for found in ledger.raw(book.path, first - 1):
        if bad and _follows(bad[-1], found):
            raise salvage.refusal(book.path, f"row {first} {why}, and row {found.seq} behind it is sound")
        bad.append(found)
    folder = _folder(book.path, now)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in bad:
            file.write(json.dumps(vars(row), default=repr) + "\n")
        file.flush()
        os.fsync(file.fileno())
    last = bad[-1].seq
    book.cut(first, _observed(book.path, first - 1))
    return Cut(first, last - first + 1, f"row {first} {why}", str(folder / "rows.jsonl"))


def _follows(before: ledger.RawRow, found: ledger.RawRow) -> bool:
    try:
        _checked(Path(), found, before.sum)
    except _BadRowError:
        return False
    except ledger.UnreadableError:
        return True
    return True


def _observed(path: Path, until: int) -> dict[str, int]:
    """Highest number of each node's observations in the rows up to ``until``."""
    found: dict[str, int] = {}
    for raw in ledger.raw(path):
        if raw.seq > until:
            break
        if raw.kind == records.Observed.kind:
            row = codec.row(raw.kind, raw.schema, raw.data)
            assert isinstance(row, records.Observed)
            found[row.observation.node] = max(row.observation.seq, found.get(row.observation.node, 0))
    return found


def _look_at_log(path: Path, now: float) -> Cut | None:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=ledger.BUSY_WAIT_S, isolation_level=None)) as db:
            found = write_ahead_log.torn(path, db)
            if found is None:
                return None
            kept = _folder(path, now) / "log-end"
            _keep(write_ahead_log.of(path), found[0], kept)
            last = db.execute("SELECT coalesce(max(seq), 0) FROM rows").fetchone()[0]
            return Cut(int(last) + 1, 0, found[1], str(kept))
    except (sqlite3.Error, OSError):
        return None  # what ails the pages is looked at next, and a full disk keeps nothing aside


def _keep(log: Path, start: int, kept: Path) -> None:
    with log.open("rb") as source, kept.open("wb") as made:
        source.seek(start)
        made.write(source.read(TAIL_BYTES_MAX))


def _folder(path: Path, now: float) -> Path:
    """A new folder for what is cut off; the oldest of more than KEPT_MAX goes."""
    stamp = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%dT%H-%M-%S.%fZ")
    made = path.parent / FOLDER / stamp
    made.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in _oldest(made.parent.iterdir()):
        shutil.rmtree(old, ignore_errors=True)
    return made


def _oldest(folders: Iterable[Path]) -> list[Path]:
    return sorted(folders)[:-KEPT_MAX]
