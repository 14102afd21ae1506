"""What a finding of a node's agent means for jobs: what it breaks, what it keeps away, and what it only tells.

Pure questions over observations and nodes; which cause a finding speaks for stands in the runbooks (``match``). The
severity says how grave it is, the recovery what it takes; the driver's own recovery action has been put in its place by
the agent already. Xids that come from the program that ran (13, 31, 43 ...) speak against no node, unless the kernel's
log tells by place and repetition that the silicon is behind them; it then asks for more than a new start.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from outrider import records as spoken
from outrider import vocabulary
from outrider_analysis.kernel_log import xids
from outrider_controller.core import state as states

BREAKS: Final = "breaks"  # a job with ranks there cannot go on, or not for long
ONCE: Final = "once"  # it broke what ran at that moment, and a new start is all it takes
DEGRADES: Final = "degrades"  # a job goes on, worse or in danger, until it leaves the node
BARS: Final = "bars"  # what runs goes on; nothing new can begin there
LOOK: Final = "look"  # somebody should look at it; no node is avoided for it
EVIDENCE: Final = "evidence"  # it decides nothing by itself

GRAVE: Final = ("fatal", "error")
IN_PLACE: Final = frozenset({"", "none", "restart_app"})
ACTIVE: Final = frozenset({"reset_gpu", "reboot", "reboot_node", "drain", "replace", "replace_gpu"})
KEPT_MAX: Final = 128  # findings of one node
PAST_S: Final = 300.0  # what is over is kept so long: a link that came back may have broken the job

# Kinds of which the gravest are errors or worse and that are no cause by themselves, each with the reason.
EVIDENCE_ONLY: Final[dict[str, str]] = {
    "oom-kill": "a rank that the kernel killed for want of memory tells so itself (out-of-memory)",
    "nccl-segfault": "the process that crashed is a rank, whose own end is judged",
    "peer-memory-invalid-context": "the transfer's own process is at fault, and its end is judged",
    "processes-exhausted": "a limit of the system that the job's own processes met",
    "nfs-state-lost": "the file server restarted; what the rank says of its files is judged",
    "previous-boot-error": "it happened before this machine was started anew",
    "disk-low": "a warning before disk-full, which has an incident of its own",
    "clock-offset": "stamps of this node are off; training does not depend on them",
    "ecc-mode": "a setting that differs; nothing has failed",
    "peer-memory-missing": "a module that is not loaded; transfers take a slower way",
    "check-failed": "no rank ran there when it was found, and a mark of its own keeps the node out",
    "could-not-look": "nothing is known, and nothing is done on that",
    "user-space-lookalike": "a process wrote it, not the kernel",
    "service-stopped": "a service of the node; what depends on it tells of itself",
    "service-restarting": "a service of the node; what depends on it tells of itself",
}
# Causes of the host that may end a process by a signal, so that a rank that was killed may be their doing.
KILLING: Final = frozenset(
    {"machine-check", "memory-uncorrected", "kernel-oops", "kernel-panic", "firmware-error-record"}
)
# Kinds that nodes see when another one is lost; they are believed only where nothing else explains the end.
ECHO_PRONE: Final = frozenset({"transport-gave-up"})
ECHO_XIDS: Final = frozenset({43, 45, 74, 94, 137})


def weight(seen: spoken.Observation) -> str:
    """What a finding means for a job with ranks on that node: one of the words above."""
    if seen.kind in EVIDENCE_ONLY or seen.severity not in GRAVE or seen.evidence.get("cleared") or of_code(seen):
        return EVIDENCE
    stops, recovery = seen.evidence.get("stops"), seen.recovery or ""
    if stops == "new jobs":
        return BARS
    if recovery in IN_PLACE:
        return ONCE
    if stops == "performance":
        return DEGRADES if recovery in ACTIVE else LOOK
    if seen.severity == "fatal":
        return BREAKS
    return DEGRADES if recovery in ACTIVE else LOOK


def of_code(seen: spoken.Observation) -> bool:
    """An Xid that comes from the program that ran, with nothing that speaks against the GPU."""
    if seen.kind != "xid" or (seen.recovery or "") not in IN_PLACE:
        return False
    origin = seen.evidence.get("origin")
    if origin is None:
        fault = xids.BY_NUMBER.get(number(seen) or -1)
        origin = fault.origin if fault is not None else "unknown"
    return bool(origin == "app")


def number(seen: spoken.Observation) -> int | None:
    """The number of an Xid or SXid."""
    found = seen.evidence.get(seen.kind)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def name(seen: spoken.Observation) -> str:
    """``xid 79 on gpu3``: a finding as people call it."""
    told = number(seen)
    what = seen.kind if told is None else f"{seen.kind} {told}"
    return f"{what} on {seen.device}" if seen.device else what


def key(item: states.NodeFinding) -> str:
    """Equal for the same finding told again, unlike for the next one of its kind."""
    return f"{item.seen.node}:{name(item.seen)}:{item.seen.severity}:{item.since:.3f}"


def echo_prone(seen: spoken.Observation) -> bool:
    """The kind of fault that tends to be seen of somebody else's, or that the agent itself took for an echo."""
    told = number(seen) if seen.kind == "xid" else None
    return bool(seen.evidence.get("echo_of")) or seen.kind in ECHO_PRONE or told in ECHO_XIDS


def standing(node: states.NodeState) -> tuple[states.NodeFinding, ...]:
    """What is wrong there now and was not excused by a person."""
    return tuple(item for item in node.findings if item.over_at is None and item.since > node.excused_at)


def tier(node: states.NodeState) -> int:
    """How gladly ranks are placed there: 0 gladly, 1 where nothing better is free, 2 not while anything else is."""
    weights = {weight(item.seen) for item in standing(node)}
    return 2 if weights & {BREAKS, BARS} else 1 if DEGRADES in weights else 0


def why_kept_out(node: states.NodeState) -> str:
    """``xid 79 on gpu3 (needs: reboot the node)``: the gravest that keeps ranks away, empty where nothing does."""
    for wanted in (BREAKS, BARS, DEGRADES):
        for item in standing(node):
            if weight(item.seen) == wanted:
                needs = vocabulary.recovery_words(item.seen.recovery) if item.seen.recovery else "a person"
                return f"{name(item.seen)} (needs: {needs})"
    return ""


def taken(node: states.NodeState, seen: spoken.Observation, at: float) -> states.NodeState:
    """The node after one more observation: it begins, turns graver or milder, or is over."""
    kept = [item for item in node.findings if item.over_at is None or at - item.over_at <= PAST_S]
    same = [item for item in kept if item.over_at is None and _same(item.seen, seen)]
    rest = [item for item in kept if item not in same]
    if seen.evidence.get("cleared"):
        ended = [dataclasses.replace(item, over_at=at) for item in same]
        return dataclasses.replace(node, findings=_bounded([*rest, *ended]))
    alike = bool(same) and (same[0].seen.severity, same[0].seen.recovery) == (seen.severity, seen.recovery)
    since = same[0].since if alike else at  # told anew it is the same thing; changed it is news
    return dataclasses.replace(node, findings=_bounded([*rest, states.NodeFinding(short(seen), since)]))


def rejoined(
    old: states.NodeState | None, told: tuple[spoken.Observation, ...], at: float
) -> tuple[states.NodeFinding, ...]:
    """The findings of a node whose agent has said hello: what it tells stands, with what was known of it; no more."""
    known = [item for item in old.findings if item.over_at is None] if old is not None else []
    past = [item for item in old.findings if item.over_at is not None] if old is not None else []
    found, left = [], list(known)
    for seen in told:
        same = next((item for item in left if _same(item.seen, seen) and number(item.seen) == number(seen)), None)
        if same is not None:
            left.remove(same)
        if seen.severity in GRAVE:
            found.append(same if same is not None else states.NodeFinding(short(seen), at))
    ended = [dataclasses.replace(item, over_at=at) for item in left]
    return _bounded([item for item in past if at - (item.over_at or 0.0) <= PAST_S] + ended + found)


def short(seen: spoken.Observation) -> spoken.Observation:
    """The finding with the evidence that decisions and people ask for; the ledger has all of it."""
    evidence: dict[str, Any] = {name: seen.evidence[name] for name in _KEPT if seen.evidence.get(name) is not None}
    return dataclasses.replace(seen, evidence=evidence)


_KEPT: Final = (
    *("xid", "sxid", "link", "pci", "origin", "place", "reading", "process", "pid", "first", "echo_of", "stops"),
    *("driver_asks", "simulated", "uuid", "places_count"),
)


def _same(one: spoken.Observation, other: spoken.Observation) -> bool:
    """Of one kind and device; the end of a kind without a number ends all of them."""
    if (one.kind, one.device or "") != (other.kind, other.device or ""):
        return False
    return number(one) == number(other) or bool(other.evidence.get("cleared") and number(other) is None)


def _bounded(items: list[states.NodeFinding]) -> tuple[states.NodeFinding, ...]:
    """At most KEPT_MAX: what is over goes first, then errors, the oldest first."""
    if len(items) > KEPT_MAX:
        items = sorted(items, key=lambda item: (item.over_at is None, item.seen.severity == "fatal", item.since))
        items = items[len(items) - KEPT_MAX :]
    return tuple(sorted(items, key=lambda item: item.since))
