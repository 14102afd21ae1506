"""The 4D mesh: which rank stands where, as arithmetic alone.

A mesh text such as `dp=2,pp=2,cp=1,tp=2` becomes coordinates and rank lists. No torch here, so that the options, the
process groups and the tests all agree on one piece of arithmetic. The text is outermost axis first: for the order
above, rank = ((dp_index * pp + pp_index) * cp + cp_index) * tp + tp_index, and likewise for any other order.
"""

import dataclasses
import itertools
import math

AXES = ("dp", "pp", "cp", "tp")
RANKS_MAX = 65_536


@dataclasses.dataclass(frozen=True)
class Mesh:
    """All four axes with their sizes, outermost first."""

    axes: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """The mesh as written, all four axes named; also the name of the layout in a checkpoint."""
        return ",".join(f"{name}={size}" for name, size in self.axes)

    @property
    def world(self) -> int:
        """Number of ranks."""
        return math.prod(size for _, size in self.axes)

    def size(self, axis: str) -> int:
        """Number of ranks along one axis."""
        return dict(self.axes)[axis]

    def coords(self, rank: int) -> dict[str, int]:
        """Index of a rank along each axis."""
        indices: dict[str, int] = {}
        for name, size in reversed(self.axes):
            rank, indices[name] = divmod(rank, size)
        return indices

    def rank(self, coords: dict[str, int]) -> int:
        """The rank that stands at the given index of every axis."""
        rank = 0
        for name, size in self.axes:
            rank = rank * size + coords[name]
        return rank

    def groups(self, *axes: str) -> list[list[int]]:
        """Every list of ranks that differ in the given axes alone: the members of one process group each.

        Ranks ascend within a list, which for one axis is the order of its index.
        """
        outer = [name for name, _ in self.axes if name not in axes]
        lists: dict[tuple[int, ...], list[int]] = {
            key: [] for key in itertools.product(*(range(self.size(name)) for name in outer))
        }
        for rank in range(self.world):
            coords = self.coords(rank)
            lists[tuple(coords[name] for name in outer)].append(rank)
        return list(lists.values())


def parse(text: str) -> Mesh:
    """Reads `dp=2,pp=2`; axes left out have size 1 and come innermost. Raises ValueError with the way out."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name not in AXES or name in sizes:
            raise ValueError(f"mesh {text!r}: {part.strip()!r} is not one of dp=N, pp=N, cp=N, tp=N, each at most once")
        if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= RANKS_MAX:
            raise ValueError(f"mesh {text!r}: {name}={value} must be a whole number from 1 to {RANKS_MAX}")
        sizes[name] = int(value)
    sizes.update({name: 1 for name in AXES if name not in sizes})
    return Mesh(tuple(sizes.items()))
