"""The rows of one incident as lines that a person can read from top to bottom.

In: the ledger's rows, the incident, the life of its job. Out: ``{"at", "s", "kind", "text"}`` for each row that says
something, ``s`` being the seconds since the incident was opened.
"""

from __future__ import annotations

from collections.abc import Iterable

from outrider import records as spoken
from outrider_controller import incident_documents, timeline
from outrider_controller.core import flight_record, records

Json = spoken.Json
RANKS_NAMED = 8
LINES_MAX = 400  # 16,384 ranks may all have ended; the first and the decisive rows come first


def lines(rows: Iterable[records.Row], opened: records.IncidentOpened, life: timeline.Life) -> list[Json]:
    """From the row before the incident to the row that closed it, and the nodes' rows in between."""
    span = _span(tuple(rows), opened, life)
    effects = {row.effect: row.name for row in span if isinstance(row, records.EffectRequested)}
    found: list[Json] = []
    left_out = 0
    for row in span:
        text = _text(row, effects)
        if text is None:
            continue
        if len(found) >= LINES_MAX and isinstance(row, records.Observed):
            left_out += 1
            continue
        at = incident_documents.iso(row.at)
        since = incident_documents.seconds(row.at - opened.at)
        found.append({"at": at, "s": since, "kind": row.kind, "text": text})
    if left_out:
        text = f"{left_out} more observations are in the ledger"
        found.append({"at": found[-1]["at"], "s": found[-1]["s"], "kind": "noted", "text": text})
    return found


def _span(rows: tuple[records.Row, ...], opened: records.IncidentOpened, life: timeline.Life) -> list[records.Row]:
    mine = {id(row) for row in life.rows}
    begin = next(index for index, row in enumerate(rows) if row is opened or row == opened)
    while begin > 0 and rows[begin - 1].at == opened.at and not isinstance(rows[begin], records.FACTS):
        begin -= 1
    begin = _suspected(rows, begin, opened)
    found: list[records.Row] = []
    for row in rows[begin:]:
        if id(row) in mine or isinstance(row, records.NodeJoined | records.NodeSilent | records.NodeMarked):
            found.append(row)
        if isinstance(row, records.IncidentClosed) and row.incident == opened.incident:
            break
    return found


def _suspected(rows: tuple[records.Row, ...], begin: int, opened: records.IncidentOpened) -> int:
    """Where the story of a stall begins: with the suspicion, or the stopped rank, that the looks followed from."""
    if opened.opened_by != "stalled":
        return begin
    for index in range(begin - 1, -1, -1):
        row = rows[index]
        if row.at < opened.fault_at or (isinstance(row, records.Resumed) and row.job == opened.job):
            break
        stopped = isinstance(row, records.Observed) and row.observation.kind == "rank-stopped"
        if (stopped or isinstance(row, records.Suspected)) and getattr(row, "job", "") == opened.job:
            begin = index
    return begin


def _text(row: records.Row, effects: dict[str, str]) -> str | None:
    """One row in plain words; None for rows that tell a person nothing."""
    return _fact(row) if isinstance(row, records.FACTS) else _conclusion(row, effects)


def _fact(row: records.Row) -> str | None:
    match row:
        case records.Observed():
            return f"{row.observation.node}: {row.observation.text}"
        case records.NodeFound():
            return f"{row.node}: {row.observation.text}"
        case records.NodeSilent():
            return f"the agent of {row.node} is not heard"
        case records.NodeJoined():
            return f"the agent of {row.node} is heard"
        case records.EffectDone():
            return _done(row)
        case records.Attached():
            return "the new attempt sends marks"
        case records.Training() | records.StepReached():
            return f"step {row.step} is finished"
        case records.CheckpointSaved():
            return f"the checkpoint of step {row.step} is saved"
        case records.PersonAsked():
            return f"{row.by} asked: {row.verb}"
    return _trouble(row)


def _trouble(row: records.Row) -> str | None:
    match row:
        case records.NotFinite():
            return f"step {row.step} ended with {' and '.join(row.what)}"
        case records.RecordingFailed():
            return f"nothing could be recorded for {max(0.0, row.at - row.since):.1f} s: {row.error}"
        case records.Suspected():
            return f"no sign of progress for {row.at - row.since:.0f} s in phase {row.phase} ({row.basis})"
        case records.Resumed():
            return f"it goes on after {row.silent_s:.0f} s without a sign of progress"
    return None


def _share(record: Json) -> str:
    sure = record.get("confidence")
    return f"{sure:.0%}" if isinstance(sure, int | float) else "not"


def _done(row: records.EffectDone) -> str | None:
    if not row.ok:
        return f"{row.effect} failed: {row.error}"
    if "fingerprint" in row.result or "gone" in row.result:
        return _verdict(row.result)
    if "path" in row.result:
        return _found(row.result)
    if "removed" in row.result:
        removed = row.result.get("removed") or ()
        return f"{len(removed)} old checkpoints are removed" if removed else None
    if isinstance(record := row.result.get(flight_record.KEY), dict):
        read, of = record.get("ranks_read"), record.get("world", "?")
        named = [str(rank) for rank in record.get("culprits") or ()]
        who = f", rank {', '.join(named[:RANKS_NAMED])}{', ...' if len(named) > RANKS_NAMED else ''}" if named else ""
        return f"flight records of {read} of {of} ranks: {record.get('verdict')}{who} ({_share(record)} sure)"
    if "stopped" in row.result:
        unreached = row.result.get("unreached") or []
        return "the ranks are stopped" + (f"; {', '.join(unreached)} could not be reached" if unreached else "")
    if "warm" in row.result:
        why = row.result.get("why_cold")
        cold = f" (cold start: {why})" if why else " (cold start)"
        return "the ranks run" + (" (forked from a warm process)" if row.result["warm"] else cold)
    return None


def _verdict(result: Json) -> str | None:
    """One look at a checkpoint, beside training."""
    if result.get("gone"):
        return f"the checkpoint {result.get('path')} is not there any more"
    step, trust = result.get("step"), result.get("trust")
    why = "; ".join(f"{p.get('file')} {p.get('text')}" for p in result.get("problems") or ())
    return f"the checkpoint of step {step} was looked at: {trust}" + (f" ({why})" if why else "")


def _found(result: Json) -> str:
    refused = [
        f"refused {str(item.get('path')).rsplit('/', 1)[-1]}: {item.get('why')}"
        for item in result.get("rejected") or ()
    ]
    passed = [
        f"passed over {str(item.get('path')).rsplit('/', 1)[-1]}: it {item.get('why')}"
        for item in result.get("passed_over") or ()
    ]
    path = result.get("path")
    best = f"the newest good checkpoint is of step {result.get('step')}: {path}" if path else "no checkpoint to load"
    note = f" ({result['note']})" if result.get("note") else ""
    return "; ".join([*refused, *passed, best + note])


def _conclusion(row: records.Row, effects: dict[str, str]) -> str | None:
    match row:
        case records.IncidentOpened():
            return f"incident opened: {row.text}"
        case records.JobMoved():
            return f"{row.was} -> {row.now}: {row.why}"
        case records.Diagnosed():
            return f"{row.cause} ({row.confidence:.0%} sure): {row.sentence}"
        case records.Decided():
            return f"{row.decision}: {row.reason}"
        case records.AttemptPlanned():
            where = f"step {row.resume_step}" if row.resume_path else "the beginning"
            return f"attempt {row.attempt} on {', '.join(row.placement)} from {where}"
        case records.EffectRequested() if row.name not in ("notify",):
            return f"asked for: {effects.get(row.effect, row.name)}"
        case records.NodeMarked():
            return f"{row.node} is marked {row.mark}: {row.why}"
        case records.Looked():
            return f"looked at all ranks: {row.sentence}" + (" (as at the look before)" if row.agrees else "")
        case records.CheckpointTrusted():
            return f"the checkpoint of step {row.step} is now {row.trust}: {row.why}"
        case records.IncidentClosed():
            return f"incident closed: {row.outcome}"
        case records.Noted():
            return row.text
    return None
