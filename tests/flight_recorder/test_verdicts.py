"""The verdict against the truth: generated jobs of many meshes, and real gloo groups that were recorded.

bench/fr_accuracy.py does the same with hundreds of cases; what is held here are the same seeds each time.
"""

import base64
import gzip
import json
import os
import pathlib
import typing

import pytest

from bench import _fr_ours
from outrider_simulator import flight_recorder
from outrider_simulator.flight_recorder import score as scores
from tests.flight_recorder import from_log

RECORDED = pathlib.Path(__file__).resolve().parents[1] / "recorded" / "flight_recorder" / "campaign"
SEEDS = range(1000, 1040)
RANKS_MAX = 32
EXACT_SHARE_MIN = 0.9  # of the cases that the dumps decide


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, typing.Any], scores.Score]]:
    folder = tmp_path_factory.mktemp("dumps")
    found = []
    for seed in SEEDS:
        case = flight_recorder.make(seed, RANKS_MAX)
        flight_recorder.write(case, folder / str(seed))
        answer, _ = _fr_ours.analyze(folder / str(seed) / "dumps")
        found.append((case.document(), scores.score(case.document(), answer)))
    return found


def test_no_innocent_rank_is_named_with_confidence(
    generated: list[tuple[dict[str, typing.Any], scores.Score]],
) -> None:
    wrong = [
        f"seed {truth['seed']} {truth['mesh']} {truth['fault']}: {found.named} for {truth['culprits']}"
        for truth, found in generated
        if found.outcome == "confident wrong"
    ]
    assert not wrong, "\n".join(wrong)


def test_most_culprits_are_named_exactly_where_the_dumps_tell(
    generated: list[tuple[dict[str, typing.Any], scores.Score]],
) -> None:
    told = [found for _, found in generated if found.identifiable == "yes"]
    exact = sum(found.outcome == "exact" for found in told)
    assert len(told) > len(generated) / 2
    assert exact >= EXACT_SHARE_MIN * len(told), scores.table(told)


CAMPAIGN = sorted(path.name.removesuffix(".json.gz") for path in RECORDED.glob("*.json.gz"))
RECORDED_WHOLLY = {"idle", "wrong-op"}  # of the others gloo hides a part, by which innocent ranks look idle


def _case(name: str) -> dict[str, typing.Any]:
    found: dict[str, typing.Any] = json.loads(gzip.decompress((RECORDED / f"{name}.json.gz").read_bytes()))
    return found


def _judged(
    case: dict[str, typing.Any], dumps: dict[int, bytes], folder: pathlib.Path, times: bool = True
) -> tuple[scores.Score, dict[str, typing.Any]]:
    for rank, data in dumps.items():
        path = folder / f"trace_{rank}"
        path.write_bytes(data)
        os.utime(path, ns=(0, case["taken_ns"][str(rank)]))
    answer, _ = _fr_ours.analyze(folder, times=times, groups=case["groups"])
    return scores.score(case["truth"], answer), answer


@pytest.mark.parametrize("name", CAMPAIGN)
def test_records_of_real_gloo_groups_name_the_culprit_or_have_it_among_the_candidates(
    name: str, tmp_path: pathlib.Path
) -> None:
    case = _case(name)
    found, answer = _judged(case, {int(r): base64.b64decode(data) for r, data in case["dumps"].items()}, tmp_path)
    assert found.outcome in (("exact",) if name in RECORDED_WHOLLY else ("exact", "unknown")), answer
    told = {rank for finding in answer["findings"] for rank in (*finding["culprits"], *finding["candidates"])}
    assert told >= set(case["truth"]["culprits"])


@pytest.mark.parametrize("active_only", [False, True])
@pytest.mark.parametrize("name", CAMPAIGN)
def test_the_same_ranks_in_the_form_of_nccl_name_the_culprit(
    name: str, active_only: bool, tmp_path: pathlib.Path
) -> None:
    case = _case(name)
    made = from_log.dumps(case, flight_recorder.Settings(stacks=False, active_only=active_only))
    found, answer = _judged(case, made, tmp_path)
    if active_only:  # what was finished is not there, so that two who face each other may look the same
        assert found.outcome in ("exact", "subset", "unknown") or found.confidence <= scores.CONFIDENT, answer
    elif case["truth"]["identifiable"] == "maybe":
        assert found.outcome in ("exact", "subset", "unknown"), answer
    else:
        assert found.outcome == "exact", answer


@pytest.mark.parametrize("name", ["stuck-tp", "stuck-cp", "stuck-dp", "stuck-world"])
def test_four_lost_dumps_of_innocent_ranks_mislead_nobody(name: str, tmp_path: pathlib.Path) -> None:
    case = _case(name)
    lost = [rank for rank in (1, 4, 7, 11, 13) if rank not in case["truth"]["culprits"]][:4]
    made = from_log.dumps(case, flight_recorder.Settings(stacks=False))
    found, answer = _judged(case, {rank: data for rank, data in made.items() if rank not in lost}, tmp_path)
    assert found.outcome in ("exact", "unknown"), answer


@pytest.mark.parametrize(
    ("name", "active_only", "lost"),
    [("extra", False, (3, 7, 11, 15)), ("skipped", True, (13,))],
    ids=["extra", "skipped"],
)
def test_a_rank_without_a_dump_is_no_sure_culprit_where_another_left_the_order(
    name: str, active_only: bool, lost: tuple[int, ...], tmp_path: pathlib.Path
) -> None:
    case = _case(name)
    made = from_log.dumps(case, flight_recorder.Settings(stacks=False, active_only=active_only))
    found, answer = _judged(case, {rank: data for rank, data in made.items() if rank not in lost}, tmp_path)
    assert answer["confidence"] < 0.7 or found.outcome == "exact", answer
