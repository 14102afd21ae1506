"""Simulated hosts that lose power: agent, keeper and ranks are killed from outside, all at once."""

import json
import os
import signal

import pytest

from outrider_controller.core import records
from tests.end_to_end.world import World, wait_for


def test_a_lost_host_gives_its_place_to_the_spare(world: World) -> None:
    # One rank on each of two hosts, and a third host: what is left of the job has to notice.
    _, _, *rest = world.counting(30)
    run = world.start("run", "--nodes", "2", "--spares", "1", *rest, "coupled")
    wait_for(lambda: len(world.journal()) >= 7)
    lose_power(world, "n0")
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert "n0 has vanished" in err
    assert "returns" not in err
    [incident] = world.document("incidents")["incidents"]
    assert (incident["cause"], incident["action"]) == ("node-lost", "restart-without-suspect")
    assert incident["suspects"]["nodes"] == ["n0"]
    assert placements(world) == [("n0", "n1"), ("n2", "n1")]
    assert world.left() == []


@pytest.mark.slow
def test_a_lost_host_that_no_other_rank_misses_returns_although_there_is_a_spare(world: World) -> None:
    run = world.start("run", "--spares", "1", *world.counting(20))
    wait_for(lambda: len(world.journal()) >= 7)
    lose_power(world, "n0")
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert [incident["cause"] for incident in world.document("incidents")["incidents"]] == ["node-lost"]
    assert "n0 returns, booted anew: no other host has ranks of the job" in err
    assert len(placements(world)) == 2


def test_a_lost_host_without_a_spare_returns_booted_anew_and_the_job_with_it(world: World) -> None:
    run = world.start("run", *world.counting(30))
    wait_for(lambda: len(world.journal()) >= 7)
    lose_power(world, "n0")
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert "n0 returns, booted anew" in err
    boots = {row.boot_id for row in world.rows() if isinstance(row, records.NodeJoined)}
    assert len(boots) == 2
    assert placements(world) == [("n0",), ("n0",)]
    assert world.journal()[-1][1] == 30
    assert world.left() == []


def test_a_keeper_that_dies_takes_its_ranks_along_and_the_job_comes_back(world: World) -> None:
    run = world.start("run", *world.counting(30))
    wait_for(lambda: len(world.journal()) >= 7)
    ranks = world.pids()
    os.kill(keeper(world, "n0"), signal.SIGKILL)
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in ranks.values()), 10.0)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert len(placements(world)) == 2
    assert world.left() == []


def lose_power(world: World, node: str) -> None:
    """SIGKILL for everything of a host, the agent first, as no one of them may see another die."""
    for pid in (world.agent_pid(node), keeper(world, node)):
        os.kill(pid, signal.SIGKILL)


def keeper(world: World, node: str) -> int:
    [runtime] = [f.parent for f in world.folder.glob("r/*/agent.json") if json.loads(f.read_text())["node"] == node]
    pid = json.loads((runtime / "keepers" / "job" / "keeper.json").read_text())["pid"]
    assert isinstance(pid, int)
    return pid


def placements(world: World) -> list[tuple[str, ...]]:
    return [row.placement for row in world.rows() if isinstance(row, records.AttemptPlanned)]
