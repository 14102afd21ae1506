"""The form of a row of ``rows`` and how it reads a line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from outrider_analysis.kernel_log.faults import Hit, Key, Often


@dataclass(frozen=True)
class Row:
    """One message of the kernel. ``key``: groups that tell its subjects apart; ``clears``: says that it is over."""

    kind: str
    needle: str
    regex: re.Pattern[str]
    severity: str
    recovery: str
    text: str
    source: str
    group: str | None = None
    key: tuple[str, ...] = ("dev",)
    often: Often | None = None
    clears: bool = False
    quiet_s: float = 3600.0

    def read(self, text: str) -> Hit | None:
        """What ``text`` says, None where this row does not fit."""
        found = self.regex.match(text)
        if not found:
            return None
        words = {name: (value or "").strip() for name, value in found.groupdict().items()}
        device = words.get("dev", "")
        key: Key = (self.kind, *(words.get(name, "") for name in self.key))
        opens = (*key, self.severity) if not self.clears else (*key, "cleared")
        return Hit(
            self.kind,
            opens,
            self.severity,
            device,
            " ".join(self.text.format_map({"dev": "", **words}).split()),
            self.recovery,
            self.group,
            {name: value for name, value in words.items() if value and name != "dev"},
            often=self.often,
            clears=(key,) if self.clears else (),
            quiet_s=self.quiet_s,
        )


def row(kind: str, needle: str, regex: str, severity: str, recovery: str, text: str, **more: Any) -> Row:
    """A row from the text of its expression."""
    return Row(kind, needle, re.compile(regex, re.DOTALL), severity, recovery, text, **more)
