"""A ledger of which pages are damaged is rebuilt from the rows that can still be read, where they are all but the end.

In: the file, and a folder for what was there. Out: a sound file in its place and how far it goes; or UnreadableError,
with the way out, where rows behind the damage can be read too: a history with a hole is none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from outrider_controller import ledger, write_ahead_log

ROWS_AT_ONCE: Final = 200
PAGES_AT: Final = 28  # in the header of the file: how many pages it has
PAGE_BYTES_AT: Final = 16
CHECKED_BYTES_MAX: Final = 64 * 1024 * 1024  # larger files are checked while the controller works, not before


def problem(path: Path) -> str:
    """What is wrong with the pages of the database at ``path``; empty where nothing is, or nothing was looked at."""
    try:
        read_only = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(read_only, uri=True, timeout=ledger.BUSY_WAIT_S)) as db:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if path.stat().st_size > CHECKED_BYTES_MAX:
                return ""
            verdict = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
            return "" if verdict == "ok" else verdict
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
            return ""  # locked, or not to be opened: said by whoever opens it next
        return str(error)


def rebuild(path: Path, aside: Path) -> int:
    """Put a sound ledger of every row that can be read in the place of ``path``; the number of its last row.

    What was there goes to ``aside``. Raises UnreadableError where the ledger cannot be had back like this.
    """
    for part in (path, write_ahead_log.of(path)):
        if part.exists():
            shutil.copy2(part, aside / part.name)
    source, made = path.with_name("ledger.damaged"), path.with_name("ledger.rebuilt")
    try:
        _copy(path, source)
        with contextlib.closing(sqlite3.connect(source)) as old:
            last = _transfer(path, old, made)
        write_ahead_log.of(path).unlink(missing_ok=True)
        path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
        made.replace(path)
        _sync(path.parent)
        return last
    except (sqlite3.Error, OSError) as error:
        raise refusal(path, str(error)) from error
    finally:
        for draft in (source, made):
            for suffix in ("", "-wal", "-shm", "-journal"):
                draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def refusal(path: Path, why: str) -> ledger.UnreadableError:
    """The ledger cannot be used, and what a person can do."""
    return ledger.UnreadableError(
        f"{path}: is damaged: {why}. Nothing was changed. Put a copy of the state directory from before the damage "
        "back, or set the directory aside and start with another --state DIR; ranks that run train on meanwhile"
    )


def _copy(path: Path, source: Path) -> None:
    """A copy to read from, as long as its header says: SQLite refuses a shorter file as a whole."""
    shutil.copyfile(path, source)
    if (log := write_ahead_log.of(path)).exists():
        shutil.copyfile(log, write_ahead_log.of(source))
    with source.open("r+b") as file:
        head = file.read(100)
        page = int.from_bytes(head[PAGE_BYTES_AT : PAGE_BYTES_AT + 2], "big")
        wanted = int.from_bytes(head[PAGES_AT : PAGES_AT + 4], "big") * (65536 if page == 1 else page)
        size = source.stat().st_size
        if size < wanted <= 2 * size + (1 << 20):
            file.truncate(wanted)


def _transfer(path: Path, old: sqlite3.Connection, made: Path) -> int:
    old.execute("PRAGMA writable_schema = ON")  # what cannot be used of the schema is no reason to read nothing
    meta = old.execute("SELECT key, value FROM meta").fetchall()
    if not {"id", "epoch", "format"} <= {key for key, _ in meta}:
        raise refusal(path, "its identity cannot be read")
    columns = "seq, epoch, at, job, kind, schema, data"
    if any(column[1] == "sum" for column in old.execute("PRAGMA table_info(rows)")):
        columns += ", sum"
    ledger.Ledger(made).close()
    with contextlib.closing(sqlite3.connect(made)) as new:
        new.execute("PRAGMA journal_mode = DELETE")
        new.execute("DELETE FROM meta")
        new.executemany("INSERT INTO meta VALUES (?, ?)", meta)
        last = 0
        old.text_factory = bytes  # what is no text any more is copied as it is, and judged by its checksum later
        for page in _rows(old, columns):
            places = ", ".join("CAST(? AS TEXT)" if isinstance(value, bytes) else "?" for value in page[0])
            new.executemany(f"INSERT INTO rows ({columns}) VALUES ({places})", page)
            last = page[-1][0]
        if last == 0 or (beyond := _beyond(old, columns, last)) is not None:
            raise refusal(path, f"row {last + 1} cannot be read" + (f", row {beyond} can" if last else ""))
        with contextlib.suppress(sqlite3.Error):  # agents then send again what they still have
            acked = old.execute("SELECT node, spool_id, seq FROM acked").fetchall()
            new.executemany("INSERT INTO acked VALUES (CAST(? AS TEXT), CAST(? AS TEXT), ?)", acked)
        new.commit()
    ledger.Ledger(made).close()  # in the write-ahead mode again
    return int(last)


def _rows(old: sqlite3.Connection, columns: str) -> Iterator[list[Any]]:
    """Rows in order, until one cannot be read."""
    last, at_once = 0, ROWS_AT_ONCE
    query = f"SELECT {columns} FROM rows NOT INDEXED WHERE seq > ? ORDER BY seq LIMIT ?"
    while True:
        try:
            page = old.execute(query, (last, at_once)).fetchall()
        except sqlite3.Error:
            if at_once == 1:
                return
            at_once = 1
            continue
        if not page:
            return
        yield page
        last = page[-1][0]


def _beyond(old: sqlite3.Connection, columns: str, last: int) -> int | None:
    """The newest row behind the damage that can be read."""
    query = f"SELECT {columns} FROM rows NOT INDEXED WHERE seq > ? ORDER BY seq DESC LIMIT 1"
    with contextlib.suppress(sqlite3.Error):
        found = old.execute(query, (last,)).fetchone()
        return int(found[0]) if found else None
    return None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
