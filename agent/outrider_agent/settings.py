"""What an agent is told when it starts: read once at the entry, checked, frozen, and handed down.

In: the values that ``outrider agent`` took from its options. Out: ``Settings`` that hold together, or SettingsError
with the option, the value and the way out. The controller and the token are looked up at every connect instead, because
both may change while the agent lives.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib import parse

from outrider import addresses, wire

SLOTS_MAX: Final = 1024
WEBSOCKET_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class SettingsError(ValueError):
    """An agent that cannot be started like this; the message names the option, the value and the way out."""


@dataclass(frozen=True)
class Settings:
    """One agent on one node. ``controller_url`` None: the controller of ``state``, found by its controller.json."""

    node: str
    state: Path
    controller_url: str | None = None
    token_file: Path | None = None  # None: the token that the state directory holds for this node
    ca_file: Path | None = None  # who may vouch for the controller's certificate; None trusts the system's list
    slots: int = 1  # ranks that this node can take
    supervise: bool = False  # take orders to run jobs; without it the agent only watches
    simulated: bool = False  # one of several pretended hosts on one machine
    address: str = "127.0.0.1"  # how ranks on other nodes reach this one
    allow_root: bool = False  # run ranks as root where a job names no user
    metrics_listen: str | None = None  # HOST:PORT of /metrics; None opens no port
    leave_idle_s: float | None = None  # leave after so long without a controller and without a live rank


def check(settings: Settings) -> Settings:
    """Return ``settings`` when they hold together; raises SettingsError."""
    name = settings.node
    if not wire.is_node_name(name):
        raise SettingsError(
            f"--node {name!r}: a node's name is 1 to {wire.NODE_LENGTH_MAX} letters, digits, '-', '_' or '.', "
            "and begins with a letter or digit"
        )
    if not 1 <= settings.slots <= SLOTS_MAX:
        raise SettingsError(f"--slots {settings.slots}: a node takes 1 to {SLOTS_MAX} ranks")
    if settings.leave_idle_s is not None and settings.leave_idle_s <= 0:
        raise SettingsError(f"--leave-idle-s {settings.leave_idle_s}: must be above 0; leave it out to stay for good")
    if settings.controller_url is not None:
        websocket_url(settings.controller_url)
        if settings.token_file is None and not (settings.state / "tokens" / "nodes" / name).exists():
            raise SettingsError(
                f"--controller {settings.controller_url}: needs --token-file FILE, "
                f"which `outrider token node {name}` prints on the controller's machine"
            )
    if settings.metrics_listen is not None:
        listen_address(settings.metrics_listen)
    for option, path in (("--token-file", settings.token_file), ("--ca-file", settings.ca_file)):
        if path is not None and not os.access(path, os.R_OK):
            raise SettingsError(f"{option} {path}: is missing or this user may not read it")
    return settings


def websocket_url(url: str) -> str:
    """The address agents dial for the controller at ``url`` (http, https, ws or wss); raises SettingsError.

    A plain connection is for loopback alone: the token would cross the network in clear.
    """
    parts = parse.urlsplit(url)
    scheme = WEBSOCKET_SCHEMES.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise SettingsError(f"controller {url!r}: is not an address such as https://controller.example:8470")
    if scheme == "ws" and not addresses.is_loopback(parts.hostname):
        raise SettingsError(
            f"controller {url!r}: would carry the node's token unencrypted off this machine; "
            "start the controller with a certificate and give https:// with --ca-file FILE"
        )
    return parse.urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + "/v1/agents/connect", "", ""))


def listen_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, ``[V6]:PORT`` or ``:PORT`` (loopback); raises SettingsError."""
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise SettingsError(f"--metrics-listen {text!r}: is not HOST:PORT, as in 127.0.0.1:9464")
    return host.strip("[]") or "127.0.0.1", int(port)
