"""A rank died: who was first, and of what.

When one rank dies the others die of the loss within milliseconds (their sockets reset), so the crowd proves nothing.
Ranks that we had told to stop, and ranks whose last words are those of a lost peer, are echoes. Among the rest the
earliest is the one that broke the job: by order of death within its node (the keeper's epoll list keeps the kernel's
order), by time across nodes.
"""

from __future__ import annotations

from typing import Final

from outrider_controller.core import flight_record
from outrider_controller.core.diagnosis.case import Case, Finding, Judged, cause_of, evidence

ECHOES: Final = frozenset({"asked", "peer-lost"})
CONFIDENCE_ALONE: Final = 0.95  # one rank died of its own, all the others of its loss
CONFIDENCE_CONTESTED: Final = 0.8  # several died of their own; the earliest is named
ECHO_ROWS_MAX: Final = 6


def find(case: Case) -> Finding | None:
    """The first death that is no echo, judged and matched to a runbook."""
    judged = case.judged()
    own = [j for j in judged if j.kind not in ECHOES and j.kind != "clean"]
    if not own:
        return _without_exit(case)
    first = own[0]
    cause = cause_of(case.policy, exit_=first.kind)
    if cause is None:
        return None
    rivals = [j for j in own[1:] if j.signature != first.signature]
    # Gloo ends whoever got what does not fit, the wrong one or a peer of it; and the job's code is no node's fault.
    known = first.kind != flight_record.MISMATCH
    return Finding(
        cause=cause,
        confidence=CONFIDENCE_CONTESTED if rivals else CONFIDENCE_ALONE,
        sentence=_sentence(first) if known else f"{_sentence(first)}; which of them was wrong its log does not tell",
        signature=first.signature,
        ranks=(first.exit.rank,) if known else (),
        nodes=(first.node,) if known else (),
        evidence=_rows(first, judged, cause),
    )


def _sentence(first: Judged) -> str:
    return f"{first.text}, on {first.node}"


def _rows(first: Judged, judged: tuple[Judged, ...], cause: str) -> tuple[dict[str, object], ...]:
    rows = [evidence(first.exit.at, first.node, "rank-exited", _sentence(first), cause)]
    if first.exit.error_where:
        rows.append(
            evidence(
                first.exit.at,
                first.node,
                "traceback",
                f"{first.exit.error_type}: {first.exit.error_message} ({first.exit.error_where})",
                cause,
            )
        )
    if first.exit.log_path:
        rows.append(evidence(first.exit.at, first.node, "log", f"last lines in {first.exit.log_path}", cause))
    return (*rows, *echo_rows(first, judged, cause))


def echo_rows(first: Judged, judged: tuple[Judged, ...], cause: str) -> tuple[dict[str, object], ...]:
    """The ranks that went after the first one, the earliest of them each in a row."""
    rows = []
    others = [j for j in judged if j.exit.rank != first.exit.rank]
    for other in others[:ECHO_ROWS_MAX]:
        after = (other.exit.at - first.exit.at) * 1000
        rows.append(
            evidence(
                other.exit.at,
                other.node,
                "echo",
                f"{other.text}, {after:.0f} ms after",
                cause,
            )
        )
    if len(others) > ECHO_ROWS_MAX:
        rows.append(
            evidence(
                case_end(others),
                "controller",
                "echo",
                f"and {len(others) - ECHO_ROWS_MAX} more ranks went the same way",
                cause,
            )
        )
    return tuple(rows)


def case_end(judged: list[Judged]) -> float:
    """When the last of them went."""
    return max(j.exit.at for j in judged)


def _without_exit(case: Case) -> Finding | None:
    """Causes that show as something other than a rank's own exit: a keeper that died, ranks that never started."""
    incident = case.incident
    seen = [(o.kind, o.at, o.node, o.text) for o in incident.observations]
    seen.append((incident.opened_by, incident.fault_at, "controller", incident.text))
    for kind, at, source, text in seen:
        cause = cause_of(case.policy, exit_=kind, observation=kind)
        if cause is not None:
            row = evidence(at, source, kind, text, cause)
            nodes = case.attempt.gone or ((source,) if source != "controller" else ())
            return Finding(cause, CONFIDENCE_CONTESTED, text, f"{kind}:{text}", (), nodes, (row,))
    return None
