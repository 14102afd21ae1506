"""The append-only record: what happened and what was concluded, in order, on a disk that has confirmed it.

Rows go in as one transaction per call (``append``) and come back in order (``read``). Two guards keep two controllers
from writing one history: a lock on the state directory (``directory_lock``), and an epoch that a controller takes at
its start. ``append`` names the epoch and the sequence number it expects; a controller that has been succeeded is
refused with ``FencedError``. The numbers of agents' observations that are already recorded are written in the same
transaction, so none is taken twice.

Every row carries a checksum over itself and the checksum before it, so that a row that was changed or taken away shows
(``integrity``). Rows that a version before format 2 wrote have none and are accepted as they are.

    LedgerError
      BusyError             another controller holds the state directory
      FencedError           a controller with a higher epoch has taken over
      WrongSequenceError    the caller's picture of the ledger is not the ledger's
      UnwritableError       the disk is full or failing; nothing of the call was written
      UnreadableError       the file is not a ledger, is damaged, or was written by a newer version
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from outrider_controller import codec, witness
from outrider_controller.core import records

FORMAT: Final = 2  # 2: rows have checksums, and there are snapshots
BUSY_WAIT_S: Final = 5.0
ROWS_READ_AT_ONCE: Final = 1000
SNAPSHOTS_KEPT: Final = 3
CHECKSUM_BYTES: Final = 16

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (
  seq INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, at REAL NOT NULL, job TEXT NOT NULL,
  kind TEXT NOT NULL, schema INTEGER NOT NULL, data TEXT NOT NULL, sum TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS rows_of_job ON rows (job, seq);
CREATE TABLE IF NOT EXISTS acked (
  node TEXT NOT NULL, spool_id TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (node, spool_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS snapshots (
  seq INTEGER PRIMARY KEY, schema INTEGER NOT NULL, shape TEXT NOT NULL, row_sum TEXT NOT NULL, sum TEXT NOT NULL,
  data BLOB NOT NULL);
"""


class LedgerError(Exception):
    """Anything that keeps the ledger from being used; the message names the file and the way out."""


class BusyError(LedgerError):
    """Another controller holds the state directory."""


class FencedError(LedgerError):
    """A controller with a higher epoch has taken over; this one must stop."""


class WrongSequenceError(LedgerError):
    """The caller's expected sequence number is not the ledger's."""


class UnwritableError(LedgerError):
    """Nothing of the call was written; it may be tried again once the disk has room."""


class UnreadableError(LedgerError):
    """The file cannot be read as a ledger."""


@dataclass(frozen=True)
class Acked:
    """Every observation of this node's spool up to ``seq`` is in the ledger."""

    node: str
    spool_id: str
    seq: int


@dataclass(frozen=True)
class RawRow:
    """One row as it lies in the file. ``data``: JSON; ``sum``: checksum, empty for a row of format 1."""

    seq: int
    epoch: int
    at: float
    job: str
    kind: str
    schema: int
    data: str
    sum: str


@dataclass(frozen=True)
class Snapshot:
    """The state after row ``seq`` (``data``: JSON), for a program whose state has this ``shape``.

    ``row_sum`` is the checksum of that row, which ties the snapshot to this history; ``sum`` is over ``data``.
    """

    seq: int
    schema: int
    shape: str
    row_sum: str
    sum: str
    data: bytes


class Ledger:
    """A ledger open for writing. Used by one thread at a time; readers open connections of their own (``read``)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = _open_for_writing(path)
        self.id = self._meta("id")
        self._witness = witness.Witness(path, self.id)

    def close(self) -> None:
        """Close the file; everything appended is on the disk already."""
        self._db.close()
        self._witness.close()

    def take_epoch(self) -> int:
        """A new epoch, higher than every one before; from now on older ones are refused."""
        with _Transaction(self._db, self.path):
            epoch = int(self._meta("epoch")) + 1
            self._db.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (str(epoch),))
        return epoch

    @property
    def last_seq(self) -> int:
        """Number of the last row, 0 for an empty ledger."""
        return self._last()[0]

    def _last(self) -> tuple[int, str]:
        """Number and checksum of the last row."""
        found = self._db.execute("SELECT seq, sum FROM rows ORDER BY seq DESC LIMIT 1").fetchone()
        return (int(found[0]), str(found[1])) if found else (0, "")

    def append(self, expected_seq: int, epoch: int, rows: Sequence[records.Row], acked: Sequence[Acked] = ()) -> int:
        """Write ``rows`` after row ``expected_seq``, all or none, and return the last number once the disk has them."""
        with _Transaction(self._db, self.path):
            before = self._check(expected_seq, epoch)
            values = _values(expected_seq, epoch, before, rows)
            self._db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            self._db.executemany(
                "INSERT INTO acked VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq)",
                [(item.node, item.spool_id, item.seq) for item in acked],
            )
        if values:
            self._witness.write(values[-1][0], values[-1][-1])
        return expected_seq + len(values)

    def keep_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot of a row that is in the ledger, and the SNAPSHOTS_KEPT newest of all."""
        with _Transaction(self._db, self.path):
            self._db.execute(
                "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?)", dataclasses.astuple(snapshot)
            )
            newest = "SELECT seq FROM snapshots ORDER BY seq DESC LIMIT ?"
            self._db.execute(f"DELETE FROM snapshots WHERE seq NOT IN ({newest})", (SNAPSHOTS_KEPT,))

    def snapshots(self) -> Iterator[Snapshot]:
        """Snapshots, the newest first; those that cannot be read are left out."""
        with contextlib.suppress(sqlite3.Error):
            for (seq,) in self._db.execute("SELECT seq FROM snapshots ORDER BY seq DESC").fetchall():
                with contextlib.suppress(sqlite3.Error):
                    yield Snapshot(*self._db.execute("SELECT * FROM snapshots WHERE seq = ?", (seq,)).fetchone())

    def row_sum(self, seq: int) -> str | None:
        """Checksum of row ``seq``, None where there is no such row."""
        found = self._db.execute("SELECT sum FROM rows WHERE seq = ?", (seq,)).fetchone()
        return str(found[0]) if found else None

    def cut(self, first: int, acked_max: Mapping[str, int]) -> None:
        """Remove row ``first`` and all after it; spools count as recorded up to ``acked_max`` of their node at most."""
        with _Transaction(self._db, self.path):
            self._db.execute("DELETE FROM rows WHERE seq >= ?", (first,))
            self._db.execute("DELETE FROM snapshots WHERE seq >= ?", (first,))
            for node, spool_id, seq in self._db.execute("SELECT node, spool_id, seq FROM acked").fetchall():
                values = (min(seq, acked_max.get(node, 0)), node, spool_id)
                self._db.execute("UPDATE acked SET seq = ? WHERE node = ? AND spool_id = ?", values)

    def acked(self, node: str, spool_id: str) -> int:
        """Highest observation number of that spool in the ledger, 0 for none."""
        query = "SELECT seq FROM acked WHERE node = ? AND spool_id = ?"
        found = self._db.execute(query, (node, spool_id)).fetchone()
        return int(found[0]) if found else 0

    def read(self, after: int = 0, job: str | None = None) -> Iterator[tuple[int, records.Row]]:
        """Rows after number ``after`` in order, of one job if it is named. Safe in any thread."""
        return read(self.path, after, job)

    def _check(self, expected_seq: int, epoch: int) -> str:
        """Refuse a writer that may not write; the checksum that the next row follows."""
        newest = int(self._meta("epoch"))
        if epoch < newest:
            raise FencedError(
                f"{self.path}: this controller has epoch {epoch}, but one with epoch {newest} has taken over; "
                "this one writes nothing more and must stop"
            )
        last, before = self._last()
        if last != expected_seq:
            raise WrongSequenceError(f"{self.path}: the last row is {last}, but {expected_seq} was expected")
        return before

    def _meta(self, key: str) -> str:
        return str(self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])


def checksum(before: str, seq: int, epoch: int, at: float, job: str, kind: str, schema: int, data: str) -> str:
    """Checksum of a row that follows one with checksum ``before``: 32 hexadecimal digits (BLAKE2b)."""
    text = f"{before}\n{seq}\n{epoch}\n{at!r}\n{job}\n{kind}\n{schema}\n{data}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=CHECKSUM_BYTES).hexdigest()


def _values(last: int, epoch: int, before: str, rows: Sequence[records.Row]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for seq, row in enumerate(rows, start=last + 1):
        told = (seq, epoch, float(row.at), getattr(row, "job", ""), row.kind, records.SCHEMA, codec.row_data(row))
        before = checksum(before, *told)
        found.append((*told, before))
    return found


def raw(path: Path, after: int = 0) -> Iterator[RawRow]:
    """Rows after number ``after`` as they lie in a file of format 2. Raises UnreadableError where pages are damaged."""
    query = "SELECT seq, epoch, at, job, kind, schema, data, sum FROM rows WHERE seq > ? ORDER BY seq LIMIT ?"
    with _Reader(path) as db:
        db.text_factory = lambda text: text.decode("utf-8", "surrogateescape")  # damaged text is a wrong checksum
        while True:
            try:
                page = db.execute(query, (after, ROWS_READ_AT_ONCE)).fetchall()
            except sqlite3.Error as error:
                raise UnreadableError(f"{path}: cannot be read as a ledger: {error}") from error
            if not page:
                return
            yield from (RawRow(*values) for values in page)
            after = page[-1][0]


def read(path: Path, after: int = 0, job: str | None = None) -> Iterator[tuple[int, records.Row]]:
    """Rows of the ledger at ``path`` as (number, row); raises UnreadableError naming the row that cannot be read."""
    for found in documents(path, after, job):
        try:
            yield found["seq"], codec.row(found["kind"], found["schema"], found["data"])
        except codec.CodecError as error:
            raise UnreadableError(f"{path}: row {found['seq']}: {error}") from error


def documents(
    path: Path, after: int = 0, job: str | None = None, rows_max: int | None = None
) -> Iterator[dict[str, Any]]:
    """Rows as they lie in the file, at most ``rows_max``: seq, epoch, at, job, kind, schema, and ``data`` as JSON."""
    with _Reader(path) as db:
        left = rows_max
        while left is None or left > 0:
            page = _page(db, path, after, job, ROWS_READ_AT_ONCE if left is None else min(left, ROWS_READ_AT_ONCE))
            for values in page:
                yield dict(zip(("seq", "epoch", "at", "job", "kind", "schema", "data"), values, strict=True))
            if not page:
                return
            after = page[-1][0]
            left = None if left is None else left - len(page)


def _page(db: sqlite3.Connection, path: Path, after: int, job: str | None, rows_max: int) -> list[Any]:
    query = "SELECT seq, epoch, at, job, kind, schema, data FROM rows WHERE seq > ?"
    values: tuple[Any, ...] = (after,)
    if job is not None:
        query += " AND job = ?"
        values = (after, job)
    try:
        return db.execute(f"{query} ORDER BY seq LIMIT {rows_max:d}", values).fetchall()
    except sqlite3.Error as error:
        raise UnreadableError(f"{path}: cannot be read as a ledger: {error}") from error


class _Reader:
    """A connection that only reads, opened and closed in the thread that uses it."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UnreadableError(
                f"{path}: there is no ledger here; give the state directory that has one with --state DIR"
            )
        try:
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_WAIT_S)
        except sqlite3.Error as error:
            why = error if os.access(path, os.R_OK) else "this user may not read it"
            raise UnreadableError(f"{path}: cannot be opened: {why}") from error

    def __enter__(self) -> sqlite3.Connection:
        return self._db

    def __exit__(self, *_: object) -> None:
        self._db.close()


class _Transaction:
    """BEGIN IMMEDIATE to COMMIT; whatever goes wrong in between leaves the file as it was."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path

    def __enter__(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise self._unwritable(error) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        failed = error
        if failed is None:
            try:
                self._db.execute("COMMIT")
                return
            except sqlite3.Error as refused:
                failed = refused
        if self._db.in_transaction:  # SQLite has rolled back by itself after some errors, a full disk among them
            self._db.execute("ROLLBACK")
        if isinstance(failed, sqlite3.Error):
            raise self._unwritable(failed) from failed

    def _unwritable(self, error: Exception) -> UnwritableError:
        return UnwritableError(
            f"{self._path}: nothing was recorded: {error}. Make room on its file system; until then no action is taken"
        )


def _open_for_writing(path: Path) -> sqlite3.Connection:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(descriptor)
        db = sqlite3.connect(path, timeout=BUSY_WAIT_S, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        found = _prepare(db)
    except (sqlite3.Error, OSError) as error:
        raise UnreadableError(
            f"{path}: cannot be used as a ledger: {error}. Set the file aside or give another --state DIR"
        ) from error
    if found > FORMAT:
        db.close()
        raise UnreadableError(
            f"{path}: has format {found}, this version reads {FORMAT}; run a newer version of Outrider"
        )
    return db


def _prepare(db: sqlite3.Connection) -> int:
    """Make what is missing of the tables, also in a file of format 1; the file's format."""
    db.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
    known = db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
    if known is not None and int(known[0]) > FORMAT:
        return int(known[0])  # a newer version's: it is left as it is
    db.executescript(_TABLES)
    if "sum" not in {column[1] for column in db.execute("PRAGMA table_info(rows)")}:
        db.execute("ALTER TABLE rows ADD COLUMN sum TEXT NOT NULL DEFAULT ''")
    for key, value in (("format", str(FORMAT)), ("id", secrets.token_hex(8)), ("epoch", "0")):
        db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
    db.execute("UPDATE meta SET value = ? WHERE key = 'format' AND value <> ?", (str(FORMAT), str(FORMAT)))
    return FORMAT
