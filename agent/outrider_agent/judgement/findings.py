"""The findings of the rules that hold now: told when they begin, when they turn graver, and when they are over.

A finding is an observation kind on a device; the tracks that say so are its holders. One that comes and goes is told at
most BEGINS_AN_HOUR times an hour: after that it is over only when it stayed away for PATIENCE_S.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from outrider.records import Json
from outrider_agent.judgement import rules as ruling
from outrider_agent.judgement.draft import GRAVITY, Draft, value_text
from outrider_agent.judgement.known import Known
from outrider_agent.judgement.track import Track

OPEN_MAX: Final = 1024
HISTORY_MAX: Final = 512
BEGINS_AN_HOUR: Final = 3
PATIENCE_S: Final = 1800.0
PLACES_MAX: Final = 32
Key = tuple[str, str]


@dataclass
class Finding:
    """``severity``: as it was told, "" before. ``quiet``: an event had said it already, so nobody is told twice."""

    kind: str
    device: str
    since: float
    severity: str = ""
    step: int = 0
    quiet: bool = False
    holders: dict[tuple[str, str], Track] = field(default_factory=dict)

    def gravest(self) -> Track:
        """The holder that speaks for it."""
        return max(self.holders.values(), key=lambda track: (*_level(track.rule), -track.bad_since))


class Book:
    """All findings of the rules. ``forgotten``: findings that there was no room for."""

    def __init__(self, known: Known) -> None:
        self.forgotten = 0
        self._known = known
        self._open: dict[Key, Finding] = {}
        self._begun: dict[Key, deque[float]] = {}
        self._touched: dict[Key, str] = {}  # what became of a finding in this sweep
        self._over: list[Draft] = []

    def severity(self, kind: str, device: str) -> str:
        """As told, "" where it is not open."""
        found = self._open.get((kind, device))
        return found.severity if found else ""

    def fatal_on(self, device: str) -> bool:
        """Whether something fatal, or a hang, is known of it: that nothing can be read there is then no news."""
        return any(
            finding.device == device and (finding.severity == "fatal" or finding.kind == "nvml-hang")
            for finding in self._open.values()
        )

    def __len__(self) -> int:
        return len(self._open)

    def begins(self, track: Track, at: float) -> None:
        """A track became a finding, or one more holder of one."""
        device = self._device(track)
        key = (track.rule.kind, device)
        finding = self._open.get(key)
        if finding is None:
            if len(self._open) >= OPEN_MAX:
                self._make_room()
            finding = self._open[key] = Finding(track.rule.kind, device, track.bad_since or at)
            track.patience_s = self._count(key, at)
        finding.holders[track.rule.name, track.device] = track
        self._touched.setdefault(key, "begins")

    def ends(self, track: Track, at: float, why: str) -> None:
        """A track is no longer bad."""
        key = (track.rule.kind, self._device(track))
        finding = self._open.get(key)
        if finding is None:
            return
        finding.holders.pop((track.rule.name, track.device), None)
        if finding.holders:
            self._touched.setdefault(key, "eases")
            return
        del self._open[key]
        self._touched.pop(key, None)
        if finding.severity and not finding.quiet:
            self._over.append(self._cleared(finding, track, at, why))

    def flush(self, at: float, said: Callable[[str, str, float], str]) -> list[Draft]:
        """What is to be told of this sweep. ``said(kind, device, at)``: the severity that an event has told of it."""
        drafts, self._over = self._over, []
        for key in self._touched:
            finding = self._open.get(key)
            if finding is None:
                continue
            track = finding.gravest()
            if _level(track.rule) <= (GRAVITY.get(finding.severity, -1), finding.step):
                continue
            before, finding.severity = finding.severity, track.rule.severity
            finding.step = track.rule.step
            if GRAVITY.get(said(*key, at), -1) >= GRAVITY[finding.severity]:
                finding.quiet = True
                continue
            finding.quiet = False
            drafts.append(self._draft(finding, track, at, before))
        self._touched.clear()
        return drafts

    def take_up(self, track: Track, since: float, severity: str, step: int, quiet: bool) -> None:
        """A holder from the memory of the agent before this one."""
        device = self._device(track)
        finding = self._open.setdefault((track.rule.kind, device), Finding(track.rule.kind, device, since))
        finding.severity, finding.step, finding.quiet = severity, step, quiet
        finding.holders[track.rule.name, track.device] = track

    def of(self, track: Track) -> Finding | None:
        """The finding that this track holds."""
        return self._open.get((track.rule.kind, self._device(track)))

    def _device(self, track: Track) -> str:
        device = self._known.gpu(track.device)
        return device.partition("/")[0] if track.rule.whole else device

    def _count(self, key: Key, at: float) -> float:
        """How long this finding must stay away, by how often it came within the hour."""
        begun = self._begun.get(key)
        if begun is None:
            if len(self._begun) >= HISTORY_MAX:
                self._begun.pop(next(iter(self._begun)))
            begun = self._begun[key] = deque(maxlen=BEGINS_AN_HOUR)
        begun.append(at)
        often = len(begun) == BEGINS_AN_HOUR and 0 <= at - begun[0] <= 3600.0
        return PATIENCE_S if often else 0.0

    def _make_room(self) -> None:
        """Drop the finding that is least grave and oldest; its tracks begin anew."""
        key = min(self._open, key=lambda key: (GRAVITY.get(self._open[key].severity, 0), self._open[key].since))
        for track in self._open.pop(key).holders.values():
            track.end(forget=True)
        self.forgotten += 1

    def _draft(self, finding: Finding, track: Track, at: float, before: str) -> Draft:
        rule = track.rule
        evidence = self._evidence(finding, track)
        evidence["clear"] = rule.clear.sentence
        if before:
            evidence["was"] = before
        if rule.stops:
            evidence["stops"] = rule.stops
        recovery = rule.recovery
        if isinstance(track.value, int | float):
            recovery = dict(rule.answers).get(track.value, recovery)
        text = _sentence(rule, track, finding.device)
        places = sorted({device for _, device in finding.holders if device != finding.device})
        if rule.whole and places:
            evidence["places"] = places[:PLACES_MAX]
            evidence["places_count"] = len(places)
        return Draft(finding.kind, rule.severity, finding.device, text, recovery, at, evidence, rule.rank)

    def _cleared(self, finding: Finding, track: Track, at: float, why: str) -> Draft:
        evidence = self._evidence(finding, track) | {"cleared": True, "was": finding.severity, "cleared_by": why}
        where = f" on {finding.device}" if finding.device else ""
        lasted = ruling.span(round(max(at - finding.since, 0.0)))
        text = f"{finding.kind}{where} is over after {lasted}: {why}"
        return Draft(finding.kind, "info", finding.device, text, "none", at, evidence)

    def _evidence(self, finding: Finding, track: Track) -> Json:
        rule = track.rule
        evidence: Json = {
            "rule": rule.name,
            "reading": rule.reading,
            "value": track.value,
            "bound": track.bound,
            "unit": track.unit,
            "since": finding.since,
            "source": rule.signal,
        }
        return evidence | ({"said": track.error} if track.error else {})


def _level(rule: ruling.Rule) -> tuple[int, int]:
    return GRAVITY[rule.severity], rule.step


def _sentence(rule: ruling.Rule, track: Track, device: str) -> str:
    words = {
        "device": device or "the node",
        "value": value_text(track.value),
        "bound": value_text(track.bound),
        "unit": track.unit,
        "hold": ruling.span(rule.hold_s),
        "place": track.device,
    }
    text = rule.text if rule.hold_s else rule.text.replace(", for {hold}", "").replace(" for {hold}", "")
    return " ".join(text.format_map(words).split())
