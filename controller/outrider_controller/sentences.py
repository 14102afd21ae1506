"""One plain sentence per turn, the line that an operator reads at three in the morning, with its fields beside it.

In: the row that came and what was concluded from it. Out: the sentence and the fields job, incident, node and rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outrider_controller.core import records

# What says most about a turn comes first.
_WEIGHT = (
    records.Decided,
    records.IncidentOpened,
    records.IncidentClosed,
    records.JobMoved,
    records.AttemptPlanned,
    records.NodeMarked,
    records.CheckpointTrusted,
    records.Looked,
    records.DrainWanted,
    records.DrainDropped,
    records.Noted,
)


def of_turn(row: records.Row, conclusions: Sequence[records.Row]) -> tuple[str, dict[str, Any]]:
    """Sentence and fields of one turn."""
    said = [_sentence(found) for kind in _WEIGHT for found in (row, *conclusions) if isinstance(found, kind)]
    text = said[0] if said else _sentence(row)
    return text, _fields(row, conclusions)


def _sentence(row: records.Row) -> str:
    match row:
        case records.Decided():
            return f"decided {row.decision} for incident {row.incident}: {row.reason}"
        case records.IncidentOpened():
            return f"incident {row.incident} opened: {row.text}"
        case records.IncidentClosed():
            return f"incident {row.incident} closed: {row.outcome}"
        case records.JobMoved():
            return f"job {row.job} is {row.now}: {row.why}"
        case records.AttemptPlanned():
            whence = f"from step {row.resume_step}" if row.resume_path else "from the beginning"
            return f"attempt {row.attempt} of job {row.job} is planned on {', '.join(row.placement)} {whence}"
        case records.NodeMarked():
            return f"node {row.node} is {row.mark}: {row.why}"
        case records.Looked():
            return f"looked at the ranks of job {row.job}: {row.sentence}"
        case records.CheckpointTrusted():
            return f"the checkpoint of step {row.step} of job {row.job} is now {row.trust}: {row.why}"
        case records.DrainWanted():
            return f"job {row.job} leaves node {row.node} at its next checkpoint: {row.why}"
        case records.DrainDropped():
            return f"job {row.job} leaves no node now: {row.why}"
        case records.Noted():
            return row.text
        case _:
            return _fact(row)


def _fact(row: records.Row) -> str:
    match row:
        case records.JobSubmitted():
            return f"job {row.job} was submitted by {row.by}"
        case records.NodeJoined():
            return f"node {row.node} is connected"
        case records.NodeSilent():
            return f"node {row.node} is silent; its ranks are left alone"
        case records.NodeFound():
            return f"node {row.node}: {row.observation.text}"
        case records.Observed():
            return f"node {row.observation.node} saw {row.observation.kind}: {row.observation.text}"
        case records.Attached():
            return f"job {row.job} speaks to us"
        case records.Training() | records.StepReached():
            return f"job {row.job} finished step {row.step}"
        case records.CheckpointSaved():
            return f"job {row.job} saved a checkpoint of step {row.step}"
        case records.TimerFired():
            return f"the time for {row.timer} of job {row.job} is over"
        case records.EffectDone():
            return f"effect {row.effect} is done" if row.ok else f"effect {row.effect} failed: {row.error}"
        case records.PersonAsked():
            return f"{row.by} asked to {row.verb} {row.job or row.node or ''}"
        case _:
            return _trouble(row)


def _trouble(row: records.Row) -> str:
    match row:
        case records.NotFinite():
            return f"job {row.job} finished step {row.step} with {' and '.join(row.what)}"
        case records.RecordingFailed():
            return f"nothing could be recorded for {max(0.0, row.at - row.since):.1f} s: {row.error}"
        case records.Suspected():
            return f"job {row.job} has shown no sign of progress for {row.at - row.since:.0f} s; looking at all ranks"
        case records.Resumed():
            return f"job {row.job} goes on after {row.silent_s:.0f} s without a sign of progress"
        case _:
            return row.kind


def _fields(row: records.Row, conclusions: Sequence[records.Row]) -> dict[str, Any]:
    rows = (row, *conclusions)
    found: dict[str, Any] = {}
    for name in ("job", "incident", "node"):
        values = [value for item in rows if isinstance(value := getattr(item, name, None), str) and value]
        if values:
            found[name] = values[0]
    if isinstance(row, records.Observed):
        found.setdefault("node", row.observation.node)
        if row.observation.rank is not None:
            found["rank"] = row.observation.rank
    return found
