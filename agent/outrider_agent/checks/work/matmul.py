"""Matrix products whose exact result is known: a device that computes wrongly, even rarely, is found out.

The factors hold small whole numbers times powers of two by row and column, so that every product and every partial sum
is exact in the precision that is tried, in whatever order a library adds: the result must equal the reference bit by
bit, every time. The reference is computed on the CPU, in whole numbers where that is quick and else in float64, so by
other units than those on trial. A large product repeats the blocks of a small one: all units work, and the reference
stays cheap.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from outrider_agent.checks.work import torch_device

SEED: Final = 20260101
WRONG_TOLD_MAX: Final = 4


@dataclass(frozen=True)
class Precision:
    """``most``: the largest whole number in the factors; with ``depth`` products added, every partial sum is exact."""

    name: str
    dtype: str
    most: int
    tf32: bool = False


# For the 16-bit ones partial sums of 4096 products of -1, 0 and 1 stay below 256 (six standard deviations), which is
# what bfloat16 holds exactly, even where a library rounds between. The others are exact up to 2^24 and 2^53.
ON_GPU: Final = (
    Precision("bf16", "bfloat16", 1),
    Precision("fp16", "float16", 1),
    Precision("tf32", "float32", 16, tf32=True),
    Precision("fp32", "float32", 16),
    Precision("fp64", "float64", 1024),
)
# Libraries for CPUs may compute 16-bit types in ways that differ by machine; those that jobs rely on are tried.
ON_CPU: Final = (Precision("fp32", "float32", 16), Precision("fp64", "float64", 1024))

Multiply = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Size:
    """A block of ``side`` x ``depth`` times ``depth`` x ``side``, repeated ``tiles`` times in both directions."""

    side: int
    depth: int
    tiles: int = 1

    @property
    def flops(self) -> float:
        """Of one product."""
        return 2.0 * (self.side * self.tiles) ** 2 * self.depth


GPU: Final = Size(1024, 4096, 8)
CPU: Final = Size(256, 1024)


def run(task: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Task: index (None: the CPU, core after core), repeats. {"model", "found": [{"where", "precision", ...}]}."""
    torch, device = torch_device.of(task)
    repeats = int(task["repeats"])
    if device.index is not None:
        found = []
        for precision in ON_GPU:
            tell(precision.name)
            found.append(_tried(torch, device, precision, GPU, repeats, exact=False))
        return {"model": device.model, "found": found}
    torch.set_num_threads(1)  # what is multiplied then is multiplied by this very thread, and it is pinned
    problems = [Problem(torch, device, precision, CPU, exact=True) for precision in ON_CPU]
    found = []
    for core in task.get("cores") or sorted(os.sched_getaffinity(0)):
        tell(f"core {core}")
        os.sched_setaffinity(0, {core})
        found += [{"where": f"core {core}", **problem.tried(repeats)} for problem in problems]
    return {"model": device.model, "found": found}


class Problem:
    """Two factors on a device and the product that they must give."""

    def __init__(self, torch: Any, device: torch_device.Device, precision: Precision, size: Size, exact: bool) -> None:
        self._torch, self._device, self._precision, self._size = torch, device, precision, size
        dtype = getattr(torch, precision.dtype)
        maker = torch.Generator().manual_seed(SEED)
        left = torch.randint(-precision.most, precision.most + 1, (size.side, size.depth), generator=maker)
        right = torch.randint(-precision.most, precision.most + 1, (size.depth, size.side), generator=maker)
        rows, columns = (torch.exp2(torch.randint(-3, 4, (size.side,), generator=maker).double()) for _ in range(2))
        product = (left @ right).double() if exact else left.double() @ right.double()
        self._reference = (product * rows[:, None] * columns[None, :]).to(dtype)
        # In 16 bits the largest sum decides whether the comparison is fair; seed and size are chosen so that it is.
        assert precision.most > 1 or float(product.abs().max()) <= 256, "a sum is too large for 16 bits"
        tiles = size.tiles
        self._left = device.put((left.double() * rows[:, None]).to(dtype)).repeat(tiles, 1)
        self._right = device.put((right.double() * columns[None, :]).to(dtype)).repeat(1, tiles)
        self._expected = device.put(self._reference).repeat(tiles, tiles)
        self._out = torch.empty_like(self._expected)

    def tried(self, repeats: int, multiply: Multiply | None = None) -> dict[str, Any]:
        """{"precision", "tflops", "repeats", "wrong": repetitions with a wrong element, "elements": [text]}.

        Half of the time goes into timing, in which nothing is compared; the last product of it is compared as well.
        """
        torch, multiply = self._torch, multiply or self._multiply
        torch.backends.cuda.matmul.allow_tf32 = self._precision.tf32
        multiply(self._left, self._right, self._out)  # libraries choose their way at the first
        seconds = self._device.steady(lambda: multiply(self._left, self._right, self._out), repeats)
        wrong, elements = 0, list[str]()
        for repeat in range(repeats):
            if repeat:
                self._out.fill_(float("nan"))
                multiply(self._left, self._right, self._out)
            differs = self._differing()
            wrong += bool(differs)
            elements += differs
        return {
            "precision": self._precision.name,
            "tflops": self._size.flops / seconds / 1e12,
            "repeats": repeats,
            "wrong": wrong,
            "elements": elements[:WRONG_TOLD_MAX],
        }

    def _multiply(self, left: Any, right: Any, out: Any) -> Any:
        return self._torch.mm(left, right, out=out)

    def _differing(self) -> list[str]:
        """What differs from the reference. The device compares all; the CPU compares a block, in case it compares
        wrongly.
        """
        side = self._size.side
        if bool((self._out == self._expected).all()):
            block = self._out[-side:, -side:].cpu()
            if bool((block == self._reference).all()):
                return []
            places = (block != self._reference).nonzero()
            return [f"{len(places)} elements differ on the CPU that the device calls equal"]
        places = (self._out != self._expected).nonzero()
        row, column = (int(at) for at in places[0])
        got, wanted = float(self._out[row, column]), float(self._expected[row, column])
        return [f"{len(places)} elements, the first at {row},{column}: {got!r} for {wanted!r}"]


def _tried(
    torch: Any, device: torch_device.Device, precision: Precision, size: Size, repeats: int, exact: bool
) -> dict[str, Any]:
    found = Problem(torch, device, precision, size, exact).tried(repeats)
    if device.index is not None:
        torch.cuda.empty_cache()
    return {"where": "", **found}
