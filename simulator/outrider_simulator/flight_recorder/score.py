"""How good an answer about a case is: compares a verdict with the truth, and adds up many.

An answer is the document of `outrider fr analyze --json`, or anything with its ``verdict``, ``culprits``,
``confidence`` and ``findings``. Naming an innocent rank is wrong whatever else is right; doing so with confidence is
the one thing that must not happen, as somebody would act on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

CONFIDENT: Final = 0.7
BINS: Final = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.01)
OUTCOMES: Final = ("exact", "subset", "unknown", "missed", "wrong", "confident wrong")


@dataclass(frozen=True)
class Score:
    """One answer. ``fits``: its word is one of the truth's; ``named``: everybody it blames, in any finding.

    ``place``: whether the group it names as the first blocked is that of a fault; None where either names none.
    """

    fault: str
    kind: str  # the truth's most fitting word
    identifiable: str
    verdict: str
    named: tuple[int, ...]
    confidence: float
    outcome: str
    fits: bool
    place: bool | None

    @property
    def right(self) -> bool:
        """Whether nothing it claims is false."""
        return self.outcome in ("exact", "subset")


def score(truth: Mapping[str, Any], answer: Mapping[str, Any]) -> Score:
    """Compare one answer with the truth of its case (``Case.document()``)."""
    named = set(answer.get("culprits") or ())
    for finding in answer.get("findings") or ():
        named |= set(finding.get("culprits") or ())
    verdict = str(answer.get("verdict"))
    confidence = float(answer.get("confidence") or 0.0)
    kinds = list(truth["kinds"])
    outcome = _outcome(set(truth["culprits"]), set(truth["allowed"]), named, verdict, kinds)
    if outcome == "wrong" and confidence >= CONFIDENT:
        outcome = "confident wrong"
    return Score(
        truth["fault"],
        kinds[0],
        truth["identifiable"],
        verdict,
        tuple(sorted(named)),
        confidence,
        outcome,
        verdict in kinds,
        _place(truth, answer),
    )


def _place(truth: Mapping[str, Any], answer: Mapping[str, Any]) -> bool | None:
    told = answer.get("where") or {}
    real = [set(finding["ranks"]) for finding in truth["findings"] if finding.get("ranks")]
    if not real or not told.get("ranks"):
        return None
    return set(told["ranks"]) in real


def _outcome(culprits: set[int], allowed: set[int], named: set[int], verdict: str, kinds: list[str]) -> str:
    if named - allowed:
        return "wrong"
    if not named:
        if not culprits and verdict in kinds:
            return "exact"
        return "missed" if verdict == "none" else "unknown"
    return "exact" if culprits <= named else "subset"


def table(scores: Sequence[Score]) -> str:
    """Outcomes by fault, and the verdict's word by the truth's, as text."""
    lines = [f"{'fault':16} {'cases':>5}" + "".join(f" {word:>9.15}" for word in OUTCOMES) + "  kind fits  place"]
    for fault in [*sorted({each.fault for each in scores}), ""]:
        rows = [each for each in scores if fault in ("", each.fault)]
        counts = "".join(f" {_count(rows, word):>{max(9, len(word))}}" for word in OUTCOMES)
        fits = sum(each.fits for each in rows)
        placed = [each.place for each in rows if each.place is not None]
        place = f"{sum(placed) / len(placed):>6.0%}" if placed else f"{'-':>6}"
        lines.append(f"{fault or 'all':16} {len(rows):>5}{counts}  {fits / max(1, len(rows)):>8.0%} {place}")
    return "\n".join(lines)


def confusion(scores: Sequence[Score]) -> str:
    """Rows are the truth's words, columns the verdict's."""
    columns = sorted({each.verdict for each in scores})
    lines = [f"{'truth':20}" + "".join(f" {column[:12]:>12}" for column in columns)]
    for kind in sorted({each.kind for each in scores}):
        rows = [each for each in scores if each.kind == kind]
        counts = [sum(each.verdict == column for each in rows) for column in columns]
        lines.append(f"{kind:20}" + "".join(f" {count or '.':>12}" for count in counts))
    return "\n".join(lines)


def calibration(scores: Sequence[Score]) -> str:
    """Of the answers that name somebody: how often no innocent rank was among them, by stated confidence."""
    lines = [f"{'confidence':14} {'answers':>7} {'right':>6}  {'mean said':>9}"]
    named = [each for each in scores if each.named]
    for low, high in itertools.pairwise(BINS):
        rows = [each for each in named if low <= each.confidence < high]
        if rows:
            mean = sum(each.confidence for each in rows) / len(rows)
            right = sum(each.right for each in rows) / len(rows)
            lines.append(f"{low:.1f} to {min(high, 1.0):.1f}     {len(rows):>7} {right:>6.0%}  {mean:>9.2f}")
    return "\n".join(lines)


def _count(rows: Sequence[Score], outcome: str) -> int:
    return sum(each.outcome == outcome for each in rows)
