"""Which checkpoints may go: a pure choice, and a removal that can be interrupted anywhere.

Never the newest that is protected, nor anything newer, nor anything protected; of the older ones the newest are kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

REMOVING: Final = ".removing-"


def choose(newest_first: Sequence[str], keep: int, protect: Collection[str]) -> list[str]:
    """Paths to remove, oldest first. ``keep``: how many are to be left, the newest protected one among them.

    Where nothing is protected nothing is known to be good, and nothing goes.
    """
    anchor = next((place for place, path in enumerate(newest_first) if path in protect), None)
    if anchor is None or keep < 1:
        return []
    older = [path for path in newest_first[anchor + 1 :] if path not in protect]
    return older[keep - 1 :][::-1]


def remove(path: Path) -> None:
    """Take a checkpoint away: first out of sight in one step, so that no half of it is ever a candidate.

    A link is taken away itself; what it points to stays. Raises OSError.
    """
    if path.is_symlink():
        path.unlink()
        return
    hidden = path.with_name(f"{REMOVING}{path.name}")
    if hidden.exists():
        shutil.rmtree(hidden)
    try:
        path.rename(hidden)
    except FileNotFoundError:
        return
    shutil.rmtree(hidden)


def sweep(directory: Path) -> None:
    """Finish removals that were interrupted. Raises OSError."""
    with os.scandir(directory) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(REMOVING)]
    for path in left:
        shutil.rmtree(path)
