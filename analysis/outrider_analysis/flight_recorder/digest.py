"""Dump -> RankDigest: what the verdict needs of one rank, bounded whatever the dump holds.

At 16,384 ranks this loop decides how long the answer takes, so it looks at the newest entries (and at all that are not
finished), builds a signature once for each that is different, and parses each membership text once.

Two things about the state of an entry (docs: torch's own recorder): without timing an unfinished operation reads
"scheduled" even while its kernel spins; and backends on the generic recorder, gloo among them, leave it at "scheduled"
for ever, so that there ``retired`` alone tells that an entry is over.
"""

from __future__ import annotations

import hashlib
import marshal
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, compress
from operator import lt, sub
from typing import Any, Final

from outrider_analysis.flight_recorder import building, calls, columns, entries, model, ranges, reading

SIGNATURES_MAX: Final = 65_536
ENDS_CHARS: Final = 48
UNDESCRIBED: Final = ("", "undefined")


class Digester:
    """Digests ranks one after another, and keeps what their texts have in common. One for each node, or each run."""

    def __init__(self) -> None:
        self.memberships: dict[str, tuple[int, ...]] = {}
        self.signatures: dict[int, model.Signature] = {}
        self.forms: dict[Any, columns.Known] = {}
        self._members_by_ends: dict[tuple[int, str], list[tuple[str, str]]] = {}
        self._known: dict[bytes, columns.Known] = {}

    def rank(self, rank: int, dump: reading.Dump, taken_ns: int = 0) -> model.RankDigest:
        """``taken_ns``: when the dump was taken (Unix ns), where the caller knows; a copied file's time is no such."""
        return _Rank(self, rank, dump).digest(taken_ns)

    def node(self, ranks: Iterable[model.RankDigest], unreadable: Iterable[tuple[str, str]] = ()) -> model.NodeDigest:
        """The digests of several ranks as one."""
        return model.NodeDigest(tuple(ranks), dict(self.memberships), dict(self.signatures), tuple(unreadable))

    def members(self, text: str) -> str:
        """The key of a membership text such as "[0, 1, 2]"; empty where it says nothing.

        The text of a large world has 100 kB and is in every dump: to compare it costs a twentieth of hashing it.
        """
        alike = self._members_by_ends.setdefault((len(text), text[-ENDS_CHARS:]), [])
        for other, key in alike:
            if other == text:
                return key
        ranks = entries.parse_ranks(text)
        key = model.members_key(ranges.encode(ranks)) if ranks else ""
        alike.append((text, key))
        if key:
            self.memberships[key] = ranks
        return key

    def signature(self, entry: Mapping[str, Any]) -> columns.Known:
        """What the entry called. Raises ValueError and TypeError where it is no call."""
        name = entry["profiling_name"]
        sizes = (entry.get("input_sizes") or (), entry.get("output_sizes") or ())
        dtypes = (entry.get("input_dtypes") or (), entry.get("output_dtypes") or ())
        if type(name) is not str or not calls.is_sound(sizes, dtypes):
            raise ValueError("no call")
        key = marshal.dumps((name, sizes, dtypes), 2)
        found = self._known.get(key)
        if found is None:
            made = calls.signature(name, sizes, dtypes)
            number = int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little") or 1
            found = (number, made, not name.startswith("nccl:"), made.peer >= 0 or made.op.endswith("coalesced"))
            if len(self._known) >= SIGNATURES_MAX:
                self._known.clear()
            self._known[key] = found
            if len(self.signatures) < SIGNATURES_MAX:
                self.signatures[number] = made
        return found


class _Rank:
    """One rank's entries, taken as columns, or one after another where not all of them are whole."""

    def __init__(self, shared: Digester, rank: int, dump: reading.Dump) -> None:
        self.shared, self.number, self.dump = shared, rank, dump
        self.groups: dict[str, building.Group] = {}
        self.config = {config.name: config for config in dump.groups}
        self.unfinished: list[model.Op] = []
        self.fronts: set[tuple[int, bool, int, str]] = set()
        self.unfinished_count = self.bad = self.finished = 0
        self.calls = array("I")
        self.newest = self.gap = self.previous = 0
        self.timing = self.gloo = False
        self.first_record = model.NEVER
        self.batches = entries.Batches()
        self.edge = max(0, len(dump.entries) - entries.RECENT)

    def digest(self, taken_ns: int) -> model.RankDigest:
        orders, recent = entries.recent(self.dump.entries)
        found = columns.take(recent, self.shared.forms, self.shared.signature)
        if found is not None and len(found.different) <= model.GROUPS_MAX:
            last = self.take_all(found, orders, recent)
        else:
            last = self.take_each(orders, recent)
        problems = list(self.dump.problems)
        if self.bad:
            problems.append(f"entries: {self.bad} are not in the form of an entry; passed over")
        self._silent()
        active_only = self.finished == 0 and self._has_past()
        return model.RankDigest(
            rank=self.number,
            groups=tuple(group.digest(self.dump.status.get(group.number), self.gloo) for group in self.groups.values()),
            unfinished=tuple(self.unfinished),
            unfinished_count=self.unfinished_count,
            calls=self.calls[-3 * model.CALLS_MAX :].tobytes(),
            newest_ns=self.newest,
            called_ns=self.previous,
            gap_ns=self.gap,
            taken_ns=taken_ns,
            entries=len(self.dump.entries),
            version=".".join(map(str, self.dump.version)),
            wrapped=self.first_record != 0,
            active_only=active_only,
            timing=self.timing,
            gloo=self.gloo,
            stack=entries.stack(last),
            problems=tuple(problem[:240] for problem in problems[: model.PROBLEMS_MAX]),
        )

    def take_all(
        self, found: columns.Columns, orders: Sequence[int], items: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """All entries, which are whole; gives the last."""
        pairs = found.groups
        for pair in found.different:
            if pair[0] not in self.groups:
                self._open(*pair, items[pairs.index(pair)])
        slot_of = {pair: self.groups[pair[0]].slot for pair in found.different}
        slots = [slot_of[pair] for pair in pairs]
        places: list[list[int]] = [[] for _ in self.groups]
        for at, slot in enumerate(slots):
            places[slot].append(at)
        words, owns, kept = slots.copy(), list(found.seqs), [True] * len(items)
        odd = zip(slots, found.p2p, found.known, strict=True)
        mixed = {slot for slot, p2p, known in odd if p2p or known[3]}
        pending: list[tuple[int, int]] = []
        for group, of_group in zip(self.groups.values(), places, strict=True):
            if group.slot in mixed:
                pending += self._mixed(group, found, of_group, items, (words, owns, kept))
            else:
                pending += self._plain(group, found, of_group, items)
        numbers = [known[0] for known in found.known]
        start = bisect_left(orders, self.edge)
        rows = zip(words[start:], owns[start:], numbers[start:], strict=True)
        self.calls = array("I", chain.from_iterable(rows if all(kept) else compress(rows, kept[start:])))
        self._clocks(orders[0], items[0], found)
        self.finished, self.timing, self.gloo = sum(found.finished), found.timing, found.gloo
        for at, nth in sorted(pending):
            p2p = bool(words[at] & model.CALL_P2P)
            group = self.groups[pairs[at][0]]
            self._pending(group, orders[at], items[at], owns[at], p2p, numbers[at], found.known[at][1], nth)
        return items[-1]

    def _plain(
        self, group: building.Group, found: columns.Columns, places: Sequence[int], items: Sequence[Mapping[str, Any]]
    ) -> list[tuple[int, int]]:
        """A group of collectives alone; gives what is not finished."""
        seqs = [found.seqs[at] for at in places]
        pending = [at for at in places if not found.finished[at]]
        if pending:
            name = found.groups[pending[0]][0]
            self.batches.last[name] = seqs[-1]
            done = next((at for at in reversed(places) if items[at]["state"] == "completed"), None)
            if done is not None:
                self.batches.done[name] = found.seqs[done]
            pending = [at for at in pending if not self._collective_is_over(name, found.seqs[at], items[at])]
        numbers = [found.known[at][0] for at in places]
        newest = places[-model.ARRIVALS_MAX :] if all(map(lt, seqs, seqs[1:])) else places
        spent = [entries.duration_of(items[at]) if "duration_ms" in items[at] else 0 for at in newest]
        times = [(found.created[at], found.completed[at], used) for at, used in zip(newest, spent, strict=True)]
        group.column(seqs, numbers, [found.seqs[at] for at in pending], found.operations[places[-1]], times)
        return [(at, 0) for at in pending]

    def _mixed(
        self, group: building.Group, found: columns.Columns, places: Sequence[int], items: Sequence[Mapping[str, Any]],
        told: tuple[list[int], list[int], list[bool]],
    ) -> list[tuple[int, int]]:  # fmt: skip
        """A group with sends, recvs or batches, by whose order they are understood; gives what is not finished."""
        self.batches.add(items[at] for at in places)
        words, owns, kept = told
        pending = []
        for at in places:
            number, signature, _, _ = found.known[at]
            p2p, seq, finished = found.p2p[at] or signature.peer >= 0, found.seqs[at], found.finished[at]
            if signature.op == "coalesced" and (p2p or group.last_p2p):
                group.enqueued = max(group.enqueued, seq)
                kept[at] = False
                continue
            times = (found.created[at], found.completed[at])
            nth = 0
            if p2p:
                own = owns[at] = found.owns[at]
                words[at] |= model.CALL_P2P
                finished = finished or self._is_over(found.groups[at][0], own, items[at])
                nth = group.sent(signature.peer, signature.op == "send", seq, own, finished, times)
            else:
                finished = finished or self._collective_is_over(found.groups[at][0], seq, items[at])
                batched, spent = signature.op.endswith("coalesced"), entries.duration_of(items[at])
                group.joined(seq, number, batched, finished, found.operations[at], (*times, spent))
            if not finished:
                pending.append((at, nth))
        return pending

    def _clocks(self, order: int, first: Mapping[str, Any], found: columns.Columns) -> None:
        self._place(order, first)
        created = found.created if 0 not in found.created else [stamp for stamp in found.created if stamp]
        self.newest = max(*map(max, (found.created, found.started, found.completed)))
        if created:
            self.previous = created[-1]
            self.gap = max(0, max(map(sub, created[1:], created), default=0))

    def take_each(self, orders: Sequence[int], items: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """One entry after another; those that are not whole are counted. Gives the last that is."""
        last: Mapping[str, Any] = {}
        self.batches.add(items)
        for order, entry in zip(orders, items, strict=True):
            try:
                self.take(order, entry)
                last = entry
            except entries.NOT_WHOLE:
                self.bad += 1
        return last

    def take(self, order: int, entry: Mapping[str, Any]) -> None:
        """Add one entry; raises one of entries.NOT_WHOLE, and has then changed nothing."""
        name, description = entry["process_group"]
        number, signature, by_retired, _ = self.shared.signature(entry)
        p2p = entry.get("is_p2p") is True or signature.peer >= 0
        seq: Any = entry.get("collective_seq_id", entry.get("seq_id"))
        own: Any = entry.get("p2p_seq_id", seq) if p2p else seq
        if type(seq) is not int or type(own) is not int or not 0 <= seq < 2**31 or not 0 <= own < 2**31:
            raise ValueError("no sequence number")
        group = self.groups.get(name) or self._open(name, description, entry)
        finished = entry["state"] == "completed" or (by_retired and entry.get("retired") is True)
        self._clock(order, entry)
        self.gloo = self.gloo or by_retired
        self.finished += finished
        started = entries.time_of(entry, "time_discovered_started_ns")  # of an unfinished one: seen by the dump itself
        self.newest = max(self.newest, started, entries.time_of(entry, "time_discovered_completed_ns"))
        self.timing = self.timing or started > 0
        if signature.op == "coalesced" and (p2p or group.last_p2p):
            group.enqueued = max(group.enqueued, seq)
            return  # ends a batch of sends and recvs, which have entries of their own
        if order >= self.edge:  # older ones are picked, so they say nothing about order
            self.calls.extend((group.slot | (model.CALL_P2P if p2p else 0), own, number))
        nth = 0
        if p2p:
            finished = finished or self._is_over(name, own, entry)
            times = (
                entries.time_of(entry, "time_created_ns"), entries.time_of(entry, "time_discovered_completed_ns")
            )  # fmt: skip
            nth = group.sent(signature.peer, signature.op == "send", seq, own, finished, times)
        else:
            finished = finished or self._collective_is_over(name, seq, entry)
            group.collective(entry, seq, number, signature.op.endswith("coalesced"), finished)
        if not finished:
            self._pending(group, order, entry, own, p2p, number, signature, nth)

    def _open(self, name: Any, description: Any, entry: Mapping[str, Any]) -> building.Group:
        if type(name) is not str or type(description) is not str or len(self.groups) >= model.GROUPS_MAX:
            raise ValueError("no group")
        known = self.config.get(name)
        members = self.shared.members(known.ranks) if known is not None else ""
        told = known.description if known is not None and description in UNDESCRIBED else description
        group = building.Group(
            len(self.groups), name[: reading.WORD_CHARS_MAX], told[: reading.WORD_CHARS_MAX], members
        )
        group.number = str(entry.get("pg_id")) if type(entry.get("pg_id")) is int else ""
        self.groups[name] = group
        return group

    def _clock(self, order: int, entry: Mapping[str, Any]) -> None:
        if self.first_record < 0:
            self._place(order, entry)
        created = entries.time_of(entry, "time_created_ns")
        if not created:
            return
        self.newest = max(self.newest, created)
        if self.previous and created - self.previous > self.gap:
            self.gap = created - self.previous
        self.previous = created

    def _place(self, order: int, entry: Mapping[str, Any]) -> None:
        record: Any = entry.get("record_id")
        self.first_record = record - order if type(record) is int and record >= order else 1

    def _is_over(self, name: str, number: int, entry: Mapping[str, Any]) -> bool:
        """Is a send or recv over that is not marked so? Members of a batch never are: the entry that ends it is."""
        told = self.batches.ends.get((name, number))
        if told is not None or name in self.batches.names:
            return told is not False
        status = self.dump.status.get(str(entry.get("pg_id")))
        # The newest one reads unfinished and is counted as over: members of batches whose ends are not in the dump.
        newest = self.batches.newest.get(name) if self.batches.open.get(name) else None
        return status is not None and status.completed == status.enqueued == newest and number <= status.completed

    def _collective_is_over(self, name: str, number: int, entry: Mapping[str, Any]) -> bool:
        status = self.dump.status.get(str(entry.get("pg_id")))
        counts = (status.enqueued, status.completed) if status is not None else (model.NEVER, model.NEVER)
        before = entry.get("p2p_seq_id")
        return entry["state"] != "started" and self.batches.collective_is_over(name, number, *counts, before)

    def _pending(
        self, group: building.Group, order: int, entry: Mapping[str, Any], seq: int, p2p: bool, number: int,
        signature: model.Signature, nth: int,
    ) -> None:  # fmt: skip
        self.unfinished_count += 1
        key = (group.slot, p2p, signature.peer, signature.op if p2p else "")
        if len(self.unfinished) >= model.OPS_MAX and (key in self.fronts or len(self.fronts) >= model.GROUPS_MAX):
            return
        self.fronts.add(key)
        started = entry["state"] == "started" or entries.time_of(entry, "time_discovered_started_ns") > 0
        self.unfinished.append(
            model.Op(
                group=group.slot,
                op=entry["profiling_name"].rpartition(":")[2].split(" ")[0][: calls.WORD_CHARS_MAX],
                seq=seq,
                p2p=p2p,
                peer=signature.peer,
                started=started,
                signature=number,
                created_ns=entries.time_of(entry, "time_created_ns"),
                order=order,
                nth=nth,
                timed_out=entry.get("retired") is True,
                stack=entries.stack(entry) if len(self.unfinished) < 2 else (),
            )
        )

    def _silent(self) -> None:
        """Groups of which no entry is left: their counters, where the numbers of pg_status can be told apart.

        Names and local numbers are both given in order of creation, so equal counts are matched in that order.
        """
        seen = {group.number for group in self.groups.values()}
        numbers = sorted((number for number in self.dump.status if number not in seen), key=entries.by_number)
        names = sorted((name for name in self.config if name not in self.groups), key=entries.by_number)
        for at, name in enumerate(names[: model.GROUPS_MAX - len(self.groups)]):
            config = self.config[name]
            group = building.Group(len(self.groups), name, config.description, self.shared.members(config.ranks))
            if len(numbers) == len(names) and name.isdecimal():
                group.number = numbers[at]
            self.groups[name] = group

    def _has_past(self) -> bool:
        """No finished entry is there, yet operations were finished: the dump holds unfinished ones alone."""
        counted = any(max(status.completed, status.enqueued) > 0 for status in self.dump.status.values())
        fronts = [group.front for group in self.groups.values() if group.front is not None]
        return counted if not fronts else self.first_record != 0 or any(front > 1 for front in fronts)
