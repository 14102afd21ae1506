"""The management controller: a real HTTP server that serves resources, well and badly, over TLS and without."""

from __future__ import annotations

import base64
import http.server
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider_agent.signals import redfish, redfish_client
from tests.agent.looking import states, values

RECORDED = Path(__file__).parents[1] / "recorded/host/redfish"
PASSWORD = "correct horse battery staple"
CHASSIS = "chassis/HGX-1"


class Controller(http.server.ThreadingHTTPServer):
    """Serves ``resources`` by path. ``ways``: paths that are answered in another way."""

    daemon_threads = True

    def __init__(self, resources: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.resources = resources
        self.ways: dict[str, str] = {}
        self.heard: list[tuple[str, str]] = []
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Controller
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.server.heard.append((self.path, self.headers.get("Authorization", "")))
        way = self.server.ways.get(self.path, "")
        expected = base64.b64encode(f"outrider:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {expected}":
            self._answer(401, b"{}")
        elif way == "trickle":
            self._trickle()
        elif way == "redirect":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/redfish/v1/steal")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif way.isdigit():
            self._answer(int(way), b"{}")
        elif way:
            self._answer(200, way.encode())
        elif self.path in self.server.resources:
            self._answer(200, json.dumps(self.server.resources[self.path]).encode())
        else:
            self._answer(404, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _trickle(self) -> None:
        """A body that never ends."""
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b" ")
                time.sleep(0.02)
        except OSError:
            pass

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Nothing on the terminal."""


@pytest.fixture
def controller() -> Iterator[Controller]:
    resources = {}
    for path in sorted(RECORDED.glob("*.json")):
        for resource in json.loads(path.read_text()):
            resources[resource["@odata.id"]] = resource
    server = Controller(resources)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    path = tmp_path / "bmc"
    path.write_text(f"outrider:{PASSWORD}\n")
    path.chmod(0o600)
    return path


def look(controller: Controller, credentials: Path, ca_file: Path | None = None) -> redfish.Redfish:
    return redfish.Redfish(redfish_client.Settings(controller.url, credentials, ca_file))


def test_supplies_fans_temperatures_and_entries_are_told(controller: Controller, credentials: Path) -> None:
    sweep = look(controller, credentials).read()
    found = values(sweep)
    assert (sweep.state, sweep.error) == ("ok", "")
    assert found["", "redfish_reachable"] is True
    assert found[f"{CHASSIS}/power/PSU1", "health"] == "OK"
    assert found[CHASSIS, "power_supply_redundancy"] == "OK"
    assert (found[f"{CHASSIS}/fan/Fan1", "fan_rpm"], found[f"{CHASSIS}/fan/Fan1", "health"]) == (9840.0, "OK")
    assert found[f"{CHASSIS}/temperature/Inlet", "temperature"] == 24.0
    assert found[f"{CHASSIS}/temperature/Inlet", "temperature_crit"] == 40.0
    assert found["systems/HGX-1/log/SEL", "log_critical"] == 1.0
    assert sweep.context["critical"][0]["Message"] == "PSU2 lost its input"


def test_the_older_form_is_read_as_well(controller: Controller, credentials: Path) -> None:
    found = values(look(controller, credentials).read())
    assert found["chassis/Old/power/Bay-1", "health"] == "Warning"
    assert found["chassis/Old", "fan_redundancy"] == "OK"
    assert found["chassis/Old/fan/Fan-A", "fan_rpm"] == 2100.0
    assert ("chassis/Old/power/Bay-2", "health") not in found, "a bay without a supply is no fault"


def test_a_lost_supply_a_dead_fan_and_a_new_entry_are_told(controller: Controller, credentials: Path) -> None:
    signal = look(controller, credentials)
    signal.read()
    power = "/redfish/v1/Chassis/HGX-1/PowerSubsystem"
    controller.resources[power]["PowerSupplyRedundancy"][0]["Status"] = {
        "State": "UnavailableOffline",
        "Health": "Warning",
    }
    controller.resources[f"{power}/PowerSupplies/PSU2"]["Status"] = {
        "State": "UnavailableOffline",
        "Health": "Critical",
    }
    fan = controller.resources["/redfish/v1/Chassis/HGX-1/ThermalSubsystem/Fans/Fan1"]
    fan["Status"]["Health"], fan["SpeedPercent"]["SpeedRPM"] = "Critical", 0
    entries = controller.resources["/redfish/v1/Systems/HGX-1/LogServices/SEL/Entries?page=2"]["Members"]
    entries.append({"@odata.id": "/x", "Id": "9", "Severity": "Critical", "Message": "Fan1 stands still"})
    found = values(signal.read())
    assert found[CHASSIS, "power_supply_redundancy"] == "lost"
    assert found[f"{CHASSIS}/power/PSU2", "health"] == "Critical"
    assert (found[f"{CHASSIS}/fan/Fan1", "health"], found[f"{CHASSIS}/fan/Fan1", "fan_rpm"]) == ("Critical", 0.0)
    assert found["systems/HGX-1/log/SEL", "log_critical"] == 2.0


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("500", "status 500"),
        ("503", "status 503"),
        ("not json", "is no JSON"),
        ("[1]", "is no resource"),
        ("[" * 100_000, "is no JSON"),
        ("redirect", "status 302"),
        ('{"Members": "many"}', ""),
        ('{"Members": [7, null]}', ""),
        ('{"Members": [{"@odata.id": "https://elsewhere.example/redfish/v1"}]}', "is no path of a Redfish service"),
    ],
)
def test_an_answer_of_no_use_costs_its_part(controller: Controller, credentials: Path, way: str, why: str) -> None:
    controller.ways["/redfish/v1/Chassis/HGX-1/PowerSubsystem/PowerSupplies"] = way
    sweep = look(controller, credentials).read()
    found = values(sweep)
    assert why in sweep.error
    assert sweep.state == ("partial" if why else "ok")
    assert found["systems/HGX-1/log/SEL", "log_critical"] == 1.0
    assert found["chassis/Old/power/Bay-1", "health"] == "Warning"
    assert PASSWORD not in repr(sweep)


def test_a_log_without_an_end_is_bounded(controller: Controller, credentials: Path) -> None:
    page = controller.resources["/redfish/v1/Systems/HGX-1/LogServices/SEL/Entries?page=2"]
    page["Members@odata.nextLink"] = page["@odata.id"]
    sweep = look(controller, credentials).read()
    assert f"more than {redfish.LOG_PAGES_MAX} pages" in sweep.error
    assert len(controller.heard) < redfish_client.REQUESTS_MAX


def test_an_answer_that_trickles_ends_with_the_look(
    controller: Controller, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redfish, "LOOK_S", 0.4)
    controller.ways["/redfish/v1/Chassis"] = "trickle"
    sweep = look(controller, credentials).read()
    assert "the time of this look is over" in sweep.error
    assert values(sweep) == {("", "redfish_reachable"): False}


def test_an_answer_without_measure_is_cut_off(
    controller: Controller, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redfish_client, "ANSWER_BYTES_MAX", 10_000)
    controller.ways["/redfish/v1/Chassis"] = " " * 20_000
    assert "more than 10000 bytes" in look(controller, credentials).read().error


def test_a_controller_that_is_not_there_is_said(tmp_path: Path, credentials: Path) -> None:
    sweep = redfish.Redfish(redfish_client.Settings("http://127.0.0.1:1", credentials)).read()
    assert values(sweep)["", "redfish_reachable"] is False
    assert "refused" in sweep.error


def test_a_wrong_password_is_said_and_shown_to_nobody(controller: Controller, credentials: Path) -> None:
    credentials.write_text("outrider:wrong-and-secret")
    sweep = look(controller, credentials).read()
    assert "the credentials file is refused" in sweep.error
    assert "wrong-and-secret" not in repr(sweep)


@pytest.mark.parametrize(
    ("said", "mode", "why"),
    [
        ("outrider:x", 0o644, "chmod 600"),
        ("outrider", 0o600, "no single line"),
        ("outrider:x\nanother:y", 0o600, "no single line"),
        ("", 0o600, "no single line"),
    ],
)
def test_a_credentials_file_that_is_not_safe_is_refused(
    controller: Controller, credentials: Path, said: str, mode: int, why: str
) -> None:
    credentials.write_text(said)
    credentials.chmod(mode)
    assert why in look(controller, credentials).read().error
    assert not controller.heard


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://bmc.example", "unencrypted"),
        ("ftp://bmc.example", "not of the form"),
        ("https://user:secret@bmc.example", "credentials go in a file"),
        ("bmc.example", "not of the form"),
    ],
)
def test_an_address_that_would_tell_the_password_is_refused(credentials: Path, url: str, why: str) -> None:
    with pytest.raises(redfish_client.RedfishError, match=why) as said:
        redfish_client.check(redfish_client.Settings(url, credentials))
    assert "secret" not in str(said.value)


def test_the_password_goes_to_the_controller_alone(controller: Controller, credentials: Path) -> None:
    controller.ways["/redfish/v1/Systems"] = "redirect"
    sweep = look(controller, credentials).read()
    assert "/redfish/v1/Systems: status 302" in sweep.error
    assert all(path.startswith("/redfish/v1/") for path, _ in controller.heard)


def test_over_tls_the_certificate_is_verified(controller: Controller, credentials: Path, tmp_path: Path) -> None:
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem"), "-days", "1"),
            *("-subj", "/CN=bmc", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    controller.socket = context.wrap_socket(controller.socket, server_side=True)
    controller.scheme = "https"
    refused = look(controller, credentials).read()
    assert "self-signed certificate" in refused.error
    assert not controller.heard, "nobody is told the password before he has shown who he is"
    trusted = look(controller, credentials, tmp_path / "cert.pem").read()
    assert values(trusted)[f"{CHASSIS}/power/PSU1", "health"] == "OK"
    wrong = look(controller, credentials, tmp_path / "none.pem").read()
    assert "none.pem" in wrong.error


def test_a_component_without_health_is_unsupported(controller: Controller, credentials: Path) -> None:
    controller.resources["/redfish/v1/Chassis/HGX-1/PowerSubsystem/PowerSupplies/PSU1"]["Status"] = {"State": "Enabled"}
    sweep = look(controller, credentials).read()
    assert states(sweep)[f"{CHASSIS}/power/PSU1", "health"] == "unsupported"
