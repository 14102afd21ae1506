"""What the verifier is asked, and what it answers. Plain data: it crosses to a child process as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from outrider import vocabulary
from outrider_analysis.checkpoints import Problem

TRUSTED: Final = frozenset(vocabulary.TRUST) - {"written"}  # what a restart may load

Verdict = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One checkpoint to verify, and what its surroundings say it has to be.

    ``quick``: completeness alone, no payload is read; ``urgent``: a restart waits for the answer, so at ordinary
    priority; ``tree``: what an earlier verdict recorded, empty for none.
    """

    path: str
    layout: str = "dcp"
    quick: bool = False
    urgent: bool = False
    tree: str = ""
    step: int | None = None  # what the job said it had saved
    manifest: bool = False  # its siblings carry manifests, so it needs one
    run: str = ""  # the run that its directory belongs to, empty where nobody knows
    run_step_min: int | None = None  # oldest step of that run in the directory: an older one may be a forerunner's
    latest: int | None = None  # of a Megatron directory: the iteration that its tracker names


def verdict(
    request: Request,
    trust: str,
    problems: tuple[Problem, ...] = (),
    *,
    step: int | None = None,
    attempt: int | None = None,
    fingerprint: str = "",
    tree: str = "",
    size: int = 0,
    files: int = 0,
    notes: tuple[str, ...] = (),
    gone: bool = False,
) -> Verdict:
    """The answer. ``notes``: in words, what the look could not show."""
    return {
        "path": request.path,
        "step": step,
        "attempt": attempt,
        "layout": request.layout,
        "trust": trust,
        "fingerprint": fingerprint,
        "tree": tree,
        "problems": [{"file": p.file, "kind": p.kind, "text": p.text} for p in problems],
        "notes": list(notes),
        "bytes": size,
        "files": files,
        "seconds": 0.0,
        "gone": gone,
    }
