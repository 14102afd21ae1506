"""Which nodes the next attempt runs on: the ones it had, with spares in the place of those that cannot or must not be
used. Of nodes of which something grave was found sound ones take the place; where none is free, a node that the job had
keeps it, and no other broken one is ever begun on.

Invariant, asserted by ``place``: no node that is silent, cordoned, lost or excluded is ever in the answer, no node
stands in it twice, and no node of another live job.
"""

from __future__ import annotations

import re

from outrider_controller.core import health
from outrider_controller.core import state as states


def place(state: states.State, job: states.JobState, excluded: frozenset[str] = frozenset()) -> tuple[str, ...] | None:
    """Nodes for ``job`` in rank order, or None when there are too few. Kept nodes keep their place (and so their
    ranks).
    """
    free = candidates(state, job, excluded)
    old = job.attempt.placement if job.attempt else ()
    tiers = {name: health.tier(state.nodes[name]) for name in free}
    slots: list[str | None] = [name if tiers.get(name) == 0 else None for name in old] or [None] * job.spec.nodes
    rest = [name for name in free if name not in slots and tiers[name] == 0]
    # A node that cannot be used at all is replaced first, then the worst of the others, while there are sound ones.
    empty = [index for index, name in enumerate(slots) if name is None]
    for index in sorted(empty, key=lambda index: (-tiers.get(old[index], 3) if old else 0, index)):
        slots[index] = rest.pop(0) if rest else None
    for index, kept in enumerate(old):
        if slots[index] is None and kept in tiers:
            slots[index] = kept
    worse = [name for name in free if name not in slots and tiers[name] == 1]
    for index, name in enumerate(slots):
        if name is None:
            if not worse:
                return None
            slots[index] = worse.pop(0)
    chosen = tuple(name for name in slots if name is not None)
    assert len(set(chosen)) == job.spec.nodes, "a node stands in a placement once"
    assert all(state.nodes[n].usable for n in chosen), "only usable nodes are placed on"
    assert not excluded & set(chosen), "a suspect is never placed on again"
    return chosen


def candidates(state: states.State, job: states.JobState, excluded: frozenset[str] = frozenset()) -> list[str]:
    """Usable nodes that no other live job holds and that have room, in natural order (n2 before n10)."""
    taken = {
        name
        for other in state.jobs.values()
        if other.spec.name != job.spec.name and not other.over and other.attempt is not None
        for name in other.attempt.placement
    }
    fit = [n.node for n in state.nodes.values() if n.usable and n.slots >= job.spec.ranks_per_node]
    return sorted((n for n in fit if n not in taken and n not in excluded), key=natural)


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key that reads digit runs as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]
