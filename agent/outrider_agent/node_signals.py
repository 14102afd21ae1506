"""Which signals a node has, with the roots and expectations that the settings give, and the judge of their sweeps."""

from __future__ import annotations

from outrider_agent import readings, settings
from outrider_agent.judgement import engine, rules
from outrider_agent.signals import kernel_log


def of(sources: settings.Sources, once: bool = False, only_kernel_log: bool = False) -> list[readings.Signal]:
    """Every signal. ``once``: for one sweep, so that a log is read to its end and told as it stands."""
    log = kernel_log.KernelLog(sources.kernel_log, sources.procfs, once=once)
    return [log]


def judge(node: str, sources: settings.Sources, simulated: bool, once: bool = False) -> engine.Judge:
    """The judge of those signals, for what is expected here."""
    expected = rules.Expectations(gpus=sources.expect_gpus, ports=sources.expect_ports)
    return engine.Judge(node, (), expected, simulated)
