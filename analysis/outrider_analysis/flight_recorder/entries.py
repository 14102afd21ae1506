"""Entries of a dump before they are digested: which are looked at, which batches are over, and single fields.

Members of a coalesced batch of sends and recvs stay at "scheduled" for ever; the entry that ends the batch tells. In a
dump of unfinished entries that one is gone once the batch is over, and the members are left.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from outrider_analysis.flight_recorder import model, ranges, reading

RECENT: Final = 512  # newest entries looked at
RECENT_EACH: Final = 16  # and of each group at least so many of the newest
MEMBERS_CHARS_MAX: Final = 16 * 1024 * 1024
NOT_WHOLE: Final = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


class Batches:
    """What entries that end a batch of sends and recvs say: by group and number, whether it is over."""

    def __init__(self, status: Mapping[str, reading.Status]) -> None:
        """``status``: the groups' own counts, by local number."""
        self.status = status
        self.ends: dict[tuple[str, int], bool] = {}
        self.names: set[str] = set()
        self.newest: dict[str, int] = {}  # number of the newest send or recv
        self.open: dict[str, bool] = {}  # is that one marked as unfinished?
        self.joint: dict[tuple[str, int], bool] = {}  # as ``ends``, of batches of collectives
        self.last: dict[str, int] = {}  # number of the newest collective
        self.done: dict[str, int] = {}  # and of the newest that is over

    def is_over(self, name: str, number: int, entry: Mapping[str, Any]) -> bool:
        """Is a send or recv over that is not marked so? Members of a batch never are: the entry that ends it is."""
        told = self.ends.get((name, number))
        if told is not None or name in self.names:
            return told is not False
        status = self._counts(entry)
        # The newest one reads unfinished and is counted as over: members of batches whose ends are not in the dump.
        newest = self.newest.get(name) if self.open.get(name) else None
        return status is not None and status.completed == status.enqueued == newest and number <= status.completed

    def collective_is_over(self, name: str, number: int, entry: Mapping[str, Any]) -> bool:
        """Is a collective over that is not marked so? Members of a batch never are, its end and what follows are.

        The group's counts also count sends and recvs while one of these is the newest, so they are believed only where
        they fit the entries, or where the group had none before.
        """
        if entry["state"] == "started":
            return False
        told = self.joint.get((name, number))
        if told is not None:
            return told
        if number < self.done.get(name, -1):
            return True  # one group's collectives end in their order
        status = self._counts(entry)
        if status is None or name in self.newest:
            return False
        sure = status.enqueued == self.last.get(name) or entry.get("p2p_seq_id") == 0
        return sure and number <= status.completed <= status.enqueued

    def _counts(self, entry: Mapping[str, Any]) -> reading.Status | None:
        return self.status.get(number_of(entry))

    def add(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Entries in their order, all of a group at once."""
        before: dict[str, bool] = {}
        for entry in entries:
            try:
                name, word, number = entry["process_group"][0], entry["profiling_name"], entry["p2p_seq_id"]
                p2p, over = entry.get("is_p2p") is True, entry["state"] == "completed"
                if word.endswith(":coalesced") and (p2p or before.get(name)):
                    self.ends[name, number] = over
                    self.names.add(name)
                elif not p2p and type(seq := entry["collective_seq_id"]) is int:
                    self._collective(name, seq, over, word.endswith("coalesced"))
                before[name] = p2p
                if p2p:
                    if self.newest.get(name) == number:
                        self.names.add(name)  # equal numbers are a batch, and its end is gone once it is over
                    self.newest[name], self.open[name] = number, not over
            except NOT_WHOLE:
                continue  # told when the entry itself is taken

    def _collective(self, name: str, number: int, over: bool, ends: bool) -> None:
        if ends:
            self.joint[name, number] = over
        self.last[name] = number
        if over:
            self.done[name] = number


def recent(entries: Sequence[Mapping[str, Any]]) -> tuple[Sequence[int], Sequence[Mapping[str, Any]]]:
    """The newest entries, the newest of each group, and all unfinished ones: their places, and they themselves."""
    if len(entries) <= RECENT:
        return range(len(entries)), entries
    edge = len(entries) - RECENT
    kept: list[int] = []
    counts: dict[Any, int] = {}
    for at in range(edge - 1, -1, -1):
        entry = entries[at]
        number = entry.get("pg_id")
        seen = counts.get(number, 0) if type(number) is int else RECENT_EACH
        if seen < RECENT_EACH or (entry.get("state") != "completed" and entry.get("retired") is not True):
            counts[number if type(number) is int else -1] = seen + 1
            kept.append(at)
    kept.reverse()
    kept += range(edge, len(entries))
    return kept, [entries[at] for at in kept]


def parse_ranks(text: str) -> tuple[int, ...]:
    """Members from the text "[0, 1, 2]"; empty where it is something else."""
    if len(text) > MEMBERS_CHARS_MAX:
        return ()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    sound = type(found) is list and len(found) <= ranges.RANKS_MAX
    return tuple(found) if sound and all(type(rank) is int and 0 <= rank < ranges.RANKS_MAX for rank in found) else ()


def stack(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Frames as ``file.py:12 in f``, innermost first."""
    frames = entry.get("frames")
    told: list[str] = []
    for frame in frames[: model.FRAMES_MAX] if isinstance(frames, list | tuple) else ():
        if type(frame) is dict:
            file, line, name = frame.get("filename"), frame.get("line"), frame.get("name")
            if isinstance(file, str) and isinstance(line, int) and isinstance(name, str):
                told.append(f"{file[-200:]}:{line % 10**9} in {name[:120]}")
    return tuple(told)


def number_of(entry: Mapping[str, Any]) -> str:
    """The local number of its group, the key into pg_status; empty where it is none."""
    number = entry.get("pg_id")
    return str(number) if type(number) is int and 0 <= number < 2**31 else ""


def time_of(entry: Mapping[str, Any], key: str) -> int:
    value: Any = entry.get(key)
    return value if type(value) is int and 0 < value < 2**63 else 0


def duration_of(entry: Mapping[str, Any]) -> int:
    """Nanoseconds on the device, 0 where they were not measured."""
    if "duration_ms" not in entry:
        return 0
    duration: Any = entry["duration_ms"]
    return int(duration * 1e6) if type(duration) in (int, float) and 0 <= duration < 1e9 else 0


def by_number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() and len(text) < 12 else (2**40, text)
