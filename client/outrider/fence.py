"""The fence: a file with the newest generation of a job, and the rule that an older one commits nothing any more.

Flow: whoever starts an attempt raises the fence first; a rank asks ``may_commit`` right before it makes a checkpoint
visible. A rank that was cut off and forgotten finds a higher number there, and leaves the checkpoint uncommitted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Final

FENCE_BYTES_MAX: Final = 4096
_said: set[str] = set()  # one line a fence, however often it is asked


def may_commit(environ: Mapping[str, str] = os.environ) -> bool:
    """True when no fence that OUTRIDER_FENCE lists is above our OUTRIDER_GENERATION; without a fence, True.

    A listed fence that cannot be read gives False: not having been able to look is no permission.
    """
    paths = [path for path in environ.get("OUTRIDER_FENCE", "").split(os.pathsep) if path]
    if not paths:
        return True
    try:
        own = int(environ.get("OUTRIDER_GENERATION", ""))
    except ValueError:
        _say("generation", f"OUTRIDER_GENERATION={environ.get('OUTRIDER_GENERATION')!r} is not a number")
        return False
    return all(_allows(path, own) for path in paths)


def generation(path: str) -> int:
    """The generation a fence file holds. OSError when it cannot be read, ValueError when it holds no generation."""
    with open(path, "rb") as file:
        document = json.loads(file.read(FENCE_BYTES_MAX))
    found = document.get("generation") if isinstance(document, dict) else None
    if not isinstance(found, int) or isinstance(found, bool):
        raise ValueError(f'{path}: holds {str(document)[:80]!r} where {{"generation": NUMBER}} is expected')
    return found


def raise_to(path: str, wanted: int) -> int:
    """Put the fence at ``wanted`` unless it is higher already; returns where it stands. A damaged one is replaced."""
    try:
        standing = generation(path)
    except (OSError, ValueError):
        standing = -1
    if standing < wanted:
        _replace(path, json.dumps({"generation": wanted}).encode())
    return max(standing, wanted)


def _allows(path: str, own: int) -> bool:
    try:
        newest = generation(path)
    except (OSError, ValueError) as error:
        _say(path, f"the fence {path} cannot be read ({error})")
        return False
    if newest > own:
        _say(path, f"generation {newest} has taken over from this one, {own}")
    return newest <= own


def _replace(path: str, content: bytes) -> None:
    part = f"{path}.{os.getpid()}.part"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(part, path)


def _say(about: str, why: str) -> None:
    if about in _said:
        return
    _said.add(about)
    try:
        print(f"outrider: this rank may not commit a checkpoint: {why}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # a closed stderr must not stop the training
