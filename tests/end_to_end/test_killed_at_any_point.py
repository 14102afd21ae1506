"""Controller and agents end by SIGKILL at any point of an incident: one incident, nothing twice, no second lost."""

import signal
from collections.abc import Iterator

import pytest

from tests.end_to_end import killing

QUICK = {"controller": (1, 5, 9, 16), "agent": (2, 6, 11, 17), "both": (3, 12)}
ALL = {"controller": range(40), "agent": range(100, 140), "both": range(200, 220)}
VICTIMS = {"controller": ("controller",), "agent": ("agent",), "both": ("controller", "agent")}


@pytest.fixture(scope="module")
def clusters() -> Iterator[killing.Clusters]:
    made = killing.Clusters()
    yield made
    made.end()


def cases() -> list[object]:
    quick = [pytest.param(whom, seed, id=f"{whom}-{seed}") for whom, seeds in QUICK.items() for seed in seeds]
    slow = [
        pytest.param(whom, seed, id=f"{whom}-{seed}", marks=pytest.mark.slow)
        for whom, seeds in ALL.items()
        for seed in seeds
        if seed not in QUICK[whom]
    ]
    return [*quick, *slow]


@pytest.mark.parametrize(("whom", "seed"), cases())
def test_a_kill_at_any_point_of_an_incident_changes_nothing_of_its_end(
    clusters: killing.Clusters, whom: str, seed: int
) -> None:
    with clusters.lent() as cluster:
        killing.play(cluster, seed, VICTIMS[whom]).assert_done_once("rank-killed")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300, 308))
@pytest.mark.parametrize("whom", VICTIMS)
def test_a_kill_at_any_point_of_a_stopped_rank_s_incident_changes_nothing_of_its_end(
    clusters: killing.Clusters, whom: str, seed: int
) -> None:
    with clusters.lent() as cluster:
        killing.play(cluster, seed, VICTIMS[whom], signal.SIGSTOP).assert_done_once("rank-stopped")
