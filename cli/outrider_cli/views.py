"""The documents of status, incidents, explain and report as text for a terminal.

In: the mappings that the same commands print with ``--json``. Out: text, without colours, lines within WIDTH_MAX where
the words allow; tables in columns, durations in human form. A value that nobody knows is a dash, never a zero.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from outrider_cli import record_view

Json = Mapping[str, Any]

WIDTH_MAX = 120
CELL_MAX = 60  # a cell longer than this is cut; the whole text is in explain and in --json
RANKS_SHOWN_MAX = 64  # above this, ranks are counted by node, not listed
DASH = "-"


def status(found: Json) -> str:
    """``outrider status``: the sentence first, then nodes and ranks."""
    return _joined(
        _wrapped(found["sentence"]),
        _status_head(found),
        _nodes(found["nodes"]),
        _ranks(found["ranks"]),
    )


def incidents(found: Json) -> str:
    """``outrider incidents``: one line an incident, the newest last."""
    every: Sequence[Json] = found["incidents"]
    if not every:
        return "no incident so far\n"
    rows = [
        (
            one["id"],
            clock(one["opened_at"]),
            "planned" if one["planned"] else one["cause"] or "in diagnosis",
            _suspects(one),
            one["action"] or DASH,
            duration(one.get("length_s", sum(one["phases"].values()))),
            _number(one["lost_steps"]),
            "open" if one["closed_at"] is None else one.get("outcome") or "closed",
        )
        for one in every
    ]
    return table(("INCIDENT", "OPENED", "CAUSE", "SUSPECT", "ACTION", "TOOK", "LOST STEPS", "STATE"), rows)


def explain(one: Json) -> str:
    """``outrider explain INCIDENT``: what happened, why we think so, what was done, what it cost."""
    return _joined(
        _wrapped(f"{one['id']}: {one['sentence']}"),
        _incident_head(one),
        _evidence(one["evidence"]),
        _flight_recorder(one.get("flight_recorder")),
        _alternatives(one),
        _phases(one),
        _timeline(one.get("timeline", ())),
    )


def report(found: Json) -> str:
    """``outrider report``: where every second went, and what interrupted the job."""
    return _joined(
        _report_head(found),
        _bins(found),
        _interruptions(found),
        _causes(found),
        _mttf(found["mttf"]),
        _mfu(found["mfu"]),
        _wrapped(f"ETTR: {found['ettr_definition']}"),
    )


# --- parts of the views


def _status_head(found: Json) -> str:
    state = found["state"] + (f" (ended by a {found['ended_by']})" if found.get("ended_by") else "")
    pairs = [
        ("job", found["job"]),
        ("state", f"{state} since {clock(found['since_at'])}"),
        ("attempt", _number(found["attempt"])),
        ("step", _number(found["step"])),
        ("pace", _pace(found)),
        ("MFU", share(found["mfu"])),
        ("mesh", found.get("mesh") or DASH),
        ("incident", found["open_incident"] or "none open"),
    ]
    return _pairs(pairs)


def _pace(found: Json) -> str:
    if found["step_s"] is None:
        return DASH
    tokens = f", {found['tokens_per_s']:,.0f} tokens/s" if found["tokens_per_s"] is not None else ""
    return f"{found['step_s']:.3g} s a step{tokens}"


def _nodes(nodes: Sequence[Json]) -> str:
    rows = [
        (
            node["node"] + (" (simulated)" if node.get("simulated") else ""),
            node["state"],
            f"{duration(node['agent_seen_s'])} ago" if node["agent_seen_s"] is not None else "never",
            ", ".join(node["findings"]) or DASH,
            node.get("why") or "",
        )
        for node in nodes
    ]
    return table(("NODE", "STATE", "HEARD", "FINDINGS", "WHY"), rows) if rows else "no node is known\n"


def _ranks(ranks: Sequence[Json]) -> str:
    if not ranks:
        return ""
    if len(ranks) > RANKS_SHOWN_MAX:
        return _ranks_by_node(ranks)
    axes = list(ranks[0]["coords"])
    rows = [
        (
            str(rank["rank"]),
            rank["node"] or DASH,
            str(rank["local_rank"]),
            *(str(rank["coords"].get(axis, DASH)) for axis in axes),
            _number(rank["pid"]),
            _number(rank["step"]),
            rank["phase"] or (f"ended: {rank['ended']}" if rank.get("ended") else DASH),
        )
        for rank in ranks
    ]
    return table(("RANK", "NODE", "LOCAL", *(axis.upper() for axis in axes), "PID", "STEP", "PHASE"), rows)


def _ranks_by_node(ranks: Sequence[Json]) -> str:
    nodes: dict[str, list[Json]] = {}
    for rank in ranks:
        nodes.setdefault(rank["node"] or DASH, []).append(rank)
    rows = [(node, str(len(mine)), _span(mine), _phases_of(mine)) for node, mine in nodes.items()]
    return table(("NODE", "RANKS", "STEPS", "PHASES"), rows)


def _span(ranks: Sequence[Json]) -> str:
    steps = [rank["step"] for rank in ranks if rank["step"] is not None]
    if not steps:
        return DASH
    return str(steps[0]) if min(steps) == max(steps) else f"{min(steps)} to {max(steps)}"


def _phases_of(ranks: Sequence[Json]) -> str:
    words = [rank["phase"] or ("ended" if rank.get("ended") else "unknown") for rank in ranks]
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))


def _suspects(one: Json) -> str:
    suspects = one["suspects"]
    ranks = _listed([str(rank) for rank in suspects["ranks"]])
    parts = [
        f"rank {ranks}" if ranks else "",
        _listed(suspects["gpus"]),
        f"on {_listed(suspects['nodes'])}" if ranks and suspects["nodes"] else _listed(suspects["nodes"]),
        _listed(suspects["links"]),
    ]
    return " ".join(part for part in parts if part) or DASH


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" +{len(names) - most}" if len(names) > most else ""
    return ",".join(names[:most]) + more


def _incident_head(one: Json) -> str:
    checkpoint = one["from_checkpoint"]
    resumed = DASH
    if checkpoint is not None:
        resumed = (
            f"step {checkpoint['step']}, {checkpoint['path']} ({checkpoint['trust']})" if checkpoint["path"] else ""
        )
    group = f" ({one['cause_group']})" if one["cause_group"] else ""
    sure = f"{one['cause']}{group}, {one['confidence']:.0%} sure" if one["cause"] else "not named"
    closed = clock(one["closed_at"]) if one["closed_at"] else "still open"
    pairs = [
        ("job", one["job"]),
        ("opened", f"{clock(one['opened_at'])}, closed {closed}"),
        ("cause", "asked for by a person" if one["planned"] else sure),
        ("suspect", _suspects(one)),
        ("action", f"{one['action'] or DASH}, {'by itself' if one['automatic'] else 'with a person'}"),
        ("because", one.get("reason") or DASH),
        ("attempts", f"{_number(one['attempt_before'])} -> {_number(one['attempt_after'])}"),
        ("resumed from", resumed or "the beginning: no checkpoint"),
        ("lost steps", _number(one["lost_steps"])),
        ("runbook", f"runbooks/{one['runbook']}.md" if one["runbook"] else DASH),
        ("policy", one["policy_hash"] or DASH),
    ]
    return _pairs(pairs)


def _evidence(rows: Sequence[Json]) -> str:
    if not rows:
        return "evidence: none yet\n"
    source, kind = (max(least, *(len(row[key]) for row in rows)) for key, least in (("source", 8), ("kind", 12)))
    lines = [
        _hung(
            f"{clock(row['at'])}  {row['source']:<{source}} {row['kind']:<{kind}} ", f"{row['text']} (for {row['for']})"
        )
        for row in rows
    ]
    return "evidence\n" + "".join(lines)


def _flight_recorder(found: Json | None) -> str:
    """What the ranks' flight records said, where they were read."""
    if not found:
        return ""
    return "flight recorder\n" + "".join(_hung(f"  {head:<11} ", text) for head, text in record_view.rows(found))


def _alternatives(one: Json) -> str:
    if not one["alternatives"]:
        return ""
    rows = [(other["action"], _price(other["price_gpu_h"]), other["why_not"]) for other in one["alternatives"]]
    chosen = (one["action"] or DASH, _price(one.get("price_gpu_h")), "chosen")
    return table(("ACTION", "GPU-HOURS", "WHY NOT"), [chosen, *rows])


def _phases(one: Json) -> str:
    rows = [(name.removesuffix("_s"), duration(value), exact(value)) for name, value in one["phases"].items() if value]
    return table(("PHASE", "TOOK", "SECONDS"), rows, right=(2,)) if rows else ""


def _timeline(lines: Sequence[Json]) -> str:
    if not lines:
        return ""
    return "timeline (seconds since it was opened)\n" + "".join(
        _hung(f"{row['s']:>+10.3f}  ", row["text"]) for row in lines
    )


def _report_head(found: Json) -> str:
    ettr = share(found["ettr"])
    by = f" (ended by a {found['ended_by']})" if found.get("ended_by") else ""
    return _pairs(
        [
            ("job", f"{found['job']}, {found.get('state', '')}{by}".rstrip(", ")),
            ("elapsed", f"{duration(found['elapsed_s'])} ({exact(found['elapsed_s'])} s)"),
            ("ETTR", ettr),
        ]
    )


def _bins(found: Json) -> str:
    elapsed = found["elapsed_s"]
    rows = [
        (name, duration(value), exact(value), share(value / elapsed if elapsed else None))
        for name, value in found["bins"].items()
    ]
    rows.append(("elapsed", duration(elapsed), exact(elapsed), share(1.0 if elapsed else None)))
    return table(("BIN", "TOOK", "SECONDS", "SHARE"), rows, right=(2, 3))


def _interruptions(found: Json) -> str:
    counts = found["interruptions"]
    return (
        f"interruptions: {counts['total']} ({counts['planned']} planned, {counts['unexpected']} unexpected; "
        f"of these {counts['automatic']} overcome without a person, {counts['manual']} with one)"
        + (f"; {counts['watched']} more were only watched, nothing was interrupted" if counts.get("watched") else "")
        + "\n"
    )


def _causes(found: Json) -> str:
    if not found["by_cause"]:
        return ""
    rows = [
        (name, str(one["count"]), duration(one["lost_s"]), exact(one["lost_s"]))
        for name, one in found["by_cause"].items()
    ]
    return table(("CAUSE", "COUNT", "LOST", "SECONDS"), rows, right=(1, 3))


def _mttf(found: Json) -> str:
    bounds = [duration(None if value is None else value * 3600) for value in (found["low"], found["high"])]
    mean = "unknown (no unexpected interruption yet)" if found["hours"] is None else duration(found["hours"] * 3600)
    high = bounds[1] if found["high"] is not None else "no upper bound"
    return (
        f"mean time to an unexpected interruption: {mean}; {found['confidence']:.0%} interval {bounds[0]} to {high}\n"
    )


def _mfu(found: Json) -> str:
    if found["while_training"] is None:
        return _wrapped(f"MFU: none; {found.get('reason') or 'nothing to count it from'}")
    counted = f"{found['flops_per_token']:.4g} FLOPs a token, {found['convention']}"
    return _wrapped(
        f"MFU: {share(found['while_training'])} while training, {share(found['with_downtime'])} with downtime "
        f"(peak {found['peak_tflops']:g} TFLOP/s a device, {counted})"
    )


# --- words and columns


def duration(seconds: float | None) -> str:
    """``1 d 3 h``, ``4 min 12 s``, ``6.2 s``, ``85 ms``; two parts at most."""
    if seconds is None:
        return DASH
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, small_size, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            big, rest = divmod(whole, size)
            rest //= small_size
            return f"{big} {unit} {rest} {small}" if rest else f"{big} {unit}"
    return f"{whole} s"


def exact(seconds: float) -> str:
    """Seconds to the millisecond."""
    return f"{seconds:,.3f}"


def share(value: float | None) -> str:
    """A share in per cent."""
    return DASH if value is None else f"{value:.2%}"


def clock(at: str | None) -> str:
    """``2026-11-20 18:57:36Z`` from ISO text; text that is none is left as it is."""
    if at is None:
        return DASH
    try:
        return datetime.fromisoformat(at).strftime("%Y-%m-%d %H:%M:%SZ")
    except ValueError:
        return at


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns as wide as their widest cell; empty columns are left out; the last column is cut to the width."""
    kept = [i for i in range(len(head)) if any(row[i] not in ("", DASH) for row in rows)] or list(range(len(head)))
    cells = [[_cut(str(line[i]), CELL_MAX) for i in kept] for line in (head, *rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(kept))]
    numbers = {kept.index(i) for i in right if i in kept}
    lines = []
    for line in cells:
        parts = [c.rjust(w) if i in numbers else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append(_cut("  ".join(parts).rstrip(), WIDTH_MAX))
    return "\n".join(lines) + "\n"


def _cut(text: str, most: int) -> str:
    flat = _plain(text)
    return flat if len(flat) <= most else flat[: most - 3] + "..."


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in pairs) + 2
    return "".join(_hung(name.ljust(width), text) for name, text in pairs)


def _hung(head: str, text: str) -> str:
    """``head`` and a text that is wrapped beside it."""
    room = max(40, WIDTH_MAX - len(head))
    lines = textwrap.wrap(_plain(text), room, break_on_hyphens=False) or [""]
    return head + ("\n" + " " * len(head)).join(lines) + "\n"


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(_plain(text), WIDTH_MAX, break_on_hyphens=False)) + "\n"


def _plain(text: str) -> str:
    """One line without control characters: the words of a job's log must not drive the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _number(value: int | None) -> str:
    return DASH if value is None else str(value)


def _price(value: float | None) -> str:
    return DASH if value is None else f"{value:.4g}"


def _joined(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
