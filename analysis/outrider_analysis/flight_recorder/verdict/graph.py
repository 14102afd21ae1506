"""The graph of waits, and where it ends: waits lead to the ranks that are missing, those to what they wait in.

Nodes are waits and ranks. Strongly connected parts without a way out are where everything else leads to: a rank that
waits for nobody, an operation that all have joined, or a circle. Several such ends are several independent faults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from outrider_analysis.flight_recorder.verdict.board import Board

ENDS_APART_MAX: Final = 8  # more ends than this share one walk, so that many ends of many ranks stay linear

Node = tuple[str, int]  # ("wait", index) or ("rank", number)


@dataclass(slots=True)
class Graph:
    """``edges`` of every node; ``ends``: the parts without a way out."""

    edges: dict[Node, list[Node]]
    ends: list[list[Node]]

    def victims(self) -> list[set[Node]]:
        """For each end every node from which a way leads there; of very many ends, each node to one of them alone."""
        back: dict[Node, list[Node]] = {}
        for node, targets in self.edges.items():
            for target in targets:
                back.setdefault(target, []).append(node)
        shared: set[Node] | None = set() if len(self.ends) > ENDS_APART_MAX else None
        return [_reaching(end, back, set() if shared is None else shared) for end in self.ends]


def build(board: Board, absent: Mapping[int, Iterable[Node]], stuck: Iterable[int] = ()) -> Graph:
    """``absent``: what a rank without a dump may wait for. ``stuck``: waits that are ends by what they are."""
    edges: dict[Node, list[Node]] = {}
    ends_here = set(stuck)
    for at, _ in enumerate(board.waits):
        edges["wait", at] = [] if at in ends_here else _from_wait(board, at)
    for rank, fronts in board.fronts.items():
        edges["rank", rank] = [("wait", at) for at in fronts]
    for rank, nodes in absent.items():
        edges["rank", rank] = list(nodes)
    for targets in list(edges.values()):
        for node in targets:
            edges.setdefault(node, [])
    return Graph(edges, _ends(edges))


def _reaching(end: Iterable[Node], back: Mapping[Node, list[Node]], seen: set[Node]) -> set[Node]:
    found = set(end)
    seen.update(found)
    queue = list(found)
    while queue:
        for node in back.get(queue.pop(), ()):
            if node not in seen:
                seen.add(node)
                found.add(node)
                queue.append(node)
    return found


def _from_wait(board: Board, at: int) -> list[Node]:
    wait = board.waits[at]
    if wait.device:
        return []
    if wait.pair is not None and wait.done:  # the rest of its batch keeps it, if there is one
        return [("wait", other) for other in _batch(board, at) if not board.waits[other].done]
    # Where what is known explains the wait, those of whom nothing is known need not be the reason.
    found = explained(board, at) or [("rank", rank) for rank in wait.unheard]
    if wait.pair is not None:
        found += [("wait", other) for other in _batch(board, at)]
    return found


def explained(board: Board, at: int) -> list[Node]:
    """What is known to keep the ranks in this wait: who did not come, and what members have to finish before."""
    wait = board.waits[at]
    found: list[Node] = [("rank", rank) for rank in wait.missing]
    fronts = {board.at[wait.group, seq] for rank in wait.behind if (seq := _front(board, rank, wait.group)) is not None}
    found += [("wait", front) for front in sorted(fronts) if front != at]
    # Who has joined may still have to finish something that it called before.
    earlier = {board.fronts[rank][0] for rank in wait.waiting} - {at}
    return found + [("wait", front) for front in sorted(earlier) if _before(board, front, at)]


def _batch(board: Board, at: int) -> list[int]:
    """The other sends and recvs of the batches that this one is in: none of a batch is over before all are."""
    wait = board.waits[at]
    found = set()
    for rank, op in wait.waiting.items():
        for front in board.fronts[rank]:
            other = board.waits[front]
            if other.group == wait.group and other.pair is not None and other.waiting[rank].seq == op.seq:
                found.add(front)
    return sorted(found - {at})


def _before(board: Board, front: int, at: int) -> bool:
    first, later = board.waits[front], board.waits[at]
    batch = first.group == later.group and first.pair is not None and later.pair is not None
    for rank, op in later.waiting.items():
        before = first.waiting.get(rank)
        if before is not None and before.order < op.order and not (batch and before.seq == op.seq):
            return True
    return False


def _front(board: Board, rank: int, group: int) -> int | None:
    """Number of the first collective of ``group`` that ``rank`` has not finished."""
    for at in board.fronts.get(rank, ()):
        wait = board.waits[at]
        if wait.group == group and wait.pair is None:
            return wait.seq
    return None


def _ends(edges: Mapping[Node, list[Node]]) -> list[list[Node]]:
    """Strongly connected parts without a way out (Tarjan's algorithm, without recursion), in order of discovery."""
    index: dict[Node, int] = {}
    low: dict[Node, int] = {}
    stack: list[Node] = []
    on_stack: set[Node] = set()
    part_of: dict[Node, int] = {}
    parts: list[list[Node]] = []
    for root in edges:
        if root in index:
            continue
        work = [(root, iter(edges[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(edges[target])))
                    break
                if target in on_stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    parts.append(_pop(stack, on_stack, node))
                    for member in parts[-1]:
                        part_of[member] = len(parts) - 1
    return [
        part
        for number, part in enumerate(parts)
        if all(part_of[target] == number for member in part for target in edges[member])
    ]


def _pop(stack: list[Node], on_stack: set[Node], node: Node) -> list[Node]:
    part = []
    while True:
        member = stack.pop()
        on_stack.discard(member)
        part.append(member)
        if member == node:
            return sorted(part)
