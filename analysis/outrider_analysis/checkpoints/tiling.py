"""Do parts cover a whole exactly: byte ranges a file, chunks a tensor? Nothing left out, nothing twice, none outside.

Each answer is None, or the kind of the first fault and a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

Box = tuple[tuple[int, ...], tuple[int, ...]]  # offsets and sizes, one number a dimension
Trouble = tuple[str, str]

PAIRS_MAX: Final = 20_000_000  # comparisons in the rare arrangement that no straight cut divides


def of_file(spans: Sequence[tuple[int, int]], size: int) -> Trouble | None:
    """``spans``: (offset, length) in bytes, sorted. Whether they cover 0 to ``size`` exactly."""
    end = 0
    for offset, length in spans:
        if offset > end:
            return "gap", f"bytes {end} to {offset} belong to no entry"
        if offset < end:
            return "overlap", f"the entry at byte {offset} begins before the one before it ends, at {end}"
        end = offset + length
    if end != size:
        return "size", f"has {size} bytes, its entries end at {end}"
    return None


def of_shape(boxes: Sequence[Box], shape: Sequence[int]) -> Trouble | None:
    """Whether ``boxes`` cover ``shape`` exactly. A box without volume covers nothing and only has to lie within."""
    volume = 0
    solid: list[Box] = []
    for offsets, sizes in boxes:
        for offset, size, limit in zip(offsets, sizes, shape, strict=True):
            if offset + size > limit:
                return "chunk-outside", f"a chunk at {offsets} of {sizes} leaves the shape {tuple(shape)}"
        contents = math.prod(sizes)
        volume += contents
        if contents:
            solid.append((offsets, sizes))
    whole = math.prod(shape)
    if volume < whole:
        return "chunk-gap", f"chunks hold {volume} of {whole} elements"
    try:
        twice = volume > whole or _overlap(solid, len(shape))
    except _TooManyError:
        return "chunk-order", f"{len(solid)} chunks lie in no order that can be compared"
    return ("chunk-overlap", f"chunks hold some of {whole} elements twice") if twice else None


class _TooManyError(Exception):
    """More comparisons than any layout that a job writes would need."""


def _overlap(boxes: list[Box], dimensions: int) -> bool:
    """Whether any two boxes share an element.

    Straight cuts that no box crosses divide the problem, dimension after dimension; a grid falls apart at once, and so
    does every layout that shards along one dimension after another.
    """
    waiting = [(boxes, 0, 0)]  # boxes, dimension to cut along, dimensions tried without a cut
    while waiting:
        group, axis, vain = waiting.pop()
        if vain >= dimensions:
            if _any_pair(group):
                return True
            continue
        parts = _cut(group, axis)
        tried = 0 if len(parts) > 1 else vain + 1
        waiting += [(part, (axis + 1) % dimensions, tried) for part in parts if len(part) > 1]
    return False


def _cut(group: list[Box], axis: int) -> list[list[Box]]:
    ordered = sorted(group, key=lambda box: box[0][axis])
    parts: list[list[Box]] = []
    end = -1
    for box in ordered:
        begin = box[0][axis]
        if begin >= end:
            parts.append([])
        parts[-1].append(box)
        end = max(end, begin + box[1][axis])
    return parts


def _any_pair(group: list[Box]) -> bool:
    """Sweep along the first dimension and compare what is open at the same time."""
    open_boxes: list[Box] = []
    compared = 0
    for box in sorted(group):
        open_boxes = [other for other in open_boxes if other[0][0] + other[1][0] > box[0][0]]
        compared += len(open_boxes)
        if compared > PAIRS_MAX:
            raise _TooManyError
        if any(_meet(box, other) for other in open_boxes):
            return True
        open_boxes.append(box)
    return False


def _meet(one: Box, other: Box) -> bool:
    return all(
        a < b + length_b and b < a + length_a
        for a, length_a, b, length_b in zip(one[0], one[1], other[0], other[1], strict=True)
    )
