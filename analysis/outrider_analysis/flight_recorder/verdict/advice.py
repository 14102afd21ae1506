"""What helps beside a finding: which moment its stack is of, the frames that are the job's, what to look at next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from outrider_analysis.flight_recorder.merge import Merged

if TYPE_CHECKING:
    from outrider_analysis.flight_recorder.verdict.finding import Finding

STACK_OF: Final = ("look", "wait", "last-call")
# Below the job's own code: how its process was started. Frames are "file:line in name".
_LAUNCHER: Final = re.compile(
    r"(?:.*/)?(?:outrider_agent/|<frozen runpy>|<frozen importlib|runpy\.py:|"
    r"multiprocessing/(?:spawn|process|context|forkserver|popen_\w+)\.py:|threading\.py:\d+ in _bootstrap)"
)
_NEXT: Final = {
    "rank-missing": "look at that rank's process, stack and node; the others only wait",
    "collective-mismatch": "compare the two calls in the code; is there a branch on rank or data?",
    "size-mismatch": "find where that rank's tensor gets its shape; the others agree",
    "dtype-mismatch": "find where that rank's tensor gets its type; the others agree",
    "order-mismatch": "look for a branch on rank or on data before that call",
    "p2p-missing": "look at that rank's stack: it never made its half of the pair",
    "p2p-deadlock": "compare the order of its sends and recvs with that of other ranks of its stage",
    "device-stuck": "look at that GPU and its links (Xid, NVLink, ports), not at the code",
    "all-joined-stuck": "look at the links between these ranks and at the fabric",
    "straggler": "look at that rank's host and GPU: clocks, power, thermals, its disk",
    "unknown": "get the dumps that are missing, and the stacks of the candidates",
}
_AFTER: Final = "see where that rank stands now (py-spy dump --pid PID); its stack is of its last call, which is over"


def stack_of(merged: Merged, found: Finding) -> str:
    """``look``: where the rank was seen to be. ``wait``: the call it waits in. ``last-call``: the newest it made, which
    it has left since. Nothing where there is no stack."""
    rank = merged.ranks.get(found.culprits[0]) if found.culprits else None
    if not found.stack:
        return ""
    if rank is None:
        return "look"
    if any(op.stack == found.stack for op in rank.unfinished):
        return "wait"
    return "last-call" if rank.stack == found.stack else "look"


def frames(stack: Sequence[str]) -> list[str]:
    """``stack``, innermost first, without the outermost frames that only started the job's code."""
    end = len(stack)
    while end and _LAUNCHER.match(stack[end - 1]):
        end -= 1
    return list(stack[:end] if end else stack)


def next_step(merged: Merged, found: Finding) -> str:
    """What a person should look at next."""
    if found.kind == "unknown" and merged.ranks.keys() >= set(found.candidates):
        return "look at the stacks of those that may be it, and at what they call"
    if found.kind == "rank-missing" and found.absent and not found.looked:
        return "see whether that process and its node still live; it wrote nothing"
    if found.kind in ("rank-missing", "p2p-missing") and stack_of(merged, found) == "last-call":
        return _AFTER
    if found.kind in ("rank-missing", "p2p-missing") and found.looked and found.stack:
        return "find out why that rank stands there; the others only wait"
    return _NEXT.get(found.kind, "")
