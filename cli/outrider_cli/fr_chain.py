"""Who waits for whom as an indented list: roots first, and below each who waits for it, nearest first.

A wait may have several targets; it stands below the nearest, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from outrider_cli import fr_words

if TYPE_CHECKING:
    from outrider_analysis.flight_recorder.verdict import Verdict

LINES_MAX: Final = 16
LEGIBLE_MAX: Final = 12
RUNS_MAX: Final = 3
DEPTH_MAX: Final = 8  # levels that are indented
STEP: Final = 3
ROLES: Final = ("culprit", "candidate", "absent", "victim", "other")
WORDS: Final = {"culprit": "CULPRIT", "candidate": "may be it", "absent": "no dump", "other": "waits for nobody"}

Node = Mapping[str, Any]


def lines(judged: Verdict) -> Iterator[tuple[str, str]]:
    """Each line with its role; nothing where nobody waits."""
    from outrider_analysis.flight_recorder.verdict import drawing

    graph = drawing.draw(judged, legible_max=LEGIBLE_MAX, single_max=0)["graph"]
    nodes = {node["rank"]: node for node in graph["nodes"]}
    if not any(node["waits_in"] for node in nodes.values()):
        return
    below = _below(graph, nodes)
    shown = left = 0
    for depth, node in _walk(below):
        if shown < LINES_MAX:
            shown += 1
            yield str(node["role"]), _line(node, depth)
        else:
            left += int(node["count"])
    if left + graph["left_out"]:
        yield "", f"  and {fr_words.count(left + graph['left_out'], 'rank')} further away (--json)"


def _below(graph: Mapping[str, Any], nodes: Mapping[int, Node]) -> dict[int | None, list[Node]]:
    """For each node those that stand below it; below None the roots, and what hangs on none."""
    far = 1 << 30
    parents: dict[int, int] = {}
    for edge in graph["edges"]:
        near = nodes[edge["to"]]["distance"]
        mine = nodes[edge["from"]]["distance"]
        if near is None or mine is None or near >= mine:
            continue
        known = parents.get(edge["from"])
        if known is None or _nearness(nodes[edge["to"]]) < _nearness(nodes[known]):
            parents[edge["from"]] = edge["to"]
    found: dict[int | None, list[Node]] = {}
    for node in sorted(nodes.values(), key=lambda one: one["distance"] if one["distance"] is not None else far):
        found.setdefault(parents.get(node["rank"]), []).append(node)
    return found


def _nearness(node: Node) -> tuple[int, int]:
    """Of several at one distance, whoever is to blame comes first."""
    return node["distance"], ROLES.index(node["role"])


def _walk(below: Mapping[int | None, list[Node]]) -> Iterator[tuple[int, Node]]:
    stack = [(0, node) for node in reversed(below.get(None, []))]
    while stack:
        depth, node = stack.pop()
        yield depth, node
        stack += [(depth + 1, child) for child in reversed(below.get(node["rank"], []))]


def _line(node: Node, depth: int) -> str:
    """``   <- ranks 1, 9, 25  in mesh_dp, all_reduce 2``: cut at the width, since a wall of ranks helps nobody."""
    who = fr_words.shown(node["ranks"], RUNS_MAX)
    who = f"{fr_words.count(node['count'], 'rank')}: {who}" if node["count"] > 1 else f"rank {who}"
    if depth == 0:
        who += fr_words.place(node["coords"])
    word = WORDS.get(node["role"], "")
    if node["role"] in ("culprit", "candidate") and node["dump"] == "absent":
        word += ", no dump"
    indent = " " * (2 + STEP * min(depth - 1, DEPTH_MAX)) if depth else ""
    start = "  ".join(part for part in (f"{indent}{'<- ' if depth else ''}{who}", word) if part)
    texts = [f"{start}  {wait}" if wait else start for wait in _waits(node["waits_in"])]
    text = next((text for text in texts if len(text) <= fr_words.WIDTH), texts[-1])
    return text if len(text) <= fr_words.WIDTH else f"{text[: fr_words.WIDTH - 3]}..."


def _waits(told: Mapping[str, Any] | None) -> list[str]:
    """What a node waits in, from the longest words to the shortest: where the group's name takes too much, its axis."""
    if told is None:
        return [""]
    found = [_wait(told)]
    kinds = told.get("kinds") or []
    if len(kinds) == 1 and told["group"] is not None and kinds[0] != told["description"]:
        found.append(_wait(dict(told, description=kinds[0])))
    if told["op"] is not None:
        found.append(_wait(dict(told, description="")).removeprefix("in ").partition(", ")[2])
    return found


def _wait(told: Mapping[str, Any]) -> str:
    name = fr_words.group(told)
    if told["op"] is None:
        return f"in {name}"
    if told["from_to"]:
        return f"in {name}, {told['op']} {told['from_to'][0]} -> {told['from_to'][1]}"
    number = f" {told['seq']}" if told["seq"] is not None and told["operations"] == 1 else ""
    return f"in {name}, {told['op']}{number}"
