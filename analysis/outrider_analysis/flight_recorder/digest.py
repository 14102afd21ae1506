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
from collections.abc import Iterable, Mapping
from operator import sub
from typing import Any, Final

from outrider_analysis.flight_recorder import building, calls, columns, each, entries, model, outline, ranges, reading

SIGNATURES_MAX: Final = 65_536
ENDS_CHARS: Final = 48
UNDESCRIBED: Final = ("", "undefined")


class Digester:
    """Digests ranks one after another, and keeps what their texts have in common. One for each node, or each run."""

    def __init__(self) -> None:
        self.memberships: dict[str, tuple[int, ...]] = {}
        self.signatures: dict[int, model.Signature] = {}
        self.forms: dict[Any, columns.Known] = {}
        self.outlines = outline.Outlines()
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
        self.config = {config.name: config for config in dump.groups}
        self.headings: dict[str, building.Heading] = {}
        self.unfinished: list[model.Op] = []
        self.problems = list(dump.problems)
        self.orders, items = entries.recent(dump.entries)
        self.edge = max(0, len(dump.entries) - entries.RECENT)
        self.times = building.Times((), (), (), items)
        self.outline = self._whole() or self._each()

    def _whole(self) -> outline.Outline | None:
        """None where an entry is not whole."""
        items, status = self.times.items, self.dump.status
        told = columns.split(items)
        if told is None:
            return None
        self.times = building.Times(told.created, told.started, told.completed, items)
        start = outline.first_in_order(self.orders, self.edge)
        found = self.shared.outlines.find(told, start, items, status)
        if found is None:
            checked = columns.check(told, items, self.shared.forms, self.shared.signature)
            if checked is None or len(checked.different) > model.GROUPS_MAX:
                return None
            found = self.shared.outlines.make(told, checked, start, items, status)
        return found

    def _each(self) -> outline.Outline:
        found = each.Each(self.shared.signature, self.dump.status, self.edge)
        made = found.take(self.orders, self.times.items)
        self.orders, self.times = found.orders, found.times()
        if found.bad:
            self.problems.append(f"entries: {found.bad} are not in the form of an entry; passed over")
        return made

    def digest(self, taken_ns: int) -> model.RankDigest:
        items, found = self.times.items, self.outline
        for at in found.headings:
            self._open(items[at])
        layouts = list(found.layouts)
        self._silent()
        layouts += [building.EMPTY] * (len(self.headings) - len(layouts))
        self._pending()
        return model.RankDigest(
            rank=self.number,
            groups=tuple(map(self._group, self.headings.values(), layouts)),
            unfinished=tuple(self.unfinished),
            unfinished_count=len(found.pending),
            calls=found.calls,
            **self._clocks(),
            taken_ns=taken_ns,
            entries=len(self.dump.entries),
            version=".".join(map(str, self.dump.version)),
            wrapped=self._first_record() != 0,
            active_only=found.finished == 0 and self._has_past(),
            timing=any(self.times.started),
            gloo=found.gloo,
            stack=entries.stack(items[-1]) if items else (),
            problems=tuple(problem[:240] for problem in self.problems[: model.PROBLEMS_MAX]),
        )

    def _group(self, heading: building.Heading, layout: building.Layout) -> model.GroupDigest:
        return heading.digest(layout, self.times, self.dump.status.get(heading.number), self.outline.gloo)

    def _open(self, entry: Mapping[str, Any]) -> None:
        name, description = entry["process_group"]
        known = self.config.get(name)
        members = self.shared.members(known.ranks) if known is not None else ""
        told = known.description if known is not None and description in UNDESCRIBED else description
        words = (name[: reading.WORD_CHARS_MAX], told[: reading.WORD_CHARS_MAX])
        self.headings[name] = building.Heading(len(self.headings), *words, members, entries.number_of(entry))

    def _clocks(self) -> dict[str, int]:
        """The newest stamp of all, when the newest call was made, and the longest time between two calls in a row."""
        created, started, completed = self.times.created, self.times.started, self.times.completed
        newest = max(*map(max, (created, started, completed))) if created else 0
        if 0 in created:
            created = [stamp for stamp in created if stamp]
        gap = max(0, max(map(sub, created[1:], created), default=0))
        return {"newest_ns": newest, "called_ns": created[-1] if created else 0, "gap_ns": gap}

    def _first_record(self) -> int:
        """The number of the record at the ring's beginning; NEVER where there is none."""
        if not self.orders:
            return model.NEVER
        record: Any = self.times.items[0].get("record_id")
        return record - self.orders[0] if type(record) is int and record >= self.orders[0] else 1

    def _pending(self) -> None:
        """The earliest operations that are not over, and of each group, peer and direction the first."""
        fronts: set[tuple[int, bool, int, str]] = set()
        for one in self.outline.pending:
            key = (one.slot, one.p2p, one.signature.peer, one.signature.op if one.p2p else "")
            if len(self.unfinished) < model.OPS_MAX or (key not in fronts and len(fronts) < model.GROUPS_MAX):
                fronts.add(key)
                self.unfinished.append(self._op(one, self.times.items[one.at]))

    def _op(self, one: outline.Pending, entry: Mapping[str, Any]) -> model.Op:
        return model.Op(
            group=one.slot,
            op=entry["profiling_name"].rpartition(":")[2].split(" ")[0][: calls.WORD_CHARS_MAX],
            seq=one.own,
            p2p=one.p2p,
            peer=one.signature.peer,
            started=entry["state"] == "started" or self.times.started[one.at] > 0,
            signature=one.number,
            created_ns=self.times.created[one.at],
            order=self.orders[one.at],
            nth=one.nth,
            timed_out=entry.get("retired") is True,
            stack=entries.stack(entry) if len(self.unfinished) < 2 else (),
        )

    def _silent(self) -> None:
        """Groups of which no entry is left: their counters, where the numbers of pg_status can be told apart.

        Names and local numbers are both given in order of creation, so equal counts are matched in that order.
        """
        seen = {heading.number for heading in self.headings.values()}
        numbers = sorted((number for number in self.dump.status if number not in seen), key=entries.by_number)
        names = sorted((name for name in self.config if name not in self.headings), key=entries.by_number)
        for at, name in enumerate(names[: model.GROUPS_MAX - len(self.headings)]):
            config = self.config[name]
            number = numbers[at] if len(numbers) == len(names) and name.isdecimal() else ""
            members = self.shared.members(config.ranks)
            self.headings[name] = building.Heading(len(self.headings), name, config.description, members, number)

    def _has_past(self) -> bool:
        """No finished entry is there, yet operations were finished: the dump holds unfinished ones alone."""
        counted = any(max(status.completed, status.enqueued) > 0 for status in self.dump.status.values())
        fronts = [layout.front for layout in self.outline.layouts if layout.front is not None]
        return counted if not fronts else self._first_record() != 0 or any(front > 1 for front in fronts)
