"""From what was seen to a named cause: one module per family, each looking at the same Case and answering with a
Finding.

The families are asked in the order of ``FAMILIES``; the first that can name a cause wins, because each earlier one
explains the later ones away (a host that vanished explains the dead peers, a first death explains the echoes). What
no family can name is ``unknown``, which is an answer too.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from outrider_controller.core import flight_record, records
from outrider_controller.core import policy as policies
from outrider_controller.core.diagnosis import (
    crash,
    hang,
    hardware,
    host,
    numerics,
    progress,
    storage,
    unknown,
)
from outrider_controller.core.diagnosis.case import Case, Finding

FAMILIES: Final = (
    progress.find,
    hardware.find,
    hang.find,
    numerics.find,
    host.find,
    storage.find,
    crash.find,
    unknown.find,
)


def diagnose(case: Case) -> records.Diagnosed:
    """Cause, suspects and evidence of the open incident of ``case.job``."""
    finding = next(found for family in FAMILIES if (found := family(case)) is not None)
    room = EVIDENCE_ROWS_MAX - storage.REFUSED_ROWS_MAX - hardware.BESIDE_ROWS_MAX
    rows = finding.evidence[:room]
    record = flight_record.of_case(case.incident, case.attempt)
    if record is not None and not any(row["kind"] == "flight-recorder" for row in rows):
        rows = (*rows, *hang.record_rows(case, finding.cause))[:room]
    rows = (*rows, *hardware.beside(case, finding.cause, rows), *storage.refused(case, finding.cause))
    finding = dataclasses.replace(finding, evidence=rows)
    told = diagnosed(finding, case.job.spec.name, case.incident.incident, case.policy, case.at)
    return dataclasses.replace(told, flight_recorder=record.effect) if record is not None else told


def diagnosed(finding: Finding, job: str, incident: str, policy: policies.Policy, at: float) -> records.Diagnosed:
    """The finding as the row of its incident."""
    return records.Diagnosed(
        at=at,
        job=job,
        incident=incident,
        cause=finding.cause,
        cause_group=policy.rule(finding.cause).cause_group,
        confidence=finding.confidence,
        ranks=finding.ranks,
        nodes=finding.nodes,
        gpus=finding.gpus,
        links=finding.links,
        evidence=finding.evidence[:EVIDENCE_ROWS_MAX],
        signature=finding.signature,
        sentence=finding.sentence,
        recovery=finding.recovery,
    )


EVIDENCE_ROWS_MAX: Final = 64

__all__ = ["Case", "Finding", "diagnose", "diagnosed"]
