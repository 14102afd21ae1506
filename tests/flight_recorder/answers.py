"""Nodes' answers about a simulated case, as agents send them: each node's digest of the dumps of its ranks."""

from __future__ import annotations

import json
from typing import Any

from outrider_analysis.flight_recorder import digest, model, reading
from outrider_simulator import flight_recorder
from outrider_simulator.flight_recorder import cases

Json = dict[str, Any]


def of(case: flight_recorder.Case, each: int) -> dict[str, Json]:
    """``n0`` and so on, ``each`` ranks a node -> what its agent says under ``flight_recorder``."""
    digests: dict[int, digest.Digester] = {}
    ranks: dict[int, list[model.RankDigest]] = {}
    world = case.run.plan.layout.world
    for place in range(-(-world // each)):
        digests[place], ranks[place] = digest.Digester(), []
    late = max(rank.time for rank in case.run.ranks) + 600.0
    for rank, written in case.dumps():
        dump = reading.read(written)
        assert not isinstance(dump, reading.Unreadable), dump
        taken = cases.START_NS + int(min(case.at[rank], late) * 1e9)
        ranks[rank // each].append(digests[rank // each].rank(rank, dump, taken))
    return {
        f"n{place}": {
            "digest": json.loads(json.dumps(model.to_json(digests[place].node(ranks[place])))),
            "files": {str(item.rank): f"/evidence/rank_{item.rank}" for item in ranks[place]},
            "notes": [],
        }
        for place in digests
    }
