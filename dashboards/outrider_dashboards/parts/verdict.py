"""A hang's verdict: one sentence, then each root with its place, its stack and the operation that blocked first."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Any, Final

from outrider_dashboards import looking, reading, records, words
from outrider_dashboards.parts import wait_graph

Json = dict[str, Any]
NAMED_MAX: Final = 8  # culprits or candidates with a line of their own
ROOTS_MAX: Final = 6
STACK_MAX: Final = 16
PATH_PARTS_MAX: Final = 3  # of a file in a stack, from its end
SAID_MAX: Final = 12
SENTENCE_CHARS_MAX: Final = 420  # of the sentence in large type; all of it is below
STATES: Final = {
    "finished": ("✓", "finished"),
    "waits": ("○", "waits"),
    "behind": ("◔", "behind"),
    "not-there": ("✕", "absent"),
    "no-dump": ("?", "no dump"),
}
STACKS: Final = {
    "look": "Where it was seen to be",
    "wait": "The call in which it waits",
    "last-call": "Its last call, which is over",
}
EMPTY: Final = (
    "<p>When the job stands still, its ranks' flight recorders are read before anything is ended, and this page says "
    "which rank broke which collective: one sentence, that rank's place and stack, who waits for whom, and how sure "
    "that is.</p><p>Try it: <code>outrider demo --faults spin</code> has one rank spin while the others wait for it. "
    "Dumps of a job elsewhere are read by <code>outrider fr analyze DIR</code>.</p>"
)


def headline(one: Json, picture: looking.Picture, where: tzinfo) -> str:
    """The newest hang in one sentence."""
    found = records.record(one)
    if found is None:
        word, shape, tone = "No flight records", "?", "warn"
        said = f"No flight record of incident {one.get('id')} ({one.get('cause') or 'a hang'}) could be read."
    else:
        word, shape, tone = records.state(found)
        said = _several(found) or str(found.get("sentence") or word)
    said = said[:1].upper() + said[1:]
    cut = said if len(said) <= SENTENCE_CHARS_MAX else f"{said[:SENTENCE_CHARS_MAX].rsplit(' ', 1)[0]} …"
    return (
        f'<div class="o"><div class="state {tone}" role="status"><div class="pill"><span aria-hidden="true">{shape}'
        f'</span>{words.safe(word)}</div><div class="say">{words.safe(cut)}</div>'
        f'<div class="soft num">{_about(one, found, picture, where)}</div>{_why_none(one) if found is None else ""}'
        "</div></div>"
    )


def _several(found: Json) -> str:
    """Of several findings only who is named; each has its own sentence below. Nothing for one alone."""
    every = records.findings(found)
    if len(every) < 2:
        return ""
    count = max(found.get("findings_count") or 0, len(every))
    named = found.get("culprits") or []
    if not named:
        return f"{count} independent problems, in none of which a rank can be named."
    open_ = sum(not finding.get("culprits") for finding, _ in every)
    more = f", and {open_} in which nobody is named" if open_ else ""
    return f"{count} independent faults: rank{'s' if len(named) > 1 else ''} {records.runs(named)}{more}."


def _why_none(one: Json) -> str:
    """What it may be that no record could be read, and what is known all the same."""
    return (
        "<p>The recorder may be off (<code>TORCH_FR_BUFFER_SIZE=0</code>), or no rank wrote its record in time. What "
        f"the ranks were seen to do is told by <code>outrider explain {words.safe(one.get('id'))}</code>.</p>"
    )


def _about(one: Json, found: Json | None, picture: looking.Picture, where: tzinfo) -> str:
    parts = []
    if found is not None:
        kinds = dict.fromkeys(str(finding.get("verdict")) for finding, _ in records.findings(found))
        kind = " + ".join(kinds) or found.get("verdict")
        parts.append(f"<b>{words.safe(kind)}</b>, {records.certainty(found.get('confidence'))}")
        world = found.get("world")
        read = _number(found.get("ranks_read"))
        parts.append(f"{read} of {_number(world)} ranks read" if world else f"{read} ranks read")
    at = words.clock(one.get("opened_at"), where, datetime.now(UTC))
    parts.append(f'<span title="{words.utc(one.get("opened_at"))}">{at}</span>')
    parts.append(f"incident {words.safe(one.get('id'))}, {'open' if one.get('closed_at') is None else 'closed'}")
    if one.get("cause"):
        parts.append(f"cause {words.safe(one['cause'])}")
    if one.get("action"):
        parts.append(f"decision {words.safe(one['action'])}")
    if reading.simulated(picture):
        parts.append('<span class="tag">simulated hosts</span>')
    return " &nbsp;·&nbsp; ".join(parts)


def empty(picture: looking.Picture) -> str:
    """No hang so far: what will be shown, and how to try it."""
    suspicion = reading.suspicion(picture)
    word, shape, tone, said = "No hang so far", "●", "good", "No hang has been seen in this job."
    if suspicion and suspicion.get("silent"):
        word, shape, tone = "Being looked at", "◆", "warn"
        said = "The job gives no sign of progress; its ranks and their flight recorders are being looked at."
    elif picture.status is None:
        word, shape, tone, said = "No job yet", "○", "calm", "There is no job whose ranks could hang."
    return (
        f'<div class="o"><div class="state {tone}" role="status"><div class="pill"><span aria-hidden="true">{shape}'
        f'</span>{word}</div><div class="say">{said}</div>{EMPTY}</div></div>'
    )


def roots(one: Json, picture: looking.Picture) -> str:
    """Each independent root: who, where, why, the stack, the table."""
    found = records.record(one)
    if found is None:
        return ""
    every = records.findings(found)
    several = len(every) > 1
    cards = "".join(
        f'<div class="card root">{_root(one, finding, table, picture, f"Fault {number}: " if several else "")}</div>'
        for number, (finding, table) in enumerate(every[:ROOTS_MAX], start=1)
    )
    count = max(found.get("findings_count") or 0, len(every))
    more = f'<p class="soft">{count - ROOTS_MAX} more: <code>outrider explain</code>.</p>' if count > ROOTS_MAX else ""
    return f'<div class="o roots">{cards}{more}</div>'


def _root(one: Json, finding: Json, table: Json | None, picture: looking.Picture, number: str) -> str:
    culprits = records.rows([{"rank": rank} for rank in finding.get("culprits") or []])
    candidates = records.rows([{"rank": rank} for rank in finding.get("candidates") or []])
    title = "Nobody is to blame"
    if culprits:
        title = "Culprit" if len(culprits) == 1 else "Culprits"
    elif candidates:
        title = "One of these; the records do not tell which" if len(candidates) > 1 else "Perhaps this one"
    if number:
        title = f"{number}{finding.get('verdict')}" + ("" if culprits else f". {title}")
    head = f'<h2>{words.safe(title)} <span class="tag">{records.certainty(finding.get("confidence"))}</span></h2>'
    said = f"<p>{words.safe(finding.get('sentence'))}</p>" if number else ""
    who = _ranks(one, finding, culprits or candidates, picture, bool(culprits))
    step = f"<p><b>Next:</b> {words.safe(finding['next'])}.</p>" if finding.get("next") else ""
    left = f"<div>{head}{said}{who}{_stack(finding)}{step}</div>"
    return f"{left}<div>{_table(table, culprits)}{_why(finding)}</div>"


def _ranks(one: Json, finding: Json, named: list[Json], picture: looking.Picture, blamed: bool) -> str:
    coords = finding.get("coords")
    told = (coords if isinstance(coords, dict) else {}) | _drawn(one)
    rows = []
    for rank in [row["rank"] for row in named[:NAMED_MAX]]:
        at = records.coords(told.get(str(rank))) or _coords(picture, rank)
        parts = [part for part in (at, records.place(one, rank, picture)) if part]
        if finding.get("dump") == "absent" and not blamed:
            parts.append("left no dump")
        shape, tone = ("▲", "culprit") if blamed else ("?", "candidate")
        rows.append(
            f'<div class="named {tone}"><b>{shape} rank {words.safe(rank)}</b> '
            f"<span>{words.safe(' · '.join(parts))}</span></div>"
        )
    left = [row["rank"] for row in named[NAMED_MAX:]]
    more = f'<p class="soft">and ranks {words.safe(records.runs(left))}</p>' if left else ""
    return "".join(rows) + more


def _drawn(one: Json) -> Json:
    """Coordinates of the ranks that the drawing shows by themselves: axes of one place are left out there."""
    nodes = records.rows(((records.record(one) or {}).get("graph") or {}).get("nodes"))
    return {str(node.get("rank")): node["coords"] for node in nodes if node.get("count") == 1 and node.get("coords")}


def _coords(picture: looking.Picture, rank: Any) -> str:
    found = next((row for row in records.rows((picture.status or {}).get("ranks")) if row.get("rank") == rank), {})
    return records.coords(found.get("coords"))


def _stack(finding: Json) -> str:
    frames = records.texts(finding.get("stack"))
    if not frames:
        told = "It left no dump." if finding.get("dump") == "absent" else "Its dump has no stack."
        return f'<p class="soft">{told}</p>' if finding.get("culprits") else ""
    left = f"<li>and {len(frames) - STACK_MAX} more</li>" if len(frames) > STACK_MAX else ""
    inside = "".join(f"<li>{_frame(frame)}</li>" for frame in frames[:STACK_MAX])
    whose = STACKS.get(str(finding.get("stack_of")), "Its stack")
    return f'<p class="soft">{whose}, innermost first</p><ol class="stack" tabindex="0">{inside}{left}</ol>'


def _frame(text: str) -> str:
    """``train_step …/job/train.py:214``, of ``/opt/job/train.py:214 in train_step``; all of it when pointed at."""
    place, known, name = text.rpartition(" in ")
    if not known:
        return words.safe(text)
    parts = place.split("/")
    short = f"…/{'/'.join(parts[-PATH_PARTS_MAX:])}" if len(parts) > PATH_PARTS_MAX + 1 else place
    return f'<b>{words.safe(name)}</b> <span class="soft" title="{words.safe(place)}">{words.safe(short)}</span>'


def _why(finding: Json) -> str:
    stack = records.texts(finding.get("stack"))
    known = (str(finding.get("sentence")), *stack[:1])  # which stand on the page already
    news = [text for text in records.texts(finding.get("evidence")) if not any(_says(one, text) for one in known)]
    said = "".join(f"<li>{words.safe(text)}</li>" for text in news[:SAID_MAX])
    return f'<h2 class="next">Why</h2><ul class="why">{said}</ul>' if said else ""


def _says(known: str, text: str) -> bool:
    return text in known or (known != "" and known in text)


def limits(one: Json) -> str:
    """Why the verdict can be no surer than it is, what could not be read, and where the dumps are."""
    found = records.record(one) or {}
    said = [*records.texts(found.get("limits")), *records.texts(found.get("notes"))][:SAID_MAX]
    said += [f"{row.get('file')}: {row.get('error')}" for row in records.rows(found.get("unreadable"))[:SAID_MAX]]
    files = found.get("files") if isinstance(found.get("files"), dict) else {}
    kept = "".join(
        f"<li>rank {words.safe(rank)}: <code>{words.safe(path)}</code></li>" for rank, path in (files or {}).items()
    )
    told = "on their nodes, where <code>outrider fr analyze</code> reads them"
    kept = f'<h2>Dumps that were kept <span class="soft">{told}</span></h2><ul>{kept}</ul>' if kept else ""
    unsure = "".join(f"<li>{words.safe(text)}</li>" for text in said)
    unsure = f"<h2>What the records leave open</h2><ul>{unsure}</ul>" if unsure else ""
    return f'<div class="o"><div class="card limits">{unsure}{kept}</div></div>' if unsure or kept else ""


def _table(table: Json | None, culprits: list[Json]) -> str:
    """Who finished, who waits, who is absent in the operation that blocked first."""
    if not table:
        return ""
    blamed = records.runs(one["rank"] for one in culprits)
    rows = "".join(_row(row, blamed) for row in records.rows(table.get("rows")))
    size = "" if table.get("from_to") else f", {_number(table.get('size'))} ranks"
    head = '<thead><tr><th>State</th><th class="r">Ranks</th><th>Which ranks</th></tr></thead>'
    return (
        f"<h2>First blocked: {words.safe(records.operation(table))}<span class='soft'>{size}</span></h2>"
        f'<table class="members">{head}<tbody>{rows}</tbody></table>'
    )


def _row(row: Json, blamed: str) -> str:
    shape, word = STATES.get(str(row.get("state")), ("○", str(row.get("state"))))
    at = records.coords(row.get("coords"))
    more = [str(row["more"])] if row.get("more") else []
    more += [f"called {row['call']}"] if row.get("call") else []
    said = f'<br><span class="soft">{words.safe("; ".join(more))}</span>' if more else ""
    place = f' <span class="soft">{words.safe(at)}</span>' if at else ""
    which = records.shown(row.get("ranks"))
    kind, mark = (' class="culprit"', "▲ ") if which == blamed else ("", "")
    return (
        f'<tr{kind}><td class="name">{shape} {words.safe(word)}</td><td class="r">{_number(row.get("count"))}</td>'
        f"<td><b>{mark}{words.safe(which)}</b>{place}{said}</td></tr>"
    )


def _number(value: Any) -> str:
    """For HTML: what is no number is told as it is."""
    return words.safe(words.number(value))


def graph(one: Json) -> str:
    """Who waits for whom, drawn."""
    found = records.record(one)
    if found is None:
        return ""
    victims = (found.get("victims") or {}).get("count") or 0
    said = f"{_number(victims)} rank{' waits' if victims == 1 else 's wait'}"
    inside = wait_graph.drawn(found.get("graph"))
    return (
        f'<div class="o"><div class="card"><h2>Who waits for whom <span class="soft">{said}</span></h2>'
        f"{inside}</div></div>"
    )


def head(one: Json, where: tzinfo) -> str:
    """One earlier verdict in a line of Markdown, which opens it."""
    found = records.record(one)
    when = words.clock(one.get("opened_at"), where, datetime.now(UTC))
    if found is None:
        parts = ["no flight records", str(one.get("cause") or "")]
    else:
        named = found.get("culprits") or []
        who = f"rank {records.runs(named, 4)}" if named else "nobody named"
        parts = [str(found.get("verdict")), who, records.certainty(found.get("confidence"))]
    said = " · ".join(words.plain(part) for part in (*parts, str(one.get("id"))) if part)
    return f"**{words.plain(when)}** · {said}"
