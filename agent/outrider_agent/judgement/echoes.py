"""Which fault was the first: the candidate cause of a window of WINDOW_S on this node, and the echoes of it.

What follows a fatal fault on the same device, or is of the kind that tends to follow others, is its echo for
LATE_S: a GPU that fell off the bus is found lost by the next poll, and missing by the one after.
"""

from __future__ import annotations

from typing import Final

from outrider.records import Json
from outrider_agent.judgement.draft import GRAVITY, Draft

WINDOW_S: Final = 3.0
LATE_S: Final = 60.0


def _order(draft: Draft) -> tuple[int, float, int]:
    return draft.rank, draft.at, -GRAVITY[draft.severity]  # of what was seen at one moment the gravest comes first


class Echoes:
    """Marks drafts ``first`` or ``echo_of``; remembers one cause."""

    def __init__(self) -> None:
        self._name = ""
        self._device = ""
        self._at = 0.0
        self._fatal = False

    def mark(self, drafts: list[Draft]) -> None:
        """Mark those that are faults, in the order in which they happened."""
        for draft in sorted((draft for draft in drafts if draft.is_fault), key=_order):
            evidence = draft.evidence
            cause = evidence.get("echo_of")
            if isinstance(cause, str):  # the kernel's log knows it already
                continue
            since = draft.at - self._at
            if self._name and self._name == draft.name and 0 <= since <= LATE_S:
                evidence["first"] = True  # the same fault, graver
            elif self._name and self._follows(draft, since):
                evidence.pop("first", None)
                evidence["echo_of"] = self._name
            else:
                if self._name and -WINDOW_S <= since < 0:
                    evidence["before"] = self._name  # it was told later and happened earlier
                evidence["first"] = True
                self._name, self._device, self._at = draft.name, draft.device, draft.at
                self._fatal = draft.severity == "fatal"

    def _follows(self, draft: Draft, since: float) -> bool:
        if draft.severity == "fatal" and not self._fatal and draft.rank == 0:
            return False  # what is fatal by itself did not follow from what is not
        if 0 <= since <= WINDOW_S:
            return True
        if not 0 <= since <= LATE_S or not self._fatal:
            return False
        return draft.rank > 1 or (bool(draft.device) and draft.device == self._device)

    def memory(self) -> Json:
        """As JSON."""
        return {"name": self._name, "device": self._device, "at": self._at, "fatal": self._fatal}

    def restore(self, memory: Json) -> None:
        """Take up what ``memory`` gave."""
        self._name, self._device = str(memory["name"]), str(memory["device"])
        self._at, self._fatal = float(memory["at"]), memory["fatal"] is True
