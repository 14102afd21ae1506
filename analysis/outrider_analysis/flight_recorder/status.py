"""Where one rank's process groups stand, from its flight recorder's JSON form.

In: the answer of ``fr_trace_json`` of torch's worker server, or what ``_dump_fr_trace_json`` gives (format 2.x of
torch's flight recorder, gloo and NCCL). It comes from a process that may be in any condition, so nothing in it is taken
on trust: unknown keys are passed over, fields that have another form than they should count as absent, and what is no
dump at all is a StatusError. Out: a Status.

Two properties of the format, checked on torch 2.13.0: gloo leaves ``state`` at "scheduled" for ever, and ``retired``
alone tells that an entry is over; it records no send and no recv, so a rank that waits in one has nothing pending here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

TEXT_BYTES_MAX: Final = 32 * 1024 * 1024  # 2,000 entries are 0.9 MB; a ring of 65,536 fits
GROUPS_MAX: Final = 4096
WORD_CHARS_MAX: Final = 256
RANKS_CHARS_MAX: Final = 256 * 1024  # the world of 16,384 ranks is 104 kB
NEVER: Final = -1

_VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,4})")
_WHOLE: Final = re.compile(r"-?\d{1,18}")
_KNOWN_KEYS: Final = frozenset({"version", "pg_config", "pg_status", "entries"})


class StatusError(ValueError):
    """What came is no flight record that can be read; the message names what was found and what was expected."""


@dataclass(frozen=True)
class Pending:
    """One operation that was enqueued and is not finished.

    ``seq`` counts the group's collectives and is comparable between its members; for a send or recv (``p2p``) it counts
    this rank's own sends and recvs on the group. ``op`` is without the backend: ``all_reduce``, ``recv 3<-0``.
    """

    group: str
    description: str
    op: str
    seq: int
    state: str
    p2p: bool = False
    created_at: float | None = None  # Unix seconds


@dataclass(frozen=True)
class Group:
    """One process group of the rank. Counters are NEVER (-1) before the first; ``started`` stays so on gloo.

    ``enqueued``, ``started`` and ``completed`` are the recorder's own status: on gloo they count operations, sends and
    recvs among them, on NCCL collectives (or p2p operations where the group carries no collective). ``collective`` and
    ``p2p`` are the newest sequence numbers among the entries. ``ranks`` is None where the record does not tell.
    """

    name: str
    description: str
    ranks: tuple[int, ...] | None = None
    enqueued: int = NEVER
    started: int = NEVER
    completed: int = NEVER
    collective: int = NEVER
    p2p: int = NEVER


@dataclass(frozen=True)
class Status:
    """All process groups of one rank at one moment.

    ``pending`` is the oldest unfinished operation: with several, the rank waits for that one first. ``enqueued`` counts
    the operations enqueued so far over all groups; it never falls while the process lives, and grows as long as the
    rank communicates.
    """

    version: str
    groups: tuple[Group, ...]
    pending: Pending | None
    pending_count: int
    enqueued: int
    entries: int


@dataclass
class _Found:
    """A group while it is put together."""

    name: str = ""
    description: str = ""
    status: tuple[int, int, int] = (NEVER, NEVER, NEVER)
    collective: int = NEVER
    p2p: int = NEVER
    ranks: tuple[int, ...] | None = field(default=None)


def read_status(text: bytes) -> Status:
    """Read one JSON flight record of at most TEXT_BYTES_MAX bytes; raises StatusError."""
    document = _document(text)
    version = _version(document)
    given = document.get("entries")
    entries = [entry for entry in given if isinstance(entry, dict)] if isinstance(given, list) else []
    groups = dict(_statuses(document.get("pg_status")))
    for entry in entries:
        _take(groups, entry)
    waiting = [entry for entry in entries if _unfinished(entry)]
    recorded = max((_whole(entry.get("record_id")) for entry in entries), default=NEVER) + 1
    return Status(
        version=version,
        groups=_with_members(groups, document.get("pg_config")),
        pending=_pending(waiting[0]) if waiting else None,
        pending_count=len(waiting),
        # Either falls behind somewhere: groups that are gone leave the status, a ring may be cut short.
        enqueued=max(recorded, sum(max(0, found.status[0]) for found in groups.values())),
        entries=len(entries),
    )


def _document(text: bytes) -> dict[str, Any]:
    if len(text) > TEXT_BYTES_MAX:
        raise StatusError(f"a flight record of {len(text)} bytes; at most {TEXT_BYTES_MAX} are read")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StatusError(f"not JSON ({error}); begins with {text[:40]!r}") from error
    if isinstance(document, list):
        raise StatusError("a flight record of a format before 2.0 (a bare list); torch 2.3 or newer writes 2.x")
    if not isinstance(document, dict) or not _KNOWN_KEYS & document.keys():
        raise StatusError(f"JSON, but no flight record; begins with {text[:40]!r}")
    return document


def _version(document: dict[str, Any]) -> str:
    """The version's text; one without a version is judged by what it holds."""
    given = document.get("version", "")
    found = _VERSION.fullmatch(given) if isinstance(given, str) else None
    if given != "" and (found is None or found[1] != "2"):
        raise StatusError(f"a flight record of format {str(given)[:20]!r}; 2.x is understood")
    return str(given)


def _statuses(given: object) -> Iterator[tuple[str, _Found]]:
    """By local number of the group: the last enqueued, started and completed operation."""
    if not isinstance(given, dict):
        return
    for number, values in list(given.items())[:GROUPS_MAX]:
        if isinstance(values, dict):
            told = (_whole(values.get(f"last_{word}_collective")) for word in ("enqueued", "started", "completed"))
            yield number[:WORD_CHARS_MAX], _Found(status=(next(told), next(told), next(told)))


def _take(groups: dict[str, _Found], entry: dict[str, Any]) -> None:
    """Add what one entry tells of its group."""
    number = str(_whole(entry.get("pg_id")))
    found = groups.get(number)
    if found is None:
        if len(groups) >= GROUPS_MAX:
            return
        found = groups[number] = _Found()
    found.name, found.description = _group_words(entry)
    found.collective = max(found.collective, _whole(entry.get("collective_seq_id")))
    found.p2p = max(found.p2p, _whole(entry.get("p2p_seq_id")))


def _unfinished(entry: dict[str, Any]) -> bool:
    return entry.get("state") in ("scheduled", "started") and entry.get("retired") is not True


def _pending(entry: dict[str, Any]) -> Pending:
    p2p = entry.get("is_p2p") is True
    created = _whole(entry.get("time_created_ns"))
    return Pending(
        *_group_words(entry),
        op=_word(entry.get("profiling_name")).rpartition(":")[2],
        seq=_whole(entry.get("p2p_seq_id" if p2p else "collective_seq_id")),
        state=_word(entry.get("state")),
        p2p=p2p,
        created_at=created / 1e9 if created > 0 else None,
    )


def _with_members(groups: dict[str, _Found], given: object) -> tuple[Group, ...]:
    """The groups with their members, where the record tells them, and those that have no entry (any more)."""
    config = {
        _word(name): values
        for name, values in (list(given.items())[:GROUPS_MAX] if isinstance(given, dict) else ())
        if name and isinstance(values, dict)  # gloo writes one nameless group, whose members are another's
    }
    for found in groups.values():
        if (values := config.pop(found.name, None)) is not None:
            found.ranks = _ranks(values.get("ranks"))
    silent = [_Found(name, _word(v.get("desc")), ranks=_ranks(v.get("ranks"))) for name, v in config.items()]
    return tuple(
        Group(found.name, found.description, found.ranks, *found.status, found.collective, found.p2p)
        for found in [*groups.values(), *silent][:GROUPS_MAX]
    )


def _ranks(given: object) -> tuple[int, ...] | None:
    """Members from the text "[0, 1, 2]"; None where it is empty or something else."""
    if not isinstance(given, str) or len(given) > RANKS_CHARS_MAX:
        return None
    try:
        ranks = json.loads(given)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(ranks, list) and all(type(rank) is int and rank >= 0 for rank in ranks)
    return tuple(ranks) if whole and ranks else None


def _group_words(entry: dict[str, Any]) -> tuple[str, str]:
    given = entry.get("process_group")
    return (_word(given[0]), _word(given[1])) if isinstance(given, list) and len(given) == 2 else ("", "")


def _word(given: object) -> str:
    return given[:WORD_CHARS_MAX] if isinstance(given, str) else ""


def _whole(given: object) -> int:
    """A whole number, or its text as ``pg_status`` writes it; NEVER for anything else."""
    if isinstance(given, int) and not isinstance(given, bool) and abs(given) < 2**63:
        return given
    return int(given) if isinstance(given, str) and _WHOLE.fullmatch(given) else NEVER
