"""Ranks, groups and places in the short words of a terminal's page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from outrider_analysis.flight_recorder.merge import Merged

WIDTH: Final = 80
RUNS_MAX: Final = 6
AXES: Final = ("dp", "pp", "cp", "tp")
NAME_MAX: Final = 32
HASH: Final = re.compile("[0-9a-f]{20,}")
HASH_MAX: Final = 10  # digits of it that are shown
# Words for where a rank of a group is in the operation that blocked first.
STATES: Final = {
    "finished": "finished",
    "waits": "waits",
    "behind": "behind",
    "not-there": "absent",
    "no-dump": "no dump",
}
ONE_BY_ONE_MAX: Final = 3  # ranks whose coordinates are written out one by one


def printable(text: str) -> str:
    """Without what a terminal would act on."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def ranks(merged: Merged, given: Sequence[int]) -> str:
    """``5 (dp=0, pp=1)`` or ``0-3 (dp=0, pp=1)`` with what they share, where the mesh is known."""
    if 1 < len(given) <= ONE_BY_ONE_MAX:
        return ", ".join(f"{rank}{place(_told(merged, rank))}" for rank in sorted(given))
    shared = _told(merged, given[0]) if given else {}
    for rank in given:
        shared = {axis: at for axis, at in shared.items() if _told(merged, rank).get(axis) == at}
    return f"{runs(given)}{place(shared)}"


def _told(merged: Merged, rank: int) -> dict[str, int]:
    sizes = dict(merged.mesh.axes) if merged.mesh is not None else {}
    return {axis: at for axis, at in merged.coords.get(rank, {}).items() if sizes.get(axis, 2) > 1}


def place(coords: Mapping[str, int]) -> str:
    """`` (dp=0, pp=1)`` in the usual order of the axes, or nothing."""
    axes = [*(axis for axis in AXES if axis in coords), *(axis for axis in coords if axis not in AXES)]
    return f" ({', '.join(f'{axis}={coords[axis]}' for axis in axes)})" if axes else ""


def runs(given: Iterable[int]) -> str:
    """``0-3, 8-14 by 2``: a long list is cut and counted."""
    from outrider_analysis.flight_recorder import ranges

    return shown(ranges.encode(sorted(given)))


def shown(text: str, runs_max: int = RUNS_MAX) -> str:
    """The same of what ``ranges.encode`` wrote, which may end in ``...``."""
    from outrider_analysis.flight_recorder import ranges

    parts = text.split(",")
    words = ", ".join(part.replace(":", " by ") for part in parts[:runs_max])
    rest = parts[runs_max:]
    if not rest:
        return words
    return f"{words}, ..." if "..." in rest else f"{words} and {len(ranges.decode(','.join(rest))):,} more"


def group(told: Mapping[str, Any]) -> str:
    """``mesh_tp``, else ``group 4``, else the axes of several: a name may be a hash of 40 digits, or a novel."""
    description, name = told.get("description"), told.get("group")
    if description not in (None, "", "undefined"):
        return _cut(str(description), NAME_MAX)
    if name is None:
        return _cut(", ".join(map(str, told.get("kinds") or ["several groups"])), NAME_MAX)
    axes = "".join(f"{kind} " for kind in told.get("kinds") or () if kind != name)
    hashed = HASH.fullmatch(name) and not name.isdigit()
    return f"{_cut(axes, NAME_MAX)}group {name[:HASH_MAX] if hashed else _cut(name, NAME_MAX)}"


def _cut(text: str, width: int) -> str:
    text = printable(text)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def count(number: int, what: str) -> str:
    """``1,024 ranks``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def tail(text: str, width: int) -> str:
    """The end of a text that is too long."""
    return text if len(text) <= width else f"...{text[3 - width :]}"
