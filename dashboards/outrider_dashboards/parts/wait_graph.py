"""Who waits for whom, drawn: roots on the left, and to the right of each who waits for it, arrows to who is waited for.

Boxes and lines of HTML in the page's own colours, since Streamlit lets no SVG through and its charts know no theme; on
a narrow screen the same as an indented list, which is also what is read aloud. Arrows to one node share their last
stretch. Role is told by word, shape and line, and by colour beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from outrider_dashboards import records, words

Json = dict[str, Any]
WIDTH, HEIGHT, ACROSS, BETWEEN = 12.6, 5.0, 3.4, 0.7  # of a node, and between columns and rows, in rem: type scales all
LANES, LANE = 4, 0.5  # lines side by side between two columns
TIP: Final = 0.55  # of an arrow
COLUMNS_MAX: Final = 12
DEPTH_MAX: Final = 6
# Word and shape of each role.
ROLES: Final = {
    "culprit": ("culprit", "▲"),
    "candidate": ("may be it", "?"),
    "absent": ("left no dump", "✕"),
    "victim": ("waits", "○"),
    "other": ("waits for nobody", "◇"),
}


@dataclass(frozen=True)
class _Box:
    node: Json
    column: int
    x: float
    y: float


def drawn(graph: Any) -> str:
    """The drawing and the list; a word where nobody waits."""
    nodes = [one for one in records.rows((graph or {}).get("nodes")) if isinstance(one.get("rank"), int)]
    edges = records.rows((graph or {}).get("edges"))
    if not nodes:
        return '<p class="soft">Nobody waits for anybody.</p>'
    left = (graph or {}).get("left_out") or 0
    more = f'<p class="soft">{words.safe(words.number(left))} further ranks are not drawn.</p>' if left else ""
    drawing = _drawing(nodes, edges)
    return f"{_keys(nodes, 'line back' in drawing)}{drawing}{_list(nodes, edges)}{more}"


def _keys(nodes: list[Json], circle: bool) -> str:
    roles = dict.fromkeys(str(one.get("role")) for one in nodes)
    found = "".join(
        f'<span><i class="role {role}" aria-hidden="true">{shape}</i>{words.safe(word)}</span>'
        for role, (word, shape) in ROLES.items()
        if role in roles
    )
    dashed = '<span class="dashed">┄┄ closes a circle</span>' if circle else ""
    return f'<div class="legend">{found}<span>⟵ waits for</span>{dashed}</div>'


def _drawing(nodes: list[Json], edges: list[Json]) -> str:
    edges = _telling(nodes, edges)
    boxes = _placed(nodes, edges)
    wide = max(box.x for box in boxes.values()) + WIDTH + ACROSS
    high = max(box.y for box in boxes.values()) + HEIGHT
    lines = "".join(_arrows(boxes, edges))
    inside = "".join(_box(box) for box in boxes.values())
    return (
        f'<div class="wide net-room" tabindex="0" role="region" aria-label="drawing of who waits for whom">'
        f'<div class="net" style="width:{wide:.2f}rem;height:{high:.2f}rem">{lines}{inside}</div></div>'
    )


def _telling(nodes: list[Json], edges: list[Json]) -> list[Json]:
    """Without waits for others who wait as well, where a node also waits for somebody nearer to a root."""
    near = {one["rank"]: _near(one) for one in nodes}
    known = [one for one in edges if one.get("from") in near and one.get("to") in near]
    nearer = [near[one["to"]] < near[one["from"]] for one in known]
    led = {one["from"] for one, leads in zip(known, nearer, strict=True) if leads}
    return [one for one, leads in zip(known, nearer, strict=True) if leads or one["from"] not in led]


def _columns(nodes: list[Json]) -> dict[int, list[Json]]:
    """By how many waits lie between a node and a root; what leads to none stands last."""
    near = [one["distance"] for one in nodes if isinstance(one.get("distance"), int)]
    last = min(max(near, default=0) + 1, COLUMNS_MAX)
    found: dict[int, list[Json]] = {}
    for one in nodes:
        distance = one.get("distance")
        found.setdefault(min(distance, last) if isinstance(distance, int) else last, []).append(one)
    return dict(sorted(found.items()))


def _placed(nodes: list[Json], edges: list[Json]) -> dict[int, _Box]:
    """Column by column, each node near the middle of those it waits for."""
    columns = _columns(nodes)
    tallest = max(len(found) for found in columns.values())
    targets: dict[int, list[int]] = {}
    for one in edges:
        targets.setdefault(one.get("from", -1), []).append(one.get("to", -1))
    of_rank = {one["rank"]: place for place, found in enumerate(columns.values()) for one in found}
    back = any(0 == of_rank.get(one.get("from", -1)) == of_rank.get(one.get("to", -1)) for one in edges)
    boxes: dict[int, _Box] = {}
    for place, found in enumerate(columns.values()):
        order = {one["rank"]: _middle(boxes, targets.get(one["rank"], [])) for one in found}
        found.sort(key=lambda one: (order[one["rank"]], one["rank"]))
        top = (tallest - len(found)) * (HEIGHT + BETWEEN) / 2
        for row, one in enumerate(found):
            x, y = ACROSS * back + place * (WIDTH + ACROSS), top + row * (HEIGHT + BETWEEN)
            boxes[one["rank"]] = _Box(one, place, x, y)
    return boxes


def _middle(boxes: dict[int, _Box], targets: list[int]) -> float:
    ys = [boxes[rank].y for rank in targets if rank in boxes]
    return sum(ys) / len(ys) if ys else 0.0


def _arrows(boxes: dict[int, _Box], edges: list[Json]) -> Iterator[str]:
    """From each node a stretch to the line of who it waits for; that line and its tip are drawn once."""
    ends: dict[tuple[int, bool], list[_Box]] = {}
    for one in edges:
        start, end = boxes.get(one.get("from", -1)), boxes.get(one.get("to", -1))
        if start is not None and end is not None and start is not end:
            ends.setdefault((end.node["rank"], end.column < start.column), []).append(start)
    for number, ((rank, forward), starts) in enumerate(ends.items()):
        end = boxes[rank]
        lane = LANE * (1 + number % LANES)
        at, tip = (end.x + WIDTH + TIP + lane, end.x + WIDTH) if forward else (end.x - TIP - lane, end.x)
        y = end.y + HEIGHT / 2 + (0.0 if forward else 0.5)  # both ways lead to a node in a circle
        kind = "line" if forward else "line back"
        for start in starts:
            side = start.x if forward or start.column == end.column else start.x + WIDTH
            yield _level(min(side, at), max(side, at), _out(start, forward), kind)
        heights = [y, *(_out(start, forward) for start in starts)]
        low, high = min(heights), max(heights)
        yield f'<i class="{kind} up" style="left:{at:.2f}rem;top:{low:.2f}rem;height:{high - low:.2f}rem"></i>'
        yield _level(min(at, tip), max(at, tip), y, kind)
        word = "tip" if forward else "tip right"
        yield f'<i class="{word}" style="left:{tip if forward else tip - TIP:.2f}rem;top:{y:.2f}rem"></i>'


def _out(start: _Box, forward: bool) -> float:
    return start.y + HEIGHT / 2 + (0.0 if forward else -0.5)


def _level(left: float, right: float, y: float, kind: str) -> str:
    return f'<i class="{kind}" style="left:{left:.2f}rem;top:{y:.2f}rem;width:{right - left:.2f}rem"></i>'


def _box(box: _Box) -> str:
    node = box.node
    at, several = records.coords(node.get("coords")), (node.get("count") or 1) > 1
    who = f"{_who(node)} ({at})" if several and at else _who(node)
    lines = (who, records.shown(node.get("ranks"), 4) if several else at, *_what(node))
    texts = "".join(f"<span>{words.safe(line)}</span>" for line in lines)
    title = words.safe("; ".join(line for line in lines if line))
    at = f"left:{box.x:.2f}rem;top:{box.y:.2f}rem;width:{WIDTH}rem;height:{HEIGHT}rem"
    return f'<div class="box {words.safe(node.get("role"))}" style="{at}" title="{title}">{texts}</div>'


def _who(node: Json) -> str:
    word, shape = ROLES.get(str(node.get("role")), ("", "○"))
    count = node.get("count") or 1
    who = f"rank {node['rank']}" if count == 1 else f"{words.number(count)} ranks"
    said = f", {word}" if node.get("role") in ("culprit", "candidate") else ""
    return f"{shape} {who}{said}"


def _where(node: Json) -> str:
    at = records.coords(node.get("coords"))
    if (node.get("count") or 1) > 1:
        return records.shown(node.get("ranks"), 4) + (f" ({at})" if at else "")
    return at


def _what(node: Json) -> list[str]:
    """What it waits in: the operation, and its group in a line of its own, since both may be long."""
    told = node.get("waits_in")
    if not isinstance(told, dict):
        return ["left no dump" if node.get("dump") == "absent" else "waits for nobody"]
    op, name = records.operation_and_group(told)
    return [op, f"in {name}"] if op else [f"in {name}"]


def _list(nodes: list[Json], edges: list[Json]) -> str:
    """Each node once, indented below the nearest that it waits for."""
    of_rank = {one["rank"]: one for one in nodes}
    parents: dict[int, int] = {}
    for one in edges:
        start, end = of_rank.get(one.get("from")), of_rank.get(one.get("to"))
        if start and end and _near(end) < _near(start) and start["rank"] not in parents:
            parents[start["rank"]] = end["rank"]
    below: dict[int | None, list[Json]] = {}
    for one in nodes:
        below.setdefault(parents.get(one["rank"]), []).append(one)
    stack = [(0, one) for one in reversed(below.get(None, []))]
    found = []
    while stack:
        depth, one = stack.pop()
        found.append(_item(one, depth))
        stack += [(depth + 1, child) for child in reversed(below.get(one["rank"], []))]
    return f'<ul class="net-list" aria-label="who waits for whom">{"".join(found)}</ul>'


def _near(node: Json) -> int:
    distance = node.get("distance")
    return distance if isinstance(distance, int) else 1 << 30


def _item(node: Json, depth: int) -> str:
    role, at = words.safe(node.get("role")), _where(node)
    arrow = '<span class="soft">⟵</span> ' if depth else ""
    return (
        f'<li class="box {role}" style="margin-left:{min(depth, DEPTH_MAX) * 0.9:.1f}rem">{arrow}'
        f'<b>{words.safe(_who(node))}</b> <span class="soft">{words.safe(at)}</span><br>'
        f"{words.safe(' '.join(_what(node)))}</li>"
    )
