"""PCIe: links below their width or speed, replays, reported errors."""

from __future__ import annotations

from typing import Final

from outrider_agent.judgement.rules import Below, Bound, Clear, Faster, OneOf, Rises, Rule

# A sound link may have one error in 1e12 bits: 0.96 replays a minute and lane at generation 4, twice that at 5.
_REPLAYS: Final = (("gen4", 0.96), ("gen5", 1.92))
_HOUR: Final = Clear(after_s=3600.0)

RULES: Final = (
    *(
        Rule(
            name=f"gpu-link-{what}",
            row="pcie/link",
            signal="nvml",
            reading=f"pcie_{what}",
            test=Below(Bound(reading=f"pcie_{what}_max")),
            kind="pcie-degraded",
            severity="error",
            recovery="reboot",
            text=f"{{device}} is busy on a PCIe link of {what} {{value}}, it can have {{bound}}, for {{hold}}",
            source="idle links train down by design, busy ones do not",
            devices="gpu",
            needs=("busy",),
            hold_s=60.0,
            polls=3,
            stops="performance",
        )
        for what in ("generation", "width")
    ),
    *(
        Rule(
            name=f"gpu-replays-{generation}",
            row="pcie/replays",
            signal="nvml",
            reading="pcie_replay",
            test=Faster(per_lane / 60.0, times_reading="pcie_width"),
            kind="pcie-replays",
            severity="warning",
            recovery="contact_support",
            text="{device} repeats {value} PCIe packets a second, a sound link at most {bound}",
            source=f"one error in 1e12 bits: {per_lane} a minute and lane",
            needs=(generation,),
            hold_s=60.0,
            polls=2,
            clear=Clear(after_s=600.0),
        )
        for generation, per_lane in _REPLAYS
    ),
    Rule(
        name="gpu-replay-rollover",
        row="pcie/replays",
        signal="nvml",
        reading="pcie_replay_rollover",
        test=Rises(1),
        kind="pcie-replays",
        severity="warning",
        recovery="contact_support",
        text="{device} had to repeat a PCIe packet more than three times",
        source="NVML field 95",
        clear=_HOUR,
    ),
    *(
        Rule(
            name=f"gpu-pcie-{what}",
            row="pcie/counters",
            signal="nvml",
            reading=f"pcie_{what}",
            test=Rises(1),
            kind="pcie-aer",
            severity="error",
            recovery="drain",
            text=f"{{device}} met a {say} PCIe error",
            source="NVML fields 169 to 183",
            clear=_HOUR,
        )
        for what, say in (("fatal", "fatal"), ("nonfatal", "non-fatal"))
    ),
    *(
        Rule(
            name=f"gpu-{reading.replace('_', '-')}",
            row="pcie/counters",
            signal="nvml",
            reading=reading,
            test=Rises(10, 60.0),
            kind="pcie-errors-corrected",
            severity="warning",
            recovery="none",
            text="{device} had {value} PCIe errors within a minute (" + reading + ")",
            source="10 a minute, as for the kernel's lines; recoveries are not counted: links that train cause them",
            clear=_HOUR,
        )
        for reading in (
            *("pcie_correctable", "pcie_bad_tlp", "pcie_bad_dllp", "pcie_nak_received", "pcie_nak_sent"),
            "pcie_lane_errors",
        )
    ),
    *(
        Rule(
            name=f"adapter-{reading.replace('_', '-')}",
            row="pcie/adapter-links",
            signal="pcie",
            reading=reading,
            test=Below(Bound(reading=f"{reading}_max")),
            kind="pcie-degraded",
            severity="error",
            recovery="reboot",
            text=f"{{device}} has a PCIe {reading.replace('_', ' ')} of {{value}} {{unit}}, it can have {{bound}}",
            source="sysfs; adapters and disks keep their link while idle",
            needs=("adapter-or-nvme",),
            hold_s=60.0,
            polls=3,
            stops="performance",
        )
        for reading in ("link_speed", "link_width")
    ),
    Rule(
        name="aer-fatal",
        row="pcie/aer",
        signal="pcie",
        reading="aer_fatal",
        test=Rises(1),
        kind="pcie-aer",
        severity="fatal",
        recovery="drain",
        text="PCIe device {device} met a fatal error",
        source="sysfs aer_dev_fatal",
        clear=Clear(after_s=3600.0),
    ),
    Rule(
        name="aer-nonfatal",
        row="pcie/aer",
        signal="pcie",
        reading="aer_nonfatal",
        test=Rises(1),
        kind="pcie-aer",
        severity="error",
        recovery="drain",
        text="PCIe device {device} met an uncorrected error",
        source="sysfs aer_dev_nonfatal",
        clear=_HOUR,
    ),
    Rule(
        name="aer-correctable",
        row="pcie/aer",
        signal="pcie",
        reading="aer_correctable",
        test=Rises(10, 60.0),
        kind="pcie-errors-corrected",
        severity="warning",
        recovery="none",
        text="PCIe device {device} corrected {value} errors within a minute",
        source="10 a minute, as for the kernel's lines",
        clear=_HOUR,
    ),
    Rule(
        name="off-the-bus",
        row="pcie/aer",
        signal="pcie",
        reading="on_bus",
        test=OneOf((False,)),
        kind="pcie-lost",
        severity="fatal",
        recovery="reboot",
        text="PCIe device {device} no longer answers on the bus",
        source="its configuration space reads as all ones",
        needs=("card",),
        polls=2,
        rank=1,
    ),
    Rule(
        name="access-control",
        row="pcie/access-control",
        signal="pcie",
        reading="acs_enabled",
        test=OneOf((True,)),
        kind="pcie-access-control",
        severity="warning",
        recovery="check_settings",
        text="access control of PCIe switch {device} is on: traffic between peers takes a detour",
        source="on bare metal it should be off; in a virtual machine it has to be on",
        needs=("gpus",),
        clear=Clear(after_s=0.0),
    ),
)
