"""What is known of ranks' flight recorders, in the forms that travel: one rank, one node, the whole job.

    bytes -> reading.Dump -> RankDigest -> NodeDigest -> merge.Merged -> verdict.Verdict

A digest is bounded whatever the dump was, is plain data (``to_json``, ``from_json``), and holds all that the verdict
needs, so dumps stay where they were written. The long columns travel as text in base 64 and are opened only where two
ranks differ: at 16,384 ranks that decides between one second and a minute.
"""

from __future__ import annotations

import base64
import dataclasses
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from outrider_analysis.flight_recorder import ranges

FORMAT: Final = 1  # of the JSON of digests; another number is refused
NEVER: Final = -1

OPS_MAX: Final = 64  # unfinished operations kept, the earliest
CALLS_MAX: Final = 512  # newest calls kept in order
WINDOW_MAX: Final = 512  # newest signatures kept for each group
ARRIVALS_MAX: Final = 12  # newest collectives of each group whose times are kept
FRAMES_MAX: Final = 40
GROUPS_MAX: Final = 1024
PROBLEMS_MAX: Final = 16


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
    up to ``first + len(window) - 1``.
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

    def signatures(self) -> array[int]:
        """The window, opened."""
        return array("I", self.window)


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


def to_json(node: NodeDigest) -> dict[str, Any]:
    """Plain JSON of one digest; rows are lists in the order of the fields, since keys would be most of the text."""
    return {
        "outrider_flight_record": FORMAT,
        "memberships": {key: ranges.encode(ranks) for key, ranks in node.memberships.items()},
        "signatures": {str(key): list(dataclasses.astuple(value)) for key, value in node.signatures.items()},
        "unreadable": [list(item) for item in node.unreadable],
        "ranks": [_rank_row(rank) for rank in node.ranks],
    }


def from_json(given: object) -> NodeDigest:
    """What ``to_json`` wrote. Raises DigestError."""
    if not isinstance(given, dict) or given.get("outrider_flight_record") != FORMAT:
        raise DigestError(f"no digest of format {FORMAT}; begins with {str(given)[:40]!r}")
    try:
        return NodeDigest(
            ranks=tuple(_rank(row) for row in given["ranks"]),
            memberships={str(key): ranges.decode(text) for key, text in given["memberships"].items()},
            signatures={int(key): Signature(*row) for key, row in given["signatures"].items()},
            unreadable=tuple((str(file), str(why)) for file, why in given["unreadable"]),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DigestError(f"a damaged digest: {type(error).__name__}: {error}") from error


def _rank_row(rank: RankDigest) -> list[Any]:
    row = [getattr(rank, name) for name in _RANK_FIELDS]
    row[1] = [_group_row(group) for group in rank.groups]
    row[2] = [[getattr(op, name) for name in _OP_FIELDS] for op in rank.unfinished]
    row[4] = _text(rank.calls)
    return row


def _rank(row: list[Any]) -> RankDigest:
    row = list(row)
    row[1] = tuple(_group(item) for item in row[1])
    row[2] = tuple(Op(*[*item[:-1], tuple(item[-1])]) for item in row[2])
    row[4] = _bytes(row[4], CALL_BYTES)
    row[-2], row[-1] = tuple(row[-2]), tuple(row[-1])
    rank = RankDigest(*row)
    if not all(type(number) is int for number in (rank.rank, rank.newest_ns, rank.called_ns, rank.gap_ns)):
        raise TypeError(f"rank {str(rank.rank)[:20]!r}: numbers are not whole")
    return rank


def _group_row(group: GroupDigest) -> list[Any]:
    row = [getattr(group, name) for name in _GROUP_FIELDS]
    row[7], row[8] = _text(group.window), _text(group.arrivals)
    row[9] = [[getattr(pair, name) for name in _PAIR_FIELDS] for pair in group.pairs]
    return row


def _group(row: list[Any]) -> GroupDigest:
    row = list(row)
    row[7], row[8] = _bytes(row[7], 4), _bytes(row[8], 24)
    row[9] = tuple(Pair(*item) for item in row[9])
    return GroupDigest(*row)


def _text(column: bytes) -> str:
    return base64.b64encode(column).decode("ascii")


def _bytes(text: str, each: int) -> bytes:
    column = base64.b64decode(text)
    if len(column) % each:
        raise ValueError(f"a column of {len(column)} bytes, not a multiple of {each}")
    return column


_RANK_FIELDS: Final = tuple(item.name for item in dataclasses.fields(RankDigest))
_GROUP_FIELDS: Final = tuple(item.name for item in dataclasses.fields(GroupDigest))
_OP_FIELDS: Final = tuple(item.name for item in dataclasses.fields(Op))
_PAIR_FIELDS: Final = tuple(item.name for item in dataclasses.fields(Pair))
