"""Copies between a GPU and the host, and from each GPU to each other: how fast, and whether what arrives had left."""

from __future__ import annotations

from typing import Any, Final

from outrider_agent.checks.work import torch_device

COPY_BYTES: Final = 256 << 20
COPIES: Final = 8


def run(task: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Task: index for the host's copies, or indices and pairs (places in them) for peers.

    {"model", "to_device_gb_s", "from_device_gb_s", "wrong"}, or
    {"models", "pairs": [{"from", "to", "p2p", "gb_s", "wrong"}]}.
    """
    torch, device = torch_device.of(task)
    size = int(task.get("bytes") or COPY_BYTES)
    if "pairs" not in task:
        return {"model": device.model, **with_host(torch, device, size, tell)}
    devices = [torch_device.Device(torch, index) for index in task["indices"]]
    found = []
    for source, target in task["pairs"]:
        tell(f"{task['names'][source]} to {task['names'][target]}")
        found.append({"from": source, "to": target, **between(torch, devices[source], devices[target], size)})
    return {"models": [one.model for one in devices], "pairs": found}


def with_host(torch: Any, device: torch_device.Device, size: int, tell: Any) -> dict[str, Any]:
    """Both ways between the host and a device, GB/s, and the bytes that came back wrong."""
    there, back = (device.host(size, torch.uint8) for _ in range(2))
    there.random_(0, 256)
    here = device.empty(size, torch.uint8)
    tell("host to device")
    down_s = device.steady(lambda: here.copy_(there, non_blocking=True), COPIES)
    tell("device to host")
    up_s = device.steady(lambda: back.copy_(here, non_blocking=True), COPIES)
    wrong = int((back != there).sum())
    return {"to_device_gb_s": size / down_s / 1e9, "from_device_gb_s": size / up_s / 1e9, "wrong": wrong}


def between(torch: Any, source: torch_device.Device, target: torch_device.Device, size: int) -> dict[str, Any]:
    """From one device to another: whether it may go directly, GB/s, and the bytes that arrived wrong."""
    sent = source.empty(size, torch.uint8)
    sent.random_(0, 256)
    arrived = target.empty(size, torch.uint8)
    arrived.copy_(sent)
    source.wait()
    seconds = target.steady(lambda: arrived.copy_(sent, non_blocking=True), COPIES)
    wrong = int((arrived.cpu() != sent.cpu()).sum())
    return {"p2p": source.reaches(target), "gb_s": size / seconds / 1e9, "wrong": wrong}
