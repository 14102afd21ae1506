"""Flight records and a look at the ranks together: real gloo groups, whose sends and recvs no record shows."""

import base64
import dataclasses
import gzip
import json
import pathlib
import random
import typing

import pytest

from outrider import mesh as meshes
from outrider_analysis import stalls
from outrider_analysis.flight_recorder import digest, merge, model, reading, verdict
from outrider_analysis.flight_recorder.verdict import hints as hints_
from outrider_simulator import flight_recorder
from outrider_simulator.flight_recorder import score as scores
from tests.flight_recorder import from_log

RECORDED = pathlib.Path(__file__).resolve().parents[1] / "recorded" / "flight_recorder"
CAMPAIGN = sorted(path.name.removesuffix(".json.gz") for path in (RECORDED / "campaign").glob("*.json.gz"))
HANGS = sorted(path.name.removesuffix(".json.gz") for path in (RECORDED / "hangs").glob("*.json.gz"))
# A rank left out a call and went on into a send: the rest waits in a circle, of which any may have left the order.
OPEN_EVEN_SO = {"skipped"}

Case = dict[str, typing.Any]


def load(folder: str, name: str) -> Case:
    found: Case = json.loads(gzip.decompress((RECORDED / folder / f"{name}.json.gz").read_bytes()))
    return found


def digested(case: Case) -> model.NodeDigest:
    digester = digest.Digester()
    ranks = [
        digester.rank(int(rank), reading.read(base64.b64decode(data)), case["taken_ns"][rank])  # type: ignore[arg-type]
        for rank, data in case["dumps"].items()
    ]
    return digester.node(ranks)


def seen(case: Case) -> verdict.Hints:
    """Hints from the recorded looks, by way of JSON."""
    found = hints_.from_groups(stalls.group(group.evidence for group in stalls.from_plain(case["looks"])))
    again = hints_.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    return found


def without(node: model.NodeDigest, lost: typing.Collection[int]) -> model.NodeDigest:
    return dataclasses.replace(node, ranks=tuple(rank for rank in node.ranks if rank.rank not in lost))


@pytest.mark.parametrize("name", CAMPAIGN)
def test_a_look_at_the_ranks_names_the_culprit_that_their_records_leave_open(name: str) -> None:
    case = load("campaign", name)
    merged = merge.merge([digested(case)], case["groups"], None, 16)
    answer = verdict.judge(merged, seen(case)).to_json()
    found = scores.score(case["truth"], answer)
    assert found.outcome == ("unknown" if name in OPEN_EVEN_SO else "exact"), answer["sentence"]
    if name in OPEN_EVEN_SO:
        assert set(case["truth"]["culprits"]) <= set(answer["findings"][0]["candidates"])


@pytest.mark.parametrize("known", ["groups", "mesh", "neither"])
@pytest.mark.parametrize("name", CAMPAIGN)
def test_with_dumps_or_looks_lost_nobody_innocent_is_named_with_confidence(name: str, known: str) -> None:
    case, chance = load("campaign", name), random.Random(name + known)
    node, looks = digested(case), seen(case)
    mesh = meshes.parse(case["truth"]["mesh"]) if known == "mesh" else None
    for count in (1, 1, 4, 4, 8):
        lost, unseen = chance.sample(range(16), count), chance.sample(range(16), count)
        merged = merge.merge([without(node, lost)], case["groups"] if known == "groups" else None, mesh, 16)
        part = verdict.Hints({rank: hint for rank, hint in looks.ranks.items() if rank not in unseen})
        for hints in (None, looks, part):
            answer = verdict.judge(merged, hints).to_json()
            found = scores.score(case["truth"], answer)
            assert found.outcome != "confident wrong", (lost, unseen, answer["sentence"])


@pytest.mark.parametrize("name", HANGS)
def test_a_hang_of_the_example_job_is_blamed_on_the_rank_it_was_injected_into(name: str) -> None:
    case = load("hangs", name)
    merged = merge.merge([digested(case)], None, meshes.parse(case["mesh"]))
    found = verdict.judge(merged, seen(case))
    assert found.culprits == tuple(case["truth"]["culprits"]), found.sentence
    assert found.confidence >= scores.CONFIDENT, found.to_json()
    assert found.kind in ("rank-missing", "p2p-missing")
    alone = verdict.judge(merged)
    assert not alone.culprits or alone.culprits == found.culprits, alone.sentence


def test_a_look_that_contradicts_the_record_is_said_and_is_not_enough() -> None:
    case = load("campaign", "stuck-tp")
    merged = merge.merge([digested(case)], case["groups"], None, 16)
    looks = dict(seen(case).ranks)
    looks[5] = verdict.Hint("waiting", "recv", "recv")
    looks[4] = verdict.Hint("elsewhere", stack=("/job/train.py:1 in f",))  # its record has an all-reduce unfinished
    found = verdict.judge(merged, verdict.Hints(looks))
    assert found.confidence < scores.CONFIDENT
    assert any(
        "against it: its record has all_reduce of mesh_tp unfinished" in line for line in found.findings[0].evidence
    )


def test_a_rank_whose_stack_moves_is_not_named_with_confidence() -> None:
    case = load("campaign", "stuck-tp")
    merged = merge.merge([digested(case)], case["groups"], None, 16)
    looks = dict(seen(case).ranks)
    looks[5] = dataclasses.replace(looks[5], moved=True)
    found = verdict.judge(merged, verdict.Hints(looks))
    assert found.culprits == (5,)
    assert found.confidence < scores.CONFIDENT


def test_one_who_sleeps_in_a_function_of_its_own_may_be_in_a_wait() -> None:
    case = load("campaign", "stuck-tp")
    merged = merge.merge([digested(case)], case["groups"], None, 16)
    looks = dict(seen(case).ranks)
    looks[5] = verdict.Hint("elsewhere", stack=("/job/train.py:40 in step",), certain=False)
    found = verdict.judge(merged, verdict.Hints(looks))
    assert not found.culprits or found.confidence < scores.CONFIDENT
    assert 5 in {*found.culprits, *found.findings[0].candidates}


def test_hints_are_made_of_what_stands_on_the_stack_and_not_of_the_record() -> None:
    look = {
        "rank": 3,
        "state": "sleeping",
        "answered": "control",
        "cpu": 0.01,
        "frames": ["/venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py:2799 in recv"],
        "moved": False,
        "pending": True,
        "collective": {"op": "gloo:all_reduce"},
    }
    found = hints_.from_groups(stalls.from_plain([look])).of(3)
    assert (found.state, found.stands, found.op, found.certain) == ("waiting", "recv", "recv", True)
    for state, word in (("stopped", "stopped"), ("traced", "stopped"), ("zombie", "gone"), ("gone", "gone")):
        assert hints_.from_groups(stalls.from_plain([look | {"state": state}])).of(3).state == word
    own = look | {"frames": ["/job/train.py:40 in step"]}
    alone = hints_.from_groups(stalls.from_plain([own])).of(3)
    assert (alone.state, alone.stands, alone.certain, alone.moved) == ("elsewhere", "", False, False)
    assert alone.text == "sleeps in train.py:40 in step, outside any collective"
    assert hints_.from_groups(stalls.from_plain([own | {"cpu": 0.98, "state": "running"}])).of(3).certain
    assert hints_.from_groups([]).of(3).state == "unknown"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "an object of ranks"),
        ({"x": {}}, "'x' is no rank"),
        ({"9999999999": {}}, "is no rank"),
        ({"1": 4}, "hint of rank 1: an object was expected"),
        ({"1": {"state": "dancing"}}, "'dancing' is not one of waiting"),
        ({"1": {"stands": "head"}}, "'head' is not one of"),
        ({"1": {"stack": "f"}}, "no list of texts"),
        ({"1": {"p2p_peer": -2}}, "'-2' is no rank"),
    ],
)
def test_broken_hints_are_refused_with_what_was_found(given: object, said: str) -> None:
    with pytest.raises(verdict.HintError, match=said):
        hints_.from_json(given)


def in_the_form_of_nccl(case: Case) -> merge.Merged:
    digester, made = digest.Digester(), from_log.dumps(case, flight_recorder.Settings(stacks=False))
    ranks = [
        digester.rank(rank, reading.read(data), case["taken_ns"][str(rank)])  # type: ignore[arg-type]
        for rank, data in made.items()
    ]
    return merge.merge([digester.node(ranks)], case["groups"], None, 16)


def test_a_record_that_shows_all_is_not_doubted_for_a_sleep_without_a_frame() -> None:
    case = load("campaign", "stuck-tp")
    asleep = verdict.Hint("elsewhere", stack=("/job/data.py:12 in shuffle",), certain=False, moved=False)
    found = verdict.judge(in_the_form_of_nccl(case), verdict.Hints({**seen(case).ranks, 5: asleep}))
    assert (found.culprits, found.confidence) == ((5,), 0.95)
    assert found.findings[0].stack == asleep.stack


def test_a_stack_in_a_wait_takes_confidence_from_a_record_that_shows_nothing_unfinished() -> None:
    merged = in_the_form_of_nccl(load("campaign", "stuck-tp"))
    found = verdict.judge(merged, verdict.Hints({5: verdict.Hint("waiting", "recv", text="waits for a collective")}))
    assert found.confidence < scores.CONFIDENT
    assert any("against it: a look at rank 5" in line for line in found.findings[0].evidence)


def test_a_look_after_the_end_finds_all_gone_and_changes_nothing() -> None:
    merged = in_the_form_of_nccl(load("campaign", "stuck-tp"))
    gone = verdict.Hints(dict.fromkeys(range(16), verdict.Hint("gone")))
    assert verdict.judge(merged, gone).to_json() == verdict.judge(merged).to_json()
