"""Ranks that use torch: forked warm, answerable on their control socket while their main thread is blocked."""

import asyncio
import json
import os
import pathlib
import signal
import socket

import pytest

from tests.keeper.nest import Nest, until

pytest.importorskip("torch")

# Rank 1 never joins the second all-reduce, so rank 0 waits in it.
BLOCKED = """
    import datetime, os, time
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=300))
    dist.all_reduce(torch.ones(4))
    print("first done", "TORCH_WORKER_SERVER_SOCKET" in os.environ, flush=True)
    if dist.get_rank() == 1:
        time.sleep(600)
    dist.all_reduce(torch.ones(8))
"""


@pytest.mark.parametrize("flags", [(), ("-B",)], ids=["forked", "afresh"])
def test_a_rank_blocked_in_a_collective_answers_on_its_control_socket(nest: Nest, flags: tuple[str, ...]) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script(BLOCKED, flags=flags)
        await nest.open(command, ranks=2)
        started = await nest.start(command, ranks=2)
        assert started.warm is not bool(flags), started.why_cold
        for rank in range(2):
            assert (await nest.log_has("first done", rank)).splitlines()[-1] == "first done False"
        door = nest.home.control_socket(0)
        await until(door.exists)
        assert "pong" in await asyncio.to_thread(ask, door, "ping")
        await until(lambda: len(json.loads(ask(door, "fr_trace_json"))["entries"]) == 2)
        assert json.loads(ask(door, "fr_trace_json"))["entries"][-1]["profiling_name"] == "gloo:all_reduce"
        assert "all_reduce" in ask(door, "dump_traceback")
        os.kill(started.pids[1], signal.SIGKILL)
        ends = await nest.ended()
        assert (ends[0].rank, ends[0].signal) == (1, "SIGKILL")
        assert (ends[1].rank, ends[1].code) == (0, 1)
        assert ends[1].error_type in ("RuntimeError", "DistBackendError")

    nest.run(story)


@pytest.mark.parametrize("flags", [(), ("-B",)], ids=["forked", "afresh"])
def test_a_rank_with_a_control_socket_ends_cleanly_and_may_open_its_own(nest: Nest, flags: tuple[str, ...]) -> None:
    async def story(nest: Nest) -> None:
        command = nest.script(
            """
            import torch
            from torch.distributed.elastic.control_plane import worker_main
            with worker_main():
                print(torch.ones(3).sum().item())
            """,
            flags=flags,
        )
        await nest.open(command, ranks=1)
        await nest.start(command)
        assert [end.code for end in await nest.ended()] == [0], nest.log()
        assert "3.0" in nest.log().splitlines()

    nest.run(story)


def ask(door: pathlib.Path, what: str) -> str:
    """One POST to a rank's worker server; the body of its answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(door))
        client.sendall(
            f"POST /handler/{what} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b""
        while part := client.recv(65536):
            answer += part
    return answer.partition(b"\r\n\r\n")[2].decode()
