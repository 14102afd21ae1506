"""`outrider run` with real agents, keepers and ranks."""

import os
import signal

import pytest

from outrider_controller.core import known, records
from tests.end_to_end.world import COUNTING_JOB, World, wait_for


def test_a_shell_loop_is_supervised_to_its_end(world: World) -> None:
    loop = world.script("for i in 1 2 3; do echo round $i of rank $RANK/$WORLD_SIZE; sleep 0.1; done\n", "loop.sh")
    done = world.run("run", "--nproc-per-node", "2", "--no-python", "sh", loop)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(f"round {i} of rank 0/2\n" for i in (1, 2, 3))
    assert "sh is complete" in done.stderr.splitlines()[-1]
    assert world.left() == []


def test_a_script_that_raises_at_every_start_ends_with_93_after_two_attempts(world: World) -> None:
    done = world.run("run", "--nproc-per-node", "2", world.script("raise ValueError('never good')\n"))
    assert done.returncode == 93
    assert sum(isinstance(row, records.AttemptPlanned) for row in world.rows()) == 2
    assert "ValueError: never good" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert world.left() == []


def test_what_cannot_be_started_ends_with_2(world: World) -> None:
    path = world.script("this is no program", "broken")
    os.chmod(path, 0o755)
    done = world.run("run", "--no-python", path)
    assert done.returncode == 2
    assert "Exec format error" in done.stderr.splitlines()[-1]


def test_a_script_with_its_own_agent_and_controller_modules_runs_unharmed(world: World) -> None:
    world.script("name = 'my agent'\n", "agent.py")
    world.script("name = 'my controller'\n", "controller.py")
    done = world.run("run", world.script("import agent, controller\nprint(agent.name, 'and', controller.name)\n"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "my agent and my controller\n"


def test_the_script_sees_torchruns_environment(world: World) -> None:
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID"]
    names += ["TORCHELASTIC_RESTART_COUNT", "OUTRIDER_ATTEMPT", "OUTRIDER_RESUME_FROM", "MINE"]
    script = world.script(
        f"import os\nprint([os.environ[name] for name in {names}], os.environ['MASTER_PORT'].isdigit())\n"
    )
    done = world.run(
        "run", "--nodes", "2", "--nproc_per_node=2", "--job", "seen", "--env", "MINE=x y", "--tee=3", script
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        f"[rank {rank}] ['{rank}', '4', '{rank % 2}', '2', '{rank // 2}', 'seen', '0', '0', '', 'x y'] True"
        for rank in range(4)
    ]


def test_a_killed_rank_is_named_and_the_job_comes_back_from_its_checkpoint(world: World) -> None:
    run = world.start("run", *world.counting(20))
    wait_for(lambda: len(world.journal()) >= 7)
    victim = world.pids()[1]
    os.kill(victim, signal.SIGKILL)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    [incident] = world.document("incidents")["incidents"]
    assert incident["cause"] == "rank-killed"
    assert incident["suspects"]["ranks"] == [1]
    assert "SIGKILL" in incident["sentence"]
    assert incident["from_checkpoint"]["step"] == 5 * (incident["from_checkpoint"]["step"] // 5) > 0
    assert (incident["attempt_before"], incident["attempt_after"], incident["automatic"]) == (0, 1, True)
    first = [step for attempt, step, _ in world.journal() if attempt == 0]
    again = [step for attempt, step, _ in world.journal() if attempt == 1]
    assert first == list(range(1, len(first) + 1))
    assert again == list(range(incident["from_checkpoint"]["step"] + 1, 21))
    assert world.left() == []
    report = world.document("report")
    assert sum(report["bins"].values()) == pytest.approx(report["elapsed_s"], abs=0.01)
    assert report["interruptions"]["automatic"] == 1


def test_the_last_checkpoint_is_verified_before_the_run_ends_and_its_damage_is_said(world: World) -> None:
    damage = (
        "if step == 15:\n                (draft / '__0_0.distcp').write_bytes(b'torn')\n            draft.rename(final)"
    )
    sound, torn = world.counting(10), world.counting(15)
    assert (done := world.run("run", *sound)).returncode == 0, done.stderr
    told = known.checkpoint(world.recorded().jobs["job"], str(world.work / "checkpoints" / "step-10"))
    assert told is not None
    assert told.trusted, done.stderr
    world.script(COUNTING_JOB.replace("draft.rename(final)", damage))
    done = world.run("run", *torn)
    assert done.returncode == 0, done.stderr
    assert "the last checkpoint (step 15) is damaged" in done.stderr
    assert [one["cause"].partition("-")[0] for one in world.document("incidents")["incidents"]] == ["checkpoint"]


def test_ctrl_c_stops_the_ranks_first_and_says_so(world: World) -> None:
    run = world.start("run", *world.counting(1000))
    wait_for(lambda: len(world.journal()) >= 2)
    os.kill(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "SIGINT: stopping the ranks" in err
    assert "a person stopped it" in err.splitlines()[-1]
    assert world.left() == []
    assert world.recorded().jobs["job"].state == "failed"


def test_ctrl_c_before_the_job_is_taken_ends_the_run_without_it(world: World) -> None:
    run = world.start("run", *world.counting(1000))
    wait_for((world.state / "controller.json").exists)
    os.kill(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "unexpected" not in err
    assert world.left() == []


def test_the_second_ctrl_c_ends_everything_at_once(world: World) -> None:
    stubborn = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)\n"
    )
    run = world.start("run", "--shutdown-timeout", "300", world.script(stubborn))
    assert run.stdout is not None
    assert run.stdout.readline() == "up\n"
    os.kill(run.pid, signal.SIGINT)
    assert run.stderr is not None
    wait_for(lambda: "stopping the ranks" in run.stderr.readline())
    os.kill(run.pid, signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode == 130
    assert world.left() == []


def test_a_preload_that_starts_a_thread_leads_to_a_cold_start_that_says_so(world: World) -> None:
    world.script(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True, name='mine').start()\n",
        "busy.py",
    )
    done = world.run("run", "--preload", "busy", world.script("print('ran')\n"))
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    [cold] = [
        r.observation for r in world.rows() if isinstance(r, records.Observed) and r.observation.kind == "cold-start"
    ]
    assert "preload busy" in cold.text
    assert "thread" in cold.text


def test_one_state_directory_serves_one_run_after_the_other_and_not_two_at_once(world: World) -> None:
    first = world.start("run", *world.counting(60))
    wait_for(lambda: len(world.journal()) >= 1)
    second = world.run("run", "--job", "other", world.script("print('hi')\n", "other.py"))
    assert second.returncode == 2
    assert "--state DIR" in second.stderr
    first.communicate(timeout=60)
    assert first.returncode == 0
    third = world.run("run", "--job", "other", world.script("print('hi')\n", "other.py"))
    assert (third.returncode, third.stdout) == (0, "hi\n"), third.stderr
    again = world.run("run", "--job", "other", world.script("print('again')\n", "other.py"))
    assert (again.returncode, again.stdout) == (0, "again\n"), again.stderr


def test_three_kills_in_a_row_each_name_the_rank_that_died_first(world: World) -> None:
    run = world.start("run", *world.counting(40))
    for attempt, (victim, steps) in enumerate([(0, 6), (1, 0), (1, 6)]):
        kill_rank(world, attempt, victim, steps)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    incidents = world.document("incidents")["incidents"]
    assert [incident["suspects"]["ranks"] for incident in incidents] == [[0], [1], [1]]
    assert {incident["cause"] for incident in incidents} == {"rank-killed"}


def kill_rank(world: World, attempt: int, rank: int, steps: int) -> None:
    """SIGKILL for a rank, once its attempt has done so many steps; at 0 as soon as its process is known."""
    pids = wait_for(lambda: world.pids(attempt))
    wait_for(lambda: sum(number == attempt for number, _, _ in world.journal()) >= steps)
    os.kill(pids[rank], signal.SIGKILL)


def test_a_reader_that_leaves_does_not_end_the_job(world: World) -> None:
    run = world.start("run", *world.counting(12))
    assert run.stdout is not None
    assert run.stdout.readline() == "step 1\n"
    run.stdout.close()
    assert run.stderr is not None
    said = run.stderr.read()
    assert run.wait(60) == 0, said
    assert [step for _, step, _ in world.journal()] == list(range(1, 13))
