"""A real controller has a real agent check its node with the real `outrider check` before the node returns."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.agent import world as agents
from tests.controller import house

LOST = "3,1,100,-;NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n"


@contextlib.contextmanager
def agent(state: Path, runtime: Path, check: str) -> Iterator[subprocess.Popen[bytes]]:
    """An agent of node n0 that watches nothing but takes orders."""
    words = [
        sys.executable,
        "-m",
        "outrider_cli",
        "agent",
        "--node",
        "n0",
        "--supervise",
        "--simulated",
        "--allow-root",
    ]
    process = subprocess.Popen(
        [*words, "--slots", "2", "--state", str(state), "--check-command", check],
        env={**os.environ, "OUTRIDER_RUNTIME": str(runtime)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(state / "agent.log").open("ab"),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_node_returns_once_it_passes_and_stays_out_while_it_fails() -> None:
    async def scenario(root: Path) -> None:
        state, log = root / "state", root / "kmsg"
        log.write_text("6,1,100,-;all is well\n")
        only = ["--only", "sweep,file-system", "--mount", str(root), "--kernel-log", str(log)]
        check = shlex.join([sys.executable, "-m", "outrider_cli", "check", *only])
        async with house.controller(state, check_before="return", heartbeat_s=1.0) as controller:
            controller.tokens.make_node("n0")
            nodes = controller.state.nodes

            def node() -> tuple[str, str]:
                known = controller.state.nodes["n0"]
                return known.mark, known.check

            with agent(state, root / "r", check):
                await house.until(lambda: "n0" in controller.state.nodes, f"the agent among {list(nodes)}")
                async with house.Api(controller) as api:
                    await api.post("/v1/nodes/n0/cordon")
                    await api.post("/v1/nodes/n0/uncordon")
                    assert node() == ("cordoned", "wanted")
                    await house.until(lambda: node() == ("clear", ""), "the node back after its check")
                    assert "its check is over: n0 passed" in controller.state.nodes["n0"].why
                    log.write_text(LOST)
                    await api.post("/v1/nodes/n0/cordon")
                    await api.post("/v1/nodes/n0/uncordon")
                    await house.until(lambda: node() == ("cordoned", "failed"), "the check that fails")
                    assert "fell off the bus" in controller.state.nodes["n0"].why
                    await api.post("/v1/nodes/n0/uncordon")
                    await house.until(lambda: node() == ("clear", ""), "a person's word")
                    rows = (await api.get("/v1/ledger")).json()["rows"]
        done = [row for row in rows if row["kind"] == "effect-done"]
        assert len(done) == 2
        assert [row["kind"] for row in rows].count("effect-requested") == 2

    with agents.short_directory() as root:
        house.run(scenario(root))
