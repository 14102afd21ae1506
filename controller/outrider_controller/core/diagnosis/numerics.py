"""A loss or a gradient norm that is no number.

The value is the same on every rank once it has been reduced, so it names nobody by itself. One rank's numbers alone
tell something only where others told of the very same step with numbers: then that rank is the suspect.
"""

from __future__ import annotations

from typing import Any, Final

from outrider_controller.core.diagnosis.case import Case, Finding, cause_of, evidence

OPENED_BY: Final = "not-finite"
CONFIDENCE: Final = 0.95
BEFORE_ROWS_MAX: Final = 5


def find(case: Case) -> Finding | None:
    """The cause of a loss that is no number, where that is what opened the incident."""
    bad = case.attempt.not_finite
    cause = cause_of(case.policy, numbers=OPENED_BY)
    if case.incident.opened_by != OPENED_BY or bad is None or cause is None:
        return None
    alone = len(bad.ranks) == 1 and bool(bad.others)
    ranks = bad.ranks if alone else ()
    nodes = tuple(case.attempt.placement[rank // case.job.spec.ranks_per_node] for rank in ranks)
    what = " and ".join(bad.what) or "a value that is no number"
    rows = [evidence(bad.at, "controller", OPENED_BY, f"step {bad.step} ended with {what}", cause)]
    if alone:
        others = ", ".join(str(rank) for rank in bad.others[:BEFORE_ROWS_MAX])
        text = f"rank {bad.ranks[0]} alone told of it; rank {others} had numbers for the same step"
        rows.append(evidence(bad.at, nodes[0], OPENED_BY, text, cause))
    rows += [evidence(bad.at, "controller", "loss", _line(item), cause) for item in bad.before[-BEFORE_ROWS_MAX:]]
    loaded = case.attempt.resume_path
    if loaded:
        text = f"the attempt had begun from step {case.attempt.resume_step}: {loaded}"
        rows.append(evidence(bad.at, "controller", "checkpoint", text, cause))
    sentence = f"step {bad.step} ended with {what}" + (f" on rank {ranks[0]} alone" if alone else "")
    return Finding(cause, CONFIDENCE, sentence, f"{OPENED_BY}:step-{bad.step}", ranks, nodes, tuple(rows))


def _line(item: dict[str, Any]) -> str:
    values = [f"{key} {item[key]:.6g}" for key in ("loss", "grad_norm") if isinstance(item.get(key), int | float)]
    return f"step {item.get('step')}: {', '.join(values) or 'no value was told'}"
