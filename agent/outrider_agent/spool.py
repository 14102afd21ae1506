"""The node's observations, numbered and on disk until the controller has them in its ledger; and orders carried out.

In: observations, some with the place they came from (``source``, ``source_seq``: a keeper and its event's number), so
that an event taken twice is one observation. Out: observations in the order of their numbers, until acknowledged;
results of past orders, so that an order that comes again is answered and not carried out again.

Numbers are never given twice for one ``spool_id``. They are taken from blocks that are written down before the first of
them is used: an observation that had to stay in memory because the disk was full keeps its number out of reach of the
next agent. Whoever reads the numbers must therefore accept gaps.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import sqlite3
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from outrider import records, wire
from outrider_agent import spool_rows

log = logging.getLogger(__name__)

ORDERS_KEPT_MAX: Final = 512
SPOOL_ROWS_MAX: Final = 50_000
HELD_MAX: Final = 1_024  # observations kept in memory while the disk takes none
NUMBERS_PER_BLOCK: Final = 4 * HELD_MAX
SOURCES_MAX: Final = 4_096
KEPT_BYTES_MAX: Final = 4 * 1024 * 1024  # of one name
BUSY_TIMEOUT_S: Final = 1.0

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS observations (seq INTEGER PRIMARY KEY, severity TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS sources (source TEXT PRIMARY KEY, last_seq INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS alive (job TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS orders (n INTEGER PRIMARY KEY AUTOINCREMENT, order_id TEXT UNIQUE, body BLOB NOT NULL);
"""


_Row = tuple[int, str, bytes, str | None, int]  # seq, severity, body, source, source_seq


class SpoolError(OSError):
    """A spool that cannot be used at all; the message names the file and the way out."""


@dataclasses.dataclass(frozen=True)
class Alive:
    """The ranks that run under one keeper; ``pids`` by rank."""

    generation: int
    pids: dict[int, int]


class Spool:
    """One open spool. One owner, the agent's event loop; every call is one short transaction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage = ""  # what was wrong with a spool that had to be set aside
        self.problem = ""  # why the disk takes nothing at present; empty when it does
        self.dropped = 0  # observations lost for want of room, since this agent began
        self.taken = 0  # observations numbered since this agent began
        self.acked = 0  # newest number known to be in the ledger
        self._held: deque[_Row] = deque()
        self._held_sources: dict[str, int] = {}
        self._held_kept: dict[str, bytes] = {}
        self._rows = 0
        self._next = 1
        self._block_end = 0
        self._db = self._open()

    # --- observations -----------------------------------------------------------------------------------------------

    def add(
        self,
        observation: records.Observation,
        source: str | None = None,
        source_seq: int = 0,
        alive: Mapping[str, Alive | None] = MappingProxyType({}),
    ) -> int | None:
        """Number and keep ``observation``; its number, or None when this event of ``source`` was taken before.

        ``alive`` is what ``remember_alive`` takes, by job, written in the same stroke.
        """
        if source is not None and source_seq <= max(self.last_of(source), self._held_sources.get(source, 0)):
            return None
        if self._held and not self.flush() and len(self._held) >= HELD_MAX:
            self._drop(observation)
            return None
        seq = self._number()
        if seq is None:
            self._drop(observation)
            return None
        body = spool_rows.body(dataclasses.replace(observation, seq=seq))
        row = (seq, observation.severity, body, source, source_seq)
        self.taken += 1
        if self._held or not self._write([row], alive):
            self._held.append(row)
            if source is not None:
                self._held_sources[source] = source_seq
        return seq

    def add_all(
        self, observations: Iterable[records.Observation], kept: Mapping[str, bytes] = MappingProxyType({})
    ) -> int:
        """Number and keep ``observations``, and with them what their maker remembers, by name: after a death of this
        agent either all of it is here or nothing. Returns how many were taken.
        """
        if self._held:
            self.flush()
        rows: list[_Row] = []
        for observation in observations:
            full = self._held and len(self._held) + len(rows) >= HELD_MAX
            seq = None if full else self._number()
            if seq is None:
                self._drop(observation)
                continue
            body = spool_rows.body(dataclasses.replace(observation, seq=seq))
            rows.append((seq, observation.severity, body, None, 0))
        self.taken += len(rows)
        self._held_kept |= {name: body for name, body in kept.items() if len(body) <= KEPT_BYTES_MAX}
        if self._held or not self._write(rows):
            self._held.extend(rows)
        return len(rows)

    def kept(self) -> dict[str, bytes]:
        """What ``add_all`` was told to keep, by name."""
        try:
            return dict(self._db.execute("SELECT name, body FROM kept").fetchall())
        except sqlite3.Error as error:
            self._failed("read", error)
            return {}

    def after(self, seq: int, count_max: int, bytes_max: int) -> list[records.Observation]:
        """Kept observations above ``seq`` in ascending order; at least one where there is one, within both bounds."""
        rows: list[tuple[int, bytes]] = []
        try:
            query = "SELECT seq, body FROM observations WHERE seq > ? ORDER BY seq LIMIT ?"
            rows = self._db.execute(query, (seq, count_max)).fetchall()
        except sqlite3.Error as error:
            self._failed("read", error)
        # What is held in memory is younger than anything on disk.
        rows += [(held[0], held[2]) for held in self._held if held[0] > seq]
        found: list[records.Observation] = []
        size = 0
        for _, body in rows[:count_max]:
            size += len(body)
            if found and size > bytes_max:
                break
            found.append(msgspec.json.decode(body, type=records.Observation))
        return found

    def acknowledge(self, seq: int) -> None:
        """Forget every observation up to ``seq``: they are in the ledger."""
        self.acked = max(self.acked, seq)
        while self._held and self._held[0][0] <= seq:
            # Its source must stay known on disk, or the next agent would take the same event again.
            self._write([self._held.popleft()])
        try:
            with self._db:
                gone = self._db.execute("DELETE FROM observations WHERE seq <= ?", (seq,)).rowcount
            self._rows -= gone
        except sqlite3.Error as error:
            self._failed("forget acknowledged observations", error)

    def serve(self, controller_id: str) -> int:
        """Belong to the history of ``controller_id`` from now on; how many observations of another were forgotten.

        A ledger that was removed begins its generations anew, and what was seen under the old one would be taken for
        news of the new attempts.
        """
        try:
            row = self._db.execute("SELECT value FROM meta WHERE name = 'controller_id'").fetchone()
            with self._db:
                self._db.execute("INSERT OR REPLACE INTO meta VALUES ('controller_id', ?)", (controller_id,))
        except sqlite3.Error as error:
            self._failed("note its controller", error)
            return 0
        if row is None or row[0] == controller_id:
            return 0
        forgotten = self.waiting()
        self.acknowledge(self.newest)
        return forgotten

    def last_of(self, source: str) -> int:
        """Number of the newest event of ``source`` that is on disk here; 0 for none."""
        try:
            row = self._db.execute("SELECT last_seq FROM sources WHERE source = ?", (source,)).fetchone()
        except sqlite3.Error as error:
            self._failed("read", error)
            return 0
        return int(row[0]) if row else 0

    @property
    def newest(self) -> int:
        """The newest number given so far, by this agent or a former one."""
        return self._next - 1

    def flush(self) -> bool:
        """Try to bring what is held in memory to disk; whether nothing is held any more."""
        if (self._held or self._held_kept) and self._write(list(self._held)) and self._held:
            log.warning("the spool takes observations again", extra={"held": len(self._held)})
            self._held.clear()
            self._held_sources.clear()
        return not self._held

    def waiting(self) -> int:
        """Observations that the controller does not have yet."""
        return self._rows + len(self._held)

    # --- orders -----------------------------------------------------------------------------------------------------

    def order_result(self, order_id: str) -> wire.OrderResult | None:
        """What came of order ``order_id`` when it was carried out, or None when it is new (or long ago)."""
        try:
            row = self._db.execute("SELECT body FROM orders WHERE order_id = ?", (order_id,)).fetchone()
        except sqlite3.Error as error:
            self._failed("read", error)
            return None
        return msgspec.json.decode(row[0], type=wire.OrderResult) if row else None

    def keep_order_result(self, result: wire.OrderResult) -> None:
        """Remember ``result`` among the last ORDERS_KEPT_MAX."""
        try:
            with self._db:
                row = (result.order_id, msgspec.json.encode(result))
                self._db.execute("INSERT OR IGNORE INTO orders (order_id, body) VALUES (?, ?)", row)
                self._db.execute("DELETE FROM orders WHERE n <= (SELECT max(n) FROM orders) - ?", (ORDERS_KEPT_MAX,))
        except sqlite3.Error as error:
            self._failed("remember an order", error)

    # --- what runs, for the agent after this one ----------------------------------------------------------------------

    def remember_alive(self, job: str, alive: Alive | None) -> None:
        """Keep which ranks of ``job`` run under its keeper, none among them; None when the keeper is gone for good."""
        self._write([], {job: alive})

    def alive(self) -> dict[str, Alive]:
        """What ``remember_alive`` was told, by job."""
        try:
            rows = self._db.execute("SELECT job, body FROM alive").fetchall()
        except sqlite3.Error as error:
            self._failed("read", error)
            return {}
        return {job: msgspec.json.decode(body, type=Alive) for job, body in rows}

    def close(self) -> None:
        """End; what is on disk stays."""
        self.flush()
        self._db.close()

    # --- below the surface ------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        try:
            return self._opened()
        except sqlite3.OperationalError as error:
            if not spool_rows.is_damage(error):
                return self._in_memory(error)
            self.damage = str(error)
        except sqlite3.DatabaseError as error:
            self.damage = str(error)
        spool_rows.set_aside(self.path)
        try:
            return self._opened()
        except sqlite3.Error as error:
            return self._in_memory(error)

    def _opened(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")  # an answered order and an acknowledged event survive a power cut
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(f"quick_check: {verdict}")
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        self.path.chmod(0o600)
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.executescript(_TABLES)
        with db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('spool_id', ?)", (secrets.token_hex(8),))
            db.execute("INSERT OR IGNORE INTO meta VALUES ('block_end', '0')")
            # A source that spoke lately has a high row id, because each of its events writes its row anew.
            oldest = "SELECT rowid FROM sources ORDER BY rowid DESC LIMIT -1 OFFSET ?"
            db.execute(f"DELETE FROM sources WHERE rowid IN ({oldest})", (SOURCES_MAX,))
            meta = dict(db.execute("SELECT name, value FROM meta").fetchall())
            self.spool_id = meta["spool_id"]
            # Numbers of the former block may be in use without being on disk, so the next block begins behind it.
            self._next = int(meta["block_end"]) + 1
            self._block_end = int(meta["block_end"]) + NUMBERS_PER_BLOCK
            db.execute("UPDATE meta SET value = ? WHERE name = 'block_end'", (str(self._block_end),))
            (self._rows,) = db.execute("SELECT count(*) FROM observations").fetchone()

    def _in_memory(self, error: sqlite3.Error) -> sqlite3.Connection:
        """A spool without a disk, under an id that no other agent will use; better than a node that sees nothing."""
        self.problem = str(error)
        log.error("the spool cannot be used; observations stay in memory", extra={"file": self.path, "why": error})
        db = sqlite3.connect(":memory:")
        self._prepare(db)
        return db

    def _number(self) -> int | None:
        if self._next + HELD_MAX > self._block_end and not self._extend() and self._next > self._block_end:
            return None
        self._next += 1
        return self._next - 1

    def _extend(self) -> bool:
        end = self._block_end + NUMBERS_PER_BLOCK
        try:
            with self._db:
                self._db.execute("UPDATE meta SET value = ? WHERE name = 'block_end'", (str(end),))
        except sqlite3.Error as error:
            self._failed("take a block of numbers", error)
            return False
        self._block_end = end
        return True

    def _write(
        self,
        rows: list[_Row],
        alive: Mapping[str, Alive | None] = MappingProxyType({}),
    ) -> bool:
        new = 0
        try:
            with self._db:
                for seq, severity, body, source, source_seq in rows:
                    row = (seq, severity, body)
                    new += self._db.execute("INSERT OR IGNORE INTO observations VALUES (?, ?, ?)", row).rowcount
                    if source is not None:
                        self._db.execute("INSERT OR REPLACE INTO sources VALUES (?, ?)", (source, source_seq))
                for job, running in alive.items():
                    self._db.execute("DELETE FROM alive WHERE job = ?", (job,))
                    if running is not None:
                        self._db.execute("INSERT INTO alive VALUES (?, ?)", (job, msgspec.json.encode(running)))
                for name, kept in self._held_kept.items():
                    self._db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (name, kept))
                gone = self._trim(self._rows + new)
        except sqlite3.Error as error:
            self._failed("keep an observation", error)
            return False
        self._rows += new - gone
        self._held_kept.clear()
        self.problem = ""
        return True

    def _trim(self, count: int) -> int:
        """Let go of what is too much; how many that were."""
        excess = count - SPOOL_ROWS_MAX
        if excess <= 0:
            return 0
        order = "CASE severity WHEN 'info' THEN 0 WHEN 'warning' THEN 1 ELSE 2 END, seq"
        self._db.execute(
            f"DELETE FROM observations WHERE seq IN (SELECT seq FROM observations ORDER BY {order} LIMIT ?)", (excess,)
        )
        self.dropped += excess
        log.error("the spool is full; the least severe and oldest observation went", extra={"rows": SPOOL_ROWS_MAX})
        return excess

    def _drop(self, observation: records.Observation) -> None:
        self.dropped += 1
        why = f"{self.problem}; memory holds its most of {HELD_MAX}"
        log.error("an observation was lost", extra={"why": why, "text": observation.text})

    def _failed(self, what: str, error: sqlite3.Error) -> None:
        if self.problem != str(error):
            log.error("the spool takes nothing", extra={"file": self.path, "wanted": what, "why": error})
        self.problem = str(error)
