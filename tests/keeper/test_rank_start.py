"""What a rank finds when it begins, forked or afresh: the world of a script that was started alone."""

import json
import os
import pathlib
import sys

import pytest

from tests.keeper.nest import Nest, until

# A flag changes the interpreter itself, so the ranks are started afresh.
FORKED: tuple[str, ...] = ()
AFRESH = ("-B",)
BOTH = pytest.mark.parametrize("flags", [FORKED, AFRESH], ids=["forked", "afresh"])


def test_forked_ranks_share_what_the_keeper_imported(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        nest.file("heavy.py", "import os\nloaded_by = os.getpid()\n")
        command = nest.script("import heavy, os\nprint(heavy.loaded_by, os.getppid())")
        keeper = await nest.open(command)
        started = await nest.start(command, ranks=2, preload=("heavy",))
        assert (started.warm, started.why_cold) == (True, None)
        await nest.ended()
        assert [nest.log(rank).split() for rank in range(2)] == [[str(keeper.hello.pid)] * 2] * 2

    nest.run(story)


def test_a_preload_that_starts_a_thread_leads_to_a_cold_start_that_says_so(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        nest.file(
            "threaded.py",
            """
            import threading, time
            threading.Thread(target=time.sleep, args=(3600,), daemon=True, name="prefetch").start()
            """,
        )
        command = nest.script("print('ran')")
        started = await nest.start(command, ranks=2, preload=("auto", "threaded"))
        assert not started.warm
        assert started.why_cold is not None
        assert "preload threaded" in started.why_cold
        assert "prefetch" in started.why_cold
        assert [(one.rank, one.code) for one in sorted(await nest.ended(), key=lambda one: one.rank)] == [
            (0, 0),
            (1, 0),
        ]
        assert nest.events("cold-start", 1)[0]["text"] == started.why_cold
        assert nest.log(1) == "ran\n"

    nest.run(story)


def test_a_preload_that_fails_leads_to_a_cold_start_that_names_it(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        nest.file("broken.py", "raise SystemExit('no licence')")
        started = await nest.start(nest.script("print('ran')"), preload=("broken",))
        assert started.why_cold == "preload broken failed: SystemExit: no licence"
        assert [one.code for one in await nest.ended()] == [0]

    nest.run(story)


@BOTH
def test_a_script_finds_its_own_agent_and_controller_modules(nest: Nest, flags: tuple[str, ...]) -> None:
    async def story(nest: Nest) -> None:
        for name in ("agent", "controller", "orders", "records", "home", "loop", "child"):
            nest.file(f"{name}.py", f"whose = 'mine: {name}'")
        command = nest.script(
            """
            import json, sys
            import agent, child, controller, home, loop, orders, records
            import outrider
            print(json.dumps({"whose": [m.whose for m in (agent, controller, orders, records, home, loop, child)],
                              "path": sys.path, "argv": sys.argv, "name": __name__, "file": __file__,
                              "main": sys.modules["__main__"].__dict__ is globals(), "orig": sys.orig_argv}))
            """,
            "--lr",
            "1",
            flags=flags,
        )
        await nest.start(command)
        assert [one.code for one in await nest.ended()] == [0], nest.log()
        found = json.loads(nest.log())
        code = str(nest.path / "code")
        assert all(text.startswith("mine") for text in found["whose"])
        assert found["path"][0] == code
        assert not any("outrider_agent" in path for path in found["path"])
        assert found["argv"] == [f"{code}/train.py", "--lr", "1"]
        assert (found["name"], found["file"], found["main"]) == ("__main__", f"{code}/train.py", True)
        assert found["orig"] == list(command)

    nest.run(story)


@BOTH
def test_a_module_is_run_as_python_m_runs_it(nest: Nest, flags: tuple[str, ...]) -> None:
    async def story(nest: Nest) -> None:
        nest.file("pack/__init__.py", "")
        nest.file("pack/side.py", "word = 'beside'")
        nest.file(
            "pack/train.py", "import sys\nfrom . import side\nprint(side.word, __name__, sys.argv[1:], sys.path[0])"
        )
        folder = str(nest.path / "code")
        started = await nest.start((sys.executable, *flags, "-m", "pack.train", "--x"), cwd=folder)
        assert started.warm is not bool(flags)
        assert [one.code for one in await nest.ended()] == [0], nest.log()
        assert nest.log() == f"beside __main__ ['--x'] {folder}\n"

    nest.run(story)


@BOTH
def test_a_rank_has_torchruns_environment_and_ours(nest: Nest, flags: tuple[str, ...]) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script("import json, os\nprint(json.dumps(dict(os.environ)))", flags=flags)
        await nest.open(command, env={"MINE": "below"})
        place = {"world_size": 4, "nnodes": 2, "node_rank": 1, "ranks": (2, 3), "master_addr": "10.0.0.7"}
        more = {
            "resume_path": "/ckpt/7",
            "fence": ("/ckpt/.outrider-fence",),
            "marks": "/r/marks.sock",
            "max_restarts": 3,
        }
        env = {"MINE": "above", "TORCH_FR_BUFFER_SIZE": "5"}
        await nest.start(command, master_port=29501, env=env, **place, **more)  # type: ignore[arg-type]
        await nest.ended()
        found = json.loads(nest.log(3))
        wanted = {
            "RANK": "3",
            "WORLD_SIZE": "4",
            "LOCAL_RANK": "1",
            "LOCAL_WORLD_SIZE": "2",
            "GROUP_RANK": "1",
            "GROUP_WORLD_SIZE": "2",
            "MASTER_ADDR": "10.0.0.7",
            "MASTER_PORT": "29501",
            "TORCHELASTIC_RUN_ID": "job",
            "TORCHELASTIC_RESTART_COUNT": "1",
            "TORCHELASTIC_MAX_RESTARTS": "3",
            "TORCHELASTIC_ERROR_FILE": str(nest.path / "logs-1" / "rank_3.error.json"),
            "OMP_NUM_THREADS": "1",
            "OUTRIDER_JOB": "job",
            "OUTRIDER_NODE": "n0",
            "OUTRIDER_ATTEMPT": "1",
            "OUTRIDER_GENERATION": "1",
            "OUTRIDER_RESUME_FROM": "/ckpt/7",
            "OUTRIDER_MARKS": "/r/marks.sock",
            "OUTRIDER_FENCE": f"{nest.home.fence}:/ckpt/.outrider-fence",
            "TORCH_FR_BUFFER_SIZE": "5",
            "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
            "MINE": "above",
        }
        assert {key: found.get(key) for key in wanted} == wanted
        assert "OPENBLAS_NUM_THREADS" not in found

    nest.run(story)


@BOTH
def test_a_rank_begins_with_clean_hands(nest: Nest, flags: tuple[str, ...]) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script(
            """
            import os, signal, sys
            fds = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                   if os.path.exists(f"/proc/self/fd/{fd}")}
            stacks = [fd for fd, to in fds.items() if to == os.environ["OUTRIDER_STACKS"]]
            fds = {fd: to for fd, to in fds.items() if stacks != [fd]}  # the one that the agent is answered through
            print(sorted(fds) == ["0", "1", "2"] or fds)
            print(fds["0"], repr(sys.stdin.read()))
            print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
            print([s.name for s in signal.Signals if signal.getsignal(s) not in (signal.SIG_DFL, None)])
            print(os.getsid(0) == os.getpid() == os.getpgrp())
            """,
            flags=flags,
        )
        await nest.start(command, ranks=3)
        await nest.ended()
        wanted = ["True", "/dev/null ''", "set()", "['SIGINT', 'SIGPIPE', 'SIGXFSZ']", "True"]
        assert [nest.log(rank).splitlines() for rank in range(3)] == [wanted] * 3

    nest.run(story)


def test_forked_ranks_draw_different_random_numbers(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script("import random, numpy.random\nprint(random.random(), numpy.random.random())")
        started = await nest.start(command, ranks=2)
        assert started.warm, started.why_cold
        await nest.ended()
        first, second = nest.log(0).split(), nest.log(1).split()
        assert first[0] != second[0]
        assert first[1] != second[1]

    nest.run(story)


@BOTH
def test_limits_hold_for_the_rank(nest: Nest, flags: tuple[str, ...]) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script(
            "from resource import *\nprint(getrlimit(RLIMIT_AS)[0], getrlimit(RLIMIT_NOFILE)[0])\nbytearray(1 << 34)",
            flags=flags,
        )
        await nest.start(command, memory_bytes=1 << 33, open_files=64)
        (end,) = await nest.ended()
        assert nest.log().splitlines()[0] == f"{1 << 33} 64"
        assert (end.code, end.error_type) == (1, "MemoryError")

    nest.run(story)


@BOTH
def test_a_line_is_in_the_log_before_the_rank_is_killed(nest: Nest, flags: tuple[str, ...]) -> None:
    async def story(nest: Nest) -> None:
        await nest.start(nest.script("import time\nprint('step 7')\ntime.sleep(600)", flags=flags))
        await nest.log_has("step 7\n")
        (rank,) = (await nest.keeper.status()).ranks
        os.kill(rank.pid, 9)
        (end,) = await nest.ended()
        assert (end.signal, end.code, end.asked, end.log_tail) == ("SIGKILL", None, False, "step 7\n")

    nest.run(story)


def test_a_file_that_hides_an_imported_module_leads_to_a_fresh_start(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        nest.file("select.py", "mine = True")
        started = await nest.start(nest.script("import select\nprint(select.mine)"))
        assert started.why_cold is not None
        assert "select.py" in started.why_cold
        await nest.ended()
        assert nest.log() == "True\n"

    nest.run(story)


def test_a_changed_import_time_variable_leads_to_a_fresh_start(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        started = await nest.start(nest.script("pass"), env={"OMP_NUM_THREADS": "4"})
        assert started.why_cold is not None
        assert started.why_cold.startswith("OMP_NUM_THREADS differs")

    nest.run(story)


def test_a_shell_loop_is_supervised(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        loop = ("sh", "-c", "i=0; while :; do i=$((i+1)); echo rank $RANK turn $i; sleep 0.05; done")
        started = await nest.start(loop, ranks=2)
        assert (started.warm, started.why_cold) == (False, "not a Python script: sh")
        await nest.log_has("rank 1 turn 2", rank=1)
        await nest.keeper.stop(nest.generation, 5.0)
        assert [(one.signal, one.asked) for one in await nest.ended()] == [("SIGTERM", True)] * 2
        assert nest.events("cold-start", 1) == []

    nest.run(story)


def test_an_interpreter_without_outrider_runs_ranks_that_can_import_it(nest: Nest) -> None:
    # -I and -S leave nothing but the standard library, as a job's own environment might.
    async def story(nest: Nest) -> None:
        command = nest.script("import outrider, sys\nprint(outrider.__version__, len(sys.path))", flags=("-I", "-S"))
        await nest.start(command)
        assert [one.code for one in await nest.ended()] == [0], nest.log()

    nest.run(story)


def test_a_rank_cannot_reach_the_keepers_files(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        opened = nest.script(
            "import os\nfor n in range(3, 64):\n    try: os.close(n); print('closed', n)\n    except OSError: pass"
        )
        await nest.start(opened, ranks=2)
        await nest.ended()
        assert nest.log(0) + nest.log(1) == ""
        await until(lambda: pathlib.Path(f"/proc/{nest.keeper.hello.pid}").exists())
        assert (await nest.keeper.status()).state == "ended"

    nest.run(story)
