"""What is known of ranks' flight recorders, in the forms that travel: one rank, one node, the whole job.

    bytes -> reading.Dump -> RankDigest -> NodeDigest -> merge.Merged -> verdict.Verdict

A digest is bounded whatever the dump was, is plain data (``to_json``, ``from_json``), and holds all that the verdict
needs, so dumps stay where they were written. The long columns travel as text in base 64 and are opened only where two
ranks differ: at 16,384 ranks that decides between one second and a minute.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from outrider_analysis.flight_recorder import ranges, rows

FORMAT: Final = 2  # of the JSON of digests; another number is refused. 2 tells which collectives ``arrivals`` are of
NEVER: Final = -1

OPS_MAX: Final = 64  # unfinished operations kept, the earliest
CALLS_MAX: Final = 512  # newest calls kept in order
WINDOW_MAX: Final = 512  # newest signatures kept for each group
ARRIVALS_MAX: Final = 24  # newest collectives of each group that are over, whose times are kept
FRAMES_MAX: Final = 40
GROUPS_MAX: Final = 1024
PROBLEMS_MAX: Final = 16
PAIRS_MAX: Final = 8192  # a group's partners, and two directions each
FRAME_CHARS_MAX: Final = 400
MEMBERS_MAX: Final = 2**21  # of all memberships of one digest; each axis of a job takes its world once


class DigestError(ValueError):
    """What came is no digest; the message says what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a call asked for. ``numel`` is what has to be equal on all members, None where the operation leaves it open.

    ``dtype`` is empty where it is open. ``me`` and ``peer`` are ranks within the group, of a send or recv alone.
    """

    op: str
    numel: int | None = None
    dtype: str = ""
    text: str = ""  # for people: "all_reduce [4096, 8192] BFloat16"
    me: int = NEVER
    peer: int = NEVER


@dataclass(frozen=True, slots=True)
class Op:
    """One operation that was enqueued and is not finished.

    ``seq`` counts the group's collectives; of a send or recv (``p2p``) it counts this rank's own on the group, and is
    equal within a coalesced batch. ``peer`` is a rank within the group. ``order`` places it among all calls of the
    rank. ``nth`` is its place among the sends to (or recvs from) this peer that the dump shows, counted from 1.
    """

    group: int  # index in RankDigest.groups
    op: str
    seq: int
    p2p: bool
    peer: int
    started: bool
    signature: int
    created_ns: int
    order: int
    nth: int = 0
    timed_out: bool = False
    stack: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """Sends to, or recvs from, one peer within a group, as far as the dump goes back."""

    peer: int
    sends: bool
    count: int
    unfinished: int
    created_ns: int  # of the newest
    completed_ns: int  # when the newest finished one was seen to be over; 0 where none was


@dataclass(frozen=True, slots=True)
class GroupDigest:
    """One process group as one rank saw it.

    ``members`` is the key into NodeDigest.memberships, empty where the dump does not tell. ``enqueued`` and
    ``completed`` are collectives: NEVER before the first, None where nothing tells. ``window`` holds the signatures of
    the collectives ``first`` and following, 4 bytes each, 0 where one is not known. ``arrivals`` are three columns of 8
    bytes: created, seen to be completed (ns, 0 unknown), time on the device (ns, 0 unknown), of the last collectives
    up to number ``arrived``, the newest that is over: a host may call far ahead of its device.
    """

    name: str
    description: str
    members: str
    enqueued: int | None
    completed: int | None
    p2p: int = 0  # number of the newest send or recv, 0 before the first
    first: int = 0
    window: bytes = b""
    arrivals: bytes = b""
    pairs: tuple[Pair, ...] = ()
    hidden_p2p: bool = False  # gloo: numbers were skipped, so sends and recvs took place that left no entry
    local: int = NEVER  # its number in this process, in order of creation
    arrived: int = NEVER  # number of the last collective in arrivals

    def signatures(self) -> array[int]:
        """The window, opened."""
        return array("I", self.window)

    def times(self) -> dict[int, tuple[int, int, int]]:
        """The arrivals, opened: by number of the collective."""
        column = array("q", self.arrivals)
        start = self.arrived + 1 - len(column) // 3
        return {start + at // 3: (column[at], column[at + 1], column[at + 2]) for at in range(0, len(column), 3)}


@dataclass(frozen=True, slots=True)
class RankDigest:
    """One rank's recorder. ``calls`` are its newest calls over all groups, oldest first, CALL_BYTES each."""

    rank: int
    groups: tuple[GroupDigest, ...]
    unfinished: tuple[Op, ...]
    unfinished_count: int
    calls: bytes
    newest_ns: int  # newest stamp in the dump, 0 where there is none; often the moment of the dump
    called_ns: int  # when its newest call was made
    gap_ns: int  # the longest time between two calls in a row, 0 where there are not two
    taken_ns: int = 0  # when the dump was taken, 0 where that is not known
    entries: int = 0
    version: str = ""
    wrapped: bool = False  # the ring has forgotten its beginning, so counts are no totals
    active_only: bool = False
    timing: bool = False  # starts and durations are recorded
    gloo: bool = False
    stack: tuple[str, ...] = ()  # of its last call
    problems: tuple[str, ...] = ()


CALL_BYTES: Final = 12  # group (16 bits), flags (16), number, signature (32 each)
CALL_P2P: Final = 1 << 16
ARRIVAL_BYTES: Final = 24  # created, completed, on the device


@dataclass(frozen=True, slots=True)
class NodeDigest:
    """Ranks that were read together, or several such sets joined; what their texts have in common is kept once."""

    ranks: tuple[RankDigest, ...]
    memberships: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    signatures: Mapping[int, Signature] = field(default_factory=dict)
    unreadable: tuple[tuple[str, str], ...] = ()  # file, why


def join(nodes: Iterable[NodeDigest]) -> NodeDigest:
    """Several digests as one: a level between the nodes and the controller, where one is wanted."""
    ranks: list[RankDigest] = []
    memberships: dict[str, tuple[int, ...]] = {}
    signatures: dict[int, Signature] = {}
    unreadable: list[tuple[str, str]] = []
    for node in nodes:
        ranks += node.ranks
        memberships.update(node.memberships)
        signatures.update(node.signatures)
        unreadable += node.unreadable
    return NodeDigest(tuple(ranks), memberships, signatures, tuple(unreadable))


def members_key(text: str) -> str:
    """The key of a membership by its text, as ``ranges.encode`` writes it; so nobody can give it other members."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def to_json(node: NodeDigest) -> dict[str, Any]:
    """Plain JSON of one digest; rows are lists in the order of the fields, since keys would be most of the text."""
    return {
        "outrider_flight_record": FORMAT,
        "memberships": {key: ranges.encode(ranks) for key, ranks in node.memberships.items()},
        "signatures": {str(key): list(dataclasses.astuple(value)) for key, value in node.signatures.items()},
        "unreadable": [list(item) for item in node.unreadable],
        "ranks": [_rank_row(rank) for rank in node.ranks],
    }


def from_json(given: object, known: dict[str, tuple[int, ...]] | None = None) -> NodeDigest:
    """What ``to_json`` wrote, every value checked. Keys that it does not know are passed over. Raises DigestError.

    ``known``: memberships of digests that were read before, by key, which those of this one are added to. Every node
    tells of the whole job's group, so without it 2,048 nodes of 8 ranks would fill a gigabyte with the same numbers.
    """
    if not isinstance(given, dict) or "outrider_flight_record" not in given:
        raise DigestError(f"no digest: {rows.shown(given)} instead of what `outrider fr digest` writes")
    told = given["outrider_flight_record"]
    if type(told) is int and told > 0 and told != FORMAT:
        age = "a newer" if told > FORMAT else "an older"
        raise DigestError(
            f"a digest of format {rows.shown(told)}, made by {age} Outrider; this one reads format {FORMAT}: "
            "judge it with that version, or make it again with this one"
        )
    if told != FORMAT or type(told) is not int:
        raise DigestError(f"outrider_flight_record: {rows.shown(told)} instead of {FORMAT}")
    try:
        return NodeDigest(
            ranks=tuple(map(_rank, rows.check([given["ranks"]], _RANKS, "digest")[0])),
            memberships=_memberships(given["memberships"], {} if known is None else known),
            signatures=_signatures(given["signatures"]),
            unreadable=tuple(_pair_of_texts(row) for row in given["unreadable"]),
        )
    except KeyError as error:
        raise DigestError(f"a damaged digest: {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DigestError(f"a damaged digest: {error}") from error


def _memberships(given: Any, known: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """By key. All of them together are bounded, since short texts stand for many ranks."""
    if type(given) is not dict:
        raise ValueError(f"memberships: {rows.shown(given)} instead of a mapping")
    found: dict[str, tuple[int, ...]] = {}
    left = MEMBERS_MAX
    for key, text in given.items():
        if type(text) is not str:
            raise ValueError(f"memberships, {rows.shown(key)}: {rows.shown(text)} instead of ranks such as '0-7'")
        try:
            if key != members_key(text):
                raise ValueError(f"{rows.shown(text)} is not what this key stands for")
            ranks = known.get(key)
            found[key] = known[key] = ranges.decode(text, left) if ranks is None or len(ranks) > left else ranks
        except ValueError as error:
            raise ValueError(f"memberships, {rows.shown(key)}: {error}") from error
        left -= len(found[key])
    return found


def _signatures(given: Any) -> dict[int, Signature]:
    if type(given) is not dict:
        raise ValueError(f"signatures: {rows.shown(given)} instead of a mapping")
    found = {}
    for key, row in given.items():
        if type(key) is not str or not key.isdecimal() or len(key) > 10 or int(key) >= 2**32:
            raise ValueError(f"signatures: the key {rows.shown(key)} instead of a number of 32 bits")
        found[int(key)] = Signature(*rows.check(row, _SIGNATURE, f"signatures, {key}"))
    return found


def _pair_of_texts(row: Any) -> tuple[str, str]:
    file, why = rows.check(row, _UNREADABLE, "unreadable")
    return file, why


def _rank_row(rank: RankDigest) -> list[Any]:
    row = [getattr(rank, name) for name in _RANK_FIELDS]
    row[1] = [_group_row(group) for group in rank.groups]
    row[2] = [[getattr(op, name) for name in _OP_FIELDS] for op in rank.unfinished]
    row[4] = _text(rank.calls)
    return row


def _rank(given: Any) -> RankDigest:
    where = f"rank {rows.shown(given[0])}" if isinstance(given, list | tuple) and given else "ranks"
    row = list(rows.check(given, _RANK, where))
    row[1] = tuple(_group(item, where) for item in row[1])
    row[2] = tuple(_op(item, len(row[1]), where) for item in row[2])
    row[4] = rows.opened(row[4], CALL_BYTES, f"{where}, calls")
    row[-2] = rows.texts(row[-2], FRAMES_MAX, FRAME_CHARS_MAX, f"{where}, stack")
    row[-1] = rows.texts(row[-1], PROBLEMS_MAX, 256, f"{where}, problems")
    return RankDigest(*row)


def _op(given: Any, groups: int, where: str) -> Op:
    row = list(rows.check(given, _OP, f"{where}, unfinished"))
    if row[0] >= groups:
        raise ValueError(f"{where}, unfinished, group: {row[0]} of {groups} groups")
    row[-1] = rows.texts(row[-1], FRAMES_MAX, FRAME_CHARS_MAX, f"{where}, unfinished, stack")
    return Op(*row)


def _group_row(group: GroupDigest) -> list[Any]:
    row = [getattr(group, name) for name in _GROUP_FIELDS]
    row[7], row[8] = _text(group.window), _text(group.arrivals)
    row[9] = [[getattr(pair, name) for name in _PAIR_FIELDS] for pair in group.pairs]
    return row


def _group(given: Any, where: str) -> GroupDigest:
    row = list(rows.check(given, _GROUP, f"{where}, groups"))
    row[7] = rows.opened(row[7], 4, f"{where}, groups, window")
    row[8] = rows.opened(row[8], ARRIVAL_BYTES, f"{where}, groups, arrivals")
    row[9] = tuple(Pair(*rows.check(item, _PAIR, f"{where}, groups, pairs")) for item in row[9])
    return GroupDigest(*row)


def _text(column: bytes) -> str:
    return base64.b64encode(column).decode("ascii")


_RANK_FIELDS: Final = tuple(item.name for item in dataclasses.fields(RankDigest))
_GROUP_FIELDS: Final = tuple(item.name for item in dataclasses.fields(GroupDigest))
_OP_FIELDS: Final = tuple(item.name for item in dataclasses.fields(Op))
_PAIR_FIELDS: Final = tuple(item.name for item in dataclasses.fields(Pair))
_RANKS: Final = (rows.items("ranks", ranges.RANKS_MAX),)
_RANK: Final = (
    *(rows.number("rank", ranges.RANKS_MAX, 0), rows.items("groups", GROUPS_MAX)),
    *(rows.items("unfinished", OPS_MAX + GROUPS_MAX), rows.number("unfinished_count", least=0)),
    *(rows.column("calls", CALLS_MAX * CALL_BYTES), rows.number("newest_ns", least=0)),
    *(
        rows.number("called_ns", least=0),
        rows.number("gap_ns", least=0),
        rows.number("taken_ns", least=0),
        rows.number("entries", least=0),
    ),
    *(rows.text("version", 32), rows.flag("wrapped"), rows.flag("active_only"), rows.flag("timing"), rows.flag("gloo")),
    *(rows.items("stack", FRAMES_MAX), rows.items("problems", PROBLEMS_MAX)),
)
_GROUP: Final = (
    *(rows.text("name"), rows.text("description"), rows.text("members", 64), rows.count("enqueued")),
    *(rows.count("completed"), rows.number("p2p", 2**31), rows.number("first", 2**31, 0)),
    *(rows.column("window", 4 * WINDOW_MAX), rows.column("arrivals", ARRIVAL_BYTES * ARRIVALS_MAX)),
    *(rows.items("pairs", PAIRS_MAX), rows.flag("hidden_p2p"), rows.number("local")),
    rows.number("arrived", 2**31),
)
_OP: Final = (
    *(rows.number("group", 2**16, 0), rows.text("op"), rows.number("seq", 2**31, 0), rows.flag("p2p")),
    *(rows.number("peer", 10**7), rows.flag("started"), rows.number("signature", 2**32, 0)),
    *(rows.number("created_ns", least=0), rows.number("order", least=0), rows.number("nth", least=0)),
    *(rows.flag("timed_out"), rows.items("stack", FRAMES_MAX)),
)
_PAIR: Final = (
    *(rows.number("peer", 10**7), rows.flag("sends"), rows.number("count", least=0)),
    *(rows.number("unfinished", least=0), rows.number("created_ns", least=0), rows.number("completed_ns", least=0)),
)
_SIGNATURE: Final = (
    *(rows.text("op"), rows.count("numel", rows.BIG), rows.text("dtype"), rows.text("text")),
    *(rows.number("me", 10**7), rows.number("peer", 10**7)),
)
_UNREADABLE: Final = (rows.text("file", 4096), rows.text("why", 4096))
