"""What the verdict says: one Finding for each independent root, and the Verdict over all of them.

How sure each rule is stands in CONFIDENCE; bench/fr_accuracy.py measures how often each is right. What is missing or
doubtful takes away from it (``caps``), and nothing adds to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from outrider_analysis.flight_recorder.merge import Merged
from outrider_analysis.flight_recorder.verdict import advice
from outrider_analysis.flight_recorder.verdict.board import Wait

VERDICTS: Final = (
    "none",
    "rank-missing",
    "collective-mismatch",
    "size-mismatch",
    "dtype-mismatch",
    "order-mismatch",
    "p2p-missing",
    "p2p-deadlock",
    "device-stuck",
    "all-joined-stuck",
    "straggler",
    "unknown",
)
CONFIDENCE: Final = {
    "idle": 0.95,  # waits for nobody, and is waited for
    "majority": 0.97,  # called another thing than most members
    "siblings": 0.9,  # than the same place of other groups
    "habit": 0.8,  # than itself and its partner in the iterations before
    "order": 0.9,  # left the order that its mates keep
    "unexcused": 0.85,  # its mates made the call while waiting for the same
    "device": 0.9,  # peers have finished what it has not
    "not-started": 0.85,  # peers' devices have begun, its has not
    "joined": 0.85,  # all are there, on their devices too, and nobody is to blame
    "joined-untimed": 0.6,  # all have called it; whether a device never began it is not recorded
    "absent": 0.85,  # left no dump, and nothing else explains the wait
    "slow": 0.8,
    "slow-host": 0.6,  # by its calls alone: one that waits for it in each call looks much the same
}
UNKNOWN: Final = 0.3
SHOWN_MAX: Final = 4096  # waits of victims listed in the JSON


@dataclass(frozen=True, slots=True)
class Where:
    """The first operation that was blocked. ``pair``: sender and receiver of a send or recv."""

    group: str
    description: str
    ranks: tuple[int, ...]
    seq: int
    op: str
    pair: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """The contract's ``where``."""
        found: dict[str, Any] = {
            "group": self.group,
            "description": self.description,
            "ranks": list(self.ranks),
            "collective_seq_id": None if self.pair else self.seq,
            "op": self.op,
        }
        return found | ({"p2p_seq_id": self.seq, "from_to": list(self.pair)} if self.pair else {})


@dataclass(slots=True)
class Finding:
    """One root. ``candidates`` are named only where no culprit can be; ``direct`` are the waits that lead to it."""

    kind: str
    culprits: tuple[int, ...]
    confidence: float
    where: Where | None
    sentence: str
    evidence: list[str] = field(default_factory=list)
    candidates: tuple[int, ...] = ()
    absent: bool = False  # the culprit left no dump
    since_ns: int = 0
    stack: tuple[str, ...] = ()
    victims: tuple[int, ...] = ()
    looked: bool = False  # a look at the culprit itself tells it
    proof: bool = False  # calls that can never fit: no moment of a job at work looks so
    circle: bool = False  # waits that lead back to themselves
    joined: bool = False  # all have called its operation, so a rank to blame elsewhere may be why it is not over

    def to_json(self, merged: Merged) -> dict[str, Any]:
        """One of the contract's ``findings``."""
        found: dict[str, Any] = {
            "verdict": self.kind,
            "culprits": list(self.culprits),
            "candidates": list(self.candidates),
            "confidence": round(self.confidence, 3),
            "where": self.where.to_json() if self.where else None,
            "since_ns": self.since_ns or None,
            "victims": len(self.victims),
            "stack": advice.frames(self.stack),
            "stack_of": advice.stack_of(merged, self),
            "next": advice.next_step(merged, self),
            "evidence": self.evidence,
            "coords": {str(rank): merged.coords[rank] for rank in self.culprits if rank in merged.coords},
            "sentence": self.sentence,
        }
        return found | ({"dump": "absent"} if self.absent else {})


@dataclass(slots=True)
class Verdict:
    """The answer over all ranks that were heard. ``waits``: for each victim the group and the ranks it waits for."""

    merged: Merged
    findings: list[Finding]
    waits: list[tuple[int, str, tuple[int, ...]]] = field(default_factory=list)
    victims: tuple[int, ...] = ()
    note: str = ""  # what is said where there is no finding
    sure: float = 0.9  # that there is none

    @property
    def kind(self) -> str:
        """The verdict of the first finding; ``none`` without one, and ``unknown`` where no rank was heard."""
        if not self.merged.ranks:
            return "unknown"
        return self.findings[0].kind if self.findings else "none"

    @property
    def culprits(self) -> tuple[int, ...]:
        """The culprits of all findings."""
        return tuple(sorted({rank for finding in self.findings for rank in finding.culprits}))

    @property
    def confidence(self) -> float:
        """That of the least sure finding, since all of their culprits are named."""
        return min((finding.confidence for finding in self.findings), default=self.sure if self.merged.ranks else 0.0)

    @property
    def sentence(self) -> str:
        """All findings in plain words."""
        return " ".join(finding.sentence for finding in self.findings) or self.note

    def to_json(self) -> dict[str, Any]:
        """The contract's document, without what only the caller knows (``seconds``)."""
        first = self.findings[0] if self.findings else None
        shown = [
            {"rank": rank, "on_group": group, "for_ranks": list(ranks)} for rank, group, ranks in self.waits[:SHOWN_MAX]
        ]
        return {
            "verdict": self.kind,
            "culprits": list(self.culprits),
            "confidence": round(self.confidence, 3),
            "where": first.where.to_json() if first and first.where else None,
            "victims": {"count": len(self.victims), "ranks": list(self.victims), "waits": shown},
            "findings": [finding.to_json(self.merged) for finding in self.findings],
            "absent": list(self.merged.absent),
            "unreadable": [{"file": file, "error": why} for file, why in self.merged.unreadable],
            "ranks_read": len(self.merged.ranks),
            "sentence": self.sentence,
        }


def where(merged: Merged, wait: Wait) -> Where:
    """The place of a wait."""
    group = merged.groups[wait.group]
    return Where(group.name, group.description, group.ranks, wait.seq, wait.op, wait.pair)


def capped(confidence: float, caps: Iterable[float]) -> float:
    """The confidence, and no more than any of the caps."""
    return min([confidence, *caps])
