"""What is to be said, before it is known which of several faults at once was the first."""

from __future__ import annotations

import dataclasses
from typing import Final

from outrider.records import Json

GRAVITY: Final = {"info": 0, "warning": 1, "error": 2, "fatal": 3}
TEXT_CHARS_MAX: Final = 500


@dataclasses.dataclass
class Draft:
    """An observation to be. ``rank``: 0 for what is a cause by itself, higher for what tends to follow another."""

    kind: str
    severity: str
    device: str
    text: str
    recovery: str
    at: float
    evidence: Json
    rank: int = 0

    @property
    def name(self) -> str:
        """``xid 79 on gpu3``: how echoes refer to it."""
        number = self.evidence.get(self.kind)
        what = self.kind if number is None else f"{self.kind} {number}"
        return f"{what} on {self.device}" if self.device else what

    @property
    def is_fault(self) -> bool:
        """Whether it takes part in the question of what was first."""
        return GRAVITY[self.severity] >= GRAVITY["error"] and not self.evidence.get("cleared")


def value_text(value: object) -> str:
    """Numbers as people read them."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
