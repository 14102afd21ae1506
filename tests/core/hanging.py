"""What a look at the ranks of a World brings: evidence as agents send it, from what the test has done to each rank."""

from __future__ import annotations

from typing import Any, Final

from outrider import records as spoken
from outrider_analysis import stalls

# What may befall a rank. The first two hold the others up; "works" is slow and well.
HUNG: Final = ("stopped", "spins", "sleeps")
HOW: Final = (*HUNG, "waits", "works", "traced", "unseen")

WAIT: Final = ("/v/site-packages/torch/distributed/distributed_c10d.py:3252 in all_reduce", "/job/train.py:40 in main")
LOOP: Final = ("/job/data.py:12 in shuffle", "/job/train.py:40 in main")
EVIDENCE: Final[dict[str, dict[str, Any]]] = {
    "stopped": {"state": "stopped", "answered": "proc"},
    "traced": {"state": "traced", "answered": "proc"},
    "unseen": {"state": "sleeping", "answered": "none", "error": "it gave no answer"},
    "spins": {"state": "running", "answered": "py-spy", "cpu": 0.99, "frames": LOOP, "moved": False},
    "sleeps": {"state": "sleeping", "answered": "control", "cpu": 0.0, "frames": LOOP, "moved": False},
    "waits": {"state": "sleeping", "answered": "control", "cpu": 0.0, "frames": WAIT, "moved": False},
    "works": {"state": "running", "answered": "control", "cpu": 0.9, "frames": LOOP, "moved": True},
}


def result(alive: dict[int, str], hung: dict[int, str], placement: list[str], silent: set[str]) -> dict[str, Any]:
    """The result of capture-evidence over the living ranks: beside one that hangs the others wait, else all work."""
    otherwise = "waits" if any(how in HUNG for how in hung.values()) else "works"
    seen = [
        spoken.RankEvidence(rank, 100 + rank, **EVIDENCE[hung.get(rank, otherwise)])
        for rank, node in sorted(alive.items())
        if node not in silent
    ]
    return {"ranks": stalls.plain(stalls.group(seen)), "unanswered": [node for node in placement if node in silent]}
