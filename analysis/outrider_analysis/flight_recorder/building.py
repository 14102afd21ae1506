"""A process group while its digest is put together, entry after entry or a whole column at once."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final

from outrider_analysis.flight_recorder import entries, model, reading

_NO_TIMES: Final = (0, 0, 0)


class Group:
    """What one rank's entries say of one group."""

    __slots__ = (
        *("arrivals", "coalesced", "description", "enqueued", "front", "hidden", "last_p2p", "members", "name"),
        *("number", "p2p", "p2p_seen", "pairs", "slot", "window"),
    )

    def __init__(self, slot: int, name: str, description: str, members: str) -> None:
        self.slot, self.name, self.description, self.members = slot, name, description, members
        self.number = ""  # its local number, the key into pg_status
        self.enqueued = model.NEVER
        self.front: int | None = None  # number of the first unfinished collective
        self.p2p = 0
        self.p2p_seen = self.hidden = False
        self.window: dict[int, int] = {}
        self.coalesced: set[int] = set()
        self.arrivals: dict[int, tuple[int, int, int]] = {}
        self.pairs: dict[tuple[int, bool], list[int]] = {}  # count, unfinished, created, completed
        self.last_p2p = False

    def collective(self, entry: Mapping[str, Any], seq: int, number: int, batched: bool, finished: bool) -> None:
        """One entry of a collective, the ``number`` of whose signature is told."""
        times = (entries.time_of(entry, "time_created_ns"), entries.time_of(entry, "time_discovered_completed_ns"))
        self.joined(seq, number, batched, finished, entry.get("op_id"), (*times, entries.duration_of(entry)))

    def joined(
        self, seq: int, number: int, batched: bool, finished: bool, operations: object, times: tuple[int, int, int]
    ) -> None:
        """The same, of fields that have been taken out. ``operations``: collectives, sends and recvs so far."""
        self.last_p2p = False
        if seq > self.enqueued:
            self.enqueued = seq
        if seq not in self.window or (seq in self.coalesced and not batched):
            self.window[seq] = number
        if batched:
            self.coalesced.add(seq)
        if not finished:
            self.front = seq if self.front is None else min(self.front, seq)
        self.hidden = type(operations) is int and not self.p2p_seen and operations > seq
        self.arrivals[seq] = times

    def column(
        self, seqs: Sequence[int], numbers: Sequence[int], unfinished: Sequence[int], operations: int,
        times: Sequence[tuple[int, int, int]],
    ) -> None:  # fmt: skip
        """All entries of a group that has neither batches nor sends and recvs; ``times``: of the newest ones."""
        self.enqueued = max(seqs)
        self.window = dict(zip(reversed(seqs), reversed(numbers), strict=True))  # of equal numbers the first counts
        self.front = min(unfinished, default=None)
        self.hidden = operations > seqs[-1]
        self.arrivals = dict(zip(seqs[len(seqs) - len(times) :], times, strict=True))

    def sent(self, peer: int, sends: bool, seq: int, own: int, finished: bool, times: tuple[int, int]) -> int:
        """One send or recv, the ``own``th; ``times``: created, completed. How many there were with this peer."""
        if seq > self.enqueued:
            self.enqueued = seq
        if own > self.p2p:
            self.p2p = own
        self.p2p_seen = self.last_p2p = True
        pair = self.pairs.setdefault((peer, sends), [0, 0, 0, 0])
        pair[0] += 1
        pair[1] += not finished
        pair[2] = max(pair[2], times[0])
        if finished:
            pair[3] = max(pair[3], times[1])
        return pair[0]

    def digest(self, status: reading.Status | None, gloo: bool) -> model.GroupDigest:
        """What is kept of it."""
        enqueued, completed = self._counters(status, gloo)
        first, window = self._window()
        last = first + len(window) - 1
        newest = range(max(first, last - model.ARRIVALS_MAX + 1), last + 1)
        arrivals = array("q", [part for seq in newest for part in self.arrivals.get(seq, _NO_TIMES)])
        return model.GroupDigest(
            name=self.name,
            description=self.description,
            members=self.members,
            enqueued=enqueued,
            completed=completed,
            p2p=self.p2p,
            first=first,
            window=window.tobytes(),
            arrivals=arrivals.tobytes(),
            pairs=tuple(model.Pair(peer, sends, *told) for (peer, sends), told in sorted(self.pairs.items())),
            hidden_p2p=self.hidden,
            local=int(self.number) if self.number.isdecimal() and len(self.number) < 10 else model.NEVER,
        )

    def _counters(self, status: reading.Status | None, gloo: bool) -> tuple[int | None, int | None]:
        """Enqueued and completed collectives. On gloo, and beside sends and recvs, the status counts those too."""
        enqueued: int | None = self.enqueued if self.enqueued >= 0 else None
        if status is not None and not gloo and not self.p2p_seen:
            enqueued = max(self.enqueued, status.enqueued)
            if enqueued == model.NEVER and status.enqueued == model.NEVER:
                enqueued = 0
        completed = self.front - 1 if self.front is not None else enqueued
        oldest = self.front is not None and self.front == min(self.window)
        if oldest and completed is not None and status is not None and not gloo and not self.p2p_seen:
            completed = min(
                completed, max(0, status.completed)
            )  # less: the ring has forgotten the first unfinished one
        return enqueued, completed

    def _window(self) -> tuple[int, array[int]]:
        """The newest signatures without a hole between them but zeros."""
        if not self.window:
            return 0, array("I")
        last = max(self.window)
        first = max(min(self.window), last - model.WINDOW_MAX + 1)
        told = self.window.get
        return first, array("I", [told(seq, 0) for seq in range(first, last + 1)])
