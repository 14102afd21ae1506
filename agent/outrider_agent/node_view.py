"""What the watchers know of a node, put as /metrics shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from outrider import records
from outrider_agent import exporter_node, keepers, standing, visible, watchers

NVML = "nvml"


def of(watched: watchers.Watchers, held: Iterable[keepers.Held]) -> exporter_node.Node:
    """The picture of this moment."""
    about = watched.newest.context.get(NVML, {})
    devices = gpus(watched)
    ages = watched.ages()
    signals = [
        exporter_node.Signal(one.signal, one.state, one.success, one.duration_s, ages[one.signal])
        for one in watched.health.values()
    ]
    found = watched.findings.all()
    return exporter_node.Node(
        readings=watched.fresh(),
        devices=devices,
        driver=str(about.get("driver_version") or ""),
        signals=signals,
        findings=Counter(one.severity for one in found),
        xids=watched.findings.xids(),
        ranks=[
            exporter_node.Rank(one.job, rank, gpu)
            for one in held
            for rank, gpu in _gpu_of_ranks(one.standing, devices).items()
            if rank in one.standing.living
        ],
    )


def gpus(watched: watchers.Watchers) -> records.Json:
    """The GPUs of this node by name, empty while nobody has read them."""
    devices = watched.newest.context.get(NVML, {}).get("devices")
    return devices if isinstance(devices, dict) else {}


def _gpu_of_ranks(one: standing.Standing, devices: records.Json) -> dict[int, str]:
    """The index of the GPU that each rank uses: by torchrun's custom that of its local number."""
    ranks = sorted({*one.living, *one.gone})
    names = visible.gpus(one.visible_devices, one.device_order, len(ranks), devices)
    if names is None:
        return {rank: str(place) for place, rank in enumerate(ranks)}
    return {rank: name.removeprefix("gpu") or "unknown" for rank, name in zip(ranks, names, strict=True)}
