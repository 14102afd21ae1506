"""What the counters of InfiniBand and RoCE ports say, and the way from adapter to GPU."""

from __future__ import annotations

from typing import Final

from outrider_agent.judgement.rules import Clear, Faster, OneOf, Rises, Rule

_COUNTERS: Final = "counters of the InfiniBand specification"
_QUIET: Final = Clear(after_s=600.0)


def _rate(
    reading: str, per_s: float, row: str, kind: str, text: str, recovery: str = "check_fabric", hold_s: float = 30.0
) -> Rule:
    return Rule(
        name=reading.replace("_", "-"),
        row=row,
        signal="infiniband",
        reading=reading,
        test=Faster(per_s),
        kind=kind,
        severity="warning",
        recovery=recovery,
        text=f"port {{device}} {text}: {{value}} a second, more than {{bound}}",
        source=f"{per_s:g} a second",
        hold_s=hold_s,
        polls=2,
        clear=_QUIET,
    )


RULES: Final = (
    Rule(
        name="link-downed-busy",
        row="network/link-downed",
        signal="infiniband",
        reading="link_downed",
        test=Rises(1),
        kind="link-downed",
        severity="fatal",
        recovery="drain",
        text="the link of port {device} went down {value} times since the last look, while GPUs are busy",
        source=_COUNTERS,
        needs=("busy-node",),
        clear=_QUIET,
    ),
    Rule(
        name="link-downed",
        row="network/link-downed",
        signal="infiniband",
        reading="link_downed",
        test=Rises(1),
        kind="link-downed",
        severity="warning",
        recovery="check_cable",
        text="the link of port {device} went down {value} times since the last look",
        source=_COUNTERS,
        clear=_QUIET,
    ),
    Rule(
        name="link-error-recovery",
        row="network/error-recovery",
        signal="infiniband",
        reading="link_error_recovery",
        test=Rises(6, 60.0),
        kind="port-errors",
        severity="warning",
        recovery="check_cable",
        text="the link of port {device} recovered from errors {value} times within a minute",
        source="more than 5 a minute",
        clear=_QUIET,
    ),
    _rate("symbol_error", 10.0, "network/symbol-errors", "port-errors", "reads bad symbols", "check_cable", 10.0),
    Rule(
        name="symbol-error-hour",
        row="network/symbol-errors",
        signal="infiniband",
        reading="symbol_error",
        test=Rises(121, 3600.0),
        kind="port-errors",
        severity="fatal",
        recovery="check_cable",
        text="port {device} read {value} bad symbols within an hour, more than 120",
        source="120 an hour",
        clear=_QUIET,
    ),
    _rate(
        "port_rcv_errors", 10.0, "network/receive-errors", "port-errors", "reads damaged packets", "check_cable", 10.0
    ),
    *(
        Rule(
            name=reading.replace("_", "-"),
            row="network/integrity",
            signal="infiniband",
            reading=reading,
            test=Rises(1),
            kind="port-errors",
            severity="fatal",
            recovery="drain",
            text=f"port {{device}} had {{value}} {say} since the last look",
            source=_COUNTERS,
            clear=_QUIET,
        )
        for reading, say in (
            ("local_link_integrity_errors", "errors of link integrity"),
            ("excessive_buffer_overrun_errors", "overruns of its buffers"),
        )
    ),
    _rate("port_xmit_discards", 100.0, "network/discards", "port-congestion", "drops packets that it should send"),
    *(
        _rate(reading, 1.0, "network/sequence", "transport-errors", say)
        for reading, say in (
            ("out_of_sequence", "gets packets out of order"),
            ("packet_seq_err", "is told of lost packets"),
            ("implied_nak_seq_err", "infers lost packets"),
        )
    ),
    _rate(
        "local_ack_timeout_err",
        1.0,
        "network/ack-timeout",
        "transport-timeouts",
        "waits in vain for answers",
        hold_s=5.0,
    ),
    *(
        Rule(
            name=reading.replace("_", "-"),
            row="network/retries",
            signal="infiniband",
            reading=reading,
            test=Rises(1),
            kind="transport-gave-up",
            severity="fatal",
            recovery="restart_app",
            text=f"a connection of port {{device}} gave up ({say})",
            source="the job's communicator fails with it",
            clear=_QUIET,
        )
        for reading, say in (
            ("rnr_nak_retry_err", "the other side was never ready"),
            ("req_transport_retries_exceeded", "too many retries"),
        )
    ),
    _rate("roce_slow_restart", 10.0, "network/adaptive", "port-congestion", "starts slowly again"),
    *(
        Rule(
            name=f"paused-{direction}-{priority}",
            row="network/pause",
            signal="ethtool",
            reading=f"{direction}_prio{priority}_pause_duration",
            test=Faster(50_000.0),
            kind="port-paused",
            severity="warning",
            recovery="check_fabric",
            text=f"{{device}} is paused at priority {priority} for {{value}} us of each second",
            source="5 percent of the time",
            hold_s=30.0,
            polls=2,
            clear=_QUIET,
        )
        for direction in ("rx", "tx")
        for priority in range(8)
    ),
    Rule(
        name="fec-uncorrected",
        row="network/fec",
        signal="ethtool",
        reading="fec_uncorrected_blocks",
        test=Rises(1),
        kind="fec-errors",
        severity="warning",
        recovery="check_cable",
        text="{device} could not correct {value} blocks",
        source="ethtool, physical layer",
        clear=_QUIET,
    ),
    Rule(
        name="fec-uncorrected-rate",
        row="network/fec",
        signal="ethtool",
        reading="fec_uncorrected_blocks",
        test=Faster(0.4),
        kind="fec-errors",
        severity="error",
        recovery="check_cable",
        text="{device} cannot correct {value} blocks a second, for {hold}",
        source="one bad bit in 1e12 at 400 Gb/s is 0.4 a second",
        hold_s=60.0,
        polls=2,
        clear=_QUIET,
    ),
    Rule(
        name="peer-memory-missing",
        row="network/gpu-direct",
        signal="inventory",
        reading="nvidia_peermem",
        test=OneOf((False,)),
        kind="peer-memory-missing",
        severity="error",
        recovery="check_settings",
        text="the module nvidia_peermem is not loaded on {device}: adapters cannot reach the GPUs' memory",
        source="the module list",
        needs=("ports",),
        polls=2,
        clear=Clear(after_s=0.0),
        stops="performance",
    ),
)
