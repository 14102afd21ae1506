"""The memory of a device: how fast it copies, and whether what is written is what is read.

The pattern of each word is made of its place, so that a line that answers for another is found as well; each pattern is
followed by its complement, so that every bit is read as 0 and as 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from outrider_agent.checks.work import torch_device

WORD_BYTES: Final = 8
CHUNK_WORDS: Final = 32 << 20  # 256 MiB
COPY_BYTES: Final = 1 << 30
COPIES: Final = 10
RESERVE_BYTES: Final = 1 << 30  # left free for the driver and for the comparison
MULTIPLIER: Final = -7046029254386353131  # 2^64 divided by the golden ratio, as a signed word: neighbours differ widely
WRONG_TOLD_MAX: Final = 4

Chunks = list[Any]


def run(task: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Task: index, share (of the free memory) or bytes, rounds. {"model", "gb_s", "bytes", "wrong", "places"}."""
    torch, device = torch_device.of(task)
    free = device.free_bytes()
    wanted = int(task.get("bytes") or 0)
    size = wanted if free is None else int(min(wanted or free, max(0, free - RESERVE_BYTES) * float(task["share"])))
    tell("copying")
    speed = copied_gb_s(torch, device, min(COPY_BYTES, size // 2))
    found = verified(torch, device, size, int(task.get("rounds") or 1), tell)
    return {"model": device.model, "gb_s": speed, **found}


def copied_gb_s(torch: Any, device: torch_device.Device, size: int) -> float:
    """GB/s read and written together while the device copies within its memory."""
    source, target = (device.empty(max(1, size), torch.uint8) for _ in range(2))
    source.fill_(1)
    target.copy_(source)
    seconds = device.steady(lambda: target.copy_(source), COPIES)
    return 2.0 * max(1, size) / seconds / 1e9


def verified(
    torch: Any,
    device: torch_device.Device,
    size: int,
    rounds: int,
    tell: Any,
    disturb: Callable[[Chunks], None] | None = None,
) -> dict[str, Any]:
    """Write patterns over ``size`` bytes and read them back; ``disturb`` (for tests) is called between."""
    words = max(1, size // WORD_BYTES)
    step = min(CHUNK_WORDS, max(1, words // 4))
    chunks = [device.empty(min(step, words - at), torch.int64) for at in range(0, words, step)]
    places = torch.arange(step, dtype=torch.int64, device=device.torch_name)
    wrong, told = 0, list[str]()
    for turn in range(2 * rounds):
        tell(f"pattern {turn + 1} of {2 * rounds}")
        for number, chunk in enumerate(chunks):
            chunk.copy_(_pattern(places[: chunk.numel()], number * step, turn))
        if disturb is not None:
            disturb(chunks)
        for number, chunk in enumerate(chunks):
            expected = _pattern(places[: chunk.numel()], number * step, turn)
            if bool((chunk == expected).all()):
                continue
            at = (chunk != expected).nonzero().flatten()
            wrong += int(at.numel())
            first = int(at[0])
            bits = int(chunk[first]) ^ int(expected[first])
            told.append(
                f"byte {(number * step + first) * WORD_BYTES}, bits {bits & (1 << 64) - 1:#x}, pattern {turn + 1}"
            )
    return {"bytes": words * WORD_BYTES, "wrong": wrong, "places": told[:WRONG_TOLD_MAX]}


def _pattern(places: Any, offset: int, turn: int) -> Any:
    words = (places + (offset + (turn // 2) * 1_000_003)) * MULTIPLIER
    return ~words if turn % 2 else words
