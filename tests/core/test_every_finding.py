"""Every kind that an agent can call grave leads to a cause, or is declared to be evidence alone, with its reason."""

from __future__ import annotations

import importlib
import pkgutil

from outrider import vocabulary
from outrider_agent import judgement
from outrider_agent.judgement import kernel
from outrider_agent.judgement import rules as ruling
from outrider_analysis.kernel_log import rows, sxids, xids
from outrider_controller import runbook_files
from outrider_controller.core import health
from outrider_controller.core import records as core_records
from outrider_controller.core.diagnosis import hardware
from tests.core.world import World

# Kinds that the core takes by themselves, and not as findings of hardware.
OF_JOBS = frozenset({"disk-full"})


def grave_kinds() -> set[str]:
    modules = [
        importlib.import_module(f"{judgement.__name__}.{m.name}") for m in pkgutil.iter_modules(judgement.__path__)
    ]
    found = {
        rule.kind
        for module in modules
        for value in vars(module).values()
        if isinstance(value, tuple)
        for rule in value
        if isinstance(rule, ruling.Rule) and rule.severity in health.GRAVE
    }
    told = {
        row.kind
        for value in vars(rows).values()
        if isinstance(value, tuple)
        for row in value
        if getattr(row, "severity", "") in health.GRAVE
    }
    events = {meaning[0] for meaning in kernel.NVML_EVENTS.values() if meaning and meaning[1] in health.GRAVE}
    assert len(found) > 30
    assert len(told) > 20
    return found | told | events | {"xid", "sxid"}


def test_every_grave_kind_has_a_cause_or_a_reason_to_have_none() -> None:
    policy = runbook_files.load()
    named = {kind for rule in policy.rules.values() for kind in rule.match.observation}
    left = sorted(grave_kinds() - named - set(health.EVIDENCE_ONLY) - OF_JOBS)
    assert left == []
    assert not named & set(health.EVIDENCE_ONLY)
    assert all(health.EVIDENCE_ONLY.values())


def test_every_xid_and_sxid_that_is_grave_is_a_cause_or_the_programs_own() -> None:
    policy = runbook_files.load()
    for fault in xids.XIDS:
        world = World().submit().find("n0", "xid", xid=fault.number, severity=fault.severity, recovery=fault.recovery)
        [item] = world.state.nodes["n0"].findings
        weight = health.weight(item.seen)
        assert hardware.cause_of_finding(policy, item.seen) in vocabulary.CAUSES
        if fault.severity in health.GRAVE:
            assert (weight == health.EVIDENCE) == (fault.origin == "app"), fault
        assert fault.severity != "fatal" or weight == health.BREAKS, fault
        assert fault.severity in health.GRAVE or weight == health.EVIDENCE, fault
    assert sxids.SXIDS
    assert not [row for row in world.rows if isinstance(row, core_records.IncidentOpened) and row.interrupted]


def test_numbers_in_runbooks_are_numbers_of_the_table() -> None:
    numbers = [number for rule in runbook_files.load().rules.values() for number in rule.match.xid]
    assert set(numbers) <= set(xids.BY_NUMBER)
    assert len(numbers) == len(set(numbers))
