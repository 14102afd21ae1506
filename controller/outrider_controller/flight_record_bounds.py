"""A verdict over flight records cut to what a row of the ledger holds, whatever the strangers' files in it said.

Lists are cut and their full length is told beside them, texts are cut, numbers that a JSON reader would choke on are
left out. What is cut is detail: the verdict, who is named and the sentence always fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

WAITS_MAX: Final = 64
EVIDENCE_MAX: Final = 64  # over all findings
FINDINGS_MAX: Final = 16
RANKS_MAX: Final = (1024, 128, 16)  # in any one list of ranks: as many as fit
UNREADABLE_MAX: Final = 16
FILES_MAX: Final = 16
FRAMES_MAX: Final = 24
TEXT_CHARS_MAX: Final = 1000
BYTES_MAX: Final = 256 * 1024
DEPTH_MAX: Final = 12
ITEMS_MAX: Final = 1024  # of any list or object beside
_WHOLE: Final = 2**63

Json = dict[str, Any]


def bounded(document: Json) -> Json:
    """The verdict with its drawing, at most BYTES_MAX as JSON."""
    plain: Json = {}
    for most in RANKS_MAX:
        plain = _plain(_cut(document, most), 0)
        if _fits(plain):
            return plain
    for part in ("graph", "tables", "files", "unreadable"):
        plain[part] = {} if isinstance(plain.get(part), Mapping) else []
        plain["notes"] = [*plain.get("notes", ()), f"{part}: too large to be kept"]
        if _fits(plain):
            break
    return plain


def _fits(plain: Json) -> bool:
    return len(msgspec.json.encode(plain)) <= BYTES_MAX


def _cut(document: Json, most: int) -> Json:
    """With no list of ranks longer than ``most``."""
    victims = document.get("victims") or {"count": 0, "ranks": [], "waits": []}
    found = dict(document)
    found["victims"] = {
        "count": victims["count"],
        "ranks": victims["ranks"][:most],
        "waits": [
            {**wait, "for_ranks": wait["for_ranks"][: min(most, WAITS_MAX)]} for wait in victims["waits"][:WAITS_MAX]
        ],
    }
    found["where"] = _where(document.get("where"), most)
    found["culprits"] = document["culprits"][:most]
    if without := document.get("without_looks"):
        found["without_looks"] = {**without, "culprits": without["culprits"][:most]}
    found["absent"], found["absent_count"] = document["absent"][:most], len(document["absent"])
    found["unreadable"] = document["unreadable"][:UNREADABLE_MAX]
    found["findings"] = _findings(document["findings"], most)
    found["findings_count"] = len(document["findings"])
    found["tables"] = (document.get("tables") or [])[:FINDINGS_MAX]
    return found


def _where(where: Json | None, most: int) -> Json | None:
    if where is None:
        return None
    return {**where, "ranks": where["ranks"][:most], "size": len(where["ranks"])}


def _findings(findings: Sequence[Json], most: int) -> list[Json]:
    left, kept = EVIDENCE_MAX, []
    for finding in findings[:FINDINGS_MAX]:
        rows = finding["evidence"][:left]
        left -= len(rows)
        cut = {key: finding[key][:most] for key in ("culprits", "candidates")}
        coords = dict(list((finding.get("coords") or {}).items())[:most])
        more = {"where": _where(finding["where"], most), "stack": finding["stack"][:FRAMES_MAX], "evidence": rows}
        kept.append({**finding, **cut, **more, "coords": coords})
    return kept


def _plain(value: Any, depth: int) -> Any:
    """The value as JSON that everybody can read; what is none becomes null."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -_WHOLE < value < _WHOLE else None
    if isinstance(value, str):
        return value[:TEXT_CHARS_MAX].encode("utf-8", "replace").decode()
    if depth >= DEPTH_MAX:
        return None
    if isinstance(value, Mapping):
        items = list(value.items())[:ITEMS_MAX]
        return {_plain(str(key), depth): _plain(item, depth + 1) for key, item in items}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value[:ITEMS_MAX]]
    return None
