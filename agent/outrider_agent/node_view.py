"""What the watchers know of a node, put as /metrics shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from outrider_agent import exporter_node, keepers, watchers

NVML = "nvml"


def of(watched: watchers.Watchers, held: Iterable[keepers.Held]) -> exporter_node.Node:
    """The picture of this moment."""
    about = watched.newest.context.get(NVML, {})
    devices = about.get("devices")
    ages = watched.ages()
    signals = [
        exporter_node.Signal(one.signal, one.state, one.success, one.duration_s, ages[one.signal])
        for one in watched.health.values()
    ]
    standing = watched.findings.all()
    return exporter_node.Node(
        readings=watched.fresh(),
        devices=devices if isinstance(devices, dict) else {},
        driver=str(about.get("driver_version") or ""),
        signals=signals,
        findings=Counter(one.severity for one in standing),
        xids=watched.findings.xids(),
        ranks=[
            exporter_node.Rank(one.job, rank, place)
            for one in held
            for place, rank in enumerate(sorted({*one.standing.living, *one.standing.gone}))
            if rank in one.standing.living
        ],
    )
