"""What a call asked for, read from one entry: the operation, and what of it has to be equal on all members.

Sizes may differ between members for good reasons: whoever is not the root of a gather gives no output, the parts of an
all-to-all are anybody's affair, and up to format 2.3 the latter are not even written correctly. So each operation says
which side is compared, and the count of elements decides, since a view of another shape is the same message.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

from outrider_analysis.flight_recorder.model import NEVER, Signature

TENSORS_MAX: Final = 1024
DIMENSIONS_MAX: Final = 4096  # over all tensors of one side
TEXT_CHARS_MAX: Final = 160
WORD_CHARS_MAX: Final = 96

_P2P: Final = re.compile(r"(send|recv) (\d{1,7})(?:->|<-)(\d{1,7})")
# The names under which releases and backends record the same message on the wire.
_SAME: Final = {
    **dict.fromkeys(("allreduce", "all_reduce_single"), "all_reduce"),
    **dict.fromkeys(
        ("_all_gather_base", "_allgather_base", "all_gather_single", "all_gather_into_tensor"), "all_gather"
    ),
    **dict.fromkeys(("allgather",), "all_gather"),
    **dict.fromkeys(("_reduce_scatter_base", "reduce_scatter_single", "reduce_scatter_tensor"), "reduce_scatter"),
    **dict.fromkeys(("all_to_all_single", "alltoall", "alltoall_base", "all_to_allv"), "all_to_all"),
}
# Which side's elements all members have to agree on, the preferred one first; what is not named here is left open.
_COMPARED: Final = {
    "all_reduce": "io",
    "reduce": "io",
    "broadcast": "io",
    "all_gather": "oi",
    "reduce_scatter": "io",
    "gather": "i",
    "scatter": "o",
    "send": "io",
    "recv": "oi",
}
_ROOTED: Final = frozenset({"broadcast", "reduce", "gather", "scatter"})


def signature(profiling_name: str, sizes: Sequence[Any], dtypes: Sequence[Any]) -> Signature:
    """``sizes`` and ``dtypes`` are (inputs, outputs) as the entry gives them. Raises TypeError and ValueError."""
    name = profiling_name.rpartition(":")[2][:WORD_CHARS_MAX]
    me = peer = NEVER
    if (found := _P2P.fullmatch(name)) is not None:
        name, me, peer = found[1], int(found[2]), int(found[3])
    op = _SAME.get(name, name)
    sides = {"i": sizes[0], "o": sizes[1]}
    words = {"i": dtypes[0], "o": dtypes[1]}
    for side in _COMPARED.get(op, "io"):
        if sides[side]:
            shapes, given = sides[side], words[side]
            break
    else:
        shapes, given = [], []
    numel = sum(math.prod(shape) for shape in shapes) if op in _COMPARED and shapes else None
    if numel is not None and numel >= 2**63:
        raise ValueError("no tensor has so many elements")
    dtype = ",".join(sorted(set(given))) if op != "barrier" else ""
    text = " ".join(word for word in (name, _shapes(shapes), dtype) if word)
    return Signature(op, numel, dtype[:WORD_CHARS_MAX], text[:TEXT_CHARS_MAX], me, peer)


def is_sound(sizes: Sequence[Any], dtypes: Sequence[Any]) -> bool:
    """Lists of shapes and of words, and small: what may be flattened to a key without unfolding a bomb."""
    for side in sizes:
        if side and (len(side) > TENSORS_MAX or sum(map(len, side)) > DIMENSIONS_MAX):
            return False
        if any(type(size) is not int or not 0 <= size < 2**63 for shape in side for size in shape):
            return False
    return len(dtypes[0]) + len(dtypes[1]) <= 2 * TENSORS_MAX and len("".join(dtypes[0]) + "".join(dtypes[1])) < 2**17


def is_synchronous(op: str) -> bool:
    """True where no member can finish before all have begun."""
    return op not in _ROOTED and op not in ("send", "recv", "coalesced")


def difference(one: Signature, other: Signature) -> str:
    """``op``, ``size``, ``dtype``, or nothing where the two are the same message."""
    if "coalesced" in one.op or "coalesced" in other.op:
        return ""  # before format 2.7 a batch has one entry and after it several
    if one.op != other.op:
        return "op"
    if one.dtype and other.dtype and one.dtype != other.dtype:
        return "dtype"
    if one.numel is not None and other.numel is not None and one.numel != other.numel:
        return "size"
    return ""


def _shapes(shapes: Sequence[Any]) -> str:
    shown = ", ".join(str(list(shape)) for shape in shapes[:4])
    return shown if len(shapes) <= 4 else f"{shown} and {len(shapes) - 4} more"
