"""One interruption, from its one-line head to its evidence."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Any, Final

from outrider_dashboards import reading, words
from outrider_dashboards.parts import time_bins

Json = dict[str, Any]
EVIDENCE_SHOWN_MAX: Final = 40
HEAD_CHARS_MAX: Final = 120


def head(one: Json, where: tzinfo, pretended: set[str]) -> str:
    """When, why, whom, how long, what was decided: Markdown, for the line that opens it."""
    when = words.clock(one.get("opened_at"), where, datetime.now(UTC))
    cause = "asked for by a person" if one.get("planned") else one.get("cause") or "cause is being looked for"
    who = reading.whom(one, pretended)
    took = words.duration(reading.length_s(one))
    if one.get("interrupted", True):
        took = f"{took} so far" if one.get("closed_at") is None else f"took {took}"
    else:
        took = "nothing was interrupted"
    by = "automatic" if one.get("automatic") else "by a person"
    decided = f"{one['action']} ({by})" if one.get("action") else "not decided yet"
    if one.get("planned"):
        decided = ""
    parts = [
        f"**{words.plain(when)}**",
        f"**{words.plain(cause)}**",
        *(words.plain(x) for x in (who, took, decided) if x),
    ]
    return " · ".join(parts)


def body(one: Json, where: tzinfo, pretended: set[str], runbook: Json | None) -> str:
    """Everything about it: phases, facts, evidence, alternatives."""
    said = f"<p>{words.safe(one.get('sentence'))}.</p>" if one.get("sentence") else ""
    return (
        f'<div class="o">{said}{_phases(one)}{_facts(one, where, pretended, runbook)}'
        f"{_evidence(one, where)}{_alternatives(one)}</div>"
    )


def _phases(one: Json) -> str:
    phases = one.get("phases") or {}
    parts = [(name, phases.get(f"{name}_s") or 0.0) for name in reading.PHASES]
    parts = [(name, seconds) for name, seconds in parts if seconds > 0]
    if not parts:
        return ""
    label = ", ".join(f"{name} {words.duration(seconds)}" for name, seconds in parts)
    keys = time_bins.legend([name for name, _ in parts], [words.duration(seconds) for _, seconds in parts])
    return f'{time_bins.bar(parts, label, thin=True)}<div class="legend num" style="margin-top:.35rem">{keys}</div>'


def _facts(one: Json, where: tzinfo, pretended: set[str], runbook: Json | None) -> str:
    group = f" ({one['cause_group']})" if one.get("cause_group") else ""
    sure = f", {one['confidence']:.0%} sure" if isinstance(one.get("confidence"), int | float) else ""
    cause = f"{one['cause']}{group}{sure}" if one.get("cause") else ""
    by = "by itself" if one.get("automatic") else "with a person"
    decision = f"{one['action']}, {by}{_price(one.get('price_gpu_h'))}" if one.get("action") else ""
    if one.get("reason"):
        decision = f"{decision}: {one['reason']}"
    title = f"{runbook['title']} ({one['runbook']})" if runbook else one.get("runbook")
    closed = _when(one["closed_at"], where) if one.get("closed_at") else "still open"
    rows = [
        ("Incident", words.safe(one.get("id"))),
        ("When", f"{_when(one.get('opened_at'), where)} to {closed}"),
        ("Cause", words.safe(cause)),
        ("Whom", words.safe(reading.whom(one, pretended))),
        ("Decision", words.safe(decision)),
        ("Resumed from", words.safe(_checkpoint(one))),
        ("Lost steps", words.safe(_lost(one))),
        ("Attempts", words.safe(_attempts(one))),
        ("Runbook", words.safe(title)),
    ]
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{text}</dd>' for name, text in rows if text)}</dl>"


def _when(at: Any, where: tzinfo) -> str:
    return f'<span class="num" title="{words.utc(at)}">{words.clock(at, where, datetime.now(UTC))}</span>'


def _checkpoint(one: Json) -> str:
    found = one.get("from_checkpoint")
    if not found:
        return ""
    if not found.get("path"):
        return "the beginning: there was no checkpoint that can be trusted"
    refused = len(found.get("rejected") or [])
    passed = f"; {refused} newer refused" if refused else ""
    passed += f"; {len(found['passed_over'])} could not be verified in time" if found.get("passed_over") else ""
    trusted = f", trusted as {found['trust']}" if found.get("trust") else ""
    return f"step {found.get('step')}{trusted}{passed}: {found['path']}"


def _lost(one: Json) -> str:
    lost = one.get("lost_steps")
    return "" if lost is None else "none" if lost == 0 else f"{lost}, trained again"


def _attempts(one: Json) -> str:
    after = one.get("attempt_after")
    return "" if one.get("attempt_before") is None or after is None else f"{one['attempt_before']} → {after}"


def _evidence(one: Json, where: tzinfo) -> str:
    found = [row for row in one.get("evidence") or [] if isinstance(row, dict)]
    if not found:
        return '<p class="soft">No evidence has been written down yet.</p>'
    rows = "".join(
        f'<tr><td class="num">{_when(row.get("at"), where)}</td>'
        f'<td class="name hide">{words.safe(row.get("source"))}</td>'
        f'<td>{words.safe(row.get("text"))}<span class="soft"> &nbsp;{words.safe(row.get("kind"))}, '
        f"for {words.safe(row.get('for'))}</span></td></tr>"
        for row in found[:EVIDENCE_SHOWN_MAX]
    )
    more = (
        f'<p class="soft">{len(found) - EVIDENCE_SHOWN_MAX} more rows.</p>' if len(found) > EVIDENCE_SHOWN_MAX else ""
    )
    top = '<thead><tr><th>When</th><th class="hide">Source</th><th>Evidence</th></tr></thead>'
    return f"<table>{top}<tbody>{rows}</tbody></table>{more}"


def _alternatives(one: Json) -> str:
    found = [row for row in one.get("alternatives") or [] if isinstance(row, dict)]
    if not found:
        return ""
    rows = "".join(
        f'<tr><td>{words.safe(row.get("action"))}</td><td class="r">{words.number(row.get("price_gpu_h"), 3)}</td>'
        f"<td>{words.safe(row.get('why_not'))}</td></tr>"
        for row in found
    )
    return (
        '<table><thead><tr><th>Turned down</th><th class="r">GPU-hours</th><th>Why not</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _price(value: Any) -> str:
    return f" ({words.number(value, 3)} GPU-hours)" if isinstance(value, int | float) else ""
