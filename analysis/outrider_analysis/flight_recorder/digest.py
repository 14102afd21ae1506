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
from collections.abc import Iterable, Mapping
from typing import Any, Final

from outrider_analysis.flight_recorder import calls, entries, model, ranges, reading

SIGNATURES_MAX: Final = 65_536
UNDESCRIBED: Final = ("", "undefined")


class Digester:
    """Digests ranks one after another, and keeps what their texts have in common. One for each node, or each run."""

    def __init__(self) -> None:
        self.memberships: dict[str, tuple[int, ...]] = {}
        self.signatures: dict[int, model.Signature] = {}
        self._members_by_text: dict[str, str] = {}
        self._known: dict[bytes, tuple[int, model.Signature, bool]] = {}

    def rank(self, rank: int, dump: reading.Dump, taken_ns: int = 0) -> model.RankDigest:
        """``taken_ns``: when the dump was taken (Unix ns), where the caller knows; a copied file's time is no such."""
        return _Rank(self, rank, dump).digest(taken_ns)

    def node(self, ranks: Iterable[model.RankDigest], unreadable: Iterable[tuple[str, str]] = ()) -> model.NodeDigest:
        """The digests of several ranks as one."""
        return model.NodeDigest(tuple(ranks), dict(self.memberships), dict(self.signatures), tuple(unreadable))

    def members(self, text: str) -> str:
        """The key of a membership text such as "[0, 1, 2]"; empty where it says nothing."""
        key = self._members_by_text.get(text)
        if key is None:
            ranks = entries.parse_ranks(text)
            key = "" if not ranks else hashlib.blake2b(ranges.encode(ranks).encode(), digest_size=8).hexdigest()
            self._members_by_text[text] = key
            if key:
                self.memberships[key] = ranks
        return key

    def signature(self, entry: Mapping[str, Any]) -> tuple[int, model.Signature, bool]:
        """Number of the signature (the same on every node), the signature, and whether ``retired`` tells the end."""
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
            found = (number, made, not name.startswith("nccl:"))
            if len(self._known) >= SIGNATURES_MAX:
                self._known.clear()
            self._known[key] = found
            if len(self.signatures) < SIGNATURES_MAX:
                self.signatures[number] = made
        return found


class _Group:
    """A group while it is put together."""

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


class _Rank:
    """One rank's entries, taken one after another."""

    def __init__(self, shared: Digester, rank: int, dump: reading.Dump) -> None:
        self.shared, self.number, self.dump = shared, rank, dump
        self.groups: dict[str, _Group] = {}
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
        last: Mapping[str, Any] = {}
        recent = list(entries.recent(self.dump.entries))
        self.batches = entries.batches(recent)
        for order, entry in recent:
            try:
                self.take(order, entry)
                last = entry
            except entries.NOT_WHOLE:
                self.bad += 1
        problems = list(self.dump.problems)
        if self.bad:
            problems.append(f"entries: {self.bad} are not in the form of an entry; passed over")
        self._silent()
        active_only = self.finished == 0 and self._has_past()
        return model.RankDigest(
            rank=self.number,
            groups=tuple(self._group(group) for group in self.groups.values()),
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

    def take(self, order: int, entry: Mapping[str, Any]) -> None:
        """Add one entry; raises one of entries.NOT_WHOLE, and has then changed nothing."""
        name, description = entry["process_group"]
        number, signature, by_retired = self.shared.signature(entry)
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
        if p2p:
            finished = finished or self._is_over(name, own, entry)
            self._send_or_recv(group, entry, seq, own, signature, finished)
        else:
            _collective(group, entry, seq, number, signature, finished)
        if not finished:
            self._pending(group, order, entry, own, p2p, number, signature)

    def _open(self, name: Any, description: Any, entry: Mapping[str, Any]) -> _Group:
        if type(name) is not str or type(description) is not str or len(self.groups) >= model.GROUPS_MAX:
            raise ValueError("no group")
        known = self.config.get(name)
        members = self.shared.members(known.ranks) if known is not None else ""
        told = known.description if known is not None and description in UNDESCRIBED else description
        group = _Group(len(self.groups), name[: reading.WORD_CHARS_MAX], told[: reading.WORD_CHARS_MAX], members)
        group.number = str(entry.get("pg_id")) if type(entry.get("pg_id")) is int else ""
        self.groups[name] = group
        return group

    def _clock(self, order: int, entry: Mapping[str, Any]) -> None:
        if self.first_record < 0:
            record: Any = entry.get("record_id")
            self.first_record = record - order if type(record) is int and record >= order else 1
        created = entries.time_of(entry, "time_created_ns")
        if not created:
            return
        self.newest = max(self.newest, created)
        if self.previous and created - self.previous > self.gap:
            self.gap = created - self.previous
        self.previous = created

    def _is_over(self, name: str, number: int, entry: Mapping[str, Any]) -> bool:
        """Is a send or recv over that is not marked so? Members of a batch never are: the entry that ends it is."""
        told = self.batches.ends.get((name, number))
        if told is not None or name in self.batches.names:
            return told is not False
        status = self.dump.status.get(str(entry.get("pg_id")))
        # The newest one reads unfinished and is counted as over: members of batches whose ends are not in the dump.
        newest = self.batches.newest.get(name) if self.batches.open.get(name) else None
        return status is not None and status.completed == status.enqueued == newest and number <= status.completed

    def _send_or_recv(
        self, group: _Group, entry: Mapping[str, Any], seq: int, own: int, signature: model.Signature, finished: bool
    ) -> None:
        group.enqueued = max(group.enqueued, seq)
        group.p2p, group.p2p_seen, group.last_p2p = max(group.p2p, own), True, True
        pair = group.pairs.setdefault((signature.peer, signature.op == "send"), [0, 0, 0, 0])
        created, completed = (
            entries.time_of(entry, "time_created_ns"),
            entries.time_of(entry, "time_discovered_completed_ns"),
        )
        pair[0] += 1
        pair[1] += not finished
        pair[2] = max(pair[2], created)
        pair[3] = max(pair[3], completed if finished else 0)

    def _pending(
        self, group: _Group, order: int, entry: Mapping[str, Any], seq: int, p2p: bool, number: int,
        signature: model.Signature,
    ) -> None:  # fmt: skip
        self.unfinished_count += 1
        key = (group.slot, p2p, signature.peer, signature.op if p2p else "")
        if len(self.unfinished) >= model.OPS_MAX and (key in self.fronts or len(self.fronts) >= model.GROUPS_MAX):
            return
        self.fronts.add(key)
        started = entry["state"] == "started" or entries.time_of(entry, "time_discovered_started_ns") > 0
        pair = group.pairs.get((signature.peer, signature.op == "send")) if p2p else None
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
                nth=pair[0] if pair is not None else 0,
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
            group = _Group(len(self.groups), name, config.description, self.shared.members(config.ranks))
            if len(numbers) == len(names) and name.isdecimal():
                group.number = numbers[at]
            self.groups[name] = group

    def _has_past(self) -> bool:
        """No finished entry is there, yet operations were finished: the dump holds unfinished ones alone."""
        counted = any(max(status.completed, status.enqueued) > 0 for status in self.dump.status.values())
        fronts = [group.front for group in self.groups.values() if group.front is not None]
        return counted if not fronts else self.first_record != 0 or any(front > 1 for front in fronts)

    def _group(self, group: _Group) -> model.GroupDigest:
        enqueued, completed = _counters(group, self.dump.status.get(group.number), self.gloo)
        first, window = _window(group.window)
        last = first + len(window) - 1
        arrivals = array("q")
        for seq in range(max(first, last - model.ARRIVALS_MAX + 1), last + 1):
            arrivals.extend(group.arrivals.get(seq, (0, 0, 0)))
        return model.GroupDigest(
            name=group.name,
            description=group.description,
            members=group.members,
            enqueued=enqueued,
            completed=completed,
            p2p=group.p2p,
            first=first,
            window=window.tobytes(),
            arrivals=arrivals.tobytes(),
            pairs=tuple(model.Pair(peer, sends, *told) for (peer, sends), told in sorted(group.pairs.items())),
            hidden_p2p=group.hidden,
            local=int(group.number) if group.number.isdecimal() and len(group.number) < 10 else model.NEVER,
        )


def _collective(
    group: _Group, entry: Mapping[str, Any], seq: int, number: int, signature: model.Signature, finished: bool
) -> None:
    group.last_p2p = False
    if seq > group.enqueued:
        group.enqueued = seq
    batched = signature.op.endswith("coalesced")
    if seq not in group.window or (seq in group.coalesced and not batched):
        group.window[seq] = number
    if batched:
        group.coalesced.add(seq)
    if not finished:
        group.front = seq if group.front is None else min(group.front, seq)
    operations: Any = entry.get("op_id")
    group.hidden = type(operations) is int and not group.p2p_seen and operations > seq
    duration: Any = entry.get("duration_ms")
    group.arrivals[seq] = (
        entries.time_of(entry, "time_created_ns"),
        entries.time_of(entry, "time_discovered_completed_ns"),
        int(duration * 1e6) if type(duration) in (int, float) and 0 <= duration < 1e9 else 0,
    )


def _counters(group: _Group, status: reading.Status | None, gloo: bool) -> tuple[int | None, int | None]:
    """Enqueued and completed collectives. On gloo, and where sends and recvs were seen, the status counts those too."""
    enqueued: int | None = group.enqueued if group.enqueued >= 0 else None
    if status is not None and not gloo and not group.p2p_seen:
        enqueued = max(group.enqueued, status.enqueued)
        if enqueued == model.NEVER and status.enqueued == model.NEVER:
            enqueued = 0
    completed = group.front - 1 if group.front is not None else enqueued
    oldest = group.front is not None and group.front == min(group.window)
    if oldest and completed is not None and status is not None and not gloo and not group.p2p_seen:
        completed = min(completed, max(0, status.completed))  # less: the ring has forgotten the first unfinished one
    return enqueued, completed


def _window(known: dict[int, int]) -> tuple[int, array[int]]:
    """The newest signatures without a hole between them but zeros."""
    if not known:
        return 0, array("I")
    last = max(known)
    first = max(min(known), last - model.WINDOW_MAX + 1)
    return first, array("I", (known.get(seq, 0) for seq in range(first, last + 1)))
