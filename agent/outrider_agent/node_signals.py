"""Which signals a node has, with the roots and expectations that the settings give, and the judge of their sweeps."""

from __future__ import annotations

from outrider_agent import readings, settings
from outrider_agent.judgement import engine, rules
from outrider_agent.signals import catalog, kernel_log, redfish_client


def of(sources: settings.Sources, once: bool = False, only_kernel_log: bool = False) -> list[readings.Signal]:
    """Every signal. ``once``: for one sweep, so that a log is read to its end and told as it stands."""
    log = kernel_log.KernelLog(sources.kernel_log, sources.procfs, once=once)
    if only_kernel_log:
        return [log]
    return [log, *catalog.all_signals(_roots(sources))]


def judge(node: str, sources: settings.Sources, simulated: bool) -> engine.Judge:
    """The judge of those signals, for what is expected here."""
    expected = rules.Expectations(gpus=sources.expect_gpus, ports=sources.expect_ports)
    return engine.Judge(node, (), expected, simulated)


def _roots(sources: settings.Sources) -> catalog.Roots:
    bmc = None
    if sources.redfish_url is not None and sources.redfish_credentials is not None:
        bmc = redfish_client.Settings(sources.redfish_url, sources.redfish_credentials, sources.redfish_ca_file)
    return catalog.Roots(
        sysfs=sources.sysfs,
        procfs=sources.procfs,
        expected_mounts=tuple(map(str, sources.expect_mounts)),
        redfish=bmc,
    )
