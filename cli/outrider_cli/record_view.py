"""The part of ``outrider explain`` that tells what the flight records said: the verdict, why, and who waits for whom.

In: the incident's ``flight_recorder`` (the document of ``outrider fr analyze --json`` with its drawing). Out: pairs
of a label and a text, for a table. Documents of any version are read: what is missing is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from outrider_cli import fr_words

BECAUSE_MAX: Final = 6
FRAMES_MAX: Final = 8
EDGES_MAX: Final = 8
NOTES_MAX: Final = 3
RANKS_MAX: Final = 16

Json = Mapping[str, Any]


def rows(found: Json) -> Iterator[tuple[str, str]]:
    """Label and text, from the verdict to the notes."""
    sure = found.get("confidence")
    about = f", {sure:.0%} sure" if isinstance(sure, int | float) else ""
    nodes = f" on {found['nodes_read']} of {found.get('nodes_asked')} nodes" if found.get("nodes_read") else ""
    yield "verdict", f"{found.get('verdict')}{about}; read of {found.get('ranks_read', 0)} ranks{nodes}"
    yield "says", str(found.get("sentence") or "")
    for finding in _objects(found.get("findings")):
        yield from _finding(finding)
    for table in _objects(found.get("tables")):
        yield from _table(table)
    graph = found.get("graph")
    yield from _waits(graph if isinstance(graph, Mapping) else {})
    files = found.get("files")
    for rank, where in files.items() if isinstance(files, Mapping) else ():
        yield "dump", f"of rank {rank}: {where}"
    for note in _texts(found.get("notes"))[:NOTES_MAX]:
        yield "note", note


def _finding(finding: Json) -> Iterator[tuple[str, str]]:
    coords = finding.get("coords")
    places: Json = coords if isinstance(coords, Mapping) else {}
    for label in ("culprits", "candidates"):
        ranks = [str(rank) for rank in finding.get(label) or ()]
        if ranks:
            named = [f"{rank}{_place(places.get(rank))}" for rank in ranks[:RANKS_MAX]]
            more = f" and {len(ranks) - RANKS_MAX} more" if len(ranks) > RANKS_MAX else ""
            yield label if len(ranks) > 1 else label[:-1], ", ".join(named) + more
    for reason in _texts(finding.get("evidence"))[:BECAUSE_MAX]:
        yield "because", reason
    stack = _texts(finding.get("stack"))
    if stack:
        more = " < ..." if len(stack) > FRAMES_MAX else ""
        label = "last call" if finding.get("stack_of") == "last-call" else "stack"
        yield label, " < ".join(stack[:FRAMES_MAX]) + more
    if finding.get("next"):
        yield "next", str(finding["next"])


def _table(table: Json) -> Iterator[tuple[str, str]]:
    pair = table.get("from_to")
    between = f" from rank {pair[0]} to rank {pair[1]}" if isinstance(pair, Sequence) and len(pair) == 2 else ""
    what = f"{table.get('op')}{between}" if between else f"{table.get('op')} number {table.get('seq')}"
    yield "blocked", f"{what} in {fr_words.group(table)}, {table.get('size')} ranks"
    for row in _objects(table.get("rows")):
        state = fr_words.STATES.get(str(row.get("state")), str(row.get("state")))
        said = [str(row["more"])] if row.get("more") else []
        said += [f"called {row['call']}"] if row.get("call") else []
        who = f"rank{'s' if row.get('count') != 1 else ''} {row.get('ranks')}{_place(row.get('coords'))}"
        yield "", f"{state}: {', '.join([who, *said])}"


def _waits(graph: Json) -> Iterator[tuple[str, str]]:
    """The edges nearest to the culprits first, as the drawing has them."""
    names = {node.get("rank"): _who(node) for node in _objects(graph.get("nodes"))}
    edges = _objects(graph.get("edges"))
    for edge in edges[:EDGES_MAX]:
        start, end = (names.get(edge.get(key), f"rank {edge.get(key)}") for key in ("from", "to"))
        what = " in ".join([str(edge["op"])] * bool(edge.get("op")) + [fr_words.group(edge)] * bool(edge.get("group")))
        yield "waits", f"{start} for {end}" + (f" ({what})" if what else "")
    if len(edges) > EDGES_MAX:
        yield "", f"and {len(edges) - EDGES_MAX} more (--json has all)"


def _who(node: Json) -> str:
    return f"rank{'s' if node.get('count', 1) != 1 else ''} {node.get('ranks')}"


def _place(coords: Any) -> str:
    return fr_words.place(coords) if isinstance(coords, Mapping) else ""


def _objects(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []
