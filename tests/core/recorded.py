"""Verdicts over flight records, as the shell puts them into the result of capture-evidence."""

from __future__ import annotations

from typing import Any, Final

SENTENCES: Final = {
    "rank-missing": "Rank {who} never called all_reduce 41 of mesh_dp; 3 ranks wait for it.",
    "p2p-missing": "Rank {who} never sent what rank 0 waits to receive.",
    "size-mismatch": "Rank {who} called all_reduce 41 of mesh_dp with [8] where the others called it with [16].",
    "collective-mismatch": "Rank {who} called broadcast 41 of mesh_dp where the others called all_reduce.",
    "device-stuck": "The device of rank {who} has not finished all_reduce 41 of mesh_dp, which its peers have.",
    "all-joined-stuck": "All members of mesh_dp have joined all_reduce 41 and none finishes.",
    "unknown": "Waits lead to several ranks that the records cannot tell apart: {who}.",
    "straggler": "Nothing is stuck; rank {who} comes last again and again.",
    "none": "Nobody waits for a rank that does not come.",
}


def verdict(kind: str, *ranks: int, confidence: float = 0.9, seq: int = 41) -> dict[str, Any]:
    """The document; ``ranks`` are culprits, or the candidates of ``unknown``."""
    open_ = kind == "unknown"
    where = {
        "group": "7",
        "description": "mesh_dp",
        "ranks": [0, 1, 2, 3],
        "collective_seq_id": seq,
        "op": "all_reduce",
        "size": 4,
    }
    finding = {
        "verdict": kind,
        "culprits": [] if open_ else list(ranks),
        "candidates": list(ranks) if open_ else [],
        "confidence": confidence,
        "where": where,
        "evidence": [f"its calls and those of the others ({kind})"],
        "stack": ["/job/train.py:40 in main"],
    }
    rows = [{"state": "waits", "more": "", "count": 3, "ranks": "0-3", "coords": {}}]
    return {
        "verdict": kind,
        "culprits": finding["culprits"],
        "confidence": confidence,
        "where": None if kind == "none" else where,
        "victims": {"count": 3, "ranks": [0, 1, 3], "waits": []},
        "findings": [] if kind == "none" else [finding],
        "absent": [],
        "unreadable": [],
        "ranks_read": 4,
        "sentence": SENTENCES[kind].format(who=", ".join(map(str, ranks))),
        "tables": [{"group": "7", "description": "mesh_dp", "op": "all_reduce", "seq": seq, "size": 4, "rows": rows}],
        "graph": {"nodes": [], "edges": []},
    }
