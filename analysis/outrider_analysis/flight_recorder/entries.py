"""Entries of a dump before they are digested: which are looked at, which batches are over, and single fields.

Members of a coalesced batch of sends and recvs stay at "scheduled" for ever; the entry that ends the batch tells. In a
dump of unfinished entries that one is gone once the batch is over, and the members are left.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from outrider_analysis.flight_recorder import model, ranges

RECENT: Final = 512  # newest entries looked at
RECENT_EACH: Final = 16  # and of each group at least so many of the newest
MEMBERS_CHARS_MAX: Final = 16 * 1024 * 1024
NOT_WHOLE: Final = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


class Batches:
    """What entries that end a batch of sends and recvs say: by group and number, whether it is over."""

    def __init__(self) -> None:
        self.ends: dict[tuple[str, int], bool] = {}
        self.names: set[str] = set()
        self.newest: dict[str, int] = {}  # number of the newest send or recv
        self.open: dict[str, bool] = {}  # is that one marked as unfinished?


def batches(entries: Iterable[tuple[int, Mapping[str, Any]]]) -> Batches:
    found = Batches()
    before: dict[str, bool] = {}
    for _, entry in entries:
        try:
            name, word, number = entry["process_group"][0], entry["profiling_name"], entry["p2p_seq_id"]
            p2p = entry.get("is_p2p") is True
            if word.endswith(":coalesced") and (p2p or before.get(name)):
                found.ends[name, number] = entry["state"] == "completed"
                found.names.add(name)
            before[name] = p2p
            if p2p:
                if found.newest.get(name) == number:
                    found.names.add(name)  # equal numbers are a batch, and its end is gone once it is over
                found.newest[name], found.open[name] = number, entry["state"] != "completed"
        except NOT_WHOLE:
            continue  # told when the entry itself is taken
    return found


def recent(entries: Sequence[Mapping[str, Any]]) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """The newest entries, the newest of each group, and all unfinished ones, each with its place."""
    if len(entries) <= RECENT:
        return enumerate(entries)
    edge = len(entries) - RECENT
    kept: list[tuple[int, Mapping[str, Any]]] = []
    counts: dict[Any, int] = {}
    for at in range(edge - 1, -1, -1):
        entry = entries[at]
        number = entry.get("pg_id")
        seen = counts.get(number, 0) if type(number) is int else RECENT_EACH
        if seen < RECENT_EACH or (entry.get("state") != "completed" and entry.get("retired") is not True):
            counts[number if type(number) is int else -1] = seen + 1
            kept.append((at, entry))
    kept.reverse()
    kept += enumerate(entries[edge:], edge)
    return kept


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


def time_of(entry: Mapping[str, Any], key: str) -> int:
    value: Any = entry.get(key)
    return value if type(value) is int and 0 < value < 2**63 else 0


def by_number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() and len(text) < 12 else (2**40, text)
