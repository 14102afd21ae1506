"""The entries of a dump one after another, where not all of them are whole: those that are not are counted, and left.

Gives what the columns would give of the whole ones (see ``outline``), at three times the cost.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from outrider_analysis.flight_recorder import building, columns, entries, model, outline, reading


class Each:
    """One dump's entries; ``bad`` is how many were passed over. What is kept has the places of those that are whole."""

    def __init__(
        self, find: Callable[[Mapping[str, Any]], columns.Known], status: Mapping[str, reading.Status], edge: int
    ) -> None:
        """``find`` tells what an entry called; from ``edge`` on entries are all there."""
        self.find, self.edge = find, edge
        self.batches = entries.Batches(status)
        self.items: list[Mapping[str, Any]] = []
        self.orders: list[int] = []
        self.bad = 0
        self._times: tuple[list[int], list[int], list[int]] = ([], [], [])  # created, started, completed
        self._groups: dict[str, building.Group] = {}
        self._headings: list[int] = []
        self._calls = array("I")
        self._pending: list[outline.Pending] = []
        self._finished = 0
        self._gloo = False

    def take(self, orders: Sequence[int], items: Sequence[Mapping[str, Any]]) -> outline.Outline:
        """All entries; ``orders`` are their places in the dump."""
        self.batches.add(items)
        for order, entry in zip(orders, items, strict=True):
            try:
                self._take(order, entry)
            except entries.NOT_WHOLE:
                self.bad += 1
        return outline.Outline(
            headings=self._headings,
            layouts=[group.layout(self._gloo) for group in self._groups.values()],
            calls=outline.newest_calls(self._calls),
            pending=self._pending,
            finished=self._finished,
            gloo=self._gloo,
        )

    def times(self) -> building.Times:
        """Of the whole entries."""
        return building.Times(*self._times, self.items)

    def _take(self, order: int, entry: Mapping[str, Any]) -> None:
        """Add one entry; raises one of entries.NOT_WHOLE, and has then changed nothing."""
        name, description = entry["process_group"]
        number, signature, by_retired, _ = self.find(entry)
        p2p = entry.get("is_p2p") is True or signature.peer >= 0
        seq: Any = entry.get("collective_seq_id", entry.get("seq_id"))
        own: Any = entry.get("p2p_seq_id", seq) if p2p else seq
        if type(seq) is not int or type(own) is not int or not 0 <= seq < 2**31 or not 0 <= own < 2**31:
            raise ValueError("no sequence number")
        state = entry["state"]
        finished = state == "completed" or (by_retired and entry.get("retired") is True)
        group = self._groups.get(name) or self._open(name, description)
        at = self._whole(order, entry)
        self._gloo = self._gloo or by_retired
        self._finished += finished
        if signature.op == "coalesced" and (p2p or group.last_p2p):
            group.enqueued = max(group.enqueued, seq)
            return  # ends a batch of sends and recvs, which have entries of their own
        if order >= self.edge:
            self._calls.extend((group.slot | (model.CALL_P2P if p2p else 0), own, number))
        nth = 0
        if p2p:
            finished = finished or self.batches.is_over(name, own, entry)
            nth = group.sent(signature.peer, signature.op == "send", seq, own, finished, at)
        else:
            finished = finished or self.batches.collective_is_over(name, seq, entry)
            group.joined(seq, number, signature.op.endswith("coalesced"), finished, entry.get("op_id"), at)
        if not finished:
            self._pending.append(outline.Pending(at, group.slot, own, p2p, number, signature, nth))

    def _open(self, name: Any, description: Any) -> building.Group:
        if type(name) is not str or type(description) is not str or len(self._groups) >= model.GROUPS_MAX:
            raise ValueError("no group")
        self._headings.append(len(self.items))
        group = self._groups[name] = building.Group(len(self._groups))
        return group

    def _whole(self, order: int, entry: Mapping[str, Any]) -> int:
        self.items.append(entry)
        self.orders.append(order)
        words = ("time_created_ns", "time_discovered_started_ns", "time_discovered_completed_ns")
        for column, word in zip(self._times, words, strict=True):
            column.append(entries.time_of(entry, word))
        return len(self.items) - 1
