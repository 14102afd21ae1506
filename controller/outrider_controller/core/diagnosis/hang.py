"""A job stood still, and its ranks were looked at before anything was ended: who held it up.

Two incidents are told of here: one that was opened because of a stall, and one in which the ranks' own time-outs came
first. In the second the crowd that died of its time-out are the victims, and the rank that was stopped or elsewhere,
and that did not die, is the one that they had waited for.
"""

from __future__ import annotations

from typing import Final

from outrider import records as spoken
from outrider_analysis import stalls
from outrider_controller.core import records
from outrider_controller.core import state as states
from outrider_controller.core.diagnosis import crash
from outrider_controller.core.diagnosis.case import Case, Finding, cause_of, evidence

CONFIDENCE_BY_TIME_OUT: Final = 0.8  # the looks were made before the ranks gave up by themselves
NODES_BLAMED_SHARE_MAX: Final = 0.5  # ranks on more nodes than this say nothing about any node


def find(case: Case) -> Finding | None:
    """The verdict of the looks, where they had one and nothing that happened since speaks against it."""
    suspicion = case.attempt.suspicion
    if suspicion is None:
        return None
    if case.incident.opened_by == "stalled" and suspicion.look is not None:
        look = suspicion.look
        # A process that is stopped is so beyond doubt; of ranks elsewhere those that two looks found in one place.
        ranks = look.ranks if look.verdict == "rank-stopped" else look.common or look.ranks
        return _finding(case, suspicion, look.verdict, ranks, look.confidence, look.sentence)
    if case.incident.opened_by == "rank-exited":
        return _by_time_out(case, suspicion)
    return None


def _by_time_out(case: Case, suspicion: states.Suspicion) -> Finding | None:
    """Every rank that died by itself died of a lost peer: who was stopped or elsewhere, and lived on?"""
    judged = case.judged()
    died = {j.exit.rank for j in judged if j.kind != "asked"}
    if any(j.kind not in crash.ECHOES for j in judged) or not died:
        return None
    look = suspicion.look
    if look is not None and look.verdict in ("rank-stopped", "rank-hung"):
        verdict, blamed, sure = look.verdict, look.ranks, min(look.confidence, CONFIDENCE_BY_TIME_OUT)
    else:
        verdict, blamed, sure = "rank-stopped", suspicion.stopped, CONFIDENCE_BY_TIME_OUT
    ranks = tuple(rank for rank in blamed if rank not in died)
    if not ranks:
        return None
    named = f"rank{'s' if len(ranks) > 1 else ''} {stalls.ranges(ranks)}"
    what = look.sentence if look is not None and look.ranks == ranks else f"{named} had been found {_WORDS[verdict]}"
    text = f"{what}; {len(died)} others gave up waiting by themselves"
    return _finding(case, suspicion, verdict, ranks, sure, text)


_WORDS: Final = {"rank-stopped": "stopped", "rank-hung": "outside of the collective that the others waited in"}


def _finding(
    case: Case, suspicion: states.Suspicion, verdict: str, ranks: tuple[int, ...], confidence: float, text: str
) -> Finding | None:
    cause = cause_of(case.policy, stall=verdict)
    if cause is None:
        return None
    return Finding(
        cause=cause,
        confidence=confidence,
        sentence=text,
        signature=f"{verdict}:{_place(suspicion.look, ranks)}",
        ranks=ranks,
        nodes=_nodes(case, ranks),
        evidence=_rows(case, suspicion, cause, verdict),
    )


def _place(look: records.Looked | None, ranks: tuple[int, ...]) -> str:
    """Where it hung, whichever rank it was: a deadlock in the job's own code strikes in one place again and again."""
    if look is None:
        return ""
    if not ranks:
        return ";".join(look.places)
    places = dict(zip(look.ranks, look.places, strict=False))
    return places.get(ranks[0], "")


def _nodes(case: Case, ranks: tuple[int, ...]) -> tuple[str, ...]:
    placed, each = case.attempt.placement, case.job.spec.ranks_per_node
    nodes = tuple(dict.fromkeys(placed[rank // each] for rank in ranks))
    return nodes if len(nodes) <= max(1, NODES_BLAMED_SHARE_MAX * len(placed)) else ()


def _rows(case: Case, suspicion: states.Suspicion, cause: str, verdict: str) -> tuple[spoken.Json, ...]:
    rows = []
    look, at = suspicion.look, case.incident.opened_at
    if suspicion.silent:
        text = f"no sign of progress for {at - suspicion.since:.0f} s in phase {suspicion.phase}; {suspicion.basis}"
        rows.append(evidence(suspicion.since, "controller", "silence", text, cause))
    if look is not None:
        rows += [evidence(look.at, row["source"], row["kind"], row["text"], cause) for row in look.evidence]
        again = f"{suspicion.looks} looks at all ranks" + (", the last two alike" if look.agrees else "")
        rows.append(evidence(look.at, "controller", "looks", again, cause))
    if verdict == "rank-stopped" and suspicion.stopped:
        text = f"its node's agent found rank {stalls.ranges(suspicion.stopped)} stopped"
        rows.append(evidence(suspicion.since, "controller", "rank-stopped", text, cause))
    gave_up = [j for j in case.judged() if j.kind == "peer-lost"][: crash.ECHO_ROWS_MAX]
    rows += [evidence(j.exit.at, j.node, "echo", j.text, cause) for j in gave_up]
    return tuple(rows)
