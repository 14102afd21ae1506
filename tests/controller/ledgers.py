"""Ledgers for the tests: written as a controller writes them, then damaged as disks and people damage them."""

import contextlib
import dataclasses
import random
import sqlite3
from pathlib import Path

from outrider_controller import integrity, ledger, recovery, snapshots, write_ahead_log
from outrider_controller.core import evolve, records
from outrider_controller.core import state as states
from tests.core.test_random_worlds import MOVES, POLICY, move
from tests.core.world import World

NOW = 1_900_000_000.0


def history(seed: int, moves: int = 25) -> list[records.Row]:
    """The rows of one random world."""
    chance = random.Random(seed)
    world = World(policy=POLICY).submit()
    for _ in range(moves):
        move(world, chance.choice(MOVES), chance.randrange(1000))
    return world.rows


def write(path: Path, rows: list[records.Row], snapshot_every: int = 0, at_once: int = 3) -> int:
    """Append ``rows``, a few in a transaction; the number of the last."""
    book = ledger.Ledger(path)
    seq, epoch, state = book.last_seq, book.take_epoch(), states.State()
    for start in range(0, len(rows), at_once):
        seq = book.append(seq, epoch, rows[start : start + at_once])
        if snapshot_every:
            state = evolve.evolve_all(state, [reread(row) for row in rows[start : start + at_once]])
            if seq // snapshot_every > (seq - at_once) // snapshot_every:
                book.keep_snapshot(snapshots.take(state, seq, book.row_sum(seq) or ""))
    book.close()
    return seq


def reread(row: records.Row) -> records.Row:
    """A row as it comes back from the ledger."""
    from outrider_controller import codec

    return codec.row(row.kind, records.SCHEMA, codec.row_data(row))


def append_torn_transaction(log: Path) -> None:
    """As a writer leaves the write-ahead log that is killed inside a transaction: one frame and half of another."""
    frame_bytes = write_ahead_log.FRAME.size + write_ahead_log.HEADER.unpack(log.read_bytes()[:32])[2]
    with log.open("r+b") as file:
        file.seek(-frame_bytes, 2)
        last = file.read()
        file.write(last + last[: frame_bytes // 2])


@dataclasses.dataclass
class Start:
    """What came of a start."""

    found: recovery.Recovered
    cuts: list[records.LedgerCut]
    said: list[str]
    rows: list[records.Row]


def start(path: Path) -> Start:
    """What a controller does with the ledger before anything else."""
    book, cuts = integrity.open_ledger(path, NOW)
    try:
        found = recovery.recover(book, cuts, NOW)
        rows = list[records.Row]()
        with contextlib.suppress(ledger.UnreadableError):  # a history that is damaged before the snapshot
            rows += [row for _, row in book.read()]
    finally:
        book.close()
    return Start(found, [r for r in rows if isinstance(r, records.LedgerCut)], [integrity.said(c) for c in cuts], rows)


def replayed(path: Path) -> states.State:
    """The state by ``evolve`` over every row."""
    return evolve.evolve_all(states.State(), (row for _, row in ledger.read(path)))


def edit(path: Path, *changes: str) -> None:
    """Change the file behind the ledger's back."""
    with sqlite3.connect(path) as db:
        for change in changes:
            db.execute(change)
    db.close()
