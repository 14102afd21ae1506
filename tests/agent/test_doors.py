"""The agent's small doors: settings, frames, ports, the metrics page, the host's own words."""

import asyncio
import dataclasses
import socket
from pathlib import Path

import msgspec
import pytest

from outrider import records, wire
from outrider_agent import codec, exporter, exporter_families, ports, settings
from outrider_agent.signals import host

GOOD = settings.Settings(node="n0", state=Path("/tmp/x"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"node": "a/b"}, "--node 'a/b'"),
        ({"node": ""}, "--node ''"),
        ({"slots": 0}, "--slots 0"),
        ({"leave_idle_s": 0.0}, "--leave-idle-s"),
        ({"controller_url": "https://c:1"}, "--token-file"),
        ({"controller_url": "http://10.0.0.1:1", "token_file": Path("/dev/null")}, "unencrypted"),
        ({"controller_url": "ftp://c", "token_file": Path("/dev/null")}, "https://controller.example"),
        ({"metrics_listen": "nonsense"}, "HOST:PORT"),
        ({"metrics_listen": "0.0.0.0:99999"}, "HOST:PORT"),
        ({"token_file": Path("/no/such/file")}, "/no/such/file"),
    ],
)
def test_settings_that_do_not_hold_together_are_refused_with_the_option(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(settings.SettingsError, match=says.replace("(", r"\(")):
        settings.check(dataclasses.replace(GOOD, **wrong))  # type: ignore[arg-type]


def test_the_address_of_the_controller_becomes_that_of_its_door_for_agents() -> None:
    assert settings.websocket_url("http://127.0.0.1:80/") == "ws://127.0.0.1:80/v1/agents/connect"
    assert settings.websocket_url("https://c.example:8470") == "wss://c.example:8470/v1/agents/connect"
    assert settings.websocket_url("http://[::1]:80") == "ws://[::1]:80/v1/agents/connect"
    assert settings.listen_address(":9464") == ("127.0.0.1", 9464)
    assert settings.listen_address("[::1]:9464") == ("::1", 9464)


@pytest.mark.parametrize(
    "message",
    [
        wire.Welcome(1, "v", "c", 1, 7),
        wire.Refused("no", "do"),
        wire.Ack(3),
        wire.Order("o", "start", "j", 2, {"a": [1, {"b": None}]}),
    ],
)
def test_what_a_controller_says_is_read_back_equal(message: wire.FromController) -> None:
    assert codec.decode(msgspec.json.encode(message)) == message


@pytest.mark.parametrize(
    "frame",
    ["", "{}", "null", '{"type":"bogus"}', '{"type":"hello"}', '{"type":"ack","seq":"7"}', '{"type":"ack"}',
     "\ud800", b"\xff\xff", "[" * 5000, "x" * (wire.FRAME_BYTES_MAX + 1)],
)  # fmt: skip
def test_what_no_controller_says_is_a_clear_error(frame: str | bytes) -> None:
    with pytest.raises(codec.CodecError):
        codec.decode(frame)


def test_a_newer_controller_may_say_more() -> None:
    assert codec.decode('{"type":"ack","seq":7,"mood":"fine"}') == wire.Ack(7)


def test_an_agents_words_survive_the_wire() -> None:
    item = records.Observation(3, "rank-exited", "error", 1.5, "n0", "t", "j", 1, 2, evidence={"a": None})
    sent = wire.Observations((item,))
    assert msgspec.json.decode(codec.encode(sent), type=wire.Observations) == sent


def test_a_port_is_free_outside_the_ephemeral_range_and_not_given_twice() -> None:
    low, high = ports.ephemeral_range()
    made = ports.Ports(seed=1)
    given = [made.reserve(0, 0.0) for _ in range(20)]
    assert len(set(given)) == 20
    assert all(not low <= port <= high and ports.can_bind(port) for port in given)


def test_no_free_port_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ports.PortError, match=f"{port} is taken on this node"):
            ports.Ports().reserve(port, 0.0)
        with pytest.raises(ports.PortError, match="is free on this node; end what holds them"):
            ports.Ports(candidates=[port]).reserve(0, 0.0)


def test_a_reservation_ends_by_itself() -> None:
    free = ports.Ports(seed=2).reserve(0, 0.0)
    made = ports.Ports(candidates=[free])
    assert made.reserve(0, 0.0) == free
    with pytest.raises(ports.PortError):
        made.reserve(0, ports.RESERVED_FOR_S / 2)
    assert made.reserve(0, ports.RESERVED_FOR_S + 1) == free


def test_an_ephemeral_range_that_covers_everything_still_leaves_ports() -> None:
    assert ports.outside((1, 65535))
    assert 32768 not in ports.outside((32768, 60999))


def test_the_host_says_could_not_look_where_it_could_not(tmp_path: Path) -> None:
    assert host.oom_kills(tmp_path) is None
    assert host.boot_id(tmp_path) == "unknown"
    assert host.start_ticks(1, tmp_path) is None
    (tmp_path / "vmstat").write_text("nr_free_pages 5\noom_kill 3\n")
    assert host.oom_kills(tmp_path) == 3
    (tmp_path / "stat").write_text("cpu 1 2\nbtime 1700000000\n")
    assert len(host.boot_id(tmp_path)) == 32


def test_metrics_are_served_and_stay_few() -> None:
    reading = exporter.Reading(
        node="n0", simulated=True, version="1", connection="away", observations=3, observations_waiting=2,
        observations_lost=0, acked_seq=1, spool_on_disk=True, marks={"received": 9, "refused": 1},
        orders={"done": 1}, ranks_alive={f"j{n}": n for n in range(100)},
        keeper_warm={f"j{n}": True for n in range(100)},
    )  # fmt: skip

    async def scenario() -> tuple[bytes, bytes, bytes]:
        server = await exporter.serve(("127.0.0.1", 0), lambda: reading)
        port = server.sockets[0].getsockname()[1]
        answers = [await _ask(port, words) for words in (b"GET /metrics HTTP/1.1", b"GET / HTTP/1.1", b"\xff\xff\xff")]
        server.close()
        return answers[0], answers[1], answers[2]

    metrics, other, garbage = asyncio.run(scenario())
    assert b'outrider_agent_ranks_alive{job="j3",node="n0",simulated="true"} 3.0' in metrics
    assert b'outrider_agent_marks_total{node="n0",result="received",simulated="true"} 9.0' in metrics
    assert b'outrider_agent_connection{node="n0",simulated="true",state="away"} 1.0' in metrics
    series = [line for line in metrics.partition(b"\r\n\r\n")[2].splitlines() if line and not line.startswith(b"#")]
    assert 10 < len(series) < exporter_families.SERIES_MAX
    assert b"404" in other.splitlines()[0]
    assert b"405" in garbage.splitlines()[0]


async def _ask(port: int, words: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(words + b"\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer
