"""Agent, controller and run are killed in mid-training: the ranks train on, and nothing is done twice."""

import json
import os
import signal
import subprocess
from collections import Counter

from outrider_controller.core import records
from tests.end_to_end.world import COUNTING_JOB, World, wait_for

STEPS = 80


def test_ranks_train_on_while_their_agent_is_killed_and_started_again(world: World) -> None:
    run = world.start("run", *world.counting(STEPS))
    wait_for(lambda: len(world.journal()) >= 5)
    before = world.agent_pid()
    os.kill(before, signal.SIGKILL)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert "the agent of n0 has died; another one takes over its ranks" in err
    assert_undisturbed(world)
    assert len(joins(world, "n0")) == 2


def test_a_killed_run_is_taken_up_again_by_the_same_command_line(world: World) -> None:
    command = ["run", *world.counting(STEPS)]
    run = world.start(*command)
    wait_for(lambda: len(world.journal()) >= 5)
    kill(run)
    status = world.run("status", "--json")
    assert "no controller runs" in status.stderr
    assert json.loads(status.stdout)["state"] == "training"
    again = world.run(*command)
    assert again.returncode == 0, again.stderr
    assert "it is taken up again, not started twice" in again.stderr
    assert f"step {STEPS}\n" in again.stdout
    assert "step 1\n" not in again.stdout
    assert_undisturbed(world)
    assert world.left() == []


def test_run_and_agent_are_both_killed_and_the_ranks_train_on(world: World) -> None:
    command = ["run", *world.counting(STEPS)]
    run = world.start(*command)
    wait_for(lambda: len(world.journal()) >= 5)
    kill(run)
    os.kill(world.agent_pid(), signal.SIGKILL)
    steps = len(world.journal())
    wait_for(lambda: len(world.journal()) >= steps + 3)
    again = world.run(*command)
    assert again.returncode == 0, again.stderr
    assert_undisturbed(world)
    assert world.left() == []


def test_a_run_killed_after_its_rank_restarts_the_job_once(world: World) -> None:
    command = ["run", *world.counting(STEPS)]
    run = world.start(*command)
    wait_for(lambda: len(world.journal()) >= 7)
    kill(run)
    os.kill(world.pids()[1], signal.SIGKILL)
    again = world.run(*command)
    assert again.returncode == 0, again.stderr
    [incident] = world.document("incidents")["incidents"]
    assert (incident["cause"], incident["suspects"]["ranks"]) == ("rank-killed", [1])
    assert_once(world, attempts=2)


def test_another_job_is_not_started_over_one_that_still_runs(world: World) -> None:
    run = world.start("run", *world.counting(1000))
    wait_for(lambda: len(world.journal()) >= 2)
    kill(run)
    other = world.run("run", world.script("print('other')\n", "other.py"))
    assert other.returncode == 2
    assert "job job is unfinished and its ranks still run" in other.stderr
    for pid in world.pids().values():
        os.kill(pid, 0)


def test_what_an_earlier_run_left_dead_is_given_up_for_the_next(world: World) -> None:
    run = world.start("run", *world.counting(1000))
    wait_for(lambda: len(world.journal()) >= 2)
    kill(run)
    world.end()
    wait_for(lambda: not world.left())
    other = world.run("run", world.script("print('other')\n", "other.py"))
    assert (other.returncode, other.stdout) == (0, "other\n"), other.stderr
    assert "was left unfinished by an earlier run" in other.stderr


def test_controller_agents_and_job_as_separate_processes_survive_the_controllers_death(world: World) -> None:
    controller = world.start("controller", "--listen", "127.0.0.1:0")
    wait_for((world.state / "controller.json").exists)
    agents = []
    for node in ("a1", "a2"):
        assert world.run("token", "node", node).returncode == 0
        agents.append(
            world.start("agent", "--supervise", "--allow-root", "--node", node, "--slots", "1", "--simulated")
        )
    job = world.work / "job.toml"
    script = world.script(COUNTING_JOB)
    job.write_text(
        f'name = "standing"\ncommand = ["{world.python}", "{script}", "{STEPS}", "0.1", "{world.work}"]\n'
        f'nodes = 2\nranks_per_node = 1\ncheckpoint_dir = "{world.work}/checkpoints"\n'
    )
    hold = world.work / "hold"  # the job must outlast the looks at it, however slow this machine is
    hold.touch()
    assert world.document("job", "start", str(job))["job"] == "standing"
    wait_for(lambda: len(world.journal()) >= 5)
    pids = {rank["pid"] for rank in world.document("status")["ranks"]}
    kill(controller)
    steps = len(world.journal())
    wait_for(lambda: len(world.journal()) >= steps + 3)
    world.start("controller", "--listen", "127.0.0.1:0")
    wait_for(lambda: world.run("job", "list").returncode == 0)
    status = wait_for(lambda: heard(world))
    assert {rank["pid"] for rank in status["ranks"]} == pids
    recorded = world.recorded().jobs["standing"]
    assert (status["state"], status["attempt"]) == (recorded.state, 0)
    hold.unlink()
    wait_for(lambda: world.document("status")["state"] == "completed")
    wait_for(lambda: not world.recorded().jobs["standing"].pending)
    assert_undisturbed(world)
    assert "standing" in world.run("job", "list").stdout


def heard(world: World) -> dict[str, object] | None:
    """The status, once every agent is connected again."""
    status = world.document("status")
    fine = all(node["state"] == "healthy" for node in status["nodes"]) and status["ranks"]
    return status if fine and all(rank["pid"] for rank in status["ranks"]) else None


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def joins(world: World, node: str) -> list[records.NodeJoined]:
    return [row for row in world.rows() if isinstance(row, records.NodeJoined) and row.node == node]


def assert_undisturbed(world: World) -> None:
    """One attempt in one process, every step once and in order; the ledger has seen no incident."""
    journal = world.journal()
    assert [step for _, step, _ in journal] == list(range(1, STEPS + 1))
    assert len({(attempt, pid) for attempt, _, pid in journal}) == 1
    assert not [row for row in world.rows() if isinstance(row, records.IncidentOpened)]
    assert_once(world, attempts=1)


def assert_once(world: World, attempts: int) -> None:
    """Every effect has one result, every attempt one start, every observation one row, and the job is complete."""
    rows = world.rows()
    wanted = Counter(row.effect for row in rows if isinstance(row, records.EffectRequested))
    ended = Counter(row.effect for row in rows if isinstance(row, records.EffectDone))
    assert wanted == ended
    assert set(wanted.values()) == {1}
    assert len([row for row in rows if isinstance(row, records.AttemptPlanned)]) == attempts
    seen = Counter((r.observation.node, r.observation.seq) for r in rows if isinstance(r, records.Observed))
    assert set(seen.values()) == {1}
    [job] = world.recorded().jobs.values()
    assert (job.state, job.attempts) == ("completed", attempts)
