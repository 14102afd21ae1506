"""A process group while its digest is put together, entry after entry or a whole column at once.

What is gathered holds places of entries instead of their times, so that ranks which made the same calls can share it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from outrider_analysis.flight_recorder import entries, model, reading

NOWHERE: Final = -1
TIMES_MAX: Final = model.ARRIVALS_MAX + 256  # newest collectives that are over, among which those with times are sought


@dataclass(frozen=True, slots=True)
class Times:
    """Of each entry, in ns and 0 where there is none; ``items`` are the entries themselves, of the same places."""

    created: Sequence[int]
    started: Sequence[int]
    completed: Sequence[int]
    items: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Sends:
    """Sends to, or recvs from, one peer: the places of all, and of those that are finished."""

    peer: int
    sends: bool
    unfinished: int
    places: Sequence[int]
    finished: Sequence[int]

    def digest(self, times: Times) -> model.Pair:
        """With the newest times."""
        created = max([times.created[at] for at in self.places], default=0)
        completed = max([times.completed[at] for at in self.finished], default=0)
        return model.Pair(self.peer, self.sends, len(self.places), self.unfinished, created, completed)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the entries of one group say.

    ``arrivals``: places of its last collectives up to number ``arrived``, NOWHERE where one is missing.
    """

    enqueued: int = model.NEVER
    front: int | None = None  # number of the first unfinished collective
    oldest: bool = False  # nothing before the front is left
    p2p: int = 0
    p2p_seen: bool = False
    hidden: bool = False
    first: int = 0
    window: bytes = b""
    arrivals: Sequence[int] = ()
    arrived: int = model.NEVER
    pairs: Sequence[Sends] = ()

    def counters(self, status: reading.Status | None, gloo: bool) -> tuple[int | None, int | None]:
        """Enqueued and completed collectives. On gloo, and beside sends and recvs, the status counts those too."""
        enqueued: int | None = self.enqueued if self.enqueued >= 0 else None
        counted = status is not None and not gloo and not self.p2p_seen
        if counted and status is not None:
            enqueued = max(self.enqueued, status.enqueued)
            if enqueued == model.NEVER and status.enqueued == model.NEVER:
                enqueued = 0
        completed = self.front - 1 if self.front is not None else enqueued
        if self.oldest and counted and completed is not None and status is not None:
            completed = min(completed, max(0, status.completed))  # less: the first unfinished one is forgotten
        return enqueued, completed

    def times(self, times: Times) -> tuple[bytes, int]:
        """Created, completed and time on the device of its last collectives, and the number of the last of them.

        Those whose time on the device is not known yet are left out where those of others are.
        """
        items, end = times.items, len(self.arrivals)
        if end and (newest := self.arrivals[-1]) >= 0 and times.started[newest]:
            known = (at >= 0 and "duration_ms" in items[at] for at in reversed(self.arrivals))
            end -= next((back for back, told in enumerate(known) if told), 0)
        arrivals = self.arrivals[max(0, end - model.ARRIVALS_MAX) : end]
        column = array("q", bytes(model.ARRIVAL_BYTES * len(arrivals)))
        column[0::3] = array("q", [times.created[at] if at >= 0 else 0 for at in arrivals])
        column[1::3] = array("q", [times.completed[at] if at >= 0 else 0 for at in arrivals])
        column[2::3] = array("q", [entries.duration_of(items[at]) if at >= 0 else 0 for at in arrivals])
        return column.tobytes(), self.arrived - (len(self.arrivals) - end) if arrivals else model.NEVER


EMPTY: Final = Layout()


@dataclass(frozen=True, slots=True)
class Heading:
    """A group as this rank names it; ``number`` is its local one, the key into pg_status, empty where it is unknown."""

    slot: int
    name: str
    description: str
    members: str
    number: str

    def digest(
        self, layout: Layout, times: Times, status: reading.Status | None, gloo: bool
    ) -> model.GroupDigest:  # fmt: skip
        """What is kept of it."""
        enqueued, completed = layout.counters(status, gloo)
        arrivals, arrived = layout.times(times)
        return model.GroupDigest(
            name=self.name,
            description=self.description,
            members=self.members,
            enqueued=enqueued,
            completed=completed,
            p2p=layout.p2p,
            first=layout.first,
            window=layout.window,
            arrivals=arrivals,
            pairs=tuple([pair.digest(times) for pair in layout.pairs]),
            hidden_p2p=layout.hidden,
            local=int(self.number) if self.number.isdecimal() and len(self.number) < 10 else model.NEVER,
            arrived=arrived,
        )


class Group:
    """What one rank's entries say of one group, while they are gone through."""

    __slots__ = (
        *("coalesced", "enqueued", "front", "hidden", "last_p2p", "p2p", "p2p_seen"),
        *("pairs", "places", "slot", "window"),
    )

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.enqueued = model.NEVER
        self.front: int | None = None
        self.p2p = 0
        self.p2p_seen = self.hidden = False
        self.window: dict[int, int] = {}
        self.coalesced: set[int] = set()
        self.places: dict[int, int] = {}  # of collectives, by number
        self.pairs: dict[tuple[int, bool], tuple[list[int], list[int]]] = {}  # places: all, and finished ones
        self.last_p2p = False

    def joined(self, seq: int, number: int, batched: bool, finished: bool, operations: object, at: int) -> None:
        """One entry of a collective. ``number``: its signature; ``operations``: collectives, sends, recvs so far."""
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
        self.places[seq] = at

    def column(
        self, seqs: Sequence[int], numbers: Sequence[int], unfinished: Sequence[int], operations: int,
        newest: Sequence[int],
    ) -> None:  # fmt: skip
        """All entries of a group that has neither batches nor sends and recvs; ``newest``: the last ones' places."""
        self.enqueued = max(seqs)
        self.window = dict(zip(reversed(seqs), reversed(numbers), strict=True))  # of equal numbers the first counts
        self.front = min(unfinished, default=None)
        self.hidden = operations > seqs[-1]
        self.places = dict(zip(seqs[len(seqs) - len(newest) :], newest, strict=True))

    def sent(self, peer: int, sends: bool, seq: int, own: int, finished: bool, at: int) -> int:
        """One send or recv, the ``own``th. How many there were with this peer."""
        if seq > self.enqueued:
            self.enqueued = seq
        if own > self.p2p:
            self.p2p = own
        self.p2p_seen = self.last_p2p = True
        places, over = self.pairs.setdefault((peer, sends), ([], []))
        places.append(at)
        if finished:
            over.append(at)
        return len(places)

    def layout(self, gloo: bool) -> Layout:
        """What has been gathered; nothing is added afterwards. Gloo tells no ends, and when calls were made alone."""
        first, window = self._window()
        last = first + len(window) - 1
        over = last if self.front is None or gloo or self.front <= first else min(last, self.front - 1)
        newest = range(max(first, over - TIMES_MAX + 1), over + 1)
        return Layout(
            enqueued=self.enqueued,
            front=self.front,
            oldest=self.front is not None and self.front == min(self.window),
            p2p=self.p2p,
            p2p_seen=self.p2p_seen,
            hidden=self.hidden,
            first=first,
            window=window.tobytes(),
            arrivals=tuple([self.places.get(seq, NOWHERE) for seq in newest]),
            arrived=over,
            pairs=tuple(
                [
                    Sends(peer, sends, len(places) - len(over), places, over)
                    for (peer, sends), (places, over) in sorted(self.pairs.items())
                ]
            ),
        )

    def _window(self) -> tuple[int, array[int]]:
        """The newest signatures without a hole between them but zeros."""
        if not self.window:
            return 0, array("I")
        last = max(self.window)
        first = max(min(self.window), last - model.WINDOW_MAX + 1)
        told = self.window.get
        return first, array("I", [told(seq, 0) for seq in range(first, last + 1)])
