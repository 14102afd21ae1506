"""A node's own findings explain the end of an attempt: a GPU, a link, a port, a power supply, the host itself.

The first fault is the cause. What other nodes tell of its loss, what a node's agent took for an echo, and what the
ranks' last words are of a lost peer, follows from it. A finding may come shortly after the death that it explains, and
one that came long before explains it only where the rank that died first was on that node and spoke of its device.

A rank that was killed, that ran out of memory, or that failed in its own code on another node, did so by itself; the
finding then stands beside it as evidence. Xids that come from the program blame nobody (``health.of_code``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from outrider import records as spoken
from outrider import vocabulary
from outrider_controller.core import health
from outrider_controller.core import policy as policies
from outrider_controller.core import state as states
from outrider_controller.core.diagnosis import crash
from outrider_controller.core.diagnosis.case import Case, Finding, Judged, cause_of, evidence, gpu_of, ranks_of

OPENED_BY: Final = "node-finding"  # IncidentOpened.opened_by where a finding and a standstill came together
WATCHED: Final = "node-finding"  # state.Finding.kind
BEFORE_S: Final = 120.0  # a finding of that time before the break may be its cause
SLACK_S: Final = 1.0  # stamps of different nodes are compared no finer than this
TOGETHER_S: Final = 10.0  # one fault that several nodes see
ONCE_S: Final = 10.0  # what only breaks the attempt of the moment breaks it at that moment
BLAMED_SHARE_MAX: Final = 0.5  # more nodes of the job than this with one fault: it is none of theirs
NOT_THEIRS: Final = ("not-finite", "person")
BESIDE_ROWS_MAX: Final = 8
CONFIDENCE: Final = 0.95  # a fatal finding, and a rank of that node died of its device, or the job stood still
CONFIDENCE_BY_TIME: Final = 0.85  # a fatal finding about when the job broke
CONFIDENCE_WEAK: Final = 0.7  # a finding that need not break a job


@dataclass(frozen=True)
class Suspect:
    """One finding of one node of the attempt, and the cause that its runbook names."""

    node: str
    item: states.NodeFinding
    cause: str
    weight: str

    @property
    def seen(self) -> spoken.Observation:
        """The observation itself."""
        return self.item.seen


def cause_of_finding(policy: policies.Policy, seen: spoken.Observation) -> str | None:
    """The cause whose runbook speaks for a finding: by the number of an Xid first, then by its kind."""
    told = health.number(seen) if seen.kind == "xid" else None
    for cause, rule in policy.rules.items():
        if told is not None and told in rule.match.xid:
            return cause
    return None if seen.kind in health.EVIDENCE_ONLY else cause_of(policy, observation=seen.kind)


def find(case: Case) -> Finding | None:
    """The finding that broke the attempt, if one did."""
    if case.incident.opened_by in NOT_THEIRS:
        return None
    own = [j for j in case.judged() if j.kind not in crash.ECHOES and j.kind != "clean"]
    fitting = [suspect for suspect in suspects(case) if _explains(case, suspect, own)]
    if not fitting:
        return None
    first = min(fitting, key=lambda suspect: _order(suspect, own))
    same = [s for s in fitting if s.cause == first.cause and _with(first, s)]
    return _finding(case, first, same, own)


def awaits_news(case: Case) -> bool:
    """A rank died with words of its device and no node has found anything yet: news may be on its way."""
    own = [j for j in case.judged() if j.kind not in crash.ECHOES and j.kind != "clean"]
    if not own or own[0].pattern != "device-error":
        return False
    return not any(_explains(case, s, own) for s in suspects(case))


def suspects(case: Case) -> list[Suspect]:
    """Everything found of the attempt's nodes that a runbook speaks for, oldest first."""
    found = []
    for name in case.attempt.placement:
        node = case.nodes.get(name)
        for item in node.findings if node is not None else ():
            cause, weight = cause_of_finding(case.policy, item.seen), health.weight(item.seen)
            if cause is not None and weight not in (health.EVIDENCE, health.BARS) and not _excused(node, item):
                found.append(Suspect(name, item, cause, weight))
    return sorted(found, key=lambda suspect: suspect.seen.at)


def _excused(node: states.NodeState | None, item: states.NodeFinding) -> bool:
    return node is not None and item.since <= node.excused_at


def _explains(case: Case, suspect: Suspect, own: list[Judged]) -> bool:
    """Whether the attempt may have broken of this."""
    broke_at = case.incident.fault_at
    near = broke_at - BEFORE_S <= suspect.seen.at
    stood = case.incident.opened_by == OPENED_BY
    if suspect.weight == health.BREAKS and stood and suspect.item.over_at is None:
        return True
    if not own:
        return near and _explains_silence(case, suspect)
    here = [j for j in own if j.node == suspect.node and j.exit.at - own[0].exit.at <= SLACK_S]
    if not here:
        return False
    if here[0].kind in ("killed", "out-of-memory") and suspect.seen.kind not in health.KILLING:
        return False
    if suspect.weight == health.BREAKS:
        return near or _of_device(here[0])
    if suspect.weight == health.ONCE:
        return abs(suspect.seen.at - broke_at) <= ONCE_S and _of_device(here[0])
    return near and _of_device(here[0])


def _explains_silence(case: Case, suspect: Suspect) -> bool:
    """No rank died of its own: all were lost peers, or the job stood still, or the host is gone."""
    if suspect.weight == health.BREAKS:
        return True
    if suspect.weight == health.ONCE:
        gone = case.silent() or case.attempt.gone
        return not gone and abs(suspect.seen.at - case.incident.fault_at) <= ONCE_S
    silent = {node.node for node in case.silent()}
    stalled = case.incident.opened_by == "stalled" or suspect.node in silent
    return stalled and suspect.cause == "host-fault"


def _of_device(judged: Judged) -> bool:
    """The rank's last words, or how it ended, may be those of hardware that failed below it."""
    return judged.pattern == "device-error" or judged.kind == "native-crash"


_WEIGHTS: Final = (health.BREAKS, health.ONCE, health.DEGRADES, health.LOOK)


def _order(suspect: Suspect, own: list[Judged]) -> tuple[bool, int, bool, float]:
    elsewhere = bool(own) and suspect.node != own[0].node
    return health.echo_prone(suspect.seen), _WEIGHTS.index(suspect.weight), elsewhere, suspect.seen.at


def _with(first: Suspect, other: Suspect) -> bool:
    near = abs(other.seen.at - first.seen.at) <= TOGETHER_S
    return other is first or (near and other.weight == first.weight and not health.echo_prone(other.seen))


def _finding(case: Case, first: Suspect, same: list[Suspect], own: list[Judged]) -> Finding:
    nodes = tuple(dict.fromkeys((first.node, *(s.node for s in same))))
    blamed = nodes if len(nodes) <= max(1, BLAMED_SHARE_MAX * len(case.attempt.placement)) else ()
    device = sure = False
    if first.weight == health.BREAKS:
        device = any(j.node == first.node and _of_device(j) for j in own)
        sure = device or case.incident.opened_by == OPENED_BY
    confidence = CONFIDENCE if sure else CONFIDENCE_BY_TIME if first.weight == health.BREAKS else CONFIDENCE_WEAK
    ranks = _ranks(case, [s for s in same if s.node in blamed], own)
    return Finding(
        cause=first.cause,
        confidence=confidence,
        sentence=sentence(first.seen) if blamed or len(nodes) == 1 else _of_many(first, nodes),
        signature=f"{first.cause}:{first.node}:{health.name(first.seen)}" if blamed else f"{first.cause}:of-many",
        ranks=ranks,
        nodes=blamed,
        evidence=_rows(case, first, own),
        gpus=tuple(dict.fromkeys(gpu for s in same if s.node in blamed for gpu in gpus(s.seen))),
        links=tuple(dict.fromkeys(link for s in same if s.node in blamed for link in links(s.seen))),
        recovery=recovery(case.nodes.get(first.node), first.seen),
    )


def sentence(seen: spoken.Observation) -> str:
    """What was found, where, and that it was simulated where it was."""
    text = seen.text.rstrip(". ") or health.name(seen)
    where = "" if seen.node in text else f", on {seen.node}"
    pretended = " (simulated)" if seen.evidence.get("simulated") and "simulated" not in text else ""
    return f"{text}{where}{pretended}"


def _of_many(first: Suspect, nodes: tuple[str, ...]) -> str:
    return f"{len(nodes)} nodes found the same within {TOGETHER_S:g} s, the first {sentence(first.seen)}"


def recovery(node: states.NodeState | None, seen: spoken.Observation) -> str:
    """What it takes: the driver's own answer for that GPU where it has given one, else what the finding says."""
    for item in health.standing(node) if node is not None else ():
        asked = item.seen.recovery or ""
        if item.seen.kind == "recovery-action" and item.seen.device == seen.device and asked not in health.IN_PLACE:
            return asked
    return seen.recovery or "none"


def gpus(seen: spoken.Observation) -> tuple[str, ...]:
    """The GPU that a finding is of, as ``n0/gpu3``."""
    whole = (seen.device or "").partition("/")[0]
    return (f"{seen.node}/{whole}",) if _index(whole) is not None else ()


def links(seen: spoken.Observation) -> tuple[str, ...]:
    """The link or port that a finding is of, as ``n0/gpu3/link7`` or ``n0/mlx5_0/1``."""
    link = seen.evidence.get("link")
    if "/" in (seen.device or "") and not (seen.device or "").startswith("/"):
        return (f"{seen.node}/{seen.device}",)
    return (f"{seen.node}/{seen.device}/link{link}",) if seen.device and isinstance(link, int) else ()


def _index(device: str) -> int | None:
    digits = device.removeprefix("gpu")
    return int(digits) if device.startswith("gpu") and digits.isdigit() else None


def _ranks(case: Case, blamed: list[Suspect], own: list[Judged]) -> tuple[int, ...]:
    """Ranks on the GPUs found. Else the rank of that node that died first."""
    found = [rank for suspect in blamed for rank in _on(case.job, suspect.node, suspect.seen.device)]
    if not found and blamed:
        found = [j.exit.rank for j in own if j.node == blamed[0].node][:1]
    return tuple(dict.fromkeys(found))


def _on(job: states.JobState, node: str, device: str | None) -> list[int]:
    """The ranks of a node that use the GPU of a finding."""
    whole = (device or "").partition("/")[0]
    if _index(whole) is None:
        return []
    return [rank for rank in ranks_of(job, node) if gpu_of(job, rank) == whole]


def _rows(case: Case, first: Suspect, own: list[Judged]) -> tuple[spoken.Json, ...]:
    seen, cause = first.seen, first.cause
    rows = [evidence(seen.at, seen.node, seen.kind, sentence(seen), cause)]
    needs = recovery(case.nodes.get(first.node), seen)
    if needs not in health.IN_PLACE:
        asks = "the driver asks for" if seen.evidence.get("driver_asks") or needs != seen.recovery else "it needs"
        rows.append(evidence(seen.at, seen.node, "recovery", f"{asks}: {vocabulary.recovery_words(needs)}", cause))
    if own:
        where = f" ({own[0].exit.error_where})" if own[0].exit.error_where else ""
        rows.append(
            evidence(own[0].exit.at, own[0].node, "rank-exited", f"{own[0].text}, on {own[0].node}{where}", cause)
        )
        rows += crash.echo_rows(own[0], case.judged(), cause)
    elif case.incident.opened_by == OPENED_BY:
        rows.append(evidence(case.incident.opened_at, "controller", "standstill", case.incident.text, cause))
    return tuple(rows)


def beside(case: Case, cause: str, rows: tuple[spoken.Json, ...]) -> tuple[spoken.Json, ...]:
    """What else was found of the attempt's nodes about then, whatever it is worth."""
    told = {(row["source"], row["text"]) for row in rows}
    found = []
    for name in case.attempt.placement:
        node = case.nodes.get(name)
        for item in node.findings if node is not None else ():
            text = sentence(item.seen)
            since = case.incident.fault_at
            near = item.seen.at >= since - BEFORE_S and (item.over_at is None or item.over_at >= since - ONCE_S)
            if near and (name, text) not in told:
                found.append(evidence(item.seen.at, name, item.seen.kind, text, cause))
    return tuple(sorted(found, key=lambda row: row["at"])[:BESIDE_ROWS_MAX])


def of_finding(finding: states.Finding, job: states.JobState, state: states.State, policy: policies.Policy) -> Finding:
    """A finding that has not interrupted the job."""
    seen = finding.seen
    assert seen is not None
    cause = cause_of_finding(policy, seen)
    assert cause is not None, "only what a runbook speaks for becomes an incident"
    placed = job.attempt is not None and seen.node in job.attempt.placement
    rows = [evidence(seen.at, seen.node, seen.kind, sentence(seen), cause)]
    needs = recovery(state.nodes.get(seen.node), seen)
    if needs not in health.IN_PLACE:
        rows.append(evidence(seen.at, seen.node, "recovery", f"it needs: {vocabulary.recovery_words(needs)}", cause))
    return Finding(
        cause=cause,
        confidence=CONFIDENCE,
        sentence=sentence(seen),
        signature=f"{cause}:{seen.node}:{health.name(seen)}",
        ranks=tuple(_on(job, seen.node, seen.device)) if placed else (),
        nodes=(seen.node,),
        evidence=tuple(rows),
        gpus=gpus(seen),
        links=links(seen),
        recovery=needs,
    )
