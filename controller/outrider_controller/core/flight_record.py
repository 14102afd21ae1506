"""What the flight records of a job say of its standstill, joined with what the looks at its ranks say.

The two are independent: a record is what a rank's library wrote down of its collectives, a look is what its process
and its stack show. In order of worth: a stopped process, a record and stacks that agree, a record alone, stacks alone.
Where they agree the answer is surer than either. Where they contradict each other that is said, the answer is less
sure, and no node is blamed. A rank at work is never called hung because of its record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from outrider_analysis import stalls
from outrider_controller.core import records
from outrider_controller.core import state as states

KEY: Final = "flight_recorder"  # of the result of capture-evidence
CONFIDENT: Final = 0.7  # a record below this names nobody
ALONE_MAX: Final = 0.8  # no look bears it out
NONE_MAX: Final = 0.85  # the record sees nobody wait for a rank that does not come
DOUBT_MAX: Final = 0.6  # looks and record contradict each other
AGREED_MAX: Final = 0.99
CULPRITS_MAX: Final = 64
ROWS_MAX: Final = 6
FRAMES_SHOWN: Final = 8
TEXT_CHARS_MAX: Final = 600

MISMATCH, DEVICE = "collective-mismatch", "device-stuck"
HUNG: Final = (*stalls.HUNG, MISMATCH, DEVICE)  # what may be acted on
_STOPPED, _ELSEWHERE, _NOBODY = stalls.HUNG
_KIND_OF: Final = {
    "rank-missing": _ELSEWHERE,
    "p2p-missing": _ELSEWHERE,
    "collective-mismatch": MISMATCH,
    "size-mismatch": MISMATCH,
    "dtype-mismatch": MISMATCH,
    "order-mismatch": MISMATCH,
    "p2p-deadlock": MISMATCH,
    "device-stuck": DEVICE,
    "all-joined-stuck": _NOBODY,
}
_NOT_SEEN: Final = "could-not-look"
_STATES: Final = {"not-there": "absent", "no-dump": "no dump"}  # in the words of `outrider fr`


@dataclasses.dataclass(frozen=True)
class Joined:
    """A verdict of looks and record together. ``doubt``: they contradict each other, so no node is blamed."""

    verdict: stalls.Verdict
    doubt: bool = False


# --- reading what the shell made of the digests -----------------------------------------------------------------------


def read(effect: str, result: Mapping[str, Any]) -> records.FlightRecord | None:
    """The record in the result of capture-evidence; None where no rank's could be read."""
    given = result.get(KEY)
    if not isinstance(given, Mapping) or not _whole(given.get("ranks_read")):
        return None
    findings = [item for item in _list(given.get("findings")) if isinstance(item, Mapping)]
    if isinstance(given.get("numbering"), Mapping):  # the ranks it names are a launcher's, and none of the job's
        given = {**given, "culprits": []}
        findings = [{**item, "candidates": []} for item in findings]
    first = findings[0] if findings else {}
    place, at = _places(given.get("where"))
    return records.FlightRecord(
        effect=effect,
        verdict=_text(given.get("verdict")),
        culprits=_ranks(given.get("culprits")),
        candidates=tuple(sorted({rank for item in findings for rank in _ranks(item.get("candidates"))}))[:CULPRITS_MAX],
        confidence=_share(given.get("confidence")),
        sentence=_text(given.get("sentence")),
        place=place,
        at=at,
        rows=tuple(_text(row) for item in findings for row in _list(item.get("evidence")))[:ROWS_MAX],
        stack=_stack(first),
        table=_table(given.get("tables")),
        ranks_read=_whole(given.get("ranks_read")),
        alone=_alone(given),
    )


def _stack(finding: Mapping[str, Any]) -> tuple[str, ...]:
    """Of the call alone: where a look saw the rank is told by the look."""
    if finding.get("stack_of") == "look":
        return ()
    return tuple(_text(frame) for frame in _list(finding.get("stack")))[:FRAMES_SHOWN]


def kept(job: states.JobState, effect: records.EffectRequested, row: records.EffectDone) -> states.JobState:
    """The answer to a question that was asked for an open incident is kept with it; an empty one too."""
    incident = job.incident
    if incident is None or effect.incident != incident.incident or effect.args.get("generation") != incident.generation:
        return job
    found = read(row.effect, row.result) or records.FlightRecord(effect=row.effect)
    return dataclasses.replace(job, incident=dataclasses.replace(incident, record=found))


def of_case(incident: states.OpenIncident, attempt: states.Attempt) -> records.FlightRecord | None:
    """The newest record that tells something of the attempt that was disturbed."""
    looked = attempt.suspicion.look if attempt.suspicion is not None else None
    found = (incident.record, looked.record if looked is not None else None)
    return next((item for item in found if item is not None and item.ranks_read), None)


def texts(record: records.FlightRecord) -> list[tuple[str, str]]:
    """Kind and text of the evidence: what it says, why, the stack, who of the group is where."""
    rows = [("flight-recorder", f"{record.verdict}, {record.confidence:.0%} sure: {record.sentence}")]
    rows += [("flight-recorder", row) for row in record.rows]
    if record.stack:
        rows.append(("stack", "the call, by the flight record: " + " < ".join(record.stack)))
    rows += [("group", line) for line in record.table]
    return rows


# --- joining ----------------------------------------------------------------------------------------------------------


def join(look: stalls.Verdict, record: records.FlightRecord | None) -> Joined:
    """Looks and record together. A look that found ranks at work, traced or suspended stays what it is."""
    if record is None or not record.ranks_read:
        return Joined(look)
    if look.kind not in (*stalls.HUNG, _NOT_SEEN):
        return Joined(look)
    kind = _KIND_OF.get(record.verdict)
    if kind is None or record.confidence < CONFIDENT or (kind != _NOBODY and not record.culprits):
        return _undecided(look, record)
    if look.kind == _NOT_SEEN:
        return Joined(_by_record(look, record, kind, min(record.confidence, ALONE_MAX)))
    if look.kind == _STOPPED:
        return _stopped(look, record)
    if look.kind == _NOBODY:
        return _nobody_elsewhere(look, record, kind)
    return _elsewhere(look, record, kind)


def by_looks_alone(look: stalls.Verdict) -> Joined:
    """The records of two looks told different things."""
    text = f"{look.sentence}; the flight records did not tell the same twice"
    return Joined(_with(look, min(look.confidence, ALONE_MAX), text), doubt=look.kind != _STOPPED)


def _undecided(look: stalls.Verdict, record: records.FlightRecord) -> Joined:
    """The record names nobody that could be believed alone: it bears the look out, casts doubt, or adds nothing."""
    slow = record.verdict == "straggler"  # names who is late, and says that nothing is stuck
    if look.kind != _NOBODY and not slow and set(look.ranks) & set(record.culprits):
        return Joined(_agreed(look, record, look.ranks))
    if look.kind in (_STOPPED, _NOT_SEEN):
        return Joined(look)
    open_ = set() if slow else {*record.candidates, *record.culprits}
    if look.ranks and open_ and open_.isdisjoint(look.ranks):
        text = f"the flight record points elsewhere, at rank {stalls.ranges(open_)}"
        return Joined(_with(look, min(look.confidence, DOUBT_MAX), f"{look.sentence}; {text}"), doubt=True)
    if slow or record.verdict == "none":
        text = "by its flight record nobody waits for a rank that does not come"
        return Joined(_with(look, min(look.confidence, NONE_MAX), f"{look.sentence}; {text}"))
    return Joined(look)


def _stopped(look: stalls.Verdict, record: records.FlightRecord) -> Joined:
    """A stopped process is so beyond doubt; whether it is all that is wrong, the record tells."""
    if not record.culprits:
        return Joined(look)
    if set(record.culprits) & set(look.ranks):
        return Joined(_agreed(look, record, look.ranks))
    text = f"{look.sentence}; but the flight record names rank {stalls.ranges(record.culprits)}: {record.sentence}"
    return Joined(_with(look, min(look.confidence, ALONE_MAX), text), doubt=True)


def _nobody_elsewhere(look: stalls.Verdict, record: records.FlightRecord, kind: str) -> Joined:
    """All wait and no stack stands out: what they wait in is what only the record tells."""
    if kind == _NOBODY:
        return Joined(_agreed(look, record, ()))
    found = _by_record(look, record, kind, record.confidence)
    if kind != _ELSEWHERE:
        return Joined(found)
    # By its stack the rank waits as the others do, by its record it has not come: perhaps for something else.
    return Joined(_with(found, min(found.confidence, ALONE_MAX), found.sentence), doubt=True)


def _elsewhere(look: stalls.Verdict, record: records.FlightRecord, kind: str) -> Joined:
    """Stacks blame ranks: the record bears that out for all or some of them, or speaks against it."""
    both = tuple(rank for rank in look.ranks if rank in record.culprits)
    if both:
        found = _agreed(look, record, both)
        if len(both) < len(record.culprits):
            found = _with(found, min(look.confidence, record.confidence), found.sentence)
        return Joined(found if kind in (_ELSEWHERE, _NOBODY) else _placed(found, record, kind))
    against = f"rank {stalls.ranges(record.culprits)}" if record.culprits else "nobody"
    text = f"{look.sentence}; but the flight record blames {against}: {record.sentence}"
    if record.culprits:
        found = stalls.Verdict(_NOBODY, (), DOUBT_MAX, text, (record.at,), look.rows)
        return Joined(found, doubt=True)
    return Joined(_with(look, min(look.confidence, DOUBT_MAX), text), doubt=True)


def _agreed(look: stalls.Verdict, record: records.FlightRecord, ranks: Sequence[int]) -> stalls.Verdict:
    """Two independent signs for the same: surer than either. What the looks had told the record is no second sign."""
    sure = min(AGREED_MAX, 1 - (1 - look.confidence) * (1 - record.alone))
    places = dict(zip(look.ranks, look.places, strict=False))
    at = tuple(places.get(rank, "") for rank in ranks) if ranks else look.places
    text = f"{look.sentence}; the flight record agrees: {_clause(record.sentence)}"
    return stalls.Verdict(look.kind, tuple(ranks), round(sure, 3), text, at, look.rows)


def _by_record(look: stalls.Verdict, record: records.FlightRecord, kind: str, confidence: float) -> stalls.Verdict:
    culprits = () if kind == _NOBODY else record.culprits
    text = f"{record.sentence.rstrip('. ')}; {look.sentence}"
    found = stalls.Verdict(kind, culprits, confidence, text, (), look.rows)
    return _placed(found, record, kind)


def _placed(found: stalls.Verdict, record: records.FlightRecord, kind: str) -> stalls.Verdict:
    """Two looks are compared by the operation."""
    places = (record.at,) * max(1, min(len(found.ranks), CULPRITS_MAX))
    return dataclasses.replace(found, kind=kind, places=places)


def _clause(sentence: str) -> str:
    """What the record itself says; what follows is said of who waits and of where the rank stands, as the look says."""
    first = sentence.split("; ", 1)[0].rstrip(". ")
    return first[:1].lower() + first[1:]


def _with(look: stalls.Verdict, confidence: float, sentence: str) -> stalls.Verdict:
    return dataclasses.replace(look, confidence=confidence, sentence=sentence)


# --- plain values -----------------------------------------------------------------------------------------------------


def _places(where: Any) -> tuple[str, str]:
    """Group and operation in words that are the same in each attempt; and with its number."""
    if not isinstance(where, Mapping):
        return "", ""
    described = _text(where.get("description"))
    group = described if described not in ("", "undefined") else f"group {_text(where.get('group'))}"
    place = f"{_text(where.get('op'))} of {group}"
    seq, pair = where.get("collective_seq_id", where.get("p2p_seq_id")), where.get("from_to")
    between = f" from {pair[0]} to {pair[1]}" if isinstance(pair, list | tuple) and len(pair) == 2 else ""
    return place, f"{place}{between}, number {seq}"


def _alone(given: Mapping[str, Any]) -> float:
    """How sure the record is of its verdict without the looks."""
    without = given.get("without_looks", given)
    if not isinstance(without, Mapping):
        return 0.0
    culprits = set(_ranks(given.get("culprits")))
    same = (
        culprits & set(_ranks(without.get("culprits"))) if culprits else without.get("verdict") == given.get("verdict")
    )
    return _share(without.get("confidence")) if same else 0.0


def _table(tables: Any) -> tuple[str, ...]:
    """Who of the group that blocked first is where, a line for each state."""
    first = next(iter(_list(tables)), None)
    if not isinstance(first, Mapping):
        return ()
    described = _text(first.get("description"))
    named = described if described not in ("", "undefined") else f"group {_text(first.get('group'))}"
    pair = _ranks(first.get("from_to"))
    what = f"from rank {pair[0]} to rank {pair[1]} in" if len(pair) == 2 else f"number {first.get('seq')} of"
    head = f"{_text(first.get('op'))} {what} {named} ({first.get('size')} ranks)"
    lines = []
    for row in _list(first.get("rows"))[:ROWS_MAX]:
        if isinstance(row, Mapping):
            said = [_text(row.get("more"))] * bool(row.get("more"))
            said += [f"called {_text(row.get('call'))}"] * bool(row.get("call"))
            state, who = _text(row.get("state")), f"rank {_text(row.get('ranks'))}"
            lines.append(f"{_STATES.get(state, state)}: {', '.join([who, *said])}")
    return (f"{head}; {'; '.join(lines)}"[:TEXT_CHARS_MAX],) if lines else ()


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _ranks(value: Any) -> tuple[int, ...]:
    found = [rank for rank in _list(value) if isinstance(rank, int) and not isinstance(rank, bool) and rank >= 0]
    return tuple(found[:CULPRITS_MAX])


def _share(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return min(1.0, max(0.0, float(value))) if number and value == value else 0.0


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _text(value: Any) -> str:
    return value[:TEXT_CHARS_MAX] if isinstance(value, str) else ""
