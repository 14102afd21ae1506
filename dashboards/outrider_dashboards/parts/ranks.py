"""Who stands where: the ranks on the mesh, and the nodes that carry them."""

from __future__ import annotations

from typing import Any, Final

from outrider_dashboards import looking, reading, words

Json = dict[str, Any]
RANKS_SHOWN_MAX: Final = 256  # above this they are counted by node
NODES_SHOWN_MAX: Final = 96
JUST_NOW_S: Final = 3.0  # agents are heard every 2 s
EDGES: Final = {
    "step": "var(--productive)",
    "checkpoint": "var(--checkpoint)",
    "evaluation": "var(--redo)",
    "start": "var(--start)",
    "load": "var(--restart)",
    "done": "var(--good)",
}
TONES: Final = {"healthy": "good", "spare": "calm", "suspect": "bad", "cordoned": "warn", "lost": "bad"}
SHAPES: Final = {"healthy": "●", "spare": "○", "suspect": "▲", "cordoned": "◼", "lost": "✕"}


def who_is_where(picture: looking.Picture) -> str:
    """Every rank with its step and phase on the mesh, and every node beside them."""
    return f'<div class="o"><div class="card"><div class="who">{_ranks(picture)}{_nodes(picture)}</div></div></div>'


def _ranks(picture: looking.Picture) -> str:
    status = picture.status or {}
    ranks = [one for one in status.get("ranks") or [] if isinstance(one, dict)]
    pretended = ' <span class="tag">on simulated hosts</span>' if reading.simulated(picture) else ""
    if not ranks:
        inside = '<p class="soft">No attempt has been planned.</p>'
    elif len(ranks) > RANKS_SHOWN_MAX:
        inside = _by_node(ranks, reading.culprits(picture))
    else:
        inside = _mesh(ranks, reading.culprits(picture))
    return f"<div><h2>Ranks{pretended}</h2>{inside}</div>"


def _mesh(ranks: list[Json], blamed: set[int]) -> str:
    axes = [axis for axis in ranks[0].get("coords") or {} if any(one["coords"].get(axis) for one in ranks)]
    outer, inner = axes[:-1], axes[-1] if axes else None
    rows: dict[tuple[Any, ...], list[Json]] = {}
    for one in ranks:
        place = tuple(one["coords"].get(axis) for axis in outer) if inner else (one.get("node"),)
        rows.setdefault(place, []).append(one)
    head = ""
    if inner:
        widest = max(rows.values(), key=len)
        cells = "".join(f"<th>{inner} {one['coords'].get(inner)}</th>" for one in widest)
        head = f"<thead><tr><th></th>{cells}</tr></thead>"
    front = max((one.get("step") or 0 for one in ranks), default=0)
    body = "".join(
        f"<tr><th>{_place(outer, place) if inner else words.safe(place[0])}</th>"
        + "".join(f"<td>{_cell(one, blamed, front)}</td>" for one in mine)
        + "</tr>"
        for place, mine in rows.items()
    )
    phases = dict.fromkeys(str(one.get("phase")) for one in ranks if one.get("phase") in EDGES)
    keys = "".join(f'<span><i class="key" style="background:{EDGES[name]}"></i>{name}</span>' for name in phases)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="ranks on the mesh"><table class="mesh">{head}'
        f'<tbody>{body}</tbody></table></div><div class="legend">{keys}</div>'
    )


def _place(axes: list[str], place: tuple[Any, ...]) -> str:
    return words.safe(" ".join(f"{axis} {at}" for axis, at in zip(axes, place, strict=True)))


def _cell(one: Json, blamed: set[int], front: int) -> str:
    rank, step, phase, ended = one.get("rank"), one.get("step"), one.get("phase"), one.get("ended")
    culprit = rank in blamed
    doing = f"ended: {ended}" if ended else phase or "not heard"
    behind = f", {front - step} behind" if isinstance(step, int) and step < front else ""
    title = (
        f"rank {rank} on {one.get('node')}, local rank {one.get('local_rank')}, "
        f"process {one.get('pid') or 'unknown'}, step {words.number(step)}{behind}, {doing}"
    )
    mark = ' <span aria-label="blamed">▲</span>' if culprit else ""
    edge = EDGES.get(str(phase), "var(--line)")
    return (
        f'<div class="rank num{" culprit" if culprit else ""}" style="--edge:{edge}" title="{words.safe(title)}">'
        f"<b>{words.safe(rank)}</b>{mark} <em>{words.safe(one.get('node') or '')}</em><br>"
        f"{words.number(step)} <em>{words.safe(doing)}</em></div>"
    )


def _by_node(ranks: list[Json], blamed: set[int]) -> str:
    """A large job: counts, and by name only whoever is behind, has ended or is blamed."""
    front = max((one.get("step") or 0 for one in ranks), default=0)
    phases: dict[str, int] = {}
    for one in ranks:
        word = "ended" if one.get("ended") else one.get("phase") or "not heard"
        phases[word] = phases.get(word, 0) + 1
    counts = ", ".join(f"{count:,} {words.safe(word)}" for word, count in sorted(phases.items(), key=lambda i: -i[1]))
    level = sum(one.get("step") == front for one in ranks)
    odd = [one for one in ranks if one.get("rank") in blamed or one.get("ended") or (one.get("step") or 0) < front - 1]
    cells = "".join(f"<td>{_cell(one, blamed, front)}</td>" for one in odd[:8])
    more = f'<p class="soft">{len(odd) - 8:,} more stand out; outrider status lists them by node.</p>' * (len(odd) > 8)
    shown = f'<div class="wide" tabindex="0"><table class="mesh"><tr>{cells}</tr></table></div>{more}' if odd else ""
    return f"<p>{len(ranks):,} ranks: {counts}; {level:,} of them at step {words.number(front)}.</p>{shown}"


def _nodes(picture: looking.Picture) -> str:
    """The suspicious first where there are many."""
    found = [one for one in (picture.status or {}).get("nodes") or [] if isinstance(one, dict)]
    if not found:
        return ""
    order = sorted(found, key=lambda one: one.get("state") in ("healthy", "spare"))
    shown = (found if len(found) <= NODES_SHOWN_MAX else order)[:NODES_SHOWN_MAX]
    counts: dict[str, int] = {}
    for one in found:
        counts[str(one.get("state"))] = counts.get(str(one.get("state")), 0) + 1
    said = ", ".join(f"{count:,} {words.safe(word)}" for word, count in counts.items())
    more = f'<p class="soft">{len(found) - len(shown):,} more are not shown.</p>' if len(found) > len(shown) else ""
    cards = "".join(_node(one, stale=bool(picture.kind)) for one in shown)
    heading = f'<h2>Nodes <span class="soft">{said}</span></h2>'
    return f'<div>{heading}<div class="nodes">{cards}</div>{more}</div>'


def _node(one: Json, stale: bool) -> str:
    state = str(one.get("state"))
    heard = _heard(one.get("agent_seen_s"))
    said = "could not look" if state == "unknown" else state
    if stale:  # what was healthy when it was last seen is not known to be so now
        said, heard = f"{said} when last seen", ""
    tone, shape = ("calm", "?") if stale else (TONES.get(state, "warn"), SHAPES.get(state, "?"))
    tag = ' <span class="tag">simulated host</span>' if one.get("simulated") else ""
    found = ", ".join(str(kind) for kind in one.get("findings") or [])
    more = "".join(f'<br><span class="soft">{words.safe(text)}</span>' for text in (found, one.get("why")) if text)
    return (
        f'<div class="node {tone}"><b>{shape} {words.safe(one.get("node"))}</b> {words.safe(said)}{tag}'
        f'<br><span class="soft num">{heard}</span>{more}</div>'
    )


def _heard(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return "not heard"
    return "heard just now" if seconds < JUST_NOW_S else f"heard {words.age(seconds)} ago"
