"""Outrider's own answer about a folder of dumps, and the seconds it took from the first byte to the verdict."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outrider_analysis.flight_recorder import digest, merge, reading, verdict


def analyze(folder: Path, times: bool = False, groups: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], float]:
    """The document of `outrider fr analyze --json`. ``times``: the files' times are those of the dumps.

    ``groups``: name to description and ranks, where dumps do not tell.
    """
    began = time.monotonic()
    digester = digest.Digester()
    ranks, unreadable = [], []
    for path in sorted(folder.iterdir()):
        rank, dump = reading.rank_of(path.name), reading.read(path.read_bytes())
        if rank is None or isinstance(dump, reading.Unreadable):
            unreadable.append((path.name, str(dump)))
            continue
        ranks.append(digester.rank(rank, dump, path.stat().st_mtime_ns if times else 0))
    merged = merge.merge([digester.node(ranks, unreadable)], groups)
    answer = verdict.judge(merged).to_json()
    return answer, time.monotonic() - began
