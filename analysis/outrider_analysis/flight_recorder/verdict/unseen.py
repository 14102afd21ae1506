"""Who is to blame where records show nothing of some ranks: gloo's sends and recvs, and what a look at the ranks adds.

A rank that waits in a send or recv of gloo looks idle. So an idle rank is to blame only if it cannot be in one, or if a
look at its process says that it is elsewhere; otherwise all who might have caused what is seen are candidates: idle
ranks that the rest can wait for, seen or unseen, and ranks that may have passed by a transfer that another still waits
in. Where one alone is left, it is named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from outrider_analysis.flight_recorder.verdict import failed, hidden, moving, revealed, room, transfers, words
from outrider_analysis.flight_recorder.verdict.case import Case
from outrider_analysis.flight_recorder.verdict.finding import CONFIDENCE, UNKNOWN, Finding
from outrider_analysis.flight_recorder.verdict.graph import Node
from outrider_analysis.flight_recorder.verdict.hints import Hint, Hints

ALONE: Final = 0.75  # the only one that explains what is seen, by the order of times
MOVING: Final = 0.6  # elsewhere, and its stack changed: it may only be slow
ASLEEP: Final = 0.65  # it sleeps in a function of its own, which may be the wait for a recv
GONE: Final = 0.65  # the death of another one, or a call that did not fit, may have ended it
DARK: Final = 0.65  # of other ranks neither dump nor look is there
AGAINST: Final = 0.65  # hint and record contradict each other
CANDIDATES_MAX: Final = 64
FREE_MAX: Final = 512  # idle ranks each of which is tried as the cause
PAIRS_MAX: Final = 300_000  # pairs of ranks and groups in which a transfer may be: 512 ranks in a group of the world


def weigh(case: Case, findings: list[Finding], hints: Hints, shown: revealed.Revealed) -> list[Finding]:
    """The findings, less those that an unseen send or recv may explain; unchanged without gloo and without hints."""
    found = _weigh(case, findings, hints, shown)
    if hints.ranks and _stands(hints, case.merged.world):
        for finding in found:
            finding.proof = finding.proof or not any(hints.of(rank).moved for rank in finding.culprits)
    return found


def _weigh(case: Case, findings: list[Finding], hints: Hints, shown: revealed.Revealed) -> list[Finding]:
    gloo = any(rank.gloo for rank in case.merged.ranks.values())
    if not gloo and not hints.ranks:
        return findings
    for finding in findings:
        _guessed(case, finding)
    findings = _ended(case, findings, hints)
    proven = [f for f in findings if f.kind in moving.PROOF and (f.proof or not f.circle)]
    told = [f for f in findings if _is_told(case, f, hints)]
    others = [f for f in findings if f not in told]
    told = _told(case, told, bool(proven), hints, shown)
    if told or proven:
        return told + (proven if gloo else others)
    circles = transfers.find(case, hints, shown.waiting)
    if circles and not any(f.circle and f.proof for f in findings):
        return circles
    dark = {rank for rank in case.merged.absent if hints.of(rank).state == "unknown"}
    findings = failed.settle(case, [_without_device(case, finding) for finding in findings], dark)
    for finding in findings:
        _contradicted(case, finding, hints)
    doubtful = [f for f in findings if _is_doubtful(case, f, hints)]
    rest = [f for f in findings if f not in doubtful]
    return [*rest, _explained(case, doubtful, hints, shown)] if doubtful else rest


def _told(case: Case, told: list[Finding], proven: bool, hints: Hints, shown: revealed.Revealed) -> list[Finding]:
    """Those of ``told`` that are no consequence of another one or of what is ``proven``, with what was seen."""
    for finding in told:
        _tell(case, finding, hints.of(finding.culprits[0]), shown)
    dark = [rank for rank in case.merged.absent if hints.of(rank).state == "unknown"]
    for finding in told if dark else ():
        finding.confidence = min(finding.confidence, DARK)
        finding.evidence.append(f"{len(dark)} ranks left no dump and were not seen either")
    gone = [f for f in told if hints.of(f.culprits[0]).state == "gone"]
    if not proven and not gone:
        return told
    # Gloo ends processes, innocent ones too, where calls do not fit; and calls of the peers of a dead one fail, upon
    # which they come to stand elsewhere.
    stopped = [f for f in told if hints.of(f.culprits[0]).state == "stopped"]
    if proven:
        return stopped
    return stopped + (gone if len(gone) == 1 else [_first_of(case, gone)])


def _guessed(case: Case, finding: Finding) -> None:
    """Of a group whose members nothing tells it is not known that all have come."""
    where, groups = finding.where, case.merged.groups
    if finding.kind != "all-joined-stuck" or where is None:
        return
    if any(not g.told for g in groups if (g.name, g.ranks) == (where.group, where.ranks)):
        _others(case, finding, where.ranks)


def _others(case: Case, finding: Finding, joined: Iterable[int]) -> None:
    """All that are known to be in the group have come; who left nothing, or nothing unfinished, may belong to it."""
    world, there = range(case.merged.world), set(joined)
    absent = [rank for rank in case.merged.absent if rank not in there]
    idle = [rank for rank in world if rank not in there and not case.board.fronts.get(rank)]
    if not absent and not idle:
        return
    finding.kind, finding.confidence = "unknown", UNKNOWN
    finding.candidates = tuple((absent or idle)[:CANDIDATES_MAX])
    finding.sentence = (
        f"All that are known to be in the group have joined it; {words.named(case.merged, finding.candidates)} may "
        "belong to it and not have come."
    )


def _without_device(case: Case, finding: Finding) -> Finding:
    """Gloo has no device that could be stuck: who finished alone had what it needed before another one fell silent."""
    if finding.kind != "device-stuck" or finding.where is None:
        return finding
    ranks = finding.where.ranks
    if not any(case.merged.ranks[rank].gloo for rank in ranks if rank in case.merged.ranks):
        return finding
    absent = tuple(rank for rank in ranks if rank in case.merged.absent)
    finding.kind, finding.confidence = "unknown", UNKNOWN
    finding.culprits, finding.candidates = (), absent or ranks[:CANDIDATES_MAX]
    finding.sentence = (
        f"Some finished {words.blocked(finding.where)} and others did not; "
        f"{words.named(case.merged, finding.candidates)} may have fallen silent in it."
    )
    return finding


def _stands(hints: Hints, world: int) -> bool:
    """Was most of the job looked at twice, and nearly everybody seen in the same place?"""
    moved = [hint.moved for hint in hints.ranks.values()]
    ended = sum(hint.state in revealed.ENDED for hint in hints.ranks.values())
    return 2 * (moved.count(False) + ended) >= world and 4 * moved.count(True) <= world


def _is_gloo(case: Case, rank: int) -> bool:
    """Are sends and recvs of this rank hidden?"""
    digested = case.merged.ranks.get(rank)
    return digested.gloo if digested is not None else any(r.gloo for r in case.merged.ranks.values())


def _is_told(case: Case, finding: Finding, hints: Hints) -> bool:
    """Does a look at the rank itself say that it waits for nobody?"""
    if finding.kind not in moving.CAME_NOT or len(finding.culprits) != 1:
        return False
    hint = hints.of(finding.culprits[0])
    return revealed.is_idle(hint) and (hint.certain or not _is_gloo(case, finding.culprits[0]))


def _is_doubtful(case: Case, finding: Finding, hints: Hints) -> bool:
    """May all the ranks that it names, or some, wait unseen?"""
    ranks = [rank for rank in finding.culprits or finding.candidates if _is_gloo(case, rank)]
    if finding.kind not in moving.CAME_NOT and not (finding.kind == "unknown" and _is_open(case, ranks)):
        return False
    return any(hints.of(rank).state != "unknown" or hidden.partners(case.merged, rank) for rank in ranks)


def _contradicted(case: Case, finding: Finding, hints: Hints) -> None:
    """A rank that is said to wait for nobody, while its stack stands in a wait; without a dump the stack is right."""
    against = [rank for rank in finding.culprits if hints.of(rank).state == "waiting" and not _hides(case, rank)]
    if finding.kind not in moving.CAME_NOT or not against:
        return
    seen = hints.of(against[0]).text or "its stack stands in a wait"
    finding.evidence.append(f"against it: a look at rank {against[0]}, which {seen}")
    finding.confidence = min(finding.confidence, AGAINST)
    if finding.absent:
        finding.kind, finding.confidence = "unknown", UNKNOWN
        finding.culprits, finding.candidates = (), finding.culprits
        finding.sentence = (
            f"{_capital(words.named(case.merged, finding.candidates))} left no dump, and others wait there; but a look "
            "saw that it waits itself, and nothing tells for whom."
        )


def _hides(case: Case, rank: int) -> bool:
    """Is that explained by transfers that leave no entry?"""
    return _is_gloo(case, rank) and bool(hidden.partners(case.merged, rank))


def _is_open(case: Case, ranks: Iterable[int]) -> bool:
    """Ranks that came not, none of which waits in anything that is seen."""
    return any(not case.board.fronts.get(rank) and case.board.owed.get(rank) for rank in ranks)


# --- what a look told -------------------------------------------------------------------------------------------------


def _ended(case: Case, findings: list[Finding], hints: Hints) -> list[Finding]:
    """With a finding for each process that has ended, or is stopped, though no record shows that others wait for it.

    Gloo lets the calls of a dead rank's peers fail, and then they look finished.
    """
    named = {rank for finding in findings for rank in finding.culprits}
    others = [rank for rank in hints.ranks if rank not in named and rank < case.merged.world]
    ended = [rank for rank in others if hints.of(rank).state in revealed.ENDED]
    waiting = sum(hint.state == "waiting" or not hint.certain for hint in hints.ranks.values())
    if not findings and 2 * waiting >= case.merged.world:
        # Before the first collective all wait for the store, of which no record tells.
        ended = [r for r in others if r in ended or (hints.of(r).state == "elsewhere" and hints.of(r).certain)]
    stuck = bool(findings or case.board.waits or waiting)
    if not ended or 2 * len(ended) > case.merged.world or not stuck:
        return findings
    first = min(findings, key=lambda f: (f.since_ns or 2**63, f.culprits), default=None)
    made = []
    for rank in sorted(ended)[:CANDIDATES_MAX]:
        sentence = f"{_who(case, rank)} {_state(hints.of(rank))}."
        victims = tuple(sorted({r for f in findings for r in (*f.victims, *f.culprits, *f.candidates)} - {rank}))
        where = first.where if first is not None else None
        since = first.since_ns if first is not None else 0
        made.append(Finding("rank-missing", (rank,), CONFIDENCE["idle"], where, sentence, since_ns=since))
        made[-1].victims = victims
    return findings + made


def _tell(case: Case, finding: Finding, hint: Hint, shown: revealed.Revealed) -> None:
    """Say what was seen of the rank to blame, and how sure that makes it."""
    rank = finding.culprits[0]
    state = _state(hint)
    finding.confidence = CONFIDENCE["idle"] if hint.state != "gone" else GONE
    finding.absent, finding.looked = rank in case.merged.absent, True
    finding.evidence = [line for line in finding.evidence if not line.startswith("has no unfinished")]
    finding.evidence.insert(0, f"a look at the rank: it {state}")
    if finding.absent:
        finding.evidence.append("left no dump")
    if "waits for nobody" in finding.sentence:
        finding.sentence = finding.sentence.replace("it waits for nobody", f"it {state}")
    if hint.stack:
        finding.stack = hint.stack
    if hint.moved:
        finding.confidence = MOVING
        finding.evidence.append("its stack changed while it was looked at: it may only be slow")
    if rank in shown.against:
        finding.confidence = min(finding.confidence, AGAINST)
        finding.evidence.append(f"against it: {shown.against[rank]}")


def _first_of(case: Case, gone: list[Finding]) -> Finding:
    """Of several processes that are gone one may have ended the others."""
    first = min(gone, key=lambda finding: (finding.since_ns or 2**63, finding.culprits))
    first.candidates = tuple(sorted(rank for finding in gone for rank in finding.culprits))
    first.kind, first.confidence, first.culprits, first.stack = "unknown", UNKNOWN, (), ()
    first.victims = tuple(sorted({r for finding in gone for r in finding.victims} - set(first.candidates)))
    first.sentence = (
        f"The processes of {words.named(case.merged, first.candidates)} are gone; the death of one may have ended the "
        "others."
    )
    return first


def _state(hint: Hint) -> str:
    if hint.state == "gone":
        return "has ended: its process is gone"
    if hint.state == "stopped":
        return "is stopped: its process does not run"
    where = f" ({hint.stack[0].rsplit('/', 1)[-1]})" if hint.stack else ""
    return hint.text or f"is elsewhere, outside of any collective{where}"


def _who(case: Case, rank: int) -> str:
    return words.named(case.merged, (rank,)).capitalize()


# --- what may be unseen -----------------------------------------------------------------------------------------------


def _explained(case: Case, doubtful: list[Finding], hints: Hints, shown: revealed.Revealed) -> Finding:
    """One finding for all ends that may be waits: its culprit where that is proven, else candidates."""
    ends = sorted({rank for finding in doubtful for rank in finding.culprits or finding.candidates})
    first = min(doubtful, key=lambda finding: (finding.since_ns or 2**63, finding.culprits))
    waited = first.culprits or first.candidates
    victims = {rank for finding in doubtful for rank in finding.victims}
    found = _causes(case, ends, hints, shown)
    silent = [rank for rank in case.merged.absent if not revealed.is_idle(hints.of(rank))]
    if len(found.ranks) == 1 and not silent and not found.open.get(found.ranks[0]):
        return _named(case, doubtful, found.ranks[0], victims, hints)
    # Calls of the peers of a dead rank fail, which looks as if they were done; so who left nothing may be dead. And who
    # alone explains it may itself wait in a circle that closes unseen.
    beside = found.open.get(found.ranks[0], []) if len(found.ranks) == 1 else []
    candidates = sorted({*found.ranks, *beside, *silent}) or ends
    first.kind, first.confidence, first.absent = "unknown", UNKNOWN, False
    first.culprits, first.stack = (), ()
    first.candidates = tuple(candidates[:CANDIDATES_MAX])
    first.victims = tuple(sorted(victims - set(first.candidates)))
    first.sentence = (
        f"{_capital(words.named(case.merged, waited))} {'was' if len(waited) == 1 else 'were'} waited for first; "
        f"gloo records no send and no recv, in which {words.verb(waited, 'it', 'they')} may wait, so that any of "
        f"{words.named(case.merged, first.candidates)} may have caused this."
        if len(candidates) > 1
        else f"{_capital(words.named(case.merged, candidates))} may have caused this, or waits unseen itself."
    )
    return first


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _named(case: Case, doubtful: list[Finding], rank: int, victims: set[int], hints: Hints) -> Finding:
    own = [finding for finding in doubtful if rank in (finding.culprits or finding.candidates)] or doubtful
    found = own[0]
    hint = hints.of(rank)
    if found.culprits != (rank,):
        found.kind, found.culprits, found.candidates, found.absent = "rank-missing", (rank,), (), False
        found.sentence = f"{_who(case, rank)} alone explains what the others wait for, seen and unseen."
        found.stack = hint.stack
    found.confidence = min(ASLEEP if hint.state == "elsewhere" else ALONE, found.confidence or ALONE)
    found.victims = tuple(sorted(victims - {rank}))
    if hint.state == "elsewhere":
        found.evidence.append(f"a look at the rank: it {_state(hint)}")
    else:
        found.evidence.append("gloo records no send and no recv; by the times of the calls it waits in none")
    return found


@dataclass(frozen=True, slots=True)
class _Causes:
    """``ranks`` that each explain all that is seen; ``open``: the partners with whom a rank may be in a transfer."""

    ranks: list[int]
    open: dict[int, list[int]]


def _causes(case: Case, ends: list[int], hints: Hints, shown: revealed.Revealed) -> _Causes:
    """Idle ranks to which all ``ends`` can lead, seen or unseen, and ranks that may have passed a transfer by."""
    clock = room.Clock(case)
    back: dict[Node, list[Node]] = {}
    for node, targets in case.graph.edges.items():
        for target in targets:
            back.setdefault(target, []).append(node)
    skipped: dict[int, list[Node]] = {}
    may: dict[int, list[int]] = {}
    free = _free(case, ends)
    partners: dict[int, list[tuple[int, int]]] = {}
    for rank in free:
        partners[rank] = _partners(case, rank, hints)
        if len(free) > FREE_MAX or sum(map(len, partners.values())) > PAIRS_MAX:
            return _Causes(ends, {})
    for rank in free:
        for group, partner in partners[rank]:
            told = room.between(case, clock, rank, group, partner) if group >= 0 else room.Room()
            seen = partner in case.merged.ranks and bool(case.board.fronts.get(partner))
            faces = partner in shown.waiting  # it may be in the wrong one of two transfers
            if told.ahead or told.skipped or faces:
                may.setdefault(rank, []).append(partner)
            if told.ahead or not seen:
                back.setdefault(("rank", partner), []).append(("rank", rank))
            if (told.skipped and seen) or faces:
                skipped.setdefault(partner, []).append(("rank", rank))
    needed: set[Node] = {("rank", rank) for rank in ends}
    causes = {r for r in free if hints.of(r).state != "waiting" and needed <= _leading([("rank", r)], back)}
    causes |= {rank for rank, waiting in skipped.items() if needed <= _leading(waiting, back)}
    return _Causes(sorted(causes), may)


def _free(case: Case, ends: Iterable[int]) -> list[int]:
    """Ranks that nothing is seen to keep: idle ones, and those without a dump."""
    idle = [rank for rank in range(case.merged.world) if not case.board.fronts.get(rank)]
    return sorted({*idle, *ends})


def _partners(case: Case, rank: int, hints: Hints) -> list[tuple[int, int]]:
    hint = hints.of(rank)
    if revealed.is_idle(hint) and hint.certain:
        return []
    if hint.p2p_peer is not None:
        return [(hidden.NEVER, hint.p2p_peer)]
    return hidden.partners(case.merged, rank)


def _leading(start: Iterable[Node], back: dict[Node, list[Node]]) -> set[Node]:
    """All nodes from which a way leads to one of ``start``."""
    found = set(start)
    queue = list(found)
    while queue:
        for node in back.get(queue.pop(), ()):
            if node not in found:
                found.add(node)
                queue.append(node)
    return found
