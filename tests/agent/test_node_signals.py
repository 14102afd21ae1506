"""A whole agent on a node of eight pretended GPUs: what breaks is told once, and what hangs holds nothing else."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from prometheus_client.openmetrics import parser

from outrider_simulator import fake_nvml
from tests.agent import test_exporter, world


class Node:
    """A node with a fake library and a log in the kernel's place, and the agents that serve it one after the other."""

    def __init__(self, made: world.Node) -> None:
        self.made = made
        self.log = made.state / "kmsg"
        self.log.touch()
        self.gpus = fake_nvml.World(made.state / "nvml", kernel_log=self.log)

    def start(self) -> subprocess.Popen[bytes]:
        """Start an agent as people do."""
        words = [sys.executable, "-m", "outrider_cli", "agent", "--node", "n0", "--state", str(self.made.state)]
        words += ["--nvml-library", str(self.gpus.library), "--kernel-log", str(self.log), "--expect-gpus", "8"]
        words += ["--metrics-listen", "127.0.0.1:0"]
        assert self.made.runtime
        environment = {**os.environ, "OUTRIDER_RUNTIME": str(self.made.runtime_base)}
        with (self.made.state / "agent.log").open("ab") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
        self.made.agents.append(process)  # type: ignore[arg-type]
        return process

    def kill(self) -> None:
        """The agent that runs dies."""
        self.made.agents[-1].kill()
        self.made.agents[-1].wait()


def play(scenario: Callable[[Node, world.Controller], Coroutine[Any, Any, None]]) -> None:
    async def run(node: Node) -> None:
        async with world.Controller(node.made.state) as controller:
            await scenario(node, controller)

    with world.node() as made:
        asyncio.run(run(Node(made)))


async def metrics(node: Node) -> dict[tuple[str, str], float]:
    """One scrape of the agent that runs."""
    found = await world.until(lambda: re.findall(r"metrics are served.*?port=(\d+)", node.made.log()), "the port")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(found[-1]))
    writer.write(b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n")
    body = (await reader.read()).decode().partition("\r\n\r\n")[2]
    writer.close()
    families = list(parser.text_string_to_metric_families(body))
    assert all(one.labels.get("simulated") == "true" for family in families for one in family.samples)
    assert sum(len(family.samples) for family in families) < 300
    return test_exporter.samples(families)


async def shown(node: Node, name: str, key: str, value: float) -> None:
    """Wait until /metrics says so."""
    for _ in range(200):
        if (await metrics(node)).get((name, key)) == value:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{name} {key} was never {value}: {await metrics(node)}")


def test_an_xid_is_told_once_from_two_sources_over_the_deaths_of_the_agent() -> None:
    async def scenario(node: Node, controller: world.Controller) -> None:
        node.start()
        await shown(node, "outrider_gpu_nvlinks_up", "7", 18)
        node.gpus.xid(3, 79)
        (seen,) = await world.until(lambda: controller.observed("xid"), "the Xid")
        assert (seen.device, seen.severity, seen.evidence["xid"]) == ("gpu3", "fatal", 79)
        assert seen.evidence["simulated"] is True
        assert seen.job is None
        await shown(node, "DCGM_FI_DEV_XID_ERRORS", "3", 79)
        for _ in range(2):
            node.kill()
            node.start()
            hellos = len(controller.hellos)
            await world.until(lambda before=hellos: len(controller.hellos) > before, "the next agent")
        await shown(node, "outrider_gpu_nvlinks_up", "7", 18)
        node.gpus.xid(5, 95)
        await world.until(lambda: len(controller.observed("xid")) > 1, "the other Xid")
        await asyncio.sleep(1.0)
        assert sorted((one.device, one.evidence["xid"]) for one in controller.observed("xid")) == [
            ("gpu3", 79),
            ("gpu5", 95),
        ]
        assert [one.device for one in controller.hellos[-1].findings if one.kind == "xid"] == ["gpu3"]
        assert controller.hellos[-1].simulated

    play(scenario)


def test_a_call_that_hangs_is_told_and_neither_the_log_nor_metrics_wait_for_it() -> None:
    async def scenario(node: Node, controller: world.Controller) -> None:
        node.start()
        await shown(node, "outrider_gpu_nvlinks_up", "7", 18)
        hung = node.gpus.hang(1, "nvmlDeviceGetFieldValues")
        (seen,) = await world.until(lambda: controller.observed("nvml-hang"), "the hang")
        assert seen.device == "gpu1"
        node.gpus.kernel_line("EXT4-fs (nvme0n1): Remounting filesystem read-only")
        await world.until(lambda: controller.observed("file-system-read-only"), "the log to be heard beside it")
        await shown(node, "outrider_signal_success", "kernel-log", 1)
        found = await metrics(node)
        assert found["DCGM_FI_DEV_GPU_TEMP", "2"] > 0
        assert ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "2") in found, "the other GPUs go on in another helper"
        assert sum(found["outrider_findings", word] for word in ("fatal", "error", "warning")) >= 2
        hung.clear()

    play(scenario)


def test_an_agent_that_is_told_to_leave_takes_its_helpers_along() -> None:
    async def scenario(node: Node, controller: world.Controller) -> None:
        process = node.start()
        await shown(node, "outrider_gpu_nvlinks_up", "0", 18)
        helpers = _children(process.pid)
        assert helpers
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        await world.until(lambda: not any(map(world.alive, helpers)), "the helpers to end")

    play(scenario)


def test_helpers_end_with_an_agent_that_is_killed() -> None:
    async def scenario(node: Node, controller: world.Controller) -> None:
        process = node.start()
        await shown(node, "outrider_gpu_nvlinks_up", "0", 18)
        helpers = _children(process.pid)
        node.kill()
        await world.until(lambda: not any(map(world.alive, helpers)), "the helpers to end")

    play(scenario)


def _children(pid: int) -> list[int]:
    return [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]
