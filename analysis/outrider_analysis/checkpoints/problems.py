"""A reason against a checkpoint, and a bounded list of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PROBLEMS_MAX: Final = 20  # one line each for a person; a thousand missing files are one finding
SHOWN_CHARS_MAX: Final = 200


@dataclass(frozen=True)
class Problem:
    """One reason against a checkpoint: the file (relative to it), a word for programs and a sentence for people."""

    file: str
    kind: str
    text: str


class Problems:
    """Collects problems; the first PROBLEMS_MAX in full, the others as a number."""

    def __init__(self) -> None:
        self._kept: list[Problem] = []
        self._more = 0

    def add(self, file: str, kind: str, text: str) -> None:
        """One more."""
        if len(self._kept) < PROBLEMS_MAX:
            self._kept.append(Problem(shown(file), kind, text))
        else:
            self._more += 1

    def take(self, found: Problem) -> None:
        """One more that is made already."""
        self.add(found.file, found.kind, found.text)

    def __bool__(self) -> bool:
        return bool(self._kept)

    @property
    def full(self) -> bool:
        """Whether a further one would only be counted."""
        return len(self._kept) >= PROBLEMS_MAX

    def listed(self, whole: str) -> tuple[Problem, ...]:
        """All of them; ``whole`` names what the last line, the number of the others, is said of."""
        more = (Problem(whole, "more", f"{self._more} more files or entries do not match"),) if self._more else ()
        return (*self._kept, *more)


def shown(name: str) -> str:
    """A name from a stranger's file as it can be printed and sent: bounded, without control characters."""
    text = name if len(name) <= SHOWN_CHARS_MAX else name[:SHOWN_CHARS_MAX] + "..."
    if text.isprintable() and not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    return text.encode("unicode_escape", "backslashreplace").decode("ascii")
