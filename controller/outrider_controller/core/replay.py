"""What another policy (or another version of the core) would have decided on the same facts.

Each recorded fact is put to ``decide`` again in the state that the recorded rows had led to. So one differing
decision does not hide the next: history is never rewritten, only compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from outrider_controller.core import decide as deciding
from outrider_controller.core import evolve as evolving
from outrider_controller.core import policy as policies
from outrider_controller.core import records
from outrider_controller.core import state as states


@dataclass(frozen=True)
class Difference:
    """One decision that would now differ. ``runbook``: the one that would rule."""

    incident: str
    was: str
    would_be: str
    runbook: str


@dataclass(frozen=True)
class Replay:
    """``state_equal``: deciding anew led to the recorded state at every fact."""

    decisions: int
    different: tuple[Difference, ...]
    state_equal: bool


def replay(rows: Iterable[records.Row], policy: policies.Policy) -> Replay:
    """Compare the recorded decisions of a ledger with those that ``policy`` would bring."""
    state = states.State()
    decisions, different, equal = 0, list[Difference](), True
    for fact, recorded in _turns(rows):
        would_be = deciding.decide(state, fact, policy)
        was, now = _decided(recorded), _decided(would_be)
        decisions += len(was)
        for incident in sorted(was.keys() | now.keys()):
            before, after = was.get(incident), now.get(incident)
            if before is None or after is None or before.decision != after.decision:
                different.append(_difference(incident, before, after))
        base = evolving.evolve(state, fact)
        state = evolving.evolve_all(base, recorded)
        equal = equal and evolving.evolve_all(base, would_be) == state
    return Replay(decisions, tuple(different), equal)


def _turns(rows: Iterable[records.Row]) -> Iterable[tuple[records.Fact, list[records.Row]]]:
    """Each fact with the conclusions that were recorded after it."""
    fact: records.Fact | None = None
    conclusions: list[records.Row] = []
    for row in rows:
        if isinstance(row, records.FACTS):
            if fact is not None:
                yield fact, conclusions
            fact, conclusions = row, []
        else:
            conclusions.append(row)
    if fact is not None:
        yield fact, conclusions


def _decided(rows: Iterable[records.Row]) -> dict[str, records.Decided]:
    return {row.incident: row for row in rows if isinstance(row, records.Decided)}


def _difference(incident: str, was: records.Decided | None, now: records.Decided | None) -> Difference:
    runbook = now.runbook if now else was.runbook if was else ""
    return Difference(incident, was.decision if was else "", now.decision if now else "", runbook)
