"""From the ledger to the state, when a controller starts: newest usable snapshot, then ``evolve`` over what follows.

In: the path. Out: the open ledger under a new epoch, the state, and sentences about all that was not as it should be.
What was cut off the ledger becomes its next row. Nothing is decided here.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

from outrider_controller import integrity, ledger, snapshots, witness
from outrider_controller.core import evolve, records
from outrider_controller.core import state as states

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovered:
    """Where the ledger stands. ``snapshot_seq``: the row of the snapshot that was used, 0 for none."""

    epoch: int
    seq: int
    state: states.State
    snapshot_seq: int
    rows_evolved: int


def recover(book: ledger.Ledger, cuts: list[integrity.Cut], now: float) -> Recovered:
    """A new epoch and the state; ``cuts`` are recorded. Raises LedgerError."""
    head = witness.read(book.path, book.id)
    epoch = book.take_epoch()
    start, state = _from_snapshot(book)
    before = book.row_sum(start) or ""
    seq = start
    for seq, row in integrity.sound_rows(book, start, before, now, cuts):
        state = _evolved(book, state, seq, row)
    evolved = seq - start
    if (missing := integrity.missing_end(seq, head, sum(cut.rows for cut in cuts))) is not None:
        torn = cuts.pop() if cuts and cuts[-1].rows == 0 else None  # one damage, and this is what it cost
        cuts.append(dataclasses.replace(missing, damage=torn.damage, kept=torn.kept) if torn else missing)
    rows = [records.LedgerCut(now, cut.first, cut.rows, cut.damage, cut.kept) for cut in cuts]
    for cut, row in zip(cuts, rows, strict=True):
        log.error("%s", integrity.said(cut), extra={"file": book.path})
        state = evolve.evolve(state, row)
    if rows:
        seq = book.append(seq, epoch, rows)
    log.info("the state is rebuilt", extra={"rows": seq, "snapshot": start, "rows_evolved": evolved})
    return Recovered(epoch, seq, state, start, evolved)


def _from_snapshot(book: ledger.Ledger) -> tuple[int, states.State]:
    """The newest snapshot that can be used and its row; the empty state before the first row, if none can."""
    for found in book.snapshots():
        try:
            return found.seq, snapshots.restore(found, book.row_sum(found.seq))
        except snapshots.SnapshotError as error:
            log.warning("a snapshot cannot be used; more rows are read instead", extra={"row": found.seq, "why": error})
    return 0, states.State()


def _evolved(book: ledger.Ledger, state: states.State, seq: int, row: records.Row) -> states.State:
    try:
        return evolve.evolve(state, row)
    except Exception as error:
        raise ledger.UnreadableError(
            f"{book.path}: row {seq} ({row.kind}) does not fit what came before: {error!r}. "
            "Set the state directory aside and start with another one"
        ) from error
