"""What a judge remembers over a restart of the agent, as JSON, and how the next one takes it up.

Tracks that hold a finding, or the base of a counter or an inventory, are kept with the name of their rule; a rule that
is gone in a newer version loses its memory, and what it had told stays as it was told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from outrider.records import Json
from outrider_agent.judgement import track

if TYPE_CHECKING:
    from outrider_agent.judgement.engine import Judge

VERSION: Final = 1
WINDOW_MAX: Final = 128


def memory(judge: Judge) -> Json:
    """Everything that must outlive the agent."""
    tracks, bases = [], []
    for (device, name), cell in judge.cells.items():
        for each in cell:
            if each.active:
                tracks.append(_row(judge, each, device, name))
            elif each.base is not None:
                bases.append([device, name, each.rule.name, each.base, each.value_at, list(each.window)])
    return {
        "version": VERSION,
        "boot_id": judge.known.boot_id,
        "rebooted_at": judge.known.rebooted_at,
        "gpus": judge.known.gpus,
        "tracks": tracks,
        "bases": bases,
        "seen": {name: sorted(devices) for name, devices in judge.groups.seen.items()},
        "counts": [[device, name, value] for (device, name), value in judge.counts.items()],
        "events": judge.events.memory(),
        "blind": judge.blind.memory(),
        "echoes": judge.echoes.memory(),
    }


def restore(judge: Judge, memory: object) -> None:
    """Take up each part by itself: one that is damaged costs no other."""
    if not isinstance(memory, dict) or memory.get("version") != VERSION:
        return
    for part, take in _PARTS.items():
        try:
            take(judge, memory[part])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            continue


def _row(judge: Judge, each: track.Track, device: str, name: str) -> list[Any]:
    finding = judge.book.of(each)
    told = [finding.since, finding.severity, finding.step, finding.quiet] if finding else [each.bad_since, "", 0, False]
    return [
        *(device, name, each.rule.name, *told, each.value, each.bound, each.unit, each.base, each.value_at),
        *(each.bad_since, each.patience_s, each.unconfirmed),
    ]


def _tracks(judge: Judge, rows: Any) -> None:
    for row in rows:
        try:
            (
                device,
                name,
                rule,
                since,
                severity,
                step,
                quiet,
                value,
                bound,
                unit,
                base,
                value_at,
                bad_since,
                patience,
                un,
            ) = row
        except ValueError:
            continue
        each = _find(judge, device, name, rule)
        if each is None:
            continue
        each.active, each.unconfirmed = True, un is True
        each.value, each.bound, each.unit, each.base = value, bound, str(unit), base
        each.value_at, each.bad_since, each.patience_s = float(value_at), float(bad_since), float(patience)
        judge.book.take_up(each, float(since), str(severity), int(step), quiet is True)


def _bases(judge: Judge, rows: Any) -> None:
    for row in rows:
        try:
            device, name, rule, base, value_at, window = row
        except ValueError:
            continue
        if each := _find(judge, device, name, rule):
            each.base, each.value_at = base, float(value_at)
            if window:
                each.window = deque((float(at), float(more)) for at, more in window[-WINDOW_MAX:])


def _find(judge: Judge, device: object, name: object, rule: object) -> track.Track | None:
    return next((each for each in judge.cell(str(device), str(name)) if each.rule.name == rule), None)


def _boot_id(judge: Judge, boot_id: Any) -> None:
    judge.known.boot_id = str(boot_id)


def _rebooted_at(judge: Judge, at: Any) -> None:
    judge.known.rebooted_at = None if at is None else float(at)
    judge.confirmed = at is None


def _gpus(judge: Judge, gpus: Any) -> None:
    judge.known.gpus = {str(pci): str(gpu) for pci, gpu in gpus.items()}


def _seen(judge: Judge, seen: Any) -> None:
    judge.groups.seen = {str(name): {str(device) for device in devices} for name, devices in seen.items()}


def _counts(judge: Judge, rows: Any) -> None:
    judge.counts = {(str(device), str(name)): float(value) for device, name, value in rows}


_PARTS: Final[dict[str, Callable[[Judge, Any], None]]] = {
    "boot_id": _boot_id,
    "rebooted_at": _rebooted_at,
    "gpus": _gpus,
    "tracks": _tracks,
    "bases": _bases,
    "seen": _seen,
    "counts": _counts,
    "events": lambda judge, rows: judge.events.restore(rows),
    "blind": lambda judge, rows: judge.blind.restore(rows),
    "echoes": lambda judge, rows: judge.echoes.restore(rows),
}
