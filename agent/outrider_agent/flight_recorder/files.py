"""Which files are dumps, and of which rank each is: nothing inside a dump says it, its name alone does.

torch appends the rank to a prefix of anybody's choice, and people rename: ``rank_5``, ``host-a17_trace_5``,
``rank_5.json``, ``rank_5_host17``, ``5_fr_trace.json``. One rule is taken for all files that are read together, the
first of RULES that tells most of them apart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from outrider_analysis.flight_recorder import memberships, reading

RANK_MAX: Final = 2**20
HEAD_BYTES: Final = 4096
DEPTH_MAX: Final = 8

_WORD: Final = re.compile(r"rank[_\-.=]?(\d{1,7})(?!.*rank[_\-.=]?\d)", re.IGNORECASE)
_HEAD: Final = re.compile(r"(\d{1,7})(?!\d)")
_MARKS: Final = (b"pg_config", b"pg_status", b"entries", b"collective_seq_id", b"profiling_name")


@dataclass(frozen=True, slots=True)
class Source:
    """One file, and the rank whose dump it is."""

    file: str
    rank: int


@dataclass(slots=True)
class Sources:
    """``unreadable``: file and why, of what was named and is no dump. ``passed_over``: files that look like none."""

    files: list[Source] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    passed_over: int = 0


def find(paths: Iterable[str]) -> Sources:
    """The dumps among ``paths``: files, and folders with all that lies in them. Sorted by rank."""
    found = Sources()
    named: list[str] = []
    inside: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            inside += _within(path, found)
        elif os.path.lexists(path):
            named.append(path)
        else:
            found.unreadable.append((path, "there is no such file"))
    unique = [path for path in dict.fromkeys([*named, *inside]) if os.path.basename(path) != memberships.FILE]
    ranks = _ranks([os.path.basename(path) for path in unique])
    told = set(named)
    for path, rank in zip(unique, ranks, strict=True):
        if rank is not None:
            found.files.append(Source(path, rank))
        elif path in told or _looks_like_one(path):
            found.unreadable.append((path, "its name tells no rank; torch ends it with one, as in rank_5"))
        else:
            found.passed_over += 1
    found.files.sort(key=lambda source: (source.rank, source.file))
    return found


def _within(folder: str, found: Sources) -> list[str]:
    """The files of a folder, hidden ones aside, and of those below it."""
    files: list[str] = []
    top = folder.rstrip(os.sep).count(os.sep)

    def refused(error: OSError) -> None:
        found.unreadable.append((str(error.filename), error.strerror or str(error)))

    for at, folders, names in os.walk(folder, onerror=refused):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if at.count(os.sep) - top >= DEPTH_MAX:
            folders.clear()
        files += [os.path.join(at, name) for name in sorted(names) if not name.startswith(".")]
    return files


def _tail(name: str) -> int | None:
    return reading.rank_of(name)


def _word(name: str) -> int | None:
    match = _WORD.search(name)
    return int(match[1]) if match else None


def _head(name: str) -> int | None:
    match = _HEAD.match(name)
    return int(match[1]) if match else None


RULES: Final[tuple[Callable[[str], int | None], ...]] = (_tail, _word, _head)


def _ranks(names: Sequence[str]) -> list[int | None]:
    """A rank for each name, by the rule that tells most apart; where it says nothing, by the others."""
    answers = [[_within_bounds(rule(name)) for name in names] for rule in RULES]
    best = max(answers, key=lambda ranks: len({rank for rank in ranks if rank is not None}), default=[])
    order = [best, *(ranks for ranks in answers if ranks is not best)]
    return [next((ranks[at] for ranks in order if ranks[at] is not None), None) for at in range(len(names))]


def _within_bounds(rank: int | None) -> int | None:
    return rank if rank is not None and rank < RANK_MAX else None


def _looks_like_one(path: str) -> bool:
    """Whether a file without a rank in its name has a flight record in it; who put it there should hear of it."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return head is not None and any(mark in head for mark in _MARKS)
