"""Incidents' flight records -> what the page says of them. Plain functions of plain values; every key may be missing.

In: a ``Picture``, whose incidents carry under ``flight_recorder`` the document of `outrider fr analyze --json` with its
drawing, or null. Out: the hangs with their verdicts, newest first; words for ranks, groups, places and certainty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from outrider_dashboards import looking, reading, words

Json = dict[str, Any]
SURE: Final = 0.9
FAIRLY_SURE: Final = 0.7
RANKS_MAX: Final = 2**20  # that are told apart within one text
AXES: Final = ("dp", "pp", "cp", "tp")
HASH: Final = re.compile("[0-9a-f]{20,}")
HASH_SHOWN: Final = 10
# Word, shape and tone of each verdict; the words are those of `outrider fr`.
VERDICTS: Final = {
    "none": ("Nothing is stuck", "●", "good"),
    "rank-missing": ("A rank did not come", "▲", "bad"),
    "collective-mismatch": ("Different calls", "▲", "bad"),
    "size-mismatch": ("Different sizes", "▲", "bad"),
    "dtype-mismatch": ("Different types", "▲", "bad"),
    "order-mismatch": ("Different order", "▲", "bad"),
    "p2p-missing": ("Half of a pair is missing", "▲", "bad"),
    "p2p-deadlock": ("Ranks wait in a circle", "▲", "bad"),
    "device-stuck": ("A device is stuck", "▲", "bad"),
    "all-joined-stuck": ("All came, none finishes", "◆", "warn"),
    "straggler": ("One rank is slow", "◆", "warn"),
    "unknown": ("Not decided", "?", "warn"),
}
OTHER: Final = ("Verdict", "◆", "warn")
SEVERAL: Final = ("Several faults", "▲", "bad")
HANGS: Final = ("rank-hung", "rank-stopped", "job-stalled")


def record(one: Json) -> Json | None:
    """What the flight records of an incident came to; None where there were none."""
    found = one.get("flight_recorder")
    return found if isinstance(found, dict) and isinstance(found.get("verdict"), str) else None


def hangs(picture: looking.Picture) -> list[Json]:
    """Incidents in which ranks' flight records were read, or could have been: the newest first."""
    return [one for one in reading.incidents(picture) if record(one) or one.get("cause") in HANGS]


def state(found: Json) -> tuple[str, str, str]:
    """Word, shape and tone of a verdict."""
    if len(rows(found.get("findings"))) > 1 and found.get("culprits"):
        return SEVERAL
    return VERDICTS.get(str(found.get("verdict")), OTHER)


def certainty(confidence: Any) -> str:
    """``sure (0.95)``."""
    if not isinstance(confidence, int | float):
        return words.DASH
    said = "sure" if confidence >= SURE else "fairly sure" if confidence >= FAIRLY_SURE else "not sure"
    return f"{said} ({confidence:.2f})"


def rows(found: Any) -> list[Json]:
    """The objects in a list; nothing else counts."""
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def texts(found: Any) -> list[str]:
    """The texts in a list."""
    return [str(one) for one in found if isinstance(one, str | int)] if isinstance(found, list) else []


def findings(found: Json) -> list[tuple[Json, Json | None]]:
    """Each independent root with the table of its operation."""
    tables = found.get("tables") if isinstance(found.get("tables"), list) else []
    every = rows(found.get("findings"))
    padded = [*(tables or []), *([None] * len(every))]
    return [(one, table if isinstance(table, dict) else None) for one, table in zip(every, padded, strict=False)]


def shown(text: Any, most: int = 6) -> str:
    """``0-6:2,9`` as ``0-6 by 2, 9``; a long one is cut."""
    parts = str(text or "").split(",")
    more = ", …" if len(parts) > most else ""
    return ", ".join(part.replace(":", " by ") for part in parts[:most]) + more


def runs(ranks: Iterable[Any], most: int = 8) -> str:
    """``0-3, 8``."""
    joined: list[list[int]] = []
    for rank in sorted({rank for rank in ranks if isinstance(rank, int)}):
        if joined and rank == joined[-1][1] + 1:
            joined[-1][1] = rank
        else:
            joined.append([rank, rank])
    said = [str(a) if a == b else f"{a}-{b}" for a, b in joined]
    return ", ".join(said[:most]) + (f" and {len(said) - most} more" if len(said) > most else "")


def group(told: Mapping[str, Any]) -> str:
    """``mesh_tp``, else ``group 4``."""
    description, name = told.get("description"), told.get("group")
    if description not in (None, "", "undefined"):
        return str(description)
    if name is None:
        return f"{', '.join(texts(told.get('kinds'))) or 'several'} groups"
    axes = "".join(f"{kind} " for kind in texts(told.get("kinds")) if kind != str(name))
    return f"{axes}group {str(name)[:HASH_SHOWN] if HASH.fullmatch(str(name)) else name}"


def operation(told: Mapping[str, Any]) -> str:
    """``all_reduce 41 in mesh_dp``, or ``send 0 → 4 in mesh_pp``."""
    op, name = operation_and_group(told)
    return f"{op} in {name}" if op else f"in {name}"


def operation_and_group(told: Mapping[str, Any]) -> tuple[str, str]:
    """``all_reduce 41`` and ``mesh_dp``; the first is empty where several operations are one."""
    op, pair = told.get("op"), told.get("from_to")
    if op is None:
        return "", group(told)
    if isinstance(pair, list) and len(pair) == 2:
        return f"{op} {pair[0]} → {pair[1]}", group(told)
    number = f" {told['seq']}" if told.get("seq") is not None and told.get("operations", 1) == 1 else ""
    return f"{op}{number}", group(told)


def coords(told: Any) -> str:
    """``dp=0, pp=1`` in the usual order of the axes."""
    if not isinstance(told, dict):
        return ""
    order = [*(axis for axis in AXES if axis in told), *(axis for axis in told if axis not in AXES)]
    return ", ".join(f"{axis}={told[axis]}" for axis in order)


def place(one: Json, rank: int, picture: looking.Picture) -> str:
    """Where the rank was: node and GPU of the incident's attempt, as far as somebody still knows."""
    suspects = one.get("suspects") or {}
    status = picture.status or {}
    same = one.get("attempt_before") in (None, status.get("attempt"))
    at = next((row for row in rows(status.get("ranks")) if row.get("rank") == rank), None) if same else None
    if at is not None and at.get("node"):
        return _on(str(at["node"]), at.get("local_rank"), picture)
    if suspects.get("ranks") == [rank] and len(suspects.get("nodes") or []) == 1:
        return _on(str(suspects["nodes"][0]), None, picture)
    return ""


def _on(node: str, local_rank: Any, picture: looking.Picture) -> str:
    pretended = " (simulated host)" if node in reading.simulated(picture) else ""
    return f"on {node}{pretended}" + (f", local rank {local_rank}" if local_rank is not None else "")
