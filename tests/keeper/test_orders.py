"""What a keeper takes and refuses, and what comes through its door that is no order at all."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from outrider_agent import keeper_client
from outrider_agent.keeper import cold, orders
from tests.keeper.nest import Nest

SLEEP = "import time\ntime.sleep(600)"


def test_an_older_or_equal_generation_is_refused_and_the_running_one_answered_again(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script(SLEEP)
        nest.generation = 4
        first = await nest.start(command, ranks=2)
        assert await nest.keeper.start(nest.order(command, 2)) == first
        with pytest.raises(keeper_client.KeeperRefused, match="generation 5 is older than or the same as 5"):
            await nest.keeper.start(nest.order(command, 3))
        nest.generation = 3
        with pytest.raises(keeper_client.KeeperRefused, match="older generation"):
            await nest.keeper.start(nest.order(command, 2))
        with pytest.raises(keeper_client.KeeperRefused, match="generation 3 is older than 5"):
            await nest.keeper.stop(3, 1.0)
        assert {rank.pid for rank in (await nest.keeper.status()).ranks} == set(first.pids.values())
        assert json.loads(nest.home.fence.read_text()) == {"generation": 5}

    nest.run(story)


def test_a_start_that_comes_after_its_own_stop_is_refused(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script(SLEEP)
        keeper = await nest.open(command)
        assert await keeper.stop(3, 1.0) == ()
        nest.generation = 2
        with pytest.raises(keeper_client.KeeperRefused, match="stopped here already"):
            await nest.start(command)

    nest.run(story)


def test_a_new_generation_waits_for_the_ranks_of_the_old_one(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script(SLEEP)
        await nest.start(command, ranks=2)
        with pytest.raises(keeper_client.KeeperRefused, match=r"ranks \[0, 1\] of generation 1 still run"):
            await nest.start(command)

    nest.run(story)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"command": ("/no/such/program",)}, "/no/such/program: No such file or directory"),
        ({"command": ("no-such-program", "x")}, "no-such-program: No such file or directory"),
        ({"command": ("/etc/passwd",)}, "/etc/passwd: Permission denied"),
        ({"command": ("/no/python3", "x.py"), "cwd": "/tmp"}, "there is no script /tmp/x.py"),
        ({"command": ("/no/python3", "-m", "x")}, "/no/python3: no such program"),
        ({"command": (sys.executable, "gone.py"), "cwd": "/tmp"}, "there is no script /tmp/gone.py"),
        ({"cwd": "/no/such/folder"}, "the working directory /no/such/folder does not exist"),
        ({"log_dir": "/proc/no"}, "/proc/no"),
    ],
)
def test_what_cannot_be_started_is_named_and_nothing_is_left_running(
    nest: Nest, change: dict[str, Any], words: str
) -> None:
    async def story(nest: Nest) -> None:
        await nest.open()
        with pytest.raises(keeper_client.KeeperRefused, match="could not be started") as refused:
            await nest.start(**{"command": ("sh", "-c", "sleep 600"), "ranks": 2, **change})
        assert words in str(refused.value)
        failed = await nest.event("start-failed", 1)
        assert failed["rank"] in (0, 1)
        await nest.ended()
        assert all(end.asked for end in nest.exits(1))
        assert (await nest.keeper.status()).state == "ended"
        await nest.start(("true",), ranks=2)
        assert [end.code for end in await nest.ended()] == [0, 0]

    nest.run(story)


def test_ranks_that_had_begun_are_stopped_when_a_later_one_cannot(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        await nest.open()
        logs = nest.path / "logs"
        (logs / "rank_2.log").mkdir(parents=True)
        with pytest.raises(keeper_client.KeeperRefused, match="rank 2 could not be started"):
            await nest.start(nest.script(SLEEP), ranks=4, log_dir=str(logs))
        assert [(end.asked, end.signal in ("SIGTERM", "SIGKILL")) for end in await nest.ended()] == [(True, True)] * 2
        assert [event["rank"] for event in nest.events("start-failed", 1)] == [2]

    nest.run(story)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be refused as root")
def test_ranks_do_not_run_as_root_unless_told(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        await nest.open(allow_root=False)
        with pytest.raises(keeper_client.KeeperRefused, match="--allow-root"):
            await nest.start(("true",))

    nest.run(story)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_ranks_run_as_the_jobs_user(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        if (python := _python_of_everyone()) is None:
            pytest.skip("no interpreter that another user may run together with this checkout")
        nest.path.chmod(0o755)
        logs = nest.path / "logs"
        await nest.open((python,), user="nobody", allow_root=False, own=(logs,))
        await nest.start(("sh", "-c", "id -un; echo $HOME $USER"), log_dir=str(logs / "a"))
        assert [end.code for end in await nest.ended()] == [0]
        assert (logs / "a" / "rank_0.log").read_text().split()[::2] == ["nobody", "nobody"]

    nest.run(story)


def test_a_user_who_does_not_exist_is_named(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        with pytest.raises(keeper_client.KeeperNotStarted, match="no user nobody-of-that-name"):
            await nest.open(user="nobody-of-that-name")

    nest.run(story)


def test_an_interpreter_that_cannot_run_the_keeper_gives_cold_ranks(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        old = nest.file(
            "bin/python3", f'#!/bin/sh\ncase "$*" in *" keeper "*) exit 9;; esac\nexec {sys.executable} "$@"\n'
        )
        old.chmod(0o755)
        command = (str(old), *nest.script("print('ran')")[1:])
        started = await nest.start(command)
        assert not started.warm
        assert f"the command's interpreter {old} is not the keeper's" in str(started.why_cold)
        assert [end.code for end in await nest.ended()] == [0]
        assert nest.log() == "ran\n"

    nest.run(story)


def _python_of_everyone() -> str | None:
    """An interpreter that may run the keeper as somebody else; a checkout or a pyenv in root's home has none."""
    look = "import sys; open(sys.argv[1]); sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            words = [python, "-c", look, cold.entry()]
            if subprocess.run(words, user="nobody", capture_output=True, check=False).returncode == 0:
                return python
        except OSError:
            continue
    return None


GARBAGE = [
    b"\n",
    b"hello\n",
    b"\xff\xfe\x00\n",
    b"[1, 2]\n",
    b"null\n",
    b'{"id": 1}\n',
    b'{"id": 1, "do": ["start"]}\n',
    b'{"id": 1, "do": "burn"}\n',
    b'{"id": 1, "do": "start"}\n',
    b'{"id": 1, "do": "stop", "generation": true}\n',
    b'{"id": 1, "do": "stop", "generation": 1, "grace_s": 1e999}\n',
    b'{"id": 1, "do": "status", "colour": "red"}\n',
    b"[" * 100_000 + b"\n",
    b"x" * (orders.LINE_BYTES_MAX + 10) + b"\n",
]


def test_garbage_on_the_keepers_socket_is_answered_and_forgotten(nest: Nest) -> None:
    async def story(nest: Nest) -> None:
        started = await nest.start(nest.script(SLEEP))
        await nest.let_go()
        for garbage in GARBAGE:
            with socket.socket(socket.AF_UNIX) as door:
                door.connect(str(nest.home.socket))
                lines = door.makefile("rb")
                assert json.loads(lines.readline())["type"] == "keeper"
                door.sendall(garbage + b'{"id": 7, "do": "status"}\n')
                answers = [json.loads(lines.readline())]
                while answers[-1]["id"] != 7:
                    answers.append(json.loads(lines.readline()))
                assert answers[-1]["result"]["state"] == "running"
                assert all(not answer["ok"] and answer["error"] for answer in answers[:-1])
                assert bool(answers[:-1]) is bool(garbage.strip())
        await nest.adopt()
        assert [rank.pid for rank in (await nest.keeper.status()).ranks] == [started.pids[0]]

    nest.run(story)


junk = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = some.sampled_from(["do", "id", "generation", "grace_s", "ranks", "command", "env", "log_dir", "event", "cwd"])
kinds = some.sampled_from([*orders.KINDS, "burn"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some.dictionaries(names, junk, max_size=8), kinds)
def test_no_document_makes_reading_an_order_fail_in_another_way(document: dict[str, Any], kind: str) -> None:
    with contextlib.suppress(orders.OrderError):
        orders.decode({**document, "do": kind})


def test_an_order_reads_back_as_it_was() -> None:
    order = orders.Start(0, 1, 2, 1, 0, (0, 1), ("a",), "/logs", env={"A": "b"}, fence=("/f",))
    assert orders.decode(json.loads(orders.encode(3, order))) == order
