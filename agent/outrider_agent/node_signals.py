"""Which signals a node has, with the roots and expectations that the settings give, and the judge of their sweeps."""

from __future__ import annotations

import dataclasses
from typing import Final

from outrider_agent import readings, settings
from outrider_agent.judgement import engine, rules, table
from outrider_agent.signals import catalog, kernel_log, nvml, nvml_events, power, ranks, redfish_client

LASTS_S: Final = 60.0  # a rule that waits for so long is about what lasts
AT_A_LOOK: Final = ("port-down", "ports-missing", "file-system-silent", "nvme-disabled")  # down is down


def of(
    sources: settings.Sources, once: bool = False, only_kernel_log: bool = False, board: ranks.Board | None = None
) -> list[readings.Signal]:
    """Every signal. ``once``: for one sweep, so that a log is read to its end and told as it stands. ``board``: whose
    changes of phase power is aligned with.
    """
    log = kernel_log.KernelLog(sources.kernel_log, sources.procfs, once=once)
    if only_kernel_log:
        return [log]
    gpus = nvml.Nvml(sources.nvml_library, sysfs=sources.sysfs, procfs=sources.procfs)
    lasting: list[readings.Signal] = []  # they tell what happens while somebody looks; one look would see nothing
    if not once:
        changes = board.changes if board is not None else None
        lasting = [nvml_events.NvmlEvents(gpus, sources.procfs), power.Power(gpus, changes)]
    return [gpus, *lasting, *catalog.all_signals(_roots(sources)), log]  # who names GPUs goes first


def judge(node: str, sources: settings.Sources, simulated: bool, once: bool = False) -> engine.Judge:
    """The judge of those signals, for what is expected here. ``once``: nothing more will come, so what is so now is
    told, and not held back to see whether it lasts.
    """
    expected = rules.Expectations(
        gpus=sources.expect_gpus,
        ports=sources.expect_ports,
        port_rate=sources.expect_port_rate,
        power_limit=sources.expect_power_limit,
        cores=sources.expect_cores,
        checkpoint_mounts=tuple(map(str, sources.checkpoint_mounts)),
    )
    judged = tuple(map(_at_once, table.RULES)) if once else table.RULES
    return engine.Judge(node, judged, expected, simulated)


def _at_once(rule: rules.Rule) -> rules.Rule:
    """One look cannot tell that something lasts: what counts only once it has for a while is a warning here, and what
    is down an error.
    """
    lasting = isinstance(rule.test, rules.OneOf | rules.NoneOf | rules.Differs | rules.Above | rules.Below)
    if not lasting or rule.share is not None:
        return rule
    severity = rule.severity
    if rule.hold_s >= LASTS_S and severity in ("fatal", "error"):
        severity = "error" if rule.kind in AT_A_LOOK else "warning"
    return dataclasses.replace(rule, hold_s=0.0, polls=1, severity=severity)


def _roots(sources: settings.Sources) -> catalog.Roots:
    bmc = None
    if sources.redfish_url is not None and sources.redfish_credentials is not None:
        bmc = redfish_client.Settings(sources.redfish_url, sources.redfish_credentials, sources.redfish_ca_file)
    return catalog.Roots(
        sysfs=sources.sysfs,
        procfs=sources.procfs,
        expected_mounts=tuple(map(str, dict.fromkeys((*sources.expect_mounts, *sources.checkpoint_mounts)))),
        probed_mounts=tuple(map(str, sources.probe_mounts)),
        redfish=bmc,
    )
