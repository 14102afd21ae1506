"""Who belongs to which process group, told beside dumps that do not say it: gloo's never do, and the ranks know.

    a rank's own list, or a file beside dumps -> Told -> RankDigest with members, and with groups that it never shows

Both are JSON, {name: {"desc", "ranks"}} as ``outrider fr analyze --groups`` takes it; where one name stands for several
groups, a list of those. All of it is foreign text: what has another form costs that group, and a rank is told nothing
of a name under which it stands in two groups.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from outrider_analysis.flight_recorder import digest, model, ranges, reading

FILE: Final = "groups.json"  # beside the dumps that it is about
BYTES_MAX: Final = 16 << 20  # of one such file
RANK_BYTES_MAX: Final = 4 << 20  # of one rank's list; 16,384 ranks take 100 kB in each group of all
GROUPS_MAX: Final = 8_192
UNSHOWN_MAX: Final = 48  # groups without an entry, of one rank: they take room of its digest


class NoGroups(ValueError):
    """A text that tells of no groups; the message says what was found."""


@dataclass(frozen=True, slots=True)
class Group:
    """One group. ``ranks`` in group order."""

    name: str
    description: str
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """Groups by rank, and by name, each once and in the order in which they were told."""

    of: Mapping[int, Mapping[str, Group]]


def groups(data: bytes, most: int = BYTES_MAX) -> tuple[Group, ...]:
    """The groups that ``data`` tells of; what is in another form is passed over. Raises NoGroups."""
    if len(data) > most:
        raise NoGroups(f"{len(data)} bytes; at most {most} are read")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NoGroups(f"no JSON that can be read: {type(error).__name__}") from None
    if type(found) is not dict:
        raise NoGroups(f'{type(found).__name__} instead of {{name: {{"desc", "ranks"}}}}')
    taken: dict[Group, None] = {}
    left = model.MEMBERS_MAX
    for name, values in found.items():
        for value in values if type(values) is list else (values,):
            group = _group(name, value, left)
            if group is not None and len(taken) < GROUPS_MAX and group not in taken:
                taken[group] = None
                left -= len(group.ranks)
    return tuple(taken)


def told(found: Iterable[Group]) -> Told:
    """By rank. A rank that stands in two groups of one name is told of neither."""
    of: dict[int, dict[str, Group]] = {}
    twice: set[tuple[int, str]] = set()
    for group in found:
        for rank in group.ranks:
            if of.setdefault(rank, {}).setdefault(group.name, group) != group:
                twice.add((rank, group.name))
    for rank, name in twice:
        del of[rank][name]
    return Told(of)


def text(found: Iterable[Group]) -> str:
    """What ``groups`` reads."""
    named: dict[str, list[dict[str, Any]]] = {}
    for group in found:
        named.setdefault(group.name, []).append({"desc": group.description, "ranks": list(group.ranks)})
    document = {name: each if len(each) > 1 else each[0] for name, each in named.items()}
    return json.dumps(document, separators=(",", ":"))


def fill(digested: model.RankDigest, known: Told, memberships: dict[str, tuple[int, ...]]) -> model.RankDigest:
    """The digest with the members that its dump does not tell; those are added to ``memberships``, by key.

    Gloo writes no entry for a send or recv, so a group that it never shows may be one in which the rank waits.
    """
    mine = known.of.get(digested.rank)
    if not mine or (not digested.gloo and digested.groups):
        return digested
    shown = tuple(_filled(group, mine, memberships) for group in digested.groups)
    names = {group.name for group in shown}
    unshown = [group for group in mine.values() if group.name not in names][:UNSHOWN_MAX]
    made = tuple(
        model.GroupDigest(group.name, group.description, _key(group, memberships), None, None, hidden_p2p=True)
        for group in unshown[: model.GROUPS_MAX - len(shown)]
    )
    return dataclasses.replace(digested, groups=(*shown, *made))


def _filled(
    shown: model.GroupDigest, mine: Mapping[str, Group], memberships: dict[str, tuple[int, ...]]
) -> model.GroupDigest:
    group = mine.get(shown.name)
    if group is None or shown.members:
        return shown
    described = shown.description if shown.description not in digest.UNDESCRIBED else group.description
    return dataclasses.replace(shown, members=_key(group, memberships), description=described or shown.description)


def _key(group: Group, memberships: dict[str, tuple[int, ...]]) -> str:
    key = model.members_key(ranges.encode(group.ranks))
    memberships[key] = group.ranks
    return key


def _group(name: str, value: Any, most: int) -> Group | None:
    """One group; None where it is something else, as where its ranks are not known."""
    if type(value) is not dict or not name or len(name) > reading.WORD_CHARS_MAX:
        return None
    ranks, description = value.get("ranks"), value.get("desc")
    if type(ranks) is not list or not 0 < len(ranks) <= min(most, ranges.RANKS_MAX):
        return None
    if not all(type(rank) is int and 0 <= rank < ranges.RANKS_MAX for rank in ranks) or len(set(ranks)) < len(ranks):
        return None
    return Group(name, description[: reading.WORD_CHARS_MAX] if type(description) is str else "", tuple(ranks))
