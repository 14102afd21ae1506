"""The controller's one writer: takes facts, asks the core, writes fact and conclusions, and only then lets them
count.

In: facts from agents, people, timers and effects, through a bounded queue. Out: rows in the ledger, the next state,
and a call of ``after`` with the rows that are now on the disk. What waits is written in one transaction, because one
confirmed write costs the same for one row as for many. When the disk refuses, nothing of it has happened: the state
stays, no effect begins, and whoever brought the fact is told. The disk is tried again every second; the first rows that
it takes then say since when it had taken none.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from outrider import clock as clock_module
from outrider_controller import incident_documents, integrity, recovery, snapshots
from outrider_controller import ledger as ledgers
from outrider_controller.core import decide as deciding
from outrider_controller.core import evolve as evolving
from outrider_controller.core import policy as policies
from outrider_controller.core import records
from outrider_controller.core import state as states

SUBMISSIONS_WAITING_MAX: Final = 1024
SUBMISSIONS_WRITTEN_AT_ONCE_MAX: Final = 256
ERROR_CHARS_MAX: Final = 500
TRY_AGAIN_S: Final = 1.0

log = logging.getLogger(__name__)

# What is to be written, worked out when its turn comes, from the state as it then is.
Make = Callable[[states.State], Sequence[records.Row]]
After = Callable[[records.Row, Sequence[records.Row]], None]


class StoppedError(Exception):
    """The controller takes no facts any more; the message says why."""


@dataclass(frozen=True)
class _Submission:
    make: Make
    acked: tuple[ledgers.Acked, ...]
    done: asyncio.Future[None]


@dataclass(frozen=True)
class _Turn:
    """One input row and what was concluded from it."""

    row: records.Row
    conclusions: tuple[records.Row, ...]


class Turns:
    """Owns the state. ``after`` is called for every input row with its conclusions, once they are on the disk."""

    def __init__(
        self, ledger: ledgers.Ledger, policy: policies.Policy, after: After, clock: clock_module.Clock
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._policy = policy
        self._after = after
        self._queue: asyncio.Queue[_Submission] = asyncio.Queue(SUBMISSIONS_WAITING_MAX)
        self._disk = concurrent.futures.ThreadPoolExecutor(1, "ledger")
        self._changed: asyncio.Event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopped: Exception | None = None
        self._epoch = 0
        self.trouble = ""  # why the last write failed, empty once one has succeeded
        self.damage = ""  # what is wrong with rows that nothing is decided from any more
        self._refused_since: float | None = None  # when the disk first refused, while it does; Unix seconds
        self._trying: asyncio.Task[None] | None = None
        self._snapshot_seq = 0  # row of the newest snapshot, or of the last one that was tried
        self._acked: dict[tuple[str, str], int] = {}  # (node, spool) -> number, for the spools in use
        self._acked_draft: dict[tuple[str, str], int] = {}  # the same, with what is being written
        self.seq = 0
        self.state = states.State()

    def recover(self, cuts: list[integrity.Cut]) -> recovery.Recovered:
        """Take a new epoch and rebuild the state from the ledger; ``cuts``: what ``integrity.open_ledger`` found."""
        found = recovery.recover(self._ledger, cuts, self._clock.now())
        self._epoch, self.seq, self.state = found.epoch, found.seq, found.state
        self._snapshot_seq = found.snapshot_seq
        return found

    async def check_history(self) -> None:
        """Check the rows that a start from a snapshot has passed over: they decide nothing, but they are the record."""
        until = self._snapshot_seq
        if until and (found := await asyncio.to_thread(integrity.history, self._ledger.path, until)):
            self.damage = (
                f"the history before row {until} is damaged and reports of it will fail: {found}. What is decided from "
                "now on is sound; put a copy of the state directory from before the damage back when the job allows it"
            )
            log.error("%s", self.damage, extra={"file": self._ledger.path})

    @property
    def epoch(self) -> int:
        """This controller's epoch."""
        return self._epoch

    @property
    def stopped(self) -> Exception | None:
        """Why nothing is taken any more, None while all is well."""
        return self._stopped

    @property
    def ailing(self) -> str:
        """Why nothing can be recorded, since when, and the way out; empty while all is well."""
        if self._stopped is not None or self._refused_since is None:
            return str(self._stopped or self.trouble)
        since = incident_documents.iso(self._refused_since)
        return (
            f"since {since} nothing can be recorded and no action is begun; ranks train on and agents keep what they "
            f"see. {self.trouble}"
        )

    def start(self) -> None:
        """Begin to take facts."""
        self._task = asyncio.create_task(self._run(), name="turns")

    async def close(self) -> None:
        """Write what waits, then stop."""
        self._stopped = self._stopped or StoppedError("the controller is stopping")
        if self._task is not None:
            await self._queue.join()
            for task in filter(None, (self._task, self._trying)):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            if isinstance(self._stopped, StoppedError) and self.seq - self._snapshot_seq >= snapshots.ROWS_AT_STOP_MIN:
                self._keep_snapshot()
        self._disk.shutdown(wait=True)

    async def submit(self, rows: Sequence[records.Row], acked: Sequence[ledgers.Acked] = ()) -> None:
        """Have ``rows`` decided on and recorded; returns once they are on the disk, raises LedgerError if not."""
        await self.submit_made(lambda _: rows, acked)

    async def submit_made(self, make: Make, acked: Sequence[ledgers.Acked] = ()) -> None:
        """As ``submit``, with rows worked out from the state at that moment; none are fine."""
        if self._stopped is not None:
            raise self._stopped
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._queue.put(_Submission(make, tuple(acked), done))
        await done

    async def know_acked(self, node: str, spool_id: str) -> int:
        """Highest observation number of a spool in the ledger; from now on ``acked`` knows it too."""
        key = (node, spool_id)
        if key not in self._acked:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._disk, self._ledger.acked, node, spool_id)
            for known in [known for known in self._acked if known[0] == node]:
                del self._acked[known]  # a node has one spool at a time
            self._acked[key] = max(found, self._acked.get(key, 0))
        return self._acked[key]

    def acked(self, node: str, spool_id: str) -> int:
        """The same within a turn, counting what earlier submissions of this write bring."""
        key = (node, spool_id)
        return max(self._acked.get(key, 0), self._acked_draft.get(key, 0))

    async def changed(self) -> None:
        """Wait for the next change of the state."""
        await self._changed.wait()

    async def _run(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < SUBMISSIONS_WRITTEN_AT_ONCE_MAX and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                await self._write(batch)
            except Exception as error:  # noqa: BLE001 - whoever brought a fact is told, and the writer goes on
                self._refuse(batch, error)
            finally:
                for _ in batch:
                    self._queue.task_done()

    async def _write(self, batch: list[_Submission]) -> None:
        state, turns = self.state, list[_Turn]()
        self._acked_draft = {}
        for row in self._refused_until_now(state):
            turn, state = self._decide(row, state)
            turns.append(turn)
        for submission in batch:
            state = self._work_out(submission, state, turns)
        rows = [row for turn in turns for row in (turn.row, *turn.conclusions)]
        acked = [ledgers.Acked(node, spool_id, seq) for (node, spool_id), seq in self._acked_draft.items()]
        if rows or acked:
            loop = asyncio.get_running_loop()
            self.seq = await loop.run_in_executor(self._disk, self._ledger.append, self.seq, self._epoch, rows, acked)
        self.state = state
        self.trouble, self._refused_since = "", None
        self._acked.update({key: max(seq, self._acked.get(key, 0)) for key, seq in self._acked_draft.items()})
        self._acked_draft = {}
        for turn in turns:
            self._tell(turn)
        for submission in batch:
            if not submission.done.done():
                submission.done.set_result(None)
        self._changed.set()
        self._changed = asyncio.Event()
        if self.seq - self._snapshot_seq >= snapshots.ROWS_BETWEEN:
            self._keep_snapshot()

    def _keep_snapshot(self) -> None:
        """Have the ledger's own thread write a snapshot of now; nobody waits for it but the next write."""
        self._snapshot_seq = self.seq
        self._disk.submit(_snapshot, self._ledger, self.state, self.seq)

    def _refused_until_now(self, state: states.State) -> list[records.Row]:
        """After the disk has refused: what goes first once it takes rows again."""
        if self._refused_since is None:
            return []
        now, since, why = self._clock.now(), self._refused_since, self.trouble[:ERROR_CHARS_MAX]
        told: list[records.Row] = [
            records.RecordingFailed(now, name, since, why) for name, job in state.jobs.items() if not job.over
        ]
        text = f"the disk took no rows from {incident_documents.iso(since)} until now: {why}"
        return told or [records.Noted(now, "", text)]

    async def _try_again(self) -> None:
        """Try the disk until it takes rows, so that nobody has to come by for it to be noticed."""
        while self._refused_since is not None and self._stopped is None:
            await self._clock.sleep(TRY_AGAIN_S)
            with contextlib.suppress(ledgers.LedgerError, StoppedError):
                await self.submit(())

    def _work_out(self, submission: _Submission, state: states.State, turns: list[_Turn]) -> states.State:
        if submission.done.done():  # its owner has gone away; what was not begun need not be
            return state
        try:
            rows = submission.make(state)
        except Exception as error:
            log.exception("a fact could not be worked out")
            submission.done.set_exception(error)
            return state
        for row in rows:
            turn, state = self._decide(row, state)
            turns.append(turn)
        for item in submission.acked:
            key = (item.node, item.spool_id)
            self._acked_draft[key] = max(item.seq, self._acked_draft.get(key, 0))
        return state

    def _decide(self, row: records.Row, state: states.State) -> tuple[_Turn, states.State]:
        """The conclusions of one row. A row on which the core fails is noted instead: it would fail again each time."""
        try:
            conclusions = deciding.decide(state, row, self._policy) if isinstance(row, records.FACTS) else ()
            return _Turn(row, conclusions), evolving.evolve_all(state, (row, *conclusions))
        except Exception as error:
            log.exception("the core could not take a fact", extra={"fact": row.kind})
            text = f"a fact of kind {row.kind} was put aside: {type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
            noted = records.Noted(row.at, getattr(row, "job", ""), text)
            return _Turn(noted, ()), evolving.evolve(state, noted)

    def _tell(self, turn: _Turn) -> None:
        try:
            self._after(turn.row, turn.conclusions)
        except Exception:
            log.exception("what follows a turn could not be begun", extra={"fact": turn.row.kind})

    def _refuse(self, batch: Iterable[_Submission], error: Exception) -> None:
        self._acked_draft = {}
        if isinstance(error, ledgers.FencedError | ledgers.WrongSequenceError):
            self._stopped = error  # another controller writes this history: we must not
        if str(error) != self.trouble:
            log.error("nothing was recorded", extra={"why": error})
        self.trouble = str(error)
        if isinstance(error, ledgers.UnwritableError) and self._refused_since is None:
            self._refused_since = self._clock.now()
            if self._trying is None or self._trying.done():
                self._trying = asyncio.create_task(self._try_again(), name="try-the-disk")
        for submission in batch:
            if not submission.done.done():
                submission.done.set_exception(_copy(error))
        self._changed.set()
        self._changed = asyncio.Event()


def _snapshot(ledger: ledgers.Ledger, state: states.State, seq: int) -> None:
    """Write a snapshot of ``state`` after row ``seq``; the rows are there anyway, so a failure costs a slower start."""
    try:
        ledger.keep_snapshot(snapshots.take(state, seq, ledger.row_sum(seq) or ""))
    except Exception as error:  # noqa: BLE001 - whatever it is, it may not stop the writer
        log.warning("a snapshot could not be kept; the next start reads more rows", extra={"row": seq, "why": error})


def _copy(error: Exception) -> Exception:
    """One exception object per waiter: raising a shared one would mix their tracebacks."""
    return type(error)(*error.args)


def with_job_step(done: records.EffectDone, step: int | None) -> records.EffectDone:
    """The result of an effect with the step that the job had reached when it came."""
    return dataclasses.replace(done, job_step=step)
