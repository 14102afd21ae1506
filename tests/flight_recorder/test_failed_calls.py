"""Real gloo ranks of a job without a pipeline, one of which died: its peers' calls failed, and look finished."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
from pathlib import Path

import pytest

from outrider import mesh as meshes
from outrider_analysis.flight_recorder import digest, merge, reading, verdict

RECORDED = Path(__file__).resolve().parents[1] / "recorded" / "flight_recorder" / "died" / "caught.json.gz"
CASE = json.loads(gzip.decompress(RECORDED.read_bytes()))
PEERS = (5, 13)  # of the dead rank: they caught the error of their last call and slept from then on


def judged(lost: tuple[int, ...] = (), mesh: str | None = CASE["mesh"]) -> verdict.Verdict:
    digester = digest.Digester()
    ranks = []
    for rank, data in CASE["dumps"].items():
        dump = reading.read(base64.b64decode(data))
        assert isinstance(dump, reading.Dump)
        if int(rank) not in lost:
            ranks.append(dataclasses.replace(digester.rank(int(rank), dump), taken_ns=CASE["taken_ns"][rank]))
    return verdict.judge(merge.merge([digester.node(ranks)], mesh=meshes.parse(mesh) if mesh else None))


def test_the_dead_one_is_a_candidate_and_its_peers_are_not_named() -> None:
    found = judged()
    assert (found.kind, found.culprits) == ("unknown", ())
    (finding,) = found.findings
    assert finding.candidates == tuple(sorted((*PEERS, CASE["dead"])))
    assert "as where a process dies in it" in finding.sentence


@pytest.mark.parametrize("lost", [(1,), (1, 5), (1, 13), (0, 4, 8, 12), (2, 6, 14), tuple(range(9, 16))])
@pytest.mark.parametrize("mesh", [CASE["mesh"], None])
def test_no_peer_is_named_with_confidence_whatever_else_is_missing(lost: tuple[int, ...], mesh: str | None) -> None:
    found = judged(lost, mesh)
    assert not found.culprits or found.confidence < 0.7 or found.culprits == (CASE["dead"],)
