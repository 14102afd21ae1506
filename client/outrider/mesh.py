"""The 4D mesh: which rank sits where on the data, pipeline, context and tensor axes.

A mesh is written outermost axis first, ``dp=2,pp=2,cp=1,tp=2``; the rank of a place is the row-major index in that
order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

AXES: Final = ("dp", "pp", "cp", "tp")


class MeshError(ValueError):
    """A mesh text that cannot be read; the message names the text and a good example."""


@dataclass(frozen=True)
class Mesh:
    """Axis names and sizes, outermost first; axes left out of the text have size 1 and stand last."""

    axes: tuple[tuple[str, int], ...]

    @property
    def world_size(self) -> int:
        """Number of ranks, the product of all axis sizes."""
        return math.prod(size for _, size in self.axes)

    def coords(self, rank: int) -> dict[str, int]:
        """Index of ``rank`` on every axis; raises MeshError outside the mesh."""
        if not 0 <= rank < self.world_size:
            raise MeshError(f"rank {rank} is outside the mesh {self} of {self.world_size} ranks")
        found: dict[str, int] = {}
        for name, size in reversed(self.axes):
            rank, found[name] = divmod(rank, size)
        return found

    def rank(self, coords: dict[str, int]) -> int:
        """Rank at ``coords`` (axis name to index; a missing axis counts as 0)."""
        index = 0
        for name, size in self.axes:
            index = index * size + coords.get(name, 0)
        return index

    def __str__(self) -> str:
        return ",".join(f"{name}={size}" for name, size in self.axes)


def parse(text: str) -> Mesh:
    """Read ``dp=2,pp=2,cp=1,tp=2``; order matters, missing axes are 1. Raises MeshError."""
    axes: list[tuple[str, int]] = []
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        if name not in AXES or not size.isascii() or not size.isdigit() or int(size) < 1:
            raise MeshError(
                f"mesh {text!r}: {part.strip()!r} is not AXIS=SIZE with AXIS one of {', '.join(AXES)}, "
                "as in dp=2,pp=2,cp=1,tp=2"
            )
        if name in dict(axes):
            raise MeshError(f"mesh {text!r}: axis {name} is given twice")
        axes.append((name, int(size)))
    axes += [(name, 1) for name in AXES if name not in dict(axes)]
    return Mesh(tuple(axes))
