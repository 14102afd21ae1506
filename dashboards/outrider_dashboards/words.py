"""Numbers and times as people read them, and text made safe for the page.

In: plain values of the controller's documents, any of which may be missing. Out: text. What nobody knows is a dash,
never a zero.
"""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

DASH: Final = "\N{EN DASH}"
SHARE_LEAST: Final = 0.001
_NEIGHBOUR: Final = re.compile(r"\[([^\]]+)\]\([\w-]+\.md\)")


def zone(name: str | None, offset_min: int | None) -> tuple[tzinfo, str]:
    """The viewer's time zone and its name. ``offset_min``: minutes that UTC is ahead, as browsers give it."""
    try:
        if name:
            return ZoneInfo(name), name
    except (KeyError, ValueError, OSError):
        pass  # this machine has no such zone; the offset is true at least now
    if offset_min:
        hours = -offset_min / 60
        return timezone(timedelta(minutes=-offset_min)), f"UTC{hours:+g} h"
    return UTC, "UTC"


def moment(at: Any) -> datetime | None:
    """ISO text as a time, None where it is none."""
    try:
        found = datetime.fromisoformat(at)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def clock(at: Any, where: tzinfo, day_of: datetime | None = None) -> str:
    """``18:57:36``, with the date where it is not the day of ``day_of``."""
    found = at if isinstance(at, datetime) else moment(at)
    if found is None:
        return DASH
    local = found.astimezone(where)
    same = day_of is not None and day_of.astimezone(where).date() == local.date()
    return local.strftime("%H:%M:%S" if same else "%d %b %H:%M:%S")


def utc(at: Any) -> str:
    """``2026-11-20 18:57:36 UTC``."""
    found = at if isinstance(at, datetime) else moment(at)
    return found.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if found else "time unknown"


def duration(seconds: Any) -> str:
    """``1 d 3 h``, ``4 min 12 s``, ``6.2 s``, ``85 ms``."""
    if not isinstance(seconds, int | float):
        return DASH
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds > 0 else "0 s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, small_size, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            big, rest = divmod(whole, size)
            return f"{big} {unit} {rest // small_size} {small}" if rest // small_size else f"{big} {unit}"
    return f"{whole} s"


def age(seconds: float) -> str:
    """The same in whole seconds: a page that is looked at every two of them knows no better."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 60 else duration(float(whole))


def number(value: Any, digits: int = 4) -> str:
    """``16,384``, ``425.7``, ``2.31``; a value that is no number is told as it is."""
    if isinstance(value, str):
        return value
    if not isinstance(value, int | float):
        return DASH
    if isinstance(value, int) or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def share(value: Any) -> str:
    """``97.3 %``; little is not none."""
    if isinstance(value, int | float) and 0 < value < SHARE_LEAST:
        return f"< {SHARE_LEAST * 100:g} %"
    return f"{value * 100:.1f} %" if isinstance(value, int | float) else DASH


def safe(text: Any) -> str:
    """Text for HTML: the words of a job's log must not become markup."""
    return html.escape("" if text is None else str(text), quote=True)


def plain(text: Any) -> str:
    """Text for Streamlit's Markdown: nothing in it is taken for markup."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+-.!|<>$:~" else c for c in str(text))


def listed(names: list[Any], most: int = 6) -> str:
    """``1, 2, 3 and 5 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


def runbook(text: str) -> str:
    """A runbook's Markdown for the page: headings small and without the title, which stands above it; links to its
    neighbours as names; dollars as dollars.
    """
    lines = []
    for line in re.sub(r"\A\s*# .*\n+", "", text).splitlines():
        if not line.startswith("    "):  # a command stays as it is
            line = _NEIGHBOUR.sub(r"**\1**", line).replace("$", r"\$")
            line = f"#### {line.lstrip('# ')}" if line.startswith("#") else line
        lines.append(line)
    return "\n".join(lines)
