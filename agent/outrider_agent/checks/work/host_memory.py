"""The host's memory: how fast one core copies, on each NUMA node, and whether what is written is what is read.

Needs no library. Blocks of random bytes (seeded) are turned by their place, so that no two blocks in a row are alike.
"""

from __future__ import annotations

import mmap
import os
import random
import time
from collections.abc import Callable
from typing import Any, Final

COPY_BYTES: Final = 128 << 20  # far beyond what caches hold, twice
COPIES: Final = 3
BLOCK: Final = 1 << 20
WRONG_TOLD_MAX: Final = 4


def run(task: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Task: bytes (to verify), nodes {NUMA node: a core of it}. {"copies": [{"where", "gb_s"}], "bytes", "wrong"}."""
    everywhere = os.sched_getaffinity(0)
    copies = []
    for node, core in task["nodes"].items():
        tell(f"copying on NUMA node {node}")
        os.sched_setaffinity(0, {core})
        copies.append({"where": f"NUMA node {node}", "gb_s": copied_gb_s(int(task.get("copy_bytes") or COPY_BYTES))})
    os.sched_setaffinity(0, everywhere)
    return {"copies": copies, **verified(int(task["bytes"]), tell)}


def copied_gb_s(size: int) -> float:
    """GB/s read and written together, the best of COPIES; memory lies where the core is that first touches it."""
    source, target = bytearray(b"\1" * size), bytearray(size)
    seconds = []
    for _ in range(COPIES):
        began = time.perf_counter()
        memoryview(target)[:] = source
        seconds.append(time.perf_counter() - began)
    return 2.0 * size / max(min(seconds), 1e-9) / 1e9


def verified(size: int, tell: Any, disturb: Callable[[mmap.mmap], None] | None = None) -> dict[str, Any]:
    """Write a pattern and its complement over ``size`` bytes and read both back; ``disturb`` (for tests) is between."""
    blocks = max(1, size // BLOCK)
    plain = random.Random(20260101).randbytes(2 * BLOCK)
    inverse = bytes(255 - byte for byte in range(256))
    wrong, told = 0, list[str]()
    with mmap.mmap(-1, blocks * BLOCK) as memory:
        for name, text in (("pattern", plain), ("complement", plain.translate(inverse))):
            tell(f"writing the {name}")
            for block in range(blocks):
                memory[block * BLOCK : (block + 1) * BLOCK] = _block(text, block)
            if disturb is not None:
                disturb(memory)
            tell(f"reading the {name}")
            for block in range(blocks):
                got, expected = memory[block * BLOCK : (block + 1) * BLOCK], _block(text, block)
                if got != expected:
                    at = next(place for place in range(BLOCK) if got[place] != expected[place])
                    wrong += 1
                    told.append(f"byte {block * BLOCK + at}: {got[at]:#04x} for {expected[at]:#04x}")
    return {"bytes": blocks * BLOCK, "wrong": wrong, "places": told[:WRONG_TOLD_MAX]}


def _block(text: bytes, block: int) -> bytes:
    turn = block * 4099 % BLOCK
    return text[turn : turn + BLOCK]
