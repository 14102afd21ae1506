"""`outrider demo` trains a real 4D job, is hit by real faults, and ends with the bits of the uninterrupted run."""

import json
import urllib.error
import urllib.request

import pytest

from outrider import vocabulary
from tests.end_to_end.world import World


def demo(world: World, *options: str, wait_s: float = 280) -> tuple[dict[str, object], str]:
    path = world.folder / "report.json"
    done = world.run("demo", "--headless", "--json", str(path), *options, wait_s=wait_s)
    assert done.returncode == 0, done.stdout + done.stderr
    assert world.left() == []
    return json.loads(path.read_text()), done.stdout + done.stderr


def test_a_killed_rank_a_damaged_checkpoint_and_a_nan_cost_no_bit_of_a_small_demo(world: World) -> None:
    report, said = demo(world, "--mesh", "tp=2", "--nodes", "1", "--steps", "26", "--faults", "kill,corrupt,nan")
    assert report["loss_equal_to_uninterrupted"] is True
    assert report["simulated_hosts"] is True
    assert report["by_cause"].keys() == {"rank-killed", "loss-nan"}  # type: ignore[attr-defined]
    killed, corrupt, nan = report["faults"]  # type: ignore[misc]
    assert (killed["named"], corrupt["named"], nan["named"]) == (True, True, None)
    assert all(fault["cause_right"] for fault in (killed, corrupt, nan))
    assert corrupt["damage_refused"]
    incidents = {one["id"]: one for one in report["incidents"]}  # type: ignore[attr-defined]
    assert incidents[killed["incident"]]["suspects"]["ranks"] == [killed["rank"]]
    assert incidents[corrupt["incident"]]["from_checkpoint"]["path"] != corrupt["checkpoint"]["path"]
    assert report["compared"]["lines"] > 26  # type: ignore[index]
    assert report["compared"]["not_finite"] > 0  # type: ignore[index]
    assert report["mfu"]["while_training"] > 0  # type: ignore[index]
    assert "peak" in said
    assert "bit for bit" in said
    assert "simulated hosts" in said


@pytest.mark.slow
def test_the_page_of_a_demo_answers_while_it_runs_and_is_gone_with_it(world: World) -> None:
    running = world.start("demo", "--mesh", "dp=1", "--nodes", "1", "--steps", "60", "--faults", "none")
    assert running.stderr is not None
    said = next(line for line in running.stderr if "the page that follows this job" in line)
    health = said.split()[-1] + "/_stcore/health"
    with urllib.request.urlopen(health, timeout=30) as answer:
        assert answer.status == 200
    out, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    assert "bit for bit" in out
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(health, timeout=5)


@pytest.mark.slow
def test_the_reference_is_made_without_faults_too(world: World) -> None:
    report, _ = demo(world, "--mesh", "dp=1", "--nodes", "1", "--steps", "4", "--faults", "none")
    assert (report["loss_equal_to_uninterrupted"], report["faults"], report["incidents"]) == (True, [], [])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_demo_is_hit_by_every_fault_names_each_and_loses_no_bit(world: World) -> None:
    report, said = demo(world, wait_s=850)
    assert report["loss_equal_to_uninterrupted"] is True
    assert [fault["fault"] for fault in report["faults"]] == list(vocabulary.DEMO_FAULTS_PLAIN)  # type: ignore[attr-defined]
    assert all(fault["cause_right"] and fault["named"] in (True, None) for fault in report["faults"]), said  # type: ignore[attr-defined]
    assert report["by_cause"].keys() >= {"rank-killed", "rank-stopped", "rank-hung", "node-lost", "loss-nan"}  # type: ignore[attr-defined]
    assert "has vanished" in said


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 4])
def test_the_flight_records_name_the_rank_that_spins_and_the_one_that_is_stopped_and_nobody_else(
    world: World, seed: int
) -> None:
    report, said = demo(world, "--faults", "spin,stop", "--steps", "40", "--seed", str(seed), wait_s=850)
    assert report["loss_equal_to_uninterrupted"] is True
    incidents = {one["id"]: one for one in report["incidents"]}  # type: ignore[attr-defined]
    for fault in report["faults"]:  # type: ignore[attr-defined]
        found = incidents[fault["incident"]]["flight_recorder"]
        assert {rank for one in found["findings"] for rank in one["culprits"]} == {fault["rank"]}, found
        assert found["sentence"] in said


@pytest.mark.slow
def test_all_four_axes_come_back_from_a_kill_with_equal_bits(world: World) -> None:
    report, _ = demo(world, "--mesh", "dp=2,pp=2,cp=2,tp=2", "--steps", "16", "--faults", "kill")
    assert report["loss_equal_to_uninterrupted"] is True


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mesh", "xp=2"], "--mesh: mesh 'xp=2'"),
        (["--nodes", "3"], "--nodes 3: cannot share the 8 ranks"),
        (["--mesh", "dp=128"], "--mesh dp=128"),
        (["--steps", "5", "--faults", "kill,node"], "--steps 5: is too few for 2 faults"),
        (["--faults", "kill,meteor"], "'meteor' is not known"),
        (["--json", "/no/such/place/report.json"], "--json /no/such/place/report.json"),
        (["--mehs", "dp=2"], "unknown option --mehs; did you mean --mesh"),
    ],
)
def test_what_the_demo_cannot_do_is_said_before_anything_starts(world: World, options: list[str], words: str) -> None:
    done = world.run("demo", "--headless", *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert not list(world.state.glob("demo-*"))
