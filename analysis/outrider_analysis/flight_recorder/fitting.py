"""A digest cut to a number of bytes, for a wire that has a bound: what helps the verdict least goes first, and is said.

Older calls go first, since order tells only where counts do not; then the older part of the recorded signatures, far
from where a group stands; then stacks, the later unfinished operations, and all of these columns. Counters and the
first unfinished operations stay to the last. A rank that is too large even so is given up, and listed as unreadable.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Final

from outrider_analysis.flight_recorder import model

RANK_BYTES: Final = 12 * 1024  # what a rank of a usual job takes with all 512 calls, and a little more
BYTES_MIN: Final = 1024
WHY_CHARS_MAX: Final = 240
UNREADABLE_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class _Keep:
    """How much of each column is kept."""

    calls: int
    window: int
    ops: int = model.OPS_MAX
    frames: int = model.FRAMES_MAX
    arrivals: int = model.ARRIVALS_MAX
    pairs: bool = True


_STEPS: Final = (
    _Keep(256, model.WINDOW_MAX),
    _Keep(128, 256),
    _Keep(64, 128),
    _Keep(64, 32, 32),
    _Keep(32, 16, 16, 8),
    _Keep(0, 16, 8, 4),
    _Keep(0, 0, 4, 2, 4),
    _Keep(0, 0, 1, 0, 0, pairs=False),
)


def fit(node: model.NodeDigest, bytes_max: int) -> tuple[model.NodeDigest, tuple[str, ...]]:
    """``node`` so that ``to_json`` of it, written without blanks, takes at most ``bytes_max``; and what was left out.

    Ranks that take more than an equal share are cut, those below it are not. Each rank that was cut says so among its
    ``problems``. Raises ValueError for a bound below BYTES_MIN, which holds no digest.
    """
    if bytes_max < BYTES_MIN:
        raise ValueError(f"{bytes_max} bytes hold no digest; at least {BYTES_MIN} are needed")
    if _size(model.to_json(node)) <= bytes_max:
        return node, ()
    notes: list[str] = []
    node = _shared(node, bytes_max // 2, notes)
    ranks, cut = list(node.ranks), {}
    for keep in _STEPS:
        shared = _size(model.to_json(dataclasses.replace(node, ranks=())))
        sizes = [_size(model.to_json(model.NodeDigest((rank,)))["ranks"]) for rank in ranks]
        if shared + sum(sizes) <= bytes_max:
            break
        share = (bytes_max - shared) // max(1, len(ranks))
        for at, size in enumerate(sizes):
            if size > share:
                ranks[at] = _cut(ranks[at], keep)
                cut[ranks[at].rank] = keep
    node = dataclasses.replace(node, ranks=tuple(ranks))
    node = _given_up(_shared(node, bytes_max // 2, []), bytes_max, notes)
    if cut:
        least = min(cut.values(), key=lambda keep: (keep.calls, keep.window))
        whose = "record of 1 rank was" if len(cut) == 1 else f"records of {len(cut)} ranks were"
        notes.append(f"the {whose} sent {_words(least)}; the dumps that are kept on the node have all")
    return node, tuple(notes)


def _size(document: Any) -> int:
    return len(json.dumps(document, separators=(",", ":")))


def _words(keep: _Keep) -> str:
    return (
        f"without the oldest calls (the newest {keep.calls} are there)" if keep.calls else "without the order of calls"
    )


def _cut(rank: model.RankDigest, keep: _Keep) -> model.RankDigest:
    ops = [dataclasses.replace(op, stack=op.stack[: keep.frames]) for op in rank.unfinished[: keep.ops]]
    told = tuple(problem for problem in rank.problems if not problem.startswith("cut to fit"))
    calls = rank.calls[len(rank.calls) - keep.calls * model.CALL_BYTES :] if keep.calls else b""
    return dataclasses.replace(
        rank,
        groups=tuple(_cut_group(group, keep) for group in rank.groups),
        unfinished=tuple(ops),
        calls=calls if len(rank.calls) > keep.calls * model.CALL_BYTES else rank.calls,
        gap_ns=_longest(rank) if keep.arrivals < model.ARRIVALS_MAX else rank.gap_ns,
        stack=rank.stack[: keep.frames],
        problems=(f"cut to fit: {_words(keep)}", *told)[: model.PROBLEMS_MAX],
    )


def _cut_group(group: model.GroupDigest, keep: _Keep) -> model.GroupDigest:
    """From a little before where the group stands, or the newest, whichever is more."""
    count = len(group.window) // 4
    stands = count if group.completed is None else group.completed + 1 - group.first
    begin = max(0, min(count - keep.window, stands - keep.window // 2)) if keep.window else count
    return dataclasses.replace(
        group,
        first=group.first + begin,
        window=group.window[4 * begin :],
        arrivals=group.arrivals[max(0, len(group.arrivals) - 24 * keep.arrivals) :],
        pairs=group.pairs if keep.pairs else (),
    )


def _longest(rank: model.RankDigest) -> int:
    """The rank's longest pause, or call: without it a wait would look longer than it is."""
    longest = rank.gap_ns
    for group in rank.groups:
        times = memoryview(group.arrivals).cast("q")
        longest = max([longest, *(times[at + 1] - times[at] for at in range(0, len(times), 3) if times[at])])
    return longest


def _shared(node: model.NodeDigest, bytes_max: int, notes: list[str]) -> model.NodeDigest:
    """What the ranks have in common, as far as they still use it; the largest of it is left out beyond the bound."""
    members = {group.members for rank in node.ranks for group in rank.groups}
    used = {op.signature for rank in node.ranks for op in rank.unfinished}
    for rank in node.ranks:
        used.update(memoryview(rank.calls).cast("I")[2::3])
        for group in rank.groups:
            used.update(memoryview(group.window).cast("I"))
    node = dataclasses.replace(
        node,
        memberships={key: ranks for key, ranks in node.memberships.items() if key in members},
        signatures={key: value for key, value in node.signatures.items() if key in used},
        unreadable=tuple(
            (file[-WHY_CHARS_MAX:], why[:WHY_CHARS_MAX]) for file, why in node.unreadable[:UNREADABLE_MAX]
        ),
    )
    written = model.to_json(dataclasses.replace(node, ranks=()))
    if _size(written) <= bytes_max:
        return node
    keys = [("memberships", key) for key in written["memberships"]] + [
        ("signatures", key) for key in written["signatures"]
    ]
    keys.sort(key=lambda item: _size(written[item[0]][item[1]]), reverse=True)
    total, gone = _size(written), 0
    for kind, key in keys:
        if total <= bytes_max:
            break
        total -= _size(key) + _size(written[kind].pop(key)) + 2
        gone += 1
    notes.append(
        f"{gone} lists of members and descriptions of calls were too large to be sent; the kept dumps have all"
    )
    kept = model.from_json(written)
    return dataclasses.replace(kept, ranks=node.ranks, unreadable=node.unreadable if total <= bytes_max else ())


def _given_up(node: model.NodeDigest, bytes_max: int, notes: list[str]) -> model.NodeDigest:
    """Without the largest ranks, as long as the whole takes too much."""
    sizes = sorted((_size(model.to_json(model.NodeDigest((rank,)))["ranks"]), rank.rank) for rank in node.ranks)
    total = _size(model.to_json(dataclasses.replace(node, ranks=()))) + sum(size for size, _ in sizes)
    if total <= bytes_max:
        return node
    gone: set[int] = set()
    told: list[tuple[str, str]] = []
    while sizes and total > bytes_max:
        size, rank = sizes.pop()
        gone.add(rank)
        total -= size
        if len(told) < UNREADABLE_MAX:
            told.append((f"rank {rank}", "its digest is too large to be sent"))
            total += _size(told[-1]) + 1
    if gone:
        notes.append(
            f"what {len(gone)} ranks recorded is too large to be sent: {sorted(gone)[:8]}; the kept dumps have it"
        )
    ranks = tuple(rank for rank in node.ranks if rank.rank not in gone)
    unreadable = (*node.unreadable, *told) if total <= bytes_max else ()
    return dataclasses.replace(node, ranks=ranks, unreadable=unreadable)
