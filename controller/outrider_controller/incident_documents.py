"""Rows of the ledger -> incidents as people and programs read them (the document of ``outrider incidents --json``).

In: the rows in order, and the time up to which an open incident has lasted. Out: plain JSON, one mapping an incident,
oldest first. Everything comes from the rows: the same ledger gives the same documents anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from outrider import records as spoken
from outrider_controller import removed, timeline
from outrider_controller.core import flight_record, records

Json = spoken.Json
SECONDS_DIGITS = 6  # of every ``*_s`` in a document: rounding keeps sums exact to far below a millisecond


@dataclass
class Story:
    """The rows of one incident, each in its place."""

    opened: records.IncidentOpened
    diagnosed: records.Diagnosed | None = None
    decisions: list[records.Decided] = field(default_factory=list)
    found: Json | None = None  # what find-checkpoint last answered
    planned: records.AttemptPlanned | None = None
    closed: records.IncidentClosed | None = None
    held: bool = False
    record: Json | None = None  # the verdict of the flight records that the diagnosis refers to

    @property
    def decision(self) -> records.Decided | None:
        """The decision that stands."""
        return self.decisions[-1] if self.decisions else None

    @property
    def automatic(self) -> bool:
        """Nobody had to be asked: not planned, never held, every decision the controller's own."""
        return not self.opened.planned and not self.held and all(d.automatic for d in self.decisions)


def incidents(rows: Iterable[records.Row], job: str | None = None, now: float | None = None) -> list[Json]:
    """Documents of the incidents of ``job`` (or of every job). ``now`` defaults to the time of the last row."""
    rows = tuple(rows)
    if now is None:
        now = max((row.at for row in rows), default=0.0)
    names = [job] if job is not None else submitted(rows)
    found = [
        (story.opened.at, document(story, phases.get(story.opened.incident, {}), begins, now, gone))
        for name in names
        for life in timeline.lives(rows, name)
        for phases, begins in [_owned(life, now)]
        for gone in [removed.Removed(life.rows)]
        for story in stories(life.rows)
    ]
    return [one for _, one in sorted(found, key=lambda item: item[0])]


def submitted(rows: Iterable[records.Row]) -> list[str]:
    """Names of the jobs in the rows, each once, oldest first."""
    return list(dict.fromkeys(row.job for row in rows if isinstance(row, records.JobSubmitted)))


def stories(rows: Sequence[records.Row]) -> list[Story]:
    """The incidents in the rows of one job, in the order in which they were opened."""
    known: dict[str, Story] = {}
    asked: dict[str, str] = {}  # find-checkpoint effect -> incident
    told: dict[str, Json] = {}  # capture-evidence effect -> what the flight records came to
    for row in rows:
        if isinstance(row, records.IncidentOpened):
            known[row.incident] = Story(row)
            continue
        if isinstance(row, records.EffectRequested) and row.name == "find-checkpoint" and row.incident:
            asked[row.effect] = row.incident
        if isinstance(row, records.EffectDone) and isinstance(row.result.get(flight_record.KEY), dict):
            told[row.effect] = row.result[flight_record.KEY]
        name = asked.get(row.effect) if isinstance(row, records.EffectDone) else getattr(row, "incident", None)
        story = known.get(name or "")
        if story is not None:
            _add(story, row)
        if story is not None and isinstance(row, records.Diagnosed):
            story.record = told.get(row.flight_recorder)
        if isinstance(row, records.JobMoved) and row.now == "held" and known:
            last = list(known.values())[-1]
            last.held = last.held or last.closed is None
    return list(known.values())


def document(
    story: Story, phases: dict[str, float], begins: dict[str, float], now: float, gone: removed.Removed
) -> Json:
    """One incident as in ``outrider incidents --json``. ``gone``: files that are not there any more."""
    opened, found, decision, closed = story.opened, story.diagnosed, story.decision, story.closed
    alternatives = next((d.alternatives for d in reversed(story.decisions) if d.alternatives), ())
    begin = begins.get(opened.incident, opened.fault_at)
    return {
        "id": opened.incident,
        "job": opened.job,
        "planned": opened.planned,
        "interrupted": opened.interrupted,
        "opened_by": opened.opened_by,
        "opened_at": iso(begin),  # when the fault struck: the phases sum to closed_at less this
        "detected_at": iso(opened.at),
        "closed_at": iso(closed.at) if closed else None,
        "length_s": seconds((closed.at if closed else max(now, opened.at)) - begin),
        "outcome": closed.outcome if closed else None,
        "text": opened.text,
        "cause": found.cause if found else None,
        "cause_group": found.cause_group if found else None,
        "confidence": found.confidence if found else 0.0,
        "suspects": _suspects(found),
        "evidence": [gone.evidence(_evidence(row)) for row in found.evidence] if found else [],
        "flight_recorder": gone.record(story.record),
        "signature": found.signature if found else None,
        "action": decision.decision if decision else None,
        "reason": decision.reason if decision else None,
        "price_gpu_h": decision.price_gpu_h if decision else None,
        "alternatives": [dict(one) for one in alternatives],
        "runbook": (decision.runbook or None) if decision else None,
        "page": any(d.page for d in story.decisions),
        "from_checkpoint": _checkpoint(story),
        "lost_steps": _lost_steps(story),
        "phases": {f"{name}_s": seconds(phases.get(name, 0.0)) for name in timeline.PHASES},
        "policy_hash": decision.policy_hash if decision else None,
        "attempt_before": opened.attempt,
        "attempt_after": _attempt_after(story),
        "automatic": story.automatic,
        "supersedes": opened.supersedes,
        "sentence": sentence(story),
    }


def sentence(story: Story) -> str:
    """What happened, what was done about it and what came of it, in one line."""
    parts = [story.diagnosed.sentence if story.diagnosed else story.opened.text]
    decision = story.decision
    if not story.opened.interrupted:
        return parts[0].rstrip(".; ") + f"; {_OUTCOMES['watched']}"
    if decision is not None:
        parts += _refused(story) + _passed_over(story)
        parts.append(_ACTIONS.get(decision.decision, decision.decision) + _from_where(story))
    elif not story.opened.planned and story.closed is None:
        parts.append("the cause is being looked for")
    if story.closed is not None:
        parts.append(_OUTCOMES.get(story.closed.outcome, story.closed.outcome))
    return "; ".join(part.rstrip(".; ") for part in parts if part)


def iso(at: float | None) -> str | None:
    """Unix seconds as UTC ISO-8601 text to the millisecond."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(value: float) -> float:
    """A duration for a document: rounded far below what anybody reads, and never minus nothing."""
    return round(value, SECONDS_DIGITS) + 0.0


_ACTIONS = {
    "watch": "it is only watched",
    "restart": "restarted on the same nodes",
    "restart-without-suspect": "restarted without the suspect",
    "drain-at-checkpoint": "left the suspect at a checkpoint and went on",
    "hold-for-person": "held for a person",
}
_OUTCOMES = {
    "regained": "the lost step is regained",
    "superseded": "another fault came before it was over",
    "held-ended": "a person ended the wait",
    "job-ended": "the job ended",
    "watched": "nothing was interrupted",
}


def _owned(life: timeline.Life, now: float) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Phases of each incident of a life, and when each begins on its line of time."""
    found = timeline.of_life(life, now)
    begins: dict[str, float] = {}
    for segment in found:
        if segment.incident is not None:
            begins.setdefault(segment.incident, segment.begin)
    return timeline.phases(found), begins


def _add(story: Story, row: records.Row) -> None:
    match row:
        case records.Diagnosed():
            story.diagnosed = row
        case records.Decided():
            story.decisions.append(row)
        case records.EffectDone(ok=True):
            story.found = row.result
        case records.AttemptPlanned():
            story.planned = row
        case records.IncidentClosed():
            story.closed = row


def _suspects(found: records.Diagnosed | None) -> Json:
    if found is None:
        return {"ranks": [], "gpus": [], "nodes": [], "links": []}
    return {
        "ranks": list(found.ranks),
        "gpus": list(found.gpus),
        "nodes": list(found.nodes),
        "links": list(found.links),
    }


def _evidence(row: Json) -> Json:
    at: Any = row.get("at")
    return {**row, "at": iso(at) if isinstance(at, int | float) else at}


def _checkpoint(story: Story) -> Json | None:
    """The checkpoint that was used, else the one that was found; a path of None for the beginning, None altogether
    while nobody has looked.
    """
    found, planned = story.found, story.planned
    if found is None:
        return None
    path, step = found.get("path") or None, int(found.get("step") or 0)
    trust = found.get("trust")
    if planned is not None and planned.resume_path != (path or ""):
        path, step, trust = planned.resume_path or None, planned.resume_step, None
    told = {
        "step": step if path else 0,
        "path": path,
        "trust": trust if path else None,
        "rejected": [{**item, "step": _step_of(found, item)} for item in found.get("rejected") or ()],
    }
    if found.get("passed_over"):
        told["passed_over"] = list(found["passed_over"])
    if found.get("note") and path == found.get("path"):
        told["note"] = found["note"]
    return told


def _passed_over(story: Story) -> list[str]:
    """What nothing is known of, and that the one that was taken is known less well than others."""
    found = story.found or {}
    passed = list(found.get("passed_over") or ())
    told = []
    if passed:
        more = f" ({len(passed) - 1} more were passed over too)" if len(passed) > 1 else ""
        name = str(passed[0].get("path", "")).rstrip("/").rsplit("/", 1)[-1]
        told.append(f"the checkpoint {name} {passed[0].get('why')}, and was passed over{more}")
    if found.get("note"):
        told.append(f"the one that was taken is {found['note']}")
    return told


def _step_of(found: Json, item: Json) -> int | None:
    """The step of a checkpoint that was turned down, where a verdict or its name says it."""
    if item.get("step") is not None:
        return int(item["step"])
    judged: Json = next((v for v in found.get("judged") or () if v.get("path") == item.get("path")), {})
    step = judged.get("step")
    return int(step) if step is not None else None


def _refused(story: Story) -> list[str]:
    """What was turned down on the way to the checkpoint that was used, the newest in full."""
    found = story.found or {}
    rejected = list(found.get("rejected") or ())
    if not rejected:
        return []
    first = rejected[0]
    step = _step_of(found, first)
    named = f"(step {step})" if step is not None else f"({str(first.get('path', '')).rstrip('/').rsplit('/', 1)[-1]})"
    more = f" ({len(rejected) - 1} more were refused too)" if len(rejected) > 1 else ""
    return [f"the newest checkpoint {named} was refused: {plainly(str(first.get('why') or ''))}{more}"]


def plainly(why: str) -> str:
    """``file __3_0.distcp is not what was written`` for ``__3_0.distcp: is not what was written``."""
    first, more, _ = why.partition("; ")  # the evidence has them all
    why = f"{first} (and more)" if more else first
    file, colon, text = why.partition(": ")
    if colon and file and " " not in file:
        return f"file {file} {text}"
    return why or "its files are not what they should be"


def _lost_steps(story: Story) -> int | None:
    if story.closed is not None:
        return story.closed.lost_steps
    if story.opened.lost_step is None or story.planned is None:
        return None
    return max(0, story.opened.lost_step - story.planned.resume_step)


def _attempt_after(story: Story) -> int | None:
    if story.closed is not None and story.closed.attempt_after is not None:
        return story.closed.attempt_after
    return story.planned.attempt if story.planned is not None else None


def _from_where(story: Story) -> str:
    if story.planned is None:
        return ""
    where = f"step {story.planned.resume_step}" if story.planned.resume_path else "the beginning"
    return f" from {where}"
