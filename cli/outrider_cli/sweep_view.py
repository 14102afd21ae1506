"""The document of ``outrider agent --once`` as text for a terminal: what is wrong first, then what there is."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from outrider import vocabulary
from outrider_cli import views

Json = Mapping[str, Any]

GRAVITY: Final = ("fatal", "error", "warning", "info")
# Column -> reading, unit behind the value, and what one unit of the reading is divided by.
GPU_COLUMNS: Final = (
    ("TEMP", "temperature", " C", 1.0),
    ("MEMORY TEMP", "temperature_memory", " C", 1.0),
    ("POWER", "power", " W", 1.0),
    ("CLOCK", "sm_clock", " MHz", 1.0),
    ("LOAD", "utilization", " %", 1.0),
    ("MEMORY", "memory_used", " GiB", 2.0**30),
    ("ECC LOST", "ecc_volatile_uncorrected", "", 1.0),
)


def text(found: Json) -> str:
    """The whole page, ending in a line break."""
    parts = [_head(found), _observations(found["observations"]), _gpus(found["gpus"]), _signals(found["signals"])]
    return "\n".join(part for part in parts if part)


def _head(found: Json) -> str:
    seen = found["observations"]
    counts = [(word, sum(one["severity"] == word for one in seen)) for word in GRAVITY]
    said = ", ".join(f"{count} {word}" for word, count in counts if count)
    label = " (simulated)" if found["simulated"] else ""
    unread = [one["name"] for one in found["signals"] if one["state"] in ("failed", "overdue")]
    verdict = said or ("nothing is wrong by what could be read" if unread else "nothing is wrong")
    return f"{found['node']}{label}: {verdict}\n"


def _observations(seen: Sequence[Json]) -> str:
    return "".join(map(_observation, sorted(seen, key=lambda one: GRAVITY.index(one["severity"]))))


def _observation(one: Json) -> str:
    """``fatal    gpu3 fell off the bus [xid gpu3]; to do: reset the GPU``, wrapped below itself."""
    about = " ".join(word for word in (one["kind"], one["device"]) if word)
    to_do = "" if one["recovery"] == "none" else f"; to do: {vocabulary.recovery_words(one['recovery'])}"
    line = f"{one['severity']:8} {one['text']} [{about}]{to_do}"
    return textwrap.fill(line, views.WIDTH_MAX, subsequent_indent=" " * 9, break_long_words=False) + "\n"


def _gpus(every: Sequence[Json]) -> str:
    if not every:
        return ""
    rows = [
        (f"gpu{one['index']}", one["name"] or views.DASH, *(_value(one["readings"], *c[1:]) for c in GPU_COLUMNS))
        for one in every
    ]
    return views.table(("GPU", "NAME", *(column[0] for column in GPU_COLUMNS)), rows)


def _value(known: Json, name: str, unit: str, size: float) -> str:
    one = known.get(name)
    if one is None:
        return views.DASH
    if one["state"] != "value":
        return str(one["state"])
    return f"{one['value'] / size:.0f}{unit}" if isinstance(one["value"], int | float) else str(one["value"])


def _signals(every: Sequence[Json]) -> str:
    """Those that answered as a table; those that are not here in a line, because that is no fault."""
    here = [one for one in every if one["state"] != "absent"]
    rows = [(one["name"], one["state"], f"{1000 * one['duration_s']:.0f} ms", one.get("error") or "") for one in here]
    shown = views.table(("SIGNAL", "STATE", "TOOK", "WHY"), rows) if rows else ""
    absent = ", ".join(one["name"] for one in every if one["state"] == "absent")
    return shown + (f"\nnot on this machine: {absent}\n" if absent else "")
