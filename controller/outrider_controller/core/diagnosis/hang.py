"""A job stood still, and its ranks were looked at before anything was ended: who held it up.

Two incidents are told of here: one that was opened because of a stall, and one in which the ranks' own time-outs came
first. In the second the crowd that died of its time-out are the victims, and the rank that was stopped or elsewhere,
and that did not die, is the one that they had waited for; what they left in their flight recorders tells it too, also
where nobody had looked at them before.
"""

from __future__ import annotations

from typing import Final

from outrider import records as spoken
from outrider_analysis import stalls
from outrider_controller.core import flight_record
from outrider_controller.core.diagnosis import crash, hardware
from outrider_controller.core.diagnosis.case import Case, Finding, Judged, cause_of, evidence, gpu_of, ranks_of

CONFIDENCE_BY_TIME_OUT: Final = 0.8  # the looks were made before the ranks gave up by themselves
NODES_BLAMED_SHARE_MAX: Final = 0.5  # ranks on more nodes than this say nothing about any node
NOTHING_SEEN: Final = stalls.Verdict("could-not-look", (), 0.0, "nobody had looked at the ranks")
OPENED_BY: Final = "rank-exited"
_WORDS: Final = {
    "rank-stopped": "stopped",
    "rank-hung": "outside of the collective that the others waited in",
    flight_record.MISMATCH: "in another call than the others",
    flight_record.DEVICE: "waiting for a device that had not finished what its peers had",
}


def find(case: Case) -> Finding | None:
    """The verdict of the looks, where they had one and nothing that happened since speaks against it."""
    suspicion = case.attempt.suspicion
    if suspicion is not None and case.incident.opened_by == "stalled" and suspicion.look is not None:
        look = suspicion.look
        # A process that is stopped is so beyond doubt; of ranks elsewhere those that two looks found in one place.
        ranks = look.ranks if look.verdict == "rank-stopped" else look.common or look.ranks
        found = stalls.Verdict(look.verdict, ranks, look.confidence, look.sentence)
        return _finding(case, flight_record.Joined(found, look.doubt))
    if case.incident.opened_by == OPENED_BY:
        return _by_time_out(case)
    return None


def needs_record(case: Case) -> bool:
    """Ranks gave up waiting, nothing that is known explains it, and no look had told whom they waited for."""
    if case.incident.opened_by != OPENED_BY or not _gave_up(case.judged()):
        return False
    if case.silent() or case.attempt.gone or hardware.find(case) is not None:
        return False
    look = case.attempt.suspicion.look if case.attempt.suspicion is not None else None
    record = look.record if look is not None else None
    return record is None or not record.culprits or record.confidence < flight_record.CONFIDENT


def _gave_up(judged: tuple[Judged, ...]) -> bool:
    """Every rank that died by itself died of a lost peer, or of calls that do not fit, whoever made the wrong one."""
    echoes = (*crash.ECHOES, flight_record.MISMATCH)
    return all(j.kind in echoes for j in judged) and any(j.kind != "asked" for j in judged)


def _by_time_out(case: Case) -> Finding | None:
    """Nobody died of its own: who was stopped or elsewhere, or what do the flight records say?"""
    judged = case.judged()
    if not _gave_up(judged):
        return None
    died = {j.exit.rank for j in judged if j.kind != "asked"}
    seen = _seen_before(case, died)
    joined = flight_record.join(seen, case.incident.record)
    found = joined.verdict
    if found.kind not in flight_record.HUNG or (not found.ranks and case.incident.record is None):
        return None
    told_by_log = next((j for j in judged if j.kind == flight_record.MISMATCH), None)
    if told_by_log is not None:
        return _mismatch(case, joined, told_by_log)
    text = f"{found.sentence}; {len(died)} {'others ' if found.ranks else 'ranks '}gave up waiting by themselves"
    told = stalls.Verdict(found.kind, found.ranks, found.confidence, text)
    return _finding(case, flight_record.Joined(told, joined.doubt))


def _mismatch(case: Case, joined: flight_record.Joined, by_log: Judged) -> Finding | None:
    """A rank's log says that calls did not fit. Looks and records that say so too are surer by that."""
    found = joined.verdict
    if found.kind != flight_record.MISMATCH:
        return None  # then the log alone tells the cause
    sure = min(flight_record.AGREED_MAX, 1 - (1 - found.confidence) * (1 - crash.CONFIDENCE_CONTESTED))
    text = f"{found.sentence.rstrip('. ')}; {by_log.text}"
    return _finding(case, flight_record.Joined(stalls.Verdict(found.kind, found.ranks, sure, text), joined.doubt))


def _seen_before(case: Case, died: set[int]) -> stalls.Verdict:
    """Whom the looks, or their node's agent, had found before the ranks gave up; those who gave up too are not it."""
    suspicion = case.attempt.suspicion
    if suspicion is None:
        return NOTHING_SEEN
    look = suspicion.look
    if look is not None and look.verdict in flight_record.HUNG and look.ranks:
        verdict, blamed, sure = look.verdict, look.ranks, min(look.confidence, CONFIDENCE_BY_TIME_OUT)
    else:
        verdict, blamed, sure = "rank-stopped", suspicion.stopped, CONFIDENCE_BY_TIME_OUT
    of_code = verdict in (flight_record.MISMATCH, flight_record.DEVICE)  # such a rank gives up as the others do
    ranks = tuple(rank for rank in blamed if of_code or rank not in died)
    if not ranks:
        return NOTHING_SEEN
    named = f"rank{'s' if len(ranks) > 1 else ''} {stalls.ranges(ranks)}"
    what = look.sentence if look is not None and look.ranks == ranks else f"{named} had been found {_WORDS[verdict]}"
    return stalls.Verdict(verdict, ranks, sure, what)


def _finding(case: Case, joined: flight_record.Joined) -> Finding | None:
    found = joined.verdict
    cause = cause_of(case.policy, stall=found.kind)
    if cause is None:
        return None
    # What the job's own code does wrong is no node's fault; and where looks and records contradict each other, none is.
    nodes = () if joined.doubt or found.kind == flight_record.MISMATCH else _nodes(case, found.ranks)
    device = found.kind == flight_record.DEVICE
    return Finding(
        cause=cause,
        confidence=found.confidence,
        sentence=found.sentence,
        signature=_signature(case, found),
        ranks=found.ranks,
        nodes=nodes,
        evidence=_rows(case, cause, found.kind),
        gpus=_gpus(case, found.ranks) if device and nodes else (),
    )


def _signature(case: Case, found: stalls.Verdict) -> str:
    """Where it hung, whichever rank it was: a deadlock in the job's own code strikes in one place again and again."""
    suspicion = case.attempt.suspicion
    look = suspicion.look if suspicion is not None else None
    record = flight_record.of_case(case.incident, case.attempt)
    if record is not None and found.kind in (flight_record.MISMATCH, flight_record.DEVICE):
        which = ",".join(_gpus(case, found.ranks)) if found.kind == flight_record.DEVICE else record.verdict
        return f"{found.kind}:{which}:{record.place}"
    if look is None:
        return f"{found.kind}:{record.place if record is not None else ''}"
    places = dict(zip(look.ranks, look.places, strict=False))
    place = places.get(found.ranks[0], "") if found.ranks else ";".join(look.places)
    return f"{found.kind}:{record.place if record is not None and place == record.at else place}"


def _nodes(case: Case, ranks: tuple[int, ...]) -> tuple[str, ...]:
    placed, each = case.attempt.placement, case.job.spec.ranks_per_node
    nodes = tuple(dict.fromkeys(placed[rank // each] for rank in ranks if rank // each < len(placed)))
    return nodes if len(nodes) <= max(1, NODES_BLAMED_SHARE_MAX * len(placed)) else ()


def _gpus(case: Case, ranks: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(
        f"{node}/{gpu}"
        for node in case.attempt.placement
        for rank in ranks
        if rank in ranks_of(case.job, node) and (gpu := gpu_of(case.job, rank))
    )


def _rows(case: Case, cause: str, verdict: str) -> tuple[spoken.Json, ...]:
    rows = []
    suspicion, at = case.attempt.suspicion, case.incident.opened_at
    look = suspicion.look if suspicion is not None else None
    if suspicion is not None and suspicion.silent:
        text = f"no sign of progress for {at - suspicion.since:.0f} s in phase {suspicion.phase}; {suspicion.basis}"
        rows.append(evidence(suspicion.since, "controller", "silence", text, cause))
    if look is not None:
        rows += [evidence(look.at, row["source"], row["kind"], row["text"], cause) for row in look.evidence]
    rows += record_rows(case, cause)
    if suspicion is not None and look is not None:
        again = f"{suspicion.looks} looks at all ranks" + (", the last two alike" if look.agrees else "")
        rows.append(evidence(look.at, "controller", "looks", again, cause))
    if suspicion is not None and verdict == "rank-stopped" and suspicion.stopped:
        text = f"its node's agent found rank {stalls.ranges(suspicion.stopped)} stopped"
        rows.append(evidence(suspicion.since, "controller", "rank-stopped", text, cause))
    gave_up = [j for j in case.judged() if j.kind == "peer-lost"][: crash.ECHO_ROWS_MAX]
    rows += [evidence(j.exit.at, j.node, "echo", j.text, cause) for j in gave_up]
    return tuple(rows)


def record_rows(case: Case, cause: str) -> list[spoken.Json]:
    """What the flight records say: the verdict, why, the stack of the call, who of the group is where."""
    record = flight_record.of_case(case.incident, case.attempt)
    if record is None:
        return []
    looked = case.attempt.suspicion.look if case.attempt.suspicion is not None else None
    at = looked.at if looked is not None and looked.record == record else case.incident.opened_at
    return [evidence(at, "controller", kind, text, cause) for kind, text in flight_record.texts(record)]
