"""Which torch there is and how many GPUs it can use: before anything is asked of one of them."""

from __future__ import annotations

from typing import Any


def run(task: dict[str, Any], tell: Any) -> dict[str, Any]:
    """{"torch", "cuda" (version it was built for, or null), "count", "nccl"}."""
    tell("importing torch")
    import torch

    tell("counting GPUs")
    count = torch.cuda.device_count() if torch.version.cuda else 0
    nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    return {"torch": str(torch.__version__), "cuda": torch.version.cuda, "count": int(count), "nccl": bool(nccl)}
