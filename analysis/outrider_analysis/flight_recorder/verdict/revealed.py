"""The job as records and hints show it together: what a look at the ranks adds to what they recorded.

- A rank whose stack stands in a send or recv that gloo does not record waits for its partner, or for one of those that
  may be it.
- A stopped or dead process, and one that surely is elsewhere, waits for nobody: what it had begun does not go on.
- Of a rank without a dump such a state is known all the same, so it is there, and came to nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Final

from outrider_analysis.flight_recorder import model
from outrider_analysis.flight_recorder.merge import Merged
from outrider_analysis.flight_recorder.verdict import hidden
from outrider_analysis.flight_recorder.verdict.hints import Hint, Hints

LAST: Final = 2**31 - 1  # after all calls that were recorded
ENDED: Final = ("stopped", "gone")
P2P: Final = ("send", "recv", "p2p")


@dataclass(slots=True)
class Revealed:
    """``merged``: the job with what was added. ``waiting``: ranks whose unseen send or recv was. ``against``: ranks of
    which hint and record contradict each other, with what is said of it.
    """

    merged: Merged
    waiting: set[int] = field(default_factory=set)
    against: dict[int, str] = field(default_factory=dict)


def reveal(merged: Merged, hints: Hints) -> Revealed:
    """Add what ``hints`` tell; ``merged`` itself is left as it is."""
    merged = hidden.with_groups(merged)
    if not hints.ranks:
        return Revealed(merged)
    whole = dataclasses.replace(
        merged,
        ranks=dict(merged.ranks),
        groups=[dataclasses.replace(group, slots=dict(group.slots)) for group in merged.groups],
        places={rank: list(places) for rank, places in merged.places.items()},
        signatures=dict(merged.signatures),
    )
    found = Revealed(whole)
    for rank, hint in hints.ranks.items():
        if rank >= merged.world:
            continue
        if hint.state in ENDED or (hint.state == "elsewhere" and hint.certain):
            _nobody_awaited(found, rank, hint)
        elif hint.state == "waiting" and hint.stands in P2P:
            _unseen(found, rank, hint)
    whole.ranks = dict(sorted(whole.ranks.items()))
    return found


def heard(merged: Merged) -> Merged:
    """The job for those who show it: without what stands in for ranks that left no dump."""
    silent = set(merged.absent) & merged.ranks.keys()
    if not silent:
        return merged
    return dataclasses.replace(
        merged,
        ranks={rank: digested for rank, digested in merged.ranks.items() if rank not in silent},
        groups=[
            dataclasses.replace(group, slots={r: slot for r, slot in group.slots.items() if r not in silent})
            for group in merged.groups
        ],
        places={rank: places for rank, places in merged.places.items() if rank not in silent},
    )


def is_idle(hint: Hint) -> bool:
    """True where the look says that the rank waits for nobody."""
    return hint.state in ENDED or hint.state == "elsewhere"


def _nobody_awaited(found: Revealed, rank: int, hint: Hint) -> None:
    merged = found.merged
    digested = merged.ranks.get(rank)
    if digested is None:
        merged.ranks[rank] = _empty(merged, rank)
        merged.places[rank] = []
        return
    if not digested.unfinished:
        return
    if hint.state == "gone" or (hint.state == "elsewhere" and not digested.gloo):
        return  # it died of what it waited in; or its host is elsewhere, and its device waits
    if hint.state == "elsewhere":
        first = digested.unfinished[0]
        name = digested.groups[first.group].description or digested.groups[first.group].name
        found.against[rank] = f"its record has {first.op} of {name} unfinished"
    # What it began and did not finish counts as not begun, since it is what the others wait for.
    groups = list(digested.groups)
    for slot in {op.group for op in digested.unfinished if not op.p2p}:
        first_seq = min(op.seq for op in digested.unfinished if op.group == slot and not op.p2p)
        groups[slot] = dataclasses.replace(groups[slot], enqueued=first_seq - 1, completed=first_seq - 1)
    merged.ranks[rank] = dataclasses.replace(digested, unfinished=(), unfinished_count=0, groups=tuple(groups))


def _unseen(found: Revealed, rank: int, hint: Hint) -> None:
    """The send or recv that the stack stands in and no entry shows: one operation for each partner that it may have."""
    merged = found.merged
    digested = merged.ranks.get(rank) or _empty(merged, rank)
    if not digested.gloo:
        return  # its record has it
    possible = [pair for pair in hidden.partners(merged, rank) if pair[0] >= 0]
    if hint.p2p_peer is not None:
        possible = [pair for pair in possible if pair[1] == hint.p2p_peer] or _anywhere(merged, rank, hint.p2p_peer)
    if not possible:
        return
    merged.ranks[rank] = digested
    merged.places.setdefault(rank, [])
    op = "send" if hint.stands == "send" else "recv"
    for at, other in possible[: model.OPS_MAX]:
        _begin(merged, rank, at, other, op, hint.stack)
    found.waiting.add(rank)


def _anywhere(merged: Merged, rank: int, peer: int) -> list[tuple[int, int]]:
    """The smallest group of both; a partner that is told by the stack needs no group that looks like it."""
    both = [at for at in merged.of_rank.get(rank, ()) if peer in merged.groups[at].ranks and peer != rank]
    return [(min(both, key=lambda at: len(merged.groups[at].ranks)), peer)] if both else []


def _begin(merged: Merged, rank: int, at: int, other: int, op: str, stack: tuple[str, ...]) -> None:
    group, digested = merged.groups[at], merged.ranks[rank]
    slot = group.slots.get(rank)
    groups = digested.groups
    if slot is None:
        slot = group.slots[rank] = len(groups)
        groups = (*groups, model.GroupDigest(group.name, group.description, "", None, None, hidden_p2p=True))
        merged.places[rank].append(at)
    me, peer = group.ranks.index(rank), group.ranks.index(other)
    number = _signature(merged, op, me, peer)
    made = model.Op(
        group=slot,
        op=op,
        seq=groups[slot].p2p + 1,
        p2p=True,
        peer=peer,
        started=False,
        signature=number,
        created_ns=digested.called_ns,
        order=LAST,
        stack=stack,
    )
    unfinished = (*digested.unfinished, made)
    merged.ranks[rank] = dataclasses.replace(
        digested, groups=groups, unfinished=unfinished, unfinished_count=len(unfinished)
    )


def _signature(merged: Merged, op: str, me: int, peer: int) -> int:
    made = model.Signature(op, text=op, me=me, peer=peer)
    number = 2**32 + (me * 2**20 + peer) * 2 + (op == "send")  # beyond the 32 bits of those in dumps
    merged.signatures[number] = made
    return number


def _empty(merged: Merged, rank: int) -> model.RankDigest:
    """A rank of which no dump is there."""
    gloo = any(other.gloo for other in merged.ranks.values())
    return model.RankDigest(rank, (), (), 0, b"", 0, 0, 0, gloo=gloo)
