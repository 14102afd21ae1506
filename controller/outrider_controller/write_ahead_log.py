"""What lies behind the last transaction in SQLite's write-ahead log: nothing, what was there before, or a torn end.

SQLite reads its log up to the last whole transaction and passes over the rest without a word. That is right for what it
keeps, and too little for people: this module says when there was more. Format: sqlite.org/fileformat2.html, section 4.
"""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path
from typing import Final

HEADER: Final = struct.Struct(">8I")  # magic, version, page size, checkpoint, two salts, two checksums
FRAME: Final = struct.Struct(">6I")  # page, pages after a commit, two salts, two checksums
MAGICS: Final = (0x377F0682, 0x377F0683)
SALT_STEPS_MAX: Final = 1 << 20  # the first salt grows by one each time the log begins anew


def of(database: Path) -> Path:
    """The log of ``database``."""
    return database.with_name(f"{database.name}-wal")


def torn(database: Path, db: sqlite3.Connection) -> tuple[int, str] | None:
    """Where the torn end of the log begins, in bytes, and what it is; None where the log ends as it should.

    ``db`` has the database open. Raises sqlite3.Error where the database cannot be read.
    """
    log = of(database)
    if not log.is_file() or log.stat().st_size == 0:
        return None
    db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # has SQLite find the last whole transaction
    frames = int(db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])
    return _behind(log, max(0, frames))


def _behind(log: Path, frames: int) -> tuple[int, str] | None:
    size = log.stat().st_size
    with log.open("rb") as file:
        head = file.read(HEADER.size)
        if len(head) < HEADER.size:
            return 0, f"the log has {size} bytes, less than its own header"
        magic, _, page_bytes, _, *salts = HEADER.unpack(head)[:6]
        if magic not in MAGICS:
            return 0, "the log's header is not one of SQLite"
        frame_bytes = FRAME.size + page_bytes
        end = HEADER.size + frames * frame_bytes
        if end >= size:
            return None
        file.seek(end)
        found = file.read(FRAME.size)
    if len(found) == FRAME.size:
        _, _, *its, _, _ = FRAME.unpack(found)
        if its == salts:
            return end, f"a transaction of which {size - end} bytes are in the log is not whole"
        if 0 < (salts[0] - its[0]) % (1 << 32) < SALT_STEPS_MAX and (size - end) % frame_bytes == 0:
            return None  # what the log held before it began anew
    return end, f"{size - end} bytes at the end of the log are no transaction"
