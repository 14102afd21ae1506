"""Members of one group that called different things under one number: which of them are wrong, and in what.

The minority is wrong. Where the halves are equal (a group of two), groups of the same kind say what everybody else
called under this number, and then each rank's own past says what used to come here. Where none of these tells, both are
candidates and nobody is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from outrider_analysis.flight_recorder import calls, model
from outrider_analysis.flight_recorder.merge import Merged
from outrider_analysis.flight_recorder.verdict.board import Board
from outrider_analysis.flight_recorder.verdict.order import Orders

VERDICT: Final = {"op": "collective-mismatch", "size": "size-mismatch", "dtype": "dtype-mismatch"}
SIBLINGS_MAX: Final = 16  # groups of the same kind that are asked
BATCHES_FROM: Final = (2, 7)  # the release of the format from which on members of a batch have entries of their own
AHEAD_MAX: Final = 64  # numbers after the first unfinished one that are compared


@dataclass(frozen=True, slots=True)
class Mismatch:
    """``culprits`` called ``theirs`` where the others called ``right``; empty where nobody can tell.

    ``by``: majority, siblings, habit, or nothing. ``shifted``: their calls are those of the others, one place on
    (skipped) or back (extra).
    """

    group: int
    seq: int
    kind: str  # op, size or dtype
    culprits: tuple[int, ...]
    candidates: tuple[int, ...]
    theirs: model.Signature
    right: model.Signature
    by: str
    shifted: str = ""


def find(board: Board, orders: Orders) -> dict[int, Mismatch]:
    """By group, the first number at or after its first unfinished one at which its members differ."""
    found: dict[int, Mismatch] = {}
    lowest: dict[int, int] = {}
    for wait in board.waits:
        if wait.pair is None:
            lowest[wait.group] = min(lowest.get(wait.group, wait.seq), wait.seq)
    for group, seq in sorted(lowest.items()):
        at = _first_difference(board.merged, group, seq)
        if at is not None:
            found[group] = _judge(board.merged, orders, group, *at)
    return found


def in_batch(merged: Merged, orders: Orders, group: int, seq: int) -> Mismatch | None:
    """What all have joined under one number may be a batch of several collectives for some and one alone for others."""
    known = _batches(merged, orders, group, seq)
    if len(set(known.values())) < 2:
        return None
    votes, by = Counter(known.values()), "majority"
    if 2 * max(votes.values()) <= len(known):
        by, votes = "siblings", Counter()
        for at in _of_the_kind(merged, orders, group):
            votes.update(_batches(merged, orders, at, seq).values())
    right, most = votes.most_common(1)[0] if votes else ((), 0)
    if 2 * most <= votes.total() or right not in known.values():
        by, right = "", next(iter(known.values()))
    everybody = tuple(sorted(known))
    culprits = tuple(rank for rank in everybody if by and known[rank] != right)
    wrong = next(ops for ops in known.values() if ops != right)
    return Mismatch(
        group, seq, "op", culprits, () if by else everybody, _as_call(wrong), _as_call(right), by
    )  # fmt: skip


def _batches(merged: Merged, orders: Orders, group: int, seq: int) -> dict[int, tuple[str, ...]]:
    """By member the collectives that it made under this number, where its release records them all."""
    kind, found = orders.kind(group), {}
    for rank in merged.groups[group].slots:
        version = merged.ranks[rank].version.split(".")
        if all(part.isdecimal() for part in version) and tuple(map(int, version)) >= BATCHES_FROM:
            calls_of = orders.calls(rank)
            made = [call[3] for call in calls_of if call[:3] == (kind, False, seq)]
            # More of a batch may follow until its end, and a ring may have forgotten the beginning of its first one.
            over = made and (made[-1].endswith("coalesced") or calls_of[-1][:3] != (kind, False, seq))
            if over and calls_of[0][:3] != (kind, False, seq):
                found[rank] = tuple(made)
    return found


def _as_call(ops: tuple[str, ...]) -> model.Signature:
    each = [op for op in ops if not op.endswith("coalesced")]
    text = f"a batch of {len(each)} collectives ({', '.join(dict.fromkeys(each))})" if len(ops) > 1 else "".join(ops)
    return model.Signature(ops[-1], text=text)


def _windows(merged: Merged, group: int) -> dict[int, tuple[int, bytes]]:
    """The recorded signatures of each member: the first number, and the column."""
    found = {}
    for rank, slot in merged.groups[group].slots.items():
        seen = merged.ranks[rank].groups[slot]
        if seen.window:
            found[rank] = (seen.first, seen.window)
    return found


def _first_difference(merged: Merged, group: int, seq: int) -> tuple[int, dict[int, int]] | None:
    """Columns are compared as bytes; only where they differ is looked which number it is."""
    windows = _windows(merged, group)
    pieces: dict[int, bytes] = {}
    for rank, (first, window) in windows.items():
        start = 4 * (seq - first)
        pieces[rank] = window[start : start + 4 * AHEAD_MAX] if start >= 0 else b""
    longest = max(pieces.values(), key=len, default=b"")
    if all(longest.startswith(piece) for piece in pieces.values()):
        return None
    for at in range(0, len(longest), 4):
        keys = {rank: int.from_bytes(piece[at : at + 4], "little") for rank, piece in pieces.items() if len(piece) > at}
        known = {rank: key for rank, key in keys.items() if key in merged.signatures}
        kinds = list({key: merged.signatures[key] for key in known.values()}.values())
        if any(calls.difference(kinds[0], other) for other in kinds[1:]):
            return seq + at // 4, known
    return None


def _judge(merged: Merged, orders: Orders, group: int, seq: int, known: dict[int, int]) -> Mismatch:
    classes = _classes(merged, known)
    ordered = sorted(classes, key=lambda item: (-len(item[1]), item[1]))
    (right, most), rest = ordered[0], [rank for _, ranks in ordered[1:] for rank in ranks]
    by = "majority" if len(most) > len(rest) else ""
    for name in () if by else ("siblings", "habit"):
        told = _siblings(merged, orders, group, seq) if name == "siblings" else _habit(merged, group, seq, known)
        chosen = [item for item in ordered if told is not None and not calls.difference(item[0], told)]
        if len(chosen) == 1:
            by, right = name, chosen[0][0]
            rest = [rank for signature, ranks in ordered for rank in ranks if signature is not right]
            break
    wrong = next((signature for signature, ranks in ordered if rest and rest[0] in ranks), ordered[-1][0])
    if wrong is right:
        wrong = ordered[-1][0]
    everybody = tuple(sorted(known))
    culprits = tuple(sorted(rest)) if by else ()
    return Mismatch(
        group=group,
        seq=seq,
        kind=calls.difference(right, wrong),
        culprits=culprits,
        candidates=() if by else everybody,
        theirs=wrong,
        right=right,
        by=by,
        shifted=_shifted(merged, group, seq, culprits) if by else "",
    )


def _classes(merged: Merged, known: dict[int, int]) -> list[tuple[model.Signature, list[int]]]:
    """Ranks by what they called; signatures that are the same message are one class."""
    classes: list[tuple[model.Signature, list[int]]] = []
    by_key: dict[int, list[int]] = {}
    for rank, key in known.items():
        if key not in by_key:
            signature = merged.signatures[key]
            same = next((ranks for other, ranks in classes if not calls.difference(other, signature)), None)
            if same is None:
                same = []
                classes.append((signature, same))
            by_key[key] = same
        by_key[key].append(rank)
    return classes


def called(merged: Merged, rank: int, group: int, seq: int) -> model.Signature | None:
    """What ``rank`` called under this number, None where that is not recorded."""
    seen = merged.seen(rank, group)
    if seen is None or not seen.window or not 0 <= seq - seen.first < len(seen.window) // 4:
        return None
    at = 4 * (seq - seen.first)
    return merged.signatures.get(int.from_bytes(seen.window[at : at + 4], "little"))


def _siblings(merged: Merged, orders: Orders, group: int, seq: int) -> model.Signature | None:
    """What most members of other groups of this kind, whose ranks run the same programs, called under this number."""
    found: list[tuple[model.Signature, int]] = []
    for at in _of_the_kind(merged, orders, group):
        for rank in merged.groups[at].slots:
            signature = called(merged, rank, at, seq)
            if signature is not None:
                _count(found, signature)
    return _most(found)


def _of_the_kind(merged: Merged, orders: Orders, group: int) -> list[int]:
    """Some other groups of this kind, whose ranks run the same programs."""
    this, kind = merged.groups[group], orders.kind(group)
    roles = _roles(orders, this.ranks)
    found: list[int] = []
    for at, other in enumerate(merged.groups):
        if len(found) >= SIBLINGS_MAX:
            break
        alike = other.description == this.description and len(other.ranks) == len(this.ranks)
        if at != group and alike and orders.kind(at) == kind and _roles(orders, other.ranks) == roles:
            found.append(at)
    return found


def _roles(orders: Orders, ranks: Iterable[int]) -> set[tuple[object, ...]]:
    """Groups along the pipeline cross all stages and are alike; others belong to the stage of their members."""
    return {orders.role(rank) for rank in ranks}


def _habit(merged: Merged, group: int, seq: int, known: Iterable[int]) -> model.Signature | None:
    """What the members called at this place in the iterations before, by the period of their calls."""
    found: list[tuple[model.Signature, int]] = []
    for rank in known:
        seen = merged.seen(rank, group)
        if seen is None:
            continue
        past = list(seen.signatures())[: max(0, seq - seen.first)]
        period = _period(past)
        if period:
            signature = merged.signatures.get(past[len(past) - period])
            if signature is not None:
                _count(found, signature)
    return _most(found)


def _period(past: Sequence[int]) -> int:
    """The shortest distance at which the newest calls repeat themselves, 0 where they do not."""
    for period in range(1, len(past) // 2 + 1):
        if past[-period:] == past[-2 * period : -period] and (period > 1 or len(set(past[-8:])) == 1):
            return period
    return 0


def _count(found: list[tuple[model.Signature, int]], signature: model.Signature) -> None:
    for at, (other, count) in enumerate(found):
        if not calls.difference(other, signature):
            found[at] = (other, count + 1)
            return
    found.append((signature, 1))


def _most(found: list[tuple[model.Signature, int]]) -> model.Signature | None:
    """The one that more than half agree on."""
    total = sum(count for _, count in found)
    return next((signature for signature, count in found if 2 * count > total), None)


def _shifted(merged: Merged, group: int, seq: int, culprits: Sequence[int]) -> str:
    """Did the culprit leave one call out, or make one too many? Its next calls are then those of the others."""
    if len(culprits) != 1:
        return ""
    wrong, right = set(culprits), next((r for r in merged.groups[group].slots if r not in culprits), None)
    if right is None:
        return ""
    mine = [called(merged, next(iter(wrong)), group, seq + k) for k in range(3)]
    theirs = [_expected(merged, group, right, seq + k) for k in range(4)]
    if _same(mine[0], theirs[1]) and _alike(mine[1:], theirs[2:]):
        return "skipped"
    if _same(mine[1], theirs[0]) and _alike(mine[2:], theirs[1:]) and not _same(mine[1], theirs[1]):
        return "extra"
    return ""


def _expected(merged: Merged, group: int, rank: int, seq: int) -> model.Signature | None:
    """What ``rank`` called under ``seq``, or would have by its habit."""
    told = called(merged, rank, group, seq)
    seen = merged.seen(rank, group)
    if told is not None or seen is None:
        return told
    past = list(seen.signatures())
    period, beyond = _period(past), seq - (seen.first + len(past))
    return merged.signatures.get(past[len(past) - period + beyond % period]) if period and beyond >= 0 else None


def _same(one: model.Signature | None, other: model.Signature | None) -> bool:
    return one is not None and other is not None and not calls.difference(one, other)


def _alike(ones: Sequence[model.Signature | None], others: Sequence[model.Signature | None]) -> bool:
    """No call that both sides are known to have made is another one."""
    return all(a is None or b is None or not calls.difference(a, b) for a, b in zip(ones, others, strict=False))
