"""The keeper outlives its client, is found by the next, and tells it everything exactly once; and how a keeper ends."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest

from outrider_agent import keeper_client
from outrider_agent.keeper import home
from tests.keeper.nest import Nest, alive, until

SLEEP = "import time\ntime.sleep(600)"
# An agent in miniature: starts a keeper and two ranks, acknowledges nothing, and is killed.
CLIENT = """
import asyncio, json, pathlib, sys
from outrider_agent import keeper_client
from outrider_agent.keeper import orders

async def main(runtime, logs, script):
    command = (sys.executable, script)
    keeper = await keeper_client.start(
        keeper_client.Settings("job", "n0", pathlib.Path(runtime), command, allow_root=True)
    )
    started = await keeper.start(orders.Start(0, 1, 2, 1, 0, (0, 1), command, logs))
    print(json.dumps({"keeper": keeper.hello.pid, "pids": started.pids}), flush=True)
    async for event in keeper.events(0):
        pass

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_keeper_survives_the_kill_of_its_client_and_tells_the_next_everything_once(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        script = nest.script(SLEEP)[1]
        nest.file("client.py", CLIENT)
        words = [
            sys.executable,
            str(nest.path / "code" / "client.py"),
            str(nest.runtime),
            str(nest.path / "logs"),
            script,
        ]
        client = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True, env=_paths())
        assert client.stdout is not None
        told = json.loads(client.stdout.readline())
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()
        client.stdout.close()
        pids = [told["pids"]["0"], told["pids"]["1"]]
        os.kill(pids[1], signal.SIGKILL)  # while nobody is there to hear it
        await until(lambda: not alive(pids[1]))
        keeper = await nest.adopt()
        assert keeper.hello.pid == told["keeper"]
        assert alive(pids[0])
        assert [rank.pid for rank in (await keeper.status()).ranks] == [pids[0]]
        await keeper.stop(1, 1.0)
        await nest.ended(1)
        kinds = [event.event["kind"] for event in nest.taken]
        assert kinds == ["ranks-started", "rank-exited", "rank-exited", "attempt-ended"]
        assert [(end.rank, end.order, end.asked) for end in nest.exits(1)] == [(1, 0, False), (0, 1, True)]
        assert [event.n for event in nest.taken] == [1, 2, 3, 4]

    nest.run(story)


def test_events_come_again_until_they_are_acknowledged(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        await nest.start(nest.script("pass"))
        await nest.ended()
        taken = list(nest.taken)
        for acked in (0, 2):
            await nest.keeper.ack(acked)
            await nest.let_go()
            nest.taken = []
            await nest.adopt()
            await nest.ended()
            assert nest.taken == taken[acked:]

    nest.run(story)


def test_a_new_client_takes_the_place_of_the_old_one(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        old = await nest.open()
        new = await keeper_client.adopt(nest.runtime, nest.job)
        assert new is not None
        await asyncio.wait_for(old.gone.wait(), 30)
        with pytest.raises(keeper_client.KeeperGone):
            await old.status()
        assert (await new.status()).state == "idle"
        await new.close()

    nest.run(story)


def test_a_job_has_one_keeper_however_often_it_is_started(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        keepers = await asyncio.gather(*(keeper_client.start(nest.settings(allow_root=True)) for _ in range(3)))
        assert len({keeper.hello.pid for keeper in keepers}) == 1
        info = json.loads(nest.home.info.read_text())
        assert info["pid"] == keepers[0].hello.pid
        assert info["started_at"] == home.start_ticks(info["pid"])
        for keeper in keepers:
            await keeper.close()

    nest.run(story)


def test_no_rank_outlives_a_killed_keeper_and_the_next_one_goes_on_counting(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script("import subprocess, time\nprint(subprocess.Popen(['sleep', '600']).pid)\ntime.sleep(600)")
        keeper = await nest.open(command)
        started = await nest.start(command, ranks=3)
        helpers = [int(await nest.log_has("\n", rank)) for rank in range(3)]
        with pytest.raises(keeper_client.KeeperError, match="its keeper lives"):
            keeper_client.kill_strays(nest.runtime, nest.job)
        os.kill(keeper.hello.pid, signal.SIGKILL)
        await asyncio.wait_for(keeper.gone.wait(), 30)
        await until(lambda: not any(alive(pid) for pid in started.pids.values()))
        assert await keeper_client.adopt(nest.runtime, nest.job) is None
        assert set(helpers) <= set(keeper_client.kill_strays(nest.runtime, nest.job))
        await until(lambda: not any(alive(pid) for pid in helpers))
        second = await nest.open(command)
        assert (second.hello.journal, second.hello.next_event) == (keeper.hello.journal, 2)
        assert second.hello.state.generation == 1
        nest.generation = 0
        with pytest.raises(keeper_client.KeeperRefused, match="older generation"):
            await nest.start(command)
        assert (await nest.start(command, ranks=1)).warm

    nest.run(story)


def test_fresh_ranks_do_not_outlive_a_killed_keeper_either(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        keeper = await nest.open()
        started = await nest.start(("sleep", "600"), ranks=2)
        os.kill(keeper.hello.pid, signal.SIGKILL)
        await until(lambda: not any(alive(pid) for pid in started.pids.values()))

    nest.run(story)


def test_a_released_keeper_leaves_when_everything_is_acknowledged(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        keeper = await nest.open()
        await nest.start(("sleep", "600"))
        with pytest.raises(keeper_client.KeeperRefused, match=r"ranks \[0\] still run"):
            await keeper.release()
        await keeper.stop(1, 1.0)
        await nest.ended()
        await keeper.release()
        assert (await keeper.status()).state == "ended"
        with pytest.raises(keeper_client.KeeperRefused, match="about to leave"):
            await nest.start(("true",))
        await keeper.ack(nest.taken[-1].n)
        await asyncio.wait_for(keeper.gone.wait(), 30)
        await until(lambda: not alive(keeper.hello.pid))
        assert not any(path.exists() for path in (nest.home.socket, nest.home.info, nest.home.journal, nest.home.fence))

    nest.run(story)


def test_an_idle_keeper_without_a_client_leaves_unless_something_is_unheard(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        keeper = await nest.open(linger_s=0.2)
        await nest.start(("true",))
        await nest.ended()
        await nest.let_go()
        await asyncio.sleep(0.6)
        assert alive(keeper.hello.pid)
        await nest.adopt()
        await nest.keeper.ack(nest.taken[-1].n)
        await asyncio.sleep(0.4)
        assert alive(keeper.hello.pid)
        await nest.let_go()
        await until(lambda: not alive(keeper.hello.pid))
        assert nest.home.fence.exists()

    nest.run(story)


def test_an_idle_keeper_that_nobody_can_reach_any_more_leaves(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        keeper = await nest.open(linger_s=0.2)
        await nest.start(("true",))
        await nest.ended()
        nest.home.socket.unlink()
        await nest.let_go()
        await until(lambda: not alive(keeper.hello.pid))

    nest.run(story)


def test_a_keeper_with_ranks_whose_socket_was_deleted_can_be_reached_again(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        started = await nest.start(nest.script(SLEEP))
        nest.home.socket.unlink()
        await nest.let_go()
        await until(nest.home.socket.exists)
        assert [rank.pid for rank in (await nest.adopt()).hello.state.ranks] == list(started.pids.values())

    nest.run(story)


def test_a_keeper_that_is_told_to_end_stops_its_ranks_first_and_keeps_their_ends(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        keeper = await nest.open()
        await nest.start(nest.script(SLEEP), ranks=2)
        await nest.let_go()
        os.kill(keeper.hello.pid, signal.SIGTERM)
        await until(lambda: not alive(keeper.hello.pid))
        await nest.open()
        assert [(end.signal, end.asked) for end in await nest.ended(1)] == [("SIGTERM", True)] * 2

    nest.run(story)


def test_a_path_that_no_socket_can_have_is_named(nest: Nest) -> None:
    nest.runtime = nest.path / ("deep" * 30)

    async def story(nest: Nest) -> None:
        with pytest.raises(keeper_client.KeeperNotStarted, match="OUTRIDER_RUNTIME"):
            await nest.open()

    nest.run(story)


def _paths() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
