"""The standing controller as a process: how it starts, is refused, is killed, and ends."""

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio import client

from outrider import records, wire
from outrider_controller import ledger, server, settings, tokens
from outrider_controller.core import evolve, state
from tests.controller import house

PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from outrider_controller import settings, standing
given = json.loads(sys.argv[2])
paths = {k: Path(v) for k, v in given.items() if k.endswith(("cert", "key", "file", "runbooks"))}
chosen = settings.Settings(state=Path(sys.argv[1]), **{"port": 0, "heartbeat_s": 0.2, **given, **paths})
sys.exit(asyncio.run(standing.main(chosen)))
"""


class Standing:
    """Controller processes; each is gone at the end of its test."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, where: Path, **given: Any) -> subprocess.Popen[str]:
        """Start one."""
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(where), json.dumps(given)], stderr=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        return process

    def listening(self, where: Path, **given: Any) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        """Start one and wait until it says where it listens."""
        process = self.start(where, **given)
        while process.poll() is None:
            try:
                found: dict[str, Any] = json.loads((where / "controller.json").read_text())
            except FileNotFoundError:
                found = {}
            if found.get("pid") == process.pid:
                return process, found
            time.sleep(0.02)
        raise AssertionError(process.communicate()[1])

    def fails(self, where: Path, **given: Any) -> str:
        """Start one that must not come up; what it says."""
        process = self.start(where, **given)
        words = process.communicate(timeout=30)[1]
        assert process.returncode == 2, words
        assert "Traceback" not in words
        return words


@pytest.fixture
def standing() -> Iterator[Standing]:
    made = Standing()
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_second_controller_on_one_state_directory_is_refused_and_the_first_goes_on(
    tmp_path: Path, standing: Standing
) -> None:
    first, found = standing.listening(tmp_path)
    words = standing.fails(tmp_path)
    assert f"pid {first.pid}" in words
    assert "--state DIR" in words
    assert httpx.get(found["url"] + "/healthz", trust_env=False).status_code == 200


def test_it_ends_with_status_0_when_told_to_and_takes_its_file_away(tmp_path: Path, standing: Standing) -> None:
    process, _ = standing.listening(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert not (tmp_path / "controller.json").exists()


def test_a_port_in_use_is_named_with_the_way_out(tmp_path: Path, standing: Standing) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = standing.fails(tmp_path, port=port)
    assert f"127.0.0.1:{port}: the port is in use" in words
    assert "--listen" in words


def test_no_free_port_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(socket.socket):
        def bind(self, address: Any) -> None:
            raise OSError(98, "Address already in use")

    monkeypatch.setattr(server.socket, "socket", Full)
    with pytest.raises(server.ServeError, match="no port is free"):
        server.Server(settings.Settings(state=tmp_path, port=0), None)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7", "controller.example"])
def test_another_address_than_loopback_without_tls_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(settings.SettingsError, match="--tls-cert FILE and --tls-key FILE") as caught:
        settings.check(settings.Settings(state=tmp_path, address=address))
    assert f"--listen {address}:8470" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"port": 70000}, "--listen HOST:70000"),
        ({"tls_cert": Path("/nowhere/cert.pem")}, "give both or neither"),
        ({"tls_cert": Path("/nowhere/c"), "tls_key": Path("/nowhere/k")}, "--tls-cert /nowhere/c: is missing"),
        ({"webhook_url": "ftp://x"}, "--webhook 'ftp://x'"),
        ({"webhook_url": "http://[x"}, "is not an address"),
        ({"webhook_secret_file": Path("/nowhere/s")}, "--webhook-secret-file /nowhere/s"),
    ],
)
def test_settings_that_do_not_hold_together_are_refused(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(settings.SettingsError, match=re.escape(words)):
        settings.check(settings.Settings(state=tmp_path, **given))


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path, standing: Standing) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    (tmp_path / "key.pem").write_text("no key")
    words = standing.fails(tmp_path / "s", tls_cert=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "key.pem"))
    assert "cert.pem" in words
    assert "cannot be used" in words


def test_runbooks_with_an_unknown_key_keep_it_from_starting(tmp_path: Path, standing: Standing) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books/rank-killed.md").write_text("---\nid: rank-killed\nlimit: 3\n---\ntext\n")
    words = standing.fails(tmp_path / "s", runbooks=str(tmp_path / "books"))
    assert "rank-killed.md:3: limit: is not a key here; the keys are" in words


def test_a_state_directory_that_is_a_file_is_named(tmp_path: Path, standing: Standing) -> None:
    (tmp_path / "state").write_text("x")
    assert "state: cannot be used as a directory" in standing.fails(tmp_path / "state")


def test_a_token_that_others_can_read_is_refused(tmp_path: Path, standing: Standing) -> None:
    held = tokens.Tokens(tmp_path)
    held.prepare()
    held.file("act").chmod(0o644)
    assert "others can read it" in standing.fails(tmp_path)


def test_killed_in_the_middle_of_training_it_comes_back_to_the_same_state_and_repeats_nothing(
    tmp_path: Path, standing: Standing
) -> None:
    async def work() -> None:
        process, found = standing.listening(tmp_path)
        nodes = [Remote(tmp_path, node) for node in ("n0", "n1")]
        for node in nodes:
            await node.connect(found["url"])
        async with api(tmp_path, found["url"]) as http:
            job = {"name": "demo", "command": ["train"], "nodes": 2, "ranks_per_node": 2}
            assert (await http.post("/v1/jobs", json=job)).status_code == 201
            await nodes[0].started.wait()
            await nodes[1].started.wait()
            for step in range(1, 6):
                await nodes[0].step(step)
            await status(http, "training")
            await nodes[1].observe(1)
            process.kill()
            process.wait()
        before = list(ledger.read(tmp_path / "ledger.db"))
        for node in nodes:
            await node.gone()
        _, found = standing.listening(tmp_path)
        for node in nodes:
            await node.connect(found["url"])
        async with api(tmp_path, found["url"]) as http:
            assert (await status(http, "training"))["attempt"] == 0
            await nodes[0].step(6)
            page = (await http.get("/v1/ledger")).json()
            assert [row["seq"] for row in page["rows"]] == list(range(1, page["last_seq"] + 1))
        after = list(ledger.read(tmp_path / "ledger.db"))
        assert after[: len(before)] == before
        seen = [row for _, row in after if isinstance(row, records.Observation) or row.kind == "observed"]
        assert len(seen) == 1
        assert all(len(node.starts) == 1 for node in nodes)
        rebuilt = evolve.evolve_all(state.State(), (row for _, row in after))
        assert rebuilt.jobs["demo"].state == "training"
        assert not rebuilt.jobs["demo"].pending
        for node in nodes:
            await node.gone()

    house.run(work())


def api(where: Path, url: str) -> httpx.AsyncClient:
    """The people's door with the act token."""
    token = (where / "tokens/act").read_text().strip()
    return httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False)


async def status(http: httpx.AsyncClient, wanted: str) -> dict[str, Any]:
    """The job's status once it is ``wanted``."""
    found: dict[str, Any] = {}
    for _ in range(1000):
        found = (await http.get("/v1/jobs/demo/status")).json()
        if found.get("state") == wanted:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(found)


class Remote(house.Agent):
    """A node by hand that finds its controller as a process."""

    def __init__(self, where: Path, node: str) -> None:
        super().__init__(where, node)
        self.started = asyncio.Event()
        self.starts: set[str] = set()
        tokens.Tokens(where).make_node(node)

    async def connect(self, url: str) -> "Remote":  # type: ignore[override]
        """Dial in, as often as it takes."""
        token = (self.state / "tokens/nodes" / self.node).read_text().strip()
        address = url.replace("http", "ws", 1) + "/v1/agents/connect"
        self._connection = await client.connect(
            address, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None
        )
        held = (records.KeeperState("demo", self.generation, 0, "running", True),) if self.generation else ()
        await self.say(self.hello(keepers=held))
        welcome = house.read(await self._connection.recv())
        assert isinstance(welcome, wire.Welcome), welcome
        self.acked = welcome.acked_seq
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._beat(welcome.heartbeat_s))]
        await self.say_observations()
        return self

    def _do(self, order: wire.Order) -> wire.OrderResult:
        found = super()._do(order)
        if order.kind == "start":
            self.starts.add(order.order_id)
            self.started.set()
        return found

    async def step(self, step: int) -> None:
        """A mark."""
        await self.marks(step)

    async def observe(self, rank: int) -> None:
        """Something about the job that harms nobody."""
        await self.see("cold-start", "not warm", job="demo", generation=self.generation, rank=rank)

    async def gone(self) -> None:
        """The connection is over."""
        await self.go()


def test_a_controller_with_tls_is_reached_by_who_trusts_its_certificate(tmp_path: Path, standing: Standing) -> None:
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem"), "-days", "1"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    where = tmp_path / "state"
    _, found = standing.listening(
        where, address="0.0.0.0", tls_cert=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "key.pem")
    )
    assert found["url"].startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with httpx.Client(verify=trusting, trust_env=False) as http:
        assert http.get(found["url"] + "/healthz").status_code == 200
    with httpx.Client(trust_env=False) as http, pytest.raises(httpx.ConnectError):
        http.get(found["url"] + "/healthz")
    assert os.stat(where / "controller.json").st_mode & 0o077 == 0
