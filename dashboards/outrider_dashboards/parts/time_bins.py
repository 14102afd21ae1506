"""Where every second went: one bar, and the table that sums to the elapsed time."""

from __future__ import annotations

from typing import Any, Final

from outrider_dashboards import words

Json = dict[str, Any]
MEANS: Final = {
    "productive": "new steps were trained",
    "checkpoint": "ranks stood still to save",
    "start": "until the first step was finished",
    "detection": "from a fault until it was noticed",
    "diagnosis": "until it was known what to do",
    "restart": "until the next step was finished",
    "redo": "lost steps trained again",
    "planned": "a person asked for it",
    "held": "waiting for a person",
    "idle": "waiting for nodes",
}


def where_time_went(report: Json | None) -> str:
    """Bar and table; a word where the report has not come."""
    bins = (report or {}).get("bins") or {}
    elapsed = (report or {}).get("elapsed_s")
    if not bins or not elapsed:
        return _card('<p class="soft">Not counted yet.</p>')
    order = [*(name for name in MEANS if name in bins), *(name for name in bins if name not in MEANS)]
    shown = [name for name in order if bins[name] > 0]
    label = ", ".join(f"{name} {words.share(bins[name] / elapsed)}" for name in shown)
    rows = "".join(
        f'<tr><td class="name">{_key(name)}{words.safe(name)}</td><td class="soft hide">{MEANS.get(name, "")}</td>'
        f'<td class="r">{words.duration(bins[name])}</td><td class="r">{words.share(bins[name] / elapsed)}</td></tr>'
        for name in shown
    )
    total = sum(bins.values())
    return _card(
        f'{bar([(name, bins[name]) for name in shown], label)}<table><thead><tr><th>Bin</th><th class="hide"></th>'
        f'<th class="r">Took</th><th class="r">Share</th></tr></thead><tbody>{rows}'
        f'<tr class="sum"><td>Sum</td><td class="soft hide">{_check(total, elapsed)}</td>'
        f'<td class="r">{words.duration(total)}</td><td class="r">{words.share(total / elapsed)}</td></tr>'
        "</tbody></table>"
    )


def bar(parts: list[tuple[str, float]], label: str, thin: bool = False) -> str:
    """Seconds by bin as one bar; ``label`` tells the same to whoever cannot see it."""
    pieces = "".join(_piece(name, seconds) for name, seconds in parts if seconds > 0)
    return f'<div class="bar{" thin" if thin else ""}" role="img" aria-label="{words.safe(label)}">{pieces}</div>'


def _piece(name: str, seconds: float) -> str:
    hatched = ' class="held-h"' if name == "held" else ""
    told = f"{words.safe(name)}: {words.duration(seconds)}"
    return f'<i{hatched} style="flex:{seconds:.6f} 1 0;background-color:{_colour(name)}" title="{told}"></i>'


def legend(names: list[str], beside: list[str] | None = None) -> str:
    """The colours of some bins, each with its word and what is said ``beside`` it."""
    texts = beside or [""] * len(names)
    return "".join(
        f"<span>{_key(name)}{words.safe(name)} {text}</span>" for name, text in zip(names, texts, strict=True)
    )


def _check(total: float, elapsed: float) -> str:
    if abs(total - elapsed) < 0.001:
        return f"equals the {words.duration(elapsed)} elapsed"
    return f"differs from the {words.duration(elapsed)} elapsed by {words.duration(abs(total - elapsed))}"


def _key(name: str) -> str:
    return f'<i class="key" style="background:{_colour(name)}"></i>'


def _colour(name: str) -> str:
    return f"var(--{name})" if name in MEANS else "var(--idle)"


def _card(inside: str) -> str:
    return f'<div class="o"><div class="card"><h2>Where the time went</h2>{inside}</div></div>'
