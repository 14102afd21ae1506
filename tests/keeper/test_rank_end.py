"""How ranks end, and what the keeper says of it: order, code, signal, exception, and who was asked."""

import json
import os
import random
import signal
import time

import pytest

from tests.keeper.nest import Nest, alive, until
from tests.keeper.test_rank_start import BOTH

# Every rank is connected with every other; when one goes, its sockets reset and the others raise within milliseconds.
CASCADE = """
    import os, select, socket, time
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    folder = os.environ["MEETING"]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/{rank}.part")
    listener.listen(world)
    os.rename(f"{folder}/{rank}.part", f"{folder}/{rank}")
    peers = []
    for other in range(rank):
        while not os.path.exists(f"{folder}/{other}"):
            time.sleep(0.002)
        peers.append(socket.socket(socket.AF_UNIX))
        peers[-1].connect(f"{folder}/{other}")
    peers += [listener.accept()[0] for _ in range(rank + 1, world)]
    print("connected", flush=True)
    ready, _, _ = select.select(peers, [], [])
    raise ConnectionError(f"a peer of rank {rank} is gone")
"""
KILLS = 20
RANKS = 4


def test_the_first_dead_rank_and_its_signal_are_named_in_twenty_of_twenty_kills(nest: Nest) -> None:
    chance = random.Random(7)
    right = []

    async def story(nest: Nest) -> None:
        command = nest.script(CASCADE)
        for _ in range(KILLS):
            meeting = nest.path / f"m{nest.generation + 1}"
            meeting.mkdir()
            started = await nest.start(command, ranks=RANKS, env={"MEETING": str(meeting)})
            victim = chance.randrange(RANKS)
            if chance.random() < 0.7:  # the others are hit while they begin
                for rank in range(RANKS):
                    await nest.log_has("connected", rank)
            time.sleep(chance.random() * 0.03)
            os.kill(started.pids[victim], signal.SIGKILL)
            await nest.event("rank-exited", nest.generation)
            await nest.keeper.stop(nest.generation, 1.0)
            ends = await nest.ended()
            assert [end.order for end in ends] == list(range(RANKS))
            right.append(
                (ends[0].rank, ends[0].signal, ends[0].code, ends[0].asked) == (victim, "SIGKILL", None, False)
            )

    nest.run(story)
    assert right == [True] * KILLS


@BOTH
def test_every_way_to_end_is_told_as_it_was(nest: Nest, flags: tuple[str, ...]) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script(
            """
            import atexit, os, signal, sys
            def fail():
                raise ValueError("the data is gone: row 7")
            atexit.register(print, "goodbye")
            way = int(os.environ["RANK"])
            if way == 1: sys.exit(17)
            if way == 2: sys.exit("no more")
            if way == 3: fail()
            if way == 4: os._exit(5)
            if way == 5: os.kill(os.getpid(), signal.SIGSEGV)
            if way == 6: os.kill(os.getpid(), signal.SIGTERM)
            if way == 7: raise KeyboardInterrupt
            """,
            flags=flags,
        )
        await nest.start(command, ranks=8)
        ends = {end.rank: end for end in await nest.ended()}
        assert [(ends[rank].code, ends[rank].signal) for rank in range(8)] == [
            (0, None),
            (17, None),
            (1, None),
            (1, None),
            (5, None),
            (None, "SIGSEGV"),
            (None, "SIGTERM"),
            (None, "SIGINT"),
        ]
        assert not any(end.asked for end in ends.values())
        assert sorted(end.order for end in ends.values()) == list(range(8))
        assert [rank for rank in range(8) if "goodbye\n" in nest.log(rank)] == [0, 1, 2, 3, 7]
        assert "no more\n" in ends[2].log_tail

    nest.run(story)


@BOTH
def test_an_exception_is_printed_as_python_prints_it_and_told_in_full(nest: Nest, flags: tuple[str, ...]) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script("def load():\n    raise ValueError('no row: 7')\nload()", flags=flags)
        await nest.start(command)
        (end,) = await nest.ended()
        script = str(nest.path / "code" / "train.py")
        assert (end.code, end.error_type, end.error_message) == (1, "ValueError", "no row: 7")
        assert end.error_where == f"{script}:2 in load"
        assert end.log_tail.splitlines()[:2] == [
            "Traceback (most recent call last):",
            f'  File "{script}", line 3, in <module>',
        ]
        assert end.log_tail.endswith("ValueError: no row: 7\n")
        document = json.loads((nest.path / "logs-1" / "rank_0.error.json").read_text())
        assert document["message"]["message"] == "ValueError: no row: 7"
        assert {"py_callstack", "timestamp"} <= document["message"]["extraInfo"].keys()

    nest.run(story)


def test_an_error_file_written_by_torchs_record_is_read(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script(
            """
            import json, os
            stack = 'Traceback:\\n  File "/a/b.py", line 12, in step\\n    x\\n'
            extra = {"py_callstack": stack, "timestamp": "1"}
            with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
                json.dump({"message": {"message": "RuntimeError: NaN", "extraInfo": extra}}, file)
            os._exit(1)
            """
        )
        await nest.start(command)
        (end,) = await nest.ended()
        assert (end.error_type, end.error_message, end.error_where) == ("RuntimeError", "NaN", "/a/b.py:12 in step")

    nest.run(story)


def test_a_syntax_error_ends_the_rank_and_not_the_keeper(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        await nest.start(nest.script("def ("))
        (end,) = await nest.ended()
        assert (end.code, end.error_type) == (1, "SyntaxError")
        assert (await nest.keeper.status()).state == "ended"

    nest.run(story)


@pytest.mark.parametrize(
    "how", ["signal.signal(signal.SIGTERM, signal.SIG_IGN)", "os.kill(os.getpid(), signal.SIGSTOP)"]
)
@BOTH
def test_a_rank_that_does_not_act_on_sigterm_is_killed_after_its_grace(
    nest: Nest, flags: tuple[str, ...], how: str
) -> None:
    async def story(nest: Nest) -> None:
        # A stopped rank is woken with the SIGTERM pending, so only the one that ignores it needs the SIGKILL.
        command = nest.script(
            f"import os, signal, time\nprint('ready', flush=True)\n{how}\ntime.sleep(600)", flags=flags
        )
        started = await nest.start(command)
        await nest.log_has("ready")
        if "STOP" in how:
            stat = nest.path.__class__(f"/proc/{started.pids[0]}/stat")
            await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        assert await nest.keeper.stop(nest.generation, 0.3) == (0,)
        (end,) = await nest.ended()
        assert (end.signal, end.asked) == ("SIGTERM" if "STOP" in how else "SIGKILL", True)

    nest.run(story)


def test_a_stopped_rank_that_ignores_sigterm_is_killed_all_the_same(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script(
            "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready')\ntime.sleep(600)"
        )
        started = await nest.start(command)
        await nest.log_has("ready")
        os.kill(started.pids[0], signal.SIGSTOP)
        await nest.keeper.stop(nest.generation, 0.0)
        assert [(end.signal, end.asked) for end in await nest.ended()] == [("SIGKILL", True)]

    nest.run(story)


@BOTH
def test_a_stop_lets_a_rank_save_and_ends_its_helpers_too(nest: Nest, flags: tuple[str, ...]) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script(
            """
            import os, signal, sys, time
            helper = os.fork()
            if helper == 0:
                os.setpgid(0, 0)  # in a group of its own, as a shell's jobs are
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)
            def leave(number, frame):
                print("saved")
                sys.exit(3)
            signal.signal(signal.SIGTERM, leave)
            print("helper", helper, "ready")
            time.sleep(600)
            """,
            flags=flags,
        )
        await nest.start(command)
        helper = int((await nest.log_has("ready")).split()[1])
        await nest.keeper.stop(nest.generation, 30.0)
        (end,) = await nest.ended()
        assert (end.code, end.asked) == (3, True)
        assert nest.log().endswith("saved\n")
        await until(lambda: not alive(helper))

    nest.run(story)


def test_a_killed_ranks_helpers_go_with_it(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        text = "import subprocess, time\nprint(subprocess.Popen(['sleep', '600']).pid)\ntime.sleep(600)"
        started = await nest.start(nest.script(text))
        helper = int(await nest.log_has("\n"))
        os.kill(started.pids[0], signal.SIGKILL)
        await nest.ended()
        await until(lambda: not alive(helper))

    nest.run(story)


def test_a_helper_that_a_finished_rank_left_behind_on_purpose_goes_on(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        await nest.start(nest.script("import subprocess\nprint(subprocess.Popen(['sleep', '600']).pid)"))
        assert [end.code for end in await nest.ended()] == [0]
        assert alive(int(nest.log()))

    nest.run(story)


def test_only_ranks_that_were_alive_when_we_asked_are_told_as_asked(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        started = await nest.start(nest.script("import time\ntime.sleep(600)"), ranks=3)
        os.kill(started.pids[1], signal.SIGTERM)
        await nest.event("rank-exited", nest.generation)
        await nest.keeper.stop(nest.generation, 5.0)
        ends = await nest.ended()
        assert (ends[0].rank, ends[0].asked) == (1, False)
        assert [end.asked for end in ends[1:]] == [True, True]

    nest.run(story)


def test_a_crash_and_an_asked_for_stack_are_in_the_log(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        text = "import os, time\ndef wait_for_data():\n    time.sleep(600)\nprint('ready')\nwait_for_data()"
        started = await nest.start(nest.script(text))
        await nest.log_has("ready")
        os.kill(started.pids[0], signal.SIGUSR2)
        await nest.log_has("in wait_for_data")
        os.kill(started.pids[0], signal.SIGSEGV)
        (end,) = await nest.ended()
        assert end.signal == "SIGSEGV"
        assert "Fatal Python error: Segmentation fault" in end.log_tail

    nest.run(story)
