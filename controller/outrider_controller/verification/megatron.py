"""Checkpoints of Megatron-LM, as far as their formats tell.

Two formats lie under ``iter_<step>``. *torch_dist* is a DCP checkpoint with a ``common.pt`` and a ``metadata.json``
beside it: all that holds for DCP holds for it. *torch* is one folder ``mp_rank_<tp>[_<pp>[_<ep>]]`` a model-parallel
rank with ``.pt`` files in it: nothing there lists the files, so a missing highest rank cannot be noticed, only a gap.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from outrider_analysis.checkpoints import Problem, metadata
from outrider_analysis.checkpoints.metadata import Entry
from outrider_controller import manifests
from outrider_controller.verification import files
from outrider_controller.verification.request import Request

TRACKER: Final = "latest_checkpointed_iteration.txt"
COMMON: Final = "common.pt"
ABOUT: Final = "metadata.json"
ABOUT_BYTES_MAX: Final = 1 << 20
_RANK: Final = re.compile(r"mp_rank_(\d{2,5}(?:_\d{3,5}){0,2})")


def surface(request: Request, found: Mapping[str, files.File]) -> list[Problem]:
    """What names and the tracker show."""
    step = manifests.step_of_name(Path(request.path).name)
    if request.latest is not None and step != request.latest:
        text = f"names iteration {request.latest}, which is the one a loader takes"
        return [Problem(TRACKER, "not-latest", text)]
    if not found:
        return [Problem(Path(request.path).name, "empty", "holds no file")]
    empty = [name for name, file in found.items() if file.size == 0 and name.endswith((".pt", ".distcp"))]
    return [Problem(name, "size", "is empty") for name in empty[:1]]


def described(
    folder: Path, found: Mapping[str, files.File]
) -> tuple[list[Problem], dict[str, Sequence[Entry]], list[str]]:
    """Problems, where archives lie (each .pt file is one), and what cannot be told."""
    spans: dict[str, Sequence[Entry]] = {
        name: [(0, file.size, False, False)] for name, file in found.items() if name.endswith(".pt")
    }
    if metadata.NAME in found or ABOUT in found or any(name.endswith(".distcp") for name in found):
        return _torch_dist(folder, found), spans, ["nothing but its own checksums proves its content"]
    notes = ["its format lists no files: that one is missing shows only where it leaves a gap"]
    if not spans:
        return [Problem(folder.name, "empty", "holds neither .pt files nor a distributed checkpoint")], spans, notes
    return _ranks(found), spans, notes


def _torch_dist(folder: Path, found: Mapping[str, files.File]) -> list[Problem]:
    for name in (metadata.NAME, COMMON, ABOUT):
        if name not in found:
            return [Problem(name, "missing", "is missing: the checkpoint was never finished")]
    text, problem = manifests.read_bounded(folder / ABOUT, ABOUT_BYTES_MAX)
    if problem is not None:
        return [problem]
    try:
        about = json.loads(text or b"")
    except (ValueError, RecursionError) as error:
        return [Problem(ABOUT, "not-json", f"is no JSON: {error}")]
    return [] if isinstance(about, dict) else [Problem(ABOUT, "not-json", "is no JSON object")]


def _ranks(found: Mapping[str, files.File]) -> list[Problem]:
    """Every combination of the model-parallel coordinates that occur has its folder, with the same files in it."""
    inside: dict[tuple[int, ...], set[str]] = {}
    for name in found:
        head, _, rest = name.partition("/")
        if (named := _RANK.fullmatch(head)) and rest:
            inside.setdefault(tuple(int(part) for part in named.group(1).split("_")), set()).add(rest)
    if not inside:
        return []
    if len(set(map(len, inside))) > 1:
        return [Problem("mp_rank", "ranks", "folders of two different parallel layouts lie here")]
    highest = [max(axis) for axis in zip(*inside, strict=True)]
    for rank in itertools.product(*(range(top + 1) for top in highest)):
        if rank not in inside:
            shown = "_".join(f"{part:0{2 if place == 0 else 3}d}" for place, part in enumerate(rank))
            return [Problem(f"mp_rank_{shown}", "missing", "is missing, and higher ranks are there")]
        if inside[rank] != (first := inside[min(inside)]):
            odd = sorted(inside[rank] ^ first)[0]
            return [Problem(odd, "missing", "lies in the folder of some ranks and not of others")]
    return []
