"""What a kernel log says of a node, told once: the result of the judgement, and the mutable record behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from outrider.records import Json
from outrider_analysis.kernel_log.faults import Hit

LINE_CHARS_MAX: Final = 500
PLACES_MAX: Final = 32
# A line that comes this long after the one before is another occurrence and not the same storm.
OCCURRENCE_GAP_S: Final = 3.0
DAY_S: Final = 86_400.0


@dataclass(frozen=True)
class Finding:
    """``at_s``: on the log's own clock, seconds. ``evidence``: first line, count, seq and what the line held."""

    kind: str
    severity: str
    device: str
    text: str
    recovery: str
    cause_group: str | None
    at_s: float | None
    evidence: Json

    def document(self) -> Json:
        """The JSON form: names and meanings are kept."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "device": self.device,
            "text": self.text,
            "evidence": self.evidence,
            "recovery": self.recovery,
            "cause_group": self.cause_group,
            "at_s": self.at_s,
        }


@dataclass
class Known:
    """One thing that was told, and everything that was counted of it since."""

    hit: Hit
    line: str
    seq: int | None
    at_s: float
    last_at_s: float
    severity: str
    recovery: str
    count: int = 1
    marks: Json = field(default_factory=dict)
    cleared: bool = False
    window: tuple[float, int] = (0.0, 0)  # of hit.often: since when, how many
    # Place and process -> (occurrences within a day, when the newest was seen).
    places: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``xid 79 on 0000:3b:00``: how echoes refer to it."""
        number = self.hit.evidence.get(self.hit.kind)
        what = f"{self.hit.kind} {number}" if number is not None else self.hit.kind
        return f"{what} on {self.hit.device}" if self.hit.device else what

    def seen(self, hit: Hit, at_s: float) -> None:
        """Count one more line of it."""
        if hit.place or hit.evidence.get("pid"):
            self.occur(hit, at_s)
        self.count += 1
        self.last_at_s = at_s

    def occur(self, hit: Hit, at_s: float) -> None:
        """Note where and for whom; lines less than OCCURRENCE_GAP_S apart are one occurrence."""
        for what in (hit.place, f"pid {hit.evidence['pid']}" if hit.evidence.get("pid") else ""):
            if not what or (what not in self.places and len(self.places) >= PLACES_MAX):
                continue
            times, last = self.places.get(what, (0, at_s))
            if times and at_s - last > DAY_S:
                times = 0
            another = not times or at_s - last >= OCCURRENCE_GAP_S
            self.places[what] = (times + another, at_s)

    def finding(self) -> Finding:
        """As it stands now: what is over is information."""
        hit = self.hit
        evidence: Json = {**hit.evidence, **self.marks, "line": self.line, "count": self.count, "seq": self.seq}
        evidence["last_at_s"] = self.last_at_s
        severity = self.severity
        if self.cleared:
            evidence |= {"cleared": True, "was": severity}
            severity = "info"
        text = f"{hit.text}; {self.marks['advice']}" if "advice" in self.marks else hit.text
        recovery = "none" if self.cleared else self.recovery
        return Finding(hit.kind, severity, hit.device, text, recovery, hit.group, self.at_s, evidence)
