"""What an agent is told when it starts: read once at the entry, checked, frozen, and handed down.

In: the values that ``outrider agent`` took from its options. Out: ``Settings`` that hold together, or SettingsError
with the option, the value and the way out. The controller and the token are looked up at every connect instead, because
both may change while the agent lives.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib import parse

from outrider import addresses, wire

SLOTS_MAX: Final = 1024
GPUS_MAX: Final = 64
PORTS_MAX: Final = 256
PORT_RATE_MAX: Final = 10_000  # Gb/s
POWER_LIMIT_MAX: Final = 10_000  # W
CORES_MAX: Final = 65_536
SIMULATED_SYMBOL: Final = b"outriderSimulated"
WEBSOCKET_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class SettingsError(ValueError):
    """An agent that cannot be started like this; the message names the option, the value and the way out."""


@dataclass(frozen=True)
class Sources:
    """Where the node is looked at, and what is expected to be there. Roots other than /sys and /proc are for trees
    that were made or recorded, and for containers that see the host's under another name.
    """

    nvml_library: Path | None = None  # None: the driver's own, as the loader finds it
    kernel_log: Path = Path("/dev/kmsg")
    sysfs: Path = Path("/sys")
    procfs: Path = Path("/proc")
    expect_gpus: int | None = None  # None: as many as there were when the agent first looked
    expect_ports: int | None = None  # InfiniBand and RoCE ports that have to be active
    expect_port_rate: int | None = None  # Gb/s of each of those ports; None: the best it was seen at
    expect_power_limit: int | None = None  # W, where somebody capped the GPUs on purpose; None: the board's own
    expect_cores: int | None = None  # None: as many as there were
    expect_mounts: tuple[Path, ...] = ()  # file systems that have to be mounted and to answer
    probe_mounts: tuple[Path, ...] = ()  # file systems that a small file is written to and read back from, in time
    checkpoint_mounts: tuple[Path, ...] = ()  # those that hold checkpoints: too little room there is an error
    redfish_url: str | None = None  # the node's BMC
    redfish_credentials: Path | None = None  # file with user:password that nobody else may read
    redfish_ca_file: Path | None = None  # who may vouch for the BMC's certificate; None trusts the system's list

    @property
    def pretends(self) -> bool:
        """Whether the library says of itself that it simulates."""
        return self.nvml_library is not None and simulates(self.nvml_library)


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
    sources: Sources | None = Sources()  # what is watched on the node; None watches the jobs' ranks and disks alone
    check_command: tuple[str, ...] = ()  # checks the node when the controller asks; empty: our own ``outrider check``


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
    if settings.sources is not None:
        check_sources(settings.sources)
    return settings


def check_sources(given: Sources) -> Sources:
    """Return ``given`` when it holds together; raises SettingsError. A kernel log that cannot be read is a state that
    the agent tells of, but one that was named has to be there.
    """
    for option, count, most in (
        ("--expect-gpus", given.expect_gpus, GPUS_MAX),
        ("--expect-ports", given.expect_ports, PORTS_MAX),
        ("--expect-port-rate", given.expect_port_rate, PORT_RATE_MAX),
        ("--expect-power-limit", given.expect_power_limit, POWER_LIMIT_MAX),
        ("--expect-cores", given.expect_cores, CORES_MAX),
    ):
        if count is not None and not 0 <= count <= most:
            raise SettingsError(f"{option} {count}: a node has 0 to {most}; leave it out to expect what is there")
    for option, folder, root in (("--sysfs", given.sysfs, "/sys"), ("--procfs", given.procfs, "/proc")):
        if not folder.is_dir():
            raise SettingsError(f"{option} {folder}: is no directory; name one that is laid out like {root}")
    if given.kernel_log != Sources.kernel_log and not given.kernel_log.exists():
        raise SettingsError(f"--kernel-log {given.kernel_log}: is missing; name a file, a FIFO or /dev/kmsg")
    if given.nvml_library is not None and not given.nvml_library.is_file():
        raise SettingsError(
            f"--nvml-library {given.nvml_library}: is missing; name libnvidia-ml.so.1, or leave it out to find it"
        )
    named = [("--expect-mount", mount) for mount in given.expect_mounts]
    named += [("--probe-mount", mount) for mount in given.probe_mounts]
    for option, mount in named + [("--checkpoint-mount", mount) for mount in given.checkpoint_mounts]:
        if not mount.is_absolute():
            raise SettingsError(f"{option} {mount}: is not a mount point such as /ckpt; give the whole path")
    _check_redfish(given)
    return given


def _check_redfish(given: Sources) -> None:
    url, credentials = given.redfish_url, given.redfish_credentials
    if (url is None) != (credentials is None):
        here, lacks = ("--redfish", "--redfish-credentials FILE") if url else ("--redfish-credentials", "--redfish URL")
        raise SettingsError(f"{here} {url or credentials}: needs {lacks} beside it")
    if url is not None:
        parts = parse.urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise SettingsError("--redfish: is not an address such as https://bmc.example")
        if parts.username is not None or parts.password is not None:
            raise SettingsError(
                f"--redfish: the address of {parts.hostname} carries a name or password, which every process of the "
                "machine can read; put user:password into the --redfish-credentials FILE"
            )
        if parts.scheme == "http" and not addresses.is_loopback(parts.hostname):
            raise SettingsError(f"--redfish {url!r}: would carry the BMC's password unencrypted; give https://")
    for option, path in (("--redfish-credentials", credentials), ("--redfish-ca-file", given.redfish_ca_file)):
        if path is not None and not os.access(path, os.R_OK):
            raise SettingsError(f"{option} {path}: is missing or this user may not read it")
    if credentials is not None and stat.S_IMODE(credentials.stat().st_mode) & 0o077:
        raise SettingsError(f"--redfish-credentials {credentials}: others may read it; run chmod 600 {credentials}")


def simulates(library: Path) -> bool:
    """Whether a library exports the name that the fake NVML alone has; read from the file, nothing is loaded."""
    try:
        with library.open("rb") as file:
            before = b""
            while block := file.read(1 << 20):
                if SIMULATED_SYMBOL in before + block:
                    return True
                before = block[-len(SIMULATED_SYMBOL) :]
    except OSError:
        pass
    return False


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
