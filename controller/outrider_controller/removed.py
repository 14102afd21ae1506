"""Files on nodes that incidents point at and that are gone by now: agents tell what they remove to keep within bounds.

In: rows of the ledger. Out: texts with a word behind each path that leads nowhere any more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from outrider import records as spoken
from outrider_controller.core import records

KIND: Final = "logs-removed"
_PATH: Final = re.compile(r"/[^\s'\",;]+")
ABOVE_MAX: Final = 32  # folders above a file that are looked for


class Removed:
    """What the agents have told of one job."""

    def __init__(self, rows: Iterable[records.Row]) -> None:
        self._why: dict[tuple[str, str], str] = {}  # by node, "" for all that share the disk, and folder
        for row in rows:
            if isinstance(row, records.Observed) and row.observation.kind == KIND:
                self._take(row.observation)

    def _take(self, seen: spoken.Observation) -> None:
        paths, why = seen.evidence.get("paths"), str(seen.evidence.get("why") or "removed")
        node = "" if seen.evidence.get("shared") is True else seen.node
        for path in paths if isinstance(paths, list) else ():
            self._why[node, str(path)] = why

    def marked(self, node: str, text: str) -> str:
        """``text`` of ``node`` with why the first file that it names is not there any more, if so."""
        if not self._why:
            return text
        for match in _PATH.finditer(text):
            folder = match[0].rstrip(".:)")
            for _ in range(ABOVE_MAX):
                above = os.path.dirname(folder)
                if above == folder:
                    break
                folder = above
                if why := self._why.get((node, folder)) or self._why.get(("", folder)):
                    return f"{text} ({why})"
        return text

    def evidence(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of evidence, its text marked."""
        text = row.get("text")
        return {**row, "text": self.marked(str(row.get("source") or ""), text)} if isinstance(text, str) else dict(row)

    def record(self, found: spoken.Json | None) -> spoken.Json | None:
        """The verdict of flight records, its ``files`` (``node:path``) marked."""
        files = found.get("files") if found else None
        if found is None or not isinstance(files, dict) or not self._why:
            return found
        marked = {rank: self.marked(str(where).partition(":")[0], str(where)) for rank, where in files.items()}
        return {**found, "files": marked}
