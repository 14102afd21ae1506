"""What the entries of one rank say apart from their times and the names of its groups, made once for ranks that agree.

The ranks of a node mostly run the same program: the same calls, in the same order, on groups of other names, at other
times. To see that the columns are equal costs a fifth of going through them again.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from operator import lt
from typing import Any, Final

from outrider_analysis.flight_recorder import building, columns, entries, model, reading

KEPT_MAX: Final = 4
ENTRIES_MAX: Final = 8192  # of an outline that is kept


@dataclass(frozen=True, slots=True)
class Pending:
    """An operation that is not over; ``at``: its entry's place."""

    at: int
    slot: int
    own: int
    p2p: bool
    number: int
    signature: model.Signature
    nth: int


@dataclass(frozen=True, slots=True)
class Outline:
    """``headings``: for each group the place of the first entry that names it."""

    headings: Sequence[int]
    layouts: Sequence[building.Layout]
    calls: bytes
    pending: Sequence[Pending]
    finished: int
    gloo: bool


@dataclass(frozen=True, slots=True)
class _Kept:
    """An outline and all that it was made from."""

    words: tuple[Sequence[Any], ...]
    start: int
    places: Sequence[Sequence[int]]  # by group
    asked: Sequence[int]  # entries whose end the group's counts were asked for
    numbers: Sequence[str]  # their groups' local numbers
    counts: Mapping[str, reading.Status | None]  # and what the status says of these
    outline: Outline

    def fits(
        self, told: columns.Told, start: int, items: Sequence[Mapping[str, Any]], status: Mapping[str, reading.Status]
    ) -> bool:
        """Would these entries give the same outline?"""
        if start != self.start or told.words != self.words:
            return False
        names = set()
        for places in self.places:
            pair = told.pairs[places[0]]
            if not columns.is_pair(pair) or [told.pairs[at] for at in places].count(pair) != len(places):
                return False
            names.add(pair[0])
        return (
            len(names) == len(self.places)
            and [entries.number_of(items[at]) for at in self.asked] == self.numbers
            and all(status.get(number) == counts for number, counts in self.counts.items())
        )


class Outlines:
    """The latest outlines. Bounded: of each, the columns it was made from are kept."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []

    def find(
        self, told: columns.Told, start: int, items: Sequence[Mapping[str, Any]], status: Mapping[str, reading.Status]
    ) -> Outline | None:
        """One that was made of the same words."""
        for at, kept in enumerate(self._kept):
            if kept.fits(told, start, items, status):
                if at:
                    self._kept.insert(0, self._kept.pop(at))
                return kept.outline
        return None

    def make(
        self,
        told: columns.Told,
        found: columns.Columns,
        start: int,
        items: Sequence[Mapping[str, Any]],
        status: Mapping[str, reading.Status],
    ) -> Outline:
        """A new one. ``start``: from this place on entries are all there, so that their order can be told."""
        making = _Making(told, found, items, entries.Batches(status))
        outline = making.outline(start)
        if len(items) <= ENTRIES_MAX and len(making.slots) == len(found.different):
            numbers = [entries.number_of(items[at]) for at in making.asked]
            counts = {number: status.get(number) for number in numbers}
            self._kept.insert(0, _Kept(told.words, start, making.places, making.asked, numbers, counts, outline))
            del self._kept[KEPT_MAX:]
        return outline


class _Making:
    """One outline from whole columns."""

    def __init__(
        self,
        told: columns.Told,
        found: columns.Columns,
        items: Sequence[Mapping[str, Any]],
        batches: entries.Batches,
    ) -> None:
        self.told, self.found, self.items, self.batches = told, found, items, batches
        self.slots: dict[str, int] = {}
        for name, _ in found.different:
            self.slots.setdefault(name, len(self.slots))
        slot_of = {pair: self.slots[pair[0]] for pair in found.different}
        self.words = [slot_of[pair] for pair in told.pairs]  # slots, and flags later on
        self.places: list[list[int]] = [[] for _ in self.slots]
        for at, slot in enumerate(self.words):
            self.places[slot].append(at)
        self.owns, self.kept = list(found.seqs), [True] * len(items)
        self.asked: list[int] = []

    def outline(self, start: int) -> Outline:
        """Group after group."""
        found = self.found
        odd = zip(self.words, found.p2p, found.known, strict=True)
        mixed = {slot for slot, p2p, known in odd if p2p or known[3]}
        groups = [building.Group(slot) for slot in range(len(self.places))]
        pending: list[Pending] = []
        for name, group, places in zip(self.slots, groups, self.places, strict=True):
            pending += self._mixed(name, group, places) if group.slot in mixed else self._plain(name, group, places)
        pending.sort(key=lambda one: one.at)
        rows = zip(self.words[start:], self.owns[start:], [known[0] for known in found.known[start:]], strict=True)
        kept = rows if all(self.kept) else compress(rows, self.kept[start:])
        return Outline(
            headings=[places[0] for places in self.places],
            layouts=[group.layout(found.gloo) for group in groups],
            calls=newest_calls(array("I", chain.from_iterable(kept))),
            pending=pending,
            finished=sum(found.finished),
            gloo=found.gloo,
        )

    def _plain(self, name: str, group: building.Group, places: Sequence[int]) -> list[Pending]:
        """A group of collectives alone; gives what is not finished."""
        found = self.found
        seqs = [found.seqs[at] for at in places]
        pending = [at for at in places if not found.finished[at]]
        if pending:
            self.batches.last[name] = seqs[-1]
            done = next((at for at in reversed(places) if self.items[at]["state"] == "completed"), None)
            if done is not None:
                self.batches.done[name] = found.seqs[done]
            self.asked += pending
            over = self.batches.collective_is_over
            pending = [at for at in pending if not over(name, found.seqs[at], self.items[at])]
        numbers = [found.known[at][0] for at in places]
        newest = places[-building.TIMES_MAX - len(pending) :] if all(map(lt, seqs, seqs[1:])) else places
        group.column(seqs, numbers, [found.seqs[at] for at in pending], found.operations[places[-1]], newest)
        return [Pending(at, group.slot, found.seqs[at], False, *found.known[at][:2], 0) for at in pending]

    def _mixed(self, name: str, group: building.Group, places: Sequence[int]) -> list[Pending]:
        """A group with sends, recvs or batches, by whose order they are understood; gives what is not finished."""
        found, items, batches = self.found, self.items, self.batches
        batches.add(items[at] for at in places)
        pending = []
        for at in places:
            number, signature, _, _ = found.known[at]
            p2p, seq, finished = found.p2p[at] or signature.peer >= 0, found.seqs[at], found.finished[at]
            if signature.op == "coalesced" and (p2p or group.last_p2p):
                group.enqueued = max(group.enqueued, seq)
                self.kept[at] = False
                continue
            if not finished:
                self.asked.append(at)
            nth = 0
            if p2p:
                own = self.owns[at] = found.owns[at]
                self.words[at] |= model.CALL_P2P
                finished = finished or batches.is_over(name, own, items[at])
                nth = group.sent(signature.peer, signature.op == "send", seq, own, finished, at)
            else:
                finished = finished or batches.collective_is_over(name, seq, items[at])
                group.joined(seq, number, signature.op.endswith("coalesced"), finished, found.operations[at], at)
            if not finished:
                pending.append(Pending(at, group.slot, self.owns[at], p2p, number, signature, nth))
        return pending


def newest_calls(calls: array[int]) -> bytes:
    """As many as a digest holds."""
    return calls[-3 * model.CALLS_MAX :].tobytes()


def first_in_order(orders: Sequence[int], edge: int) -> int:
    """From which place on the entries are all there; older ones are picked, so they say nothing about order."""
    return bisect_left(orders, edge)
