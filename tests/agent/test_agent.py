"""The agent as a process, with a controller in miniature on a real WebSocket: the connection, and what may go wrong."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from outrider import places, wire
from outrider_agent import agent, settings
from tests.agent import world

Scenario = Callable[[world.Node, world.Controller], Awaitable[None]]


def play(scenario: Scenario, **controller: object) -> None:
    """Run a scenario with an open controller and a node directory of its own."""

    async def all_of_it() -> None:
        with world.node() as node:
            async with world.Controller(node.state, **controller) as there:  # type: ignore[arg-type]
                await scenario(node, there)

    asyncio.run(all_of_it())


def test_an_agent_says_hello_and_keeps_saying_that_it_lives() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        node.start(simulated=True, slots=3, address="10.0.0.7")
        await world.until(lambda: len(controller.heartbeats) >= 3, "heartbeats")
        hello = controller.hellos[0]
        assert (hello.node, hello.slots, hello.address) == ("n0", 3, "10.0.0.7")
        assert (hello.supervises, hello.simulated, hello.protocol, hello.keepers) == (True, True, wire.PROTOCOL, ())
        assert hello.boot_id == (node.runtime / "boot_id").read_text().strip()

    play(scenario)


def test_a_controller_that_comes_back_on_another_port_is_found_and_told_everything_once() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        node.start()
        await world.until(lambda: controller.heartbeats, "the first connection")
        await controller.close()
        _garbage(node)
        await asyncio.sleep(1.5)
        await controller.open()
        await world.until(lambda: controller.observed("marks-refused"), "what happened meanwhile")
        await controller.close()
        await controller.open()
        await world.until(lambda: len(controller.hellos) >= 3, "the third hello")
        assert len({hello.spool_id for hello in controller.hellos}) == 1
        assert len(controller.observed("marks-refused")) == 1
        assert controller.told_again == 0

    play(scenario)


def test_what_is_not_acknowledged_is_told_again_by_the_next_agent() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        controller.acknowledge = False
        first = node.start()
        await world.until(lambda: controller.heartbeats, "the first agent")
        _garbage(node)
        await world.until(lambda: controller.observed("marks-refused"), "the observation")
        first.kill()
        first.wait()
        told = dict(controller.ledger)
        controller.ledger.clear()  # as if the controller had died before it wrote them
        controller.acknowledge = True
        node.start()
        await world.until(lambda: controller.observed("marks-refused"), "the same observation")
        assert controller.ledger == told

    play(scenario)


def test_garbage_on_the_marks_socket_is_observed_once_and_marks_go_on() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        node.start()
        await world.until(lambda: controller.heartbeats, "the agent")
        for _ in range(3):
            _garbage(node)
        found = await world.until(lambda: controller.observed("marks-refused"), "the observation")
        assert found[0].severity == "warning"
        assert "marks socket of n0" in found[0].text
        before = len(controller.heartbeats)
        await world.until(lambda: len(controller.heartbeats) > before + 12, "the agent to go on")
        assert len(controller.observed("marks-refused")) == 1

    play(scenario)


def test_garbage_from_the_controller_is_passed_over() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        node.start()
        connection = await world.until(lambda: controller.connection, "the agent")
        for frame in ("", "{}", '{"type":"bogus"}', b"\xff\xfe", '{"type":"order","order_id":5}', "[" * 9000):
            await connection.send(frame)
        result = await controller.order("reserve-port", {"wanted": 0})
        assert result.ok
        assert len(controller.hellos) == 1
        assert "bogus" in node.log()

    play(scenario)


def test_an_oversized_frame_costs_the_connection_and_nothing_else() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        node.start()
        connection = await world.until(lambda: controller.connection, "the agent")
        await connection.send("x" * (wire.FRAME_BYTES_MAX + 1))
        await world.until(lambda: len(controller.hellos) >= 2, "a new connection")
        assert (await controller.order("reserve-port", {})).ok

    play(scenario)


def test_a_wrong_token_is_said_with_the_way_out_and_a_new_one_counts_at_once() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        controller.token = "a-new-token-of-the-node"
        process = node.start()
        await world.until(lambda: "outrider token node" in node.log(), "the refusal")
        assert "HTTP 401" in node.log()
        assert process.poll() is None
        (node.state / "tokens" / "nodes" / "n0").write_text("a-new-token-of-the-node\n")
        await world.until(lambda: controller.heartbeats, "a connection long before the slow retry")
        assert world.TOKEN not in node.log()
        assert controller.token not in node.log()

    play(scenario)


def test_a_missing_token_is_said_with_the_way_out() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        path = node.state / "tokens" / "nodes" / "n0"
        path.unlink()
        node.start()
        await world.until(lambda: "outrider token node n0" in node.log(), "the refusal")
        assert str(path) in node.log()
        path.write_text(world.TOKEN)
        await world.until(lambda: controller.heartbeats, "the connection")

    play(scenario)


def test_a_refused_hello_is_said_with_its_remedy_and_tried_again_when_the_controller_restarts() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        process = node.start()
        await world.until(lambda: "install 9.9" in node.log(), "the refusal")
        assert "older protocol" in node.log()
        assert process.poll() is None
        assert len(controller.hellos) == 1
        controller.refuse = None
        await controller.close()
        await controller.open()
        await world.until(lambda: controller.heartbeats, "the connection")

    play(scenario, refuse=wire.Refused("this agent speaks an older protocol", "install 9.9 on this node"))


def test_a_second_agent_of_the_same_node_is_refused_with_the_pid_of_the_first() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        first = node.start()
        await world.until(lambda: controller.heartbeats, "the first agent")
        second = node.start()
        assert await asyncio.to_thread(second.wait, world.WAIT_S) == 2
        assert f"another agent (pid {first.pid}) serves node n0" in node.log()
        first.kill()
        first.wait()
        node.start()
        await world.until(lambda: len(controller.hellos) >= 2, "an agent after the first was killed")

    play(scenario)


def test_sigterm_ends_the_agent_cleanly() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        process = node.start()
        await world.until(lambda: controller.heartbeats, "the agent")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, world.WAIT_S) == 0
        assert "Traceback" not in node.log()
        assert not (node.runtime / "marks.sock").exists()

    play(scenario)


def test_an_agent_without_a_controller_leaves_when_it_was_told_to() -> None:
    with world.node() as node:
        process = node.start(leave_idle_s=0.5)
        assert process.wait(world.WAIT_S) == 0
        assert "no controller has started" in node.log()


def test_a_node_that_only_watches_takes_no_order() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        node.start(supervise=False)
        result = await controller.order("start", {})
        assert not result.ok
        assert "--supervise" in result.error
        assert controller.hellos[0].supervises is False

    play(scenario)


def test_an_order_that_comes_again_is_answered_with_the_first_result_even_by_the_next_agent() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        process = node.start()
        first = await controller.order("reserve-port", {"wanted": 0}, order="o1")
        again = await controller.order("reserve-port", {"wanted": 0}, order="o1")
        process.kill()
        process.wait()
        node.start()
        await world.until(lambda: len(controller.hellos) == 2, "the next agent")
        after = await controller.order("reserve-port", {"wanted": 0}, order="o1")
        assert first == again == after
        assert first.result["address"] == "127.0.0.1"

    play(scenario)


@pytest.mark.parametrize(
    ("kind", "args", "says"),
    [
        ("dance", {}, "is not an order"),
        ("reserve-port", {"wanted": "many"}, "arguments cannot be read"),
        ("start", {"spec": {"name": "j"}}, "arguments cannot be read"),
        ("prepare", {"spec": {"name": "other", "command": ["x"]}}, "describes job other"),
    ],
)
def test_a_wrong_order_is_answered_with_what_is_wrong(kind: str, args: dict[str, object], says: str) -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        node.start()
        result = await controller.order(kind, args)
        assert not result.ok
        assert says in result.error

    play(scenario)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be asked to run ranks as root")
def test_ranks_are_not_run_as_root_unless_told() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        node.start(allow_root=False)
        result = await controller.order("prepare", {"spec": {"name": "j", "command": ["true"]}})
        assert not result.ok
        assert "--allow-root" in result.error

    play(scenario)


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        node.start()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            result = await controller.order("reserve-port", {"wanted": port})
        assert not result.ok
        assert f"port {port} is taken" in result.error

    play(scenario)


def test_a_damaged_spool_is_set_aside_and_observed() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        node.runtime.mkdir(parents=True, mode=0o700)
        (node.runtime / "spool.db").write_bytes(b"no database at all " * 500)
        node.start()
        found = await world.until(lambda: controller.observed("spool-damaged"), "the observation")
        assert "spool.db.damaged" in found[0].text

    play(scenario)


def test_a_state_directory_that_cannot_be_used_is_refused_with_the_way_out() -> None:
    with world.short_directory() as place:
        (place / "file").write_text("")
        program = (
            "import pathlib, sys; from outrider_agent import agent, settings;"
            "sys.exit(agent.main(settings.Settings(node='n0', state=pathlib.Path(sys.argv[1]))))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(place / "file" / "state")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "--state" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_state_directory_on_a_network_file_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with world.short_directory() as place:
        monkeypatch.setenv("OUTRIDER_RUNTIME", str(place / "r"))
        monkeypatch.setattr(places, "file_system", lambda path: "nfs4")
        with pytest.raises(places.PlaceError, match="nfs4"):
            asyncio.run(agent.run(settings.Settings(node="n0", state=place / "state")))


def test_a_runtime_directory_that_others_may_enter_is_refused() -> None:
    with world.node() as node:
        node.runtime.mkdir(parents=True)
        node.runtime.chmod(0o755)
        assert node.start().wait(world.WAIT_S) == 2
        assert "chmod go-rwx" in node.log()


def test_metrics_tell_of_the_connection() -> None:
    async def scenario(node: world.Node, controller: world.Controller) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        node.start(metrics_listen=f"127.0.0.1:{port}", simulated=True)
        await world.until(lambda: controller.heartbeats, "the agent")
        text = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
        assert 'outrider_agent_connection{node="n0",simulated="true",state="connected"} 1.0' in text
        taken = node.start(node="n1", metrics_listen=f"127.0.0.1:{port}")
        assert await asyncio.to_thread(taken.wait, world.WAIT_S) == 2
        assert f"--metrics-listen 127.0.0.1:{port}" in node.log()

    play(scenario)


def test_a_controller_elsewhere_is_reached_over_tls_with_its_own_authority(tmp_path: Path) -> None:
    async def scenario() -> None:
        with world.node() as node:
            controller = world.Controller(node.state)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*_certificate(tmp_path))
            await controller.open(ssl=context)
            url = (node.state / "controller.json").read_text().split('"')[3]
            (node.state / "controller.json").unlink()
            token = node.state / "tokens" / "nodes" / "n0"
            given = {"controller_url": url, "token_file": str(token)}
            stranger = node.start(**given)
            await world.until(lambda: "--ca-file" in node.log(), "the certificate to be refused")
            stranger.kill()
            stranger.wait()
            node.start(**given, ca_file=str(tmp_path / "certificate.pem"))
            await world.until(lambda: controller.heartbeats, "the connection")
            await controller.close()

    asyncio.run(scenario())


def test_a_simulated_host_boots_anew_when_its_boot_file_is_gone_and_a_real_one_does_not() -> None:
    with world.short_directory() as place:
        first = agent.boot_id(place, True)
        assert agent.boot_id(place, True) == first
        (place / "boot_id").unlink()
        assert agent.boot_id(place, True) != first
        real = agent.boot_id(place, False)
        (place / "boot_id").unlink()
        assert agent.boot_id(place, False) == real


def _garbage(node: world.Node) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for datagram in (b"", b"\0\xff" * 40, b"{" * 100, os.urandom(500), b'{"v":1,"kind":"step"}'):
            sender.sendto(datagram, str(node.runtime / "marks.sock"))


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=world.WAIT_S) as answer:
        text: str = answer.read().decode()
        return text


def _certificate(folder: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run([*words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("this machine has no openssl to make a certificate with")
    return str(certificate), str(key)
