"""InfiniBand and RoCE ports: state each second, counters every ten, and what became of ports that were there.

In: class/infiniband in sysfs, the interfaces of the adapters in class/net, and the PCI topology. Out, a port
(``mlx5_0/1``): state, rate, carrier changes, how often it was down for long and came back, whether work is to be
expected of it, and every file of counters and hw_counters under its own name. A file that says N/A or EINVAL costs that
reading alone. Between two looks at the counters a sweep holds the states only. An adapter that was there and is gone
stays in the sweep as ``adapter_present`` False, for as long as the agent lives.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.signals import files, infiniband_names, topology

NAME: Final = "infiniband"
COUNTERS_EVERY_S: Final = 10.0
LIST_EVERY_S: Final = 60.0
FLAP_DOWN_S: Final = 25.0  # down for so long and back again is a flap; shorter ones show in carrier_changes
FLAPS_KEPT: Final = 32
PORTS_MAX: Final = 128
COUNTERS_MAX: Final = 256  # files of one port
READINGS: Final[files.Names] = infiniband_names.READINGS
_SETTINGS: Final = frozenset(("lifespan",))  # lies among the counters, and sets how long the driver caches them


@dataclass
class _Port:
    """What is known of one port. ``down_at``: Unix seconds since which it is not up; ``counters``: file by name."""

    device: str
    folder: str
    adapter: str
    netdev: str = ""
    counters: dict[str, str] = field(default_factory=dict)
    role: str = "unknown"
    was_up: bool = False
    down_at: float | None = None
    flaps: int = 0
    history: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=FLAPS_KEPT))


class Infiniband:
    """A readings.Signal."""

    name = NAME
    period_s = 1.0
    deadline_s = 5.0

    def __init__(self, sysfs: Path, procfs: Path, clock: clocks.Clock | None = None) -> None:
        self._sysfs = sysfs
        self._folder = str(sysfs / "class/infiniband")
        self._procfs = procfs
        self._clock = clock or clocks.RealClock()
        self._adapters: dict[str, bool] = {}  # every one that was ever there, and whether it is now
        self._ports: dict[str, _Port] = {}
        self._roles: dict[str, topology.Role] = {}
        self._addresses: dict[str, str] = {}
        self._pci: dict[str, str] = {}  # of every adapter that was ever there, its folder
        self._found: Json = {}
        self._listed_at: float | None = None
        self._counted_at: float | None = None

    def read(self) -> readings.Sweep:
        """Look once."""
        look = files.Look(NAME, READINGS, self._procfs, self._clock)
        now = self._clock.monotonic()
        if self._listed_at is None or now - self._listed_at >= LIST_EVERY_S:
            self._list(now)
        if not self._adapters:
            return look.sweep(absent=True)
        if any(not os.path.isdir(port.folder) for port in self._present()):
            self._list(now)  # also finds what came back under another name
        counted = self._counted_at is None or now - self._counted_at >= COUNTERS_EVERY_S
        self._counted_at = now if counted else self._counted_at
        active = [self._state(look, port) for port in self._present()]
        for port in self._present() if counted else ():
            _count(look, port)
        for adapter, present in self._adapters.items():
            look.add(adapter, "adapter_present", present)
        expected = [port for port in self._ports.values() if self._counts(port)]
        look.add("", "ports_active", float(sum(active)))
        look.add("", "ports_expected", float(len(expected)))
        look.add("", "adapters", " ".join(name for name, present in self._adapters.items() if present))
        look.add("", "adapters_on_bus", float(sum(os.path.isdir(path) for path in self._pci.values())))
        return look.sweep(context=self._context())

    def _present(self) -> list[_Port]:
        return [port for port in self._ports.values() if self._adapters[port.adapter]]

    def _is_expected(self, port: _Port) -> bool:
        """Ports beside GPUs work; of others those that were seen to: the second port of a card is often left empty."""
        return port.role == topology.COMPUTE or port.was_up

    def _counts(self, port: _Port) -> bool:
        """Whether a port is one of those that a node is asked to have: the computing ones, where it has any."""
        computes = any(one.role == topology.COMPUTE for one in self._ports.values())
        return port.role == topology.COMPUTE if computes else self._is_expected(port)

    def _state(self, look: files.Look, port: _Port) -> bool:
        """Read what tells of the link; whether the port counts among the active ones."""
        state = phys = ""
        with look.tried(port.device, "port_state"):
            state = _word(files.read(f"{port.folder}/state"))
            look.add(port.device, "port_state", state)
        with look.tried(port.device, "port_phys_state"):
            phys = _word(files.read(f"{port.folder}/phys_state"))
            look.add(port.device, "port_phys_state", phys)
        if port.netdev:
            look.number(port.device, "carrier_changes", f"{port.netdev}/carrier_changes")
        up = state == "ACTIVE" and phys == "LinkUp"
        if state and phys:
            self._follow(port, up)
        look.add(port.device, "port_down_s", 0.0 if port.down_at is None else self._clock.now() - port.down_at)
        look.add(port.device, "port_flaps", float(port.flaps))
        look.add(port.device, "port_expected", self._is_expected(port))
        look.add(port.device, "port_role", port.role)
        return up and self._counts(port)

    def _follow(self, port: _Port, up: bool) -> None:
        now = self._clock.now()
        if not up:
            port.down_at = now if port.down_at is None else port.down_at
            return
        if port.down_at is not None and port.was_up:
            port.history.append((port.down_at, now))
            port.flaps += now - port.down_at >= FLAP_DOWN_S
        port.was_up, port.down_at = True, None

    def _list(self, now: float) -> None:
        """Find adapters, ports, their files and their roles again; what is known of ports that stay is kept."""
        self._listed_at = now
        found = {name: f"{self._folder}/{name}" for name in files.names(self._folder)}
        found = {name: path for name, path in found.items() if not os.path.lexists(f"{path}/device/physfn")}
        pci = topology.devices(self._sysfs)
        self._pci |= {one.address: one.path for one in pci.values() if one.kind == topology.ADAPTER and _bound(one)}
        addresses = {name: topology.address_of(f"{path}/device") for name, path in found.items()}
        self._rename(addresses)
        self._adapters = {**dict.fromkeys(self._adapters, False), **dict.fromkeys(found, True)}
        self._addresses |= addresses
        routed = _default_routes(self._procfs)
        for name, path in found.items():
            for number in files.names(f"{path}/ports")[:PORTS_MAX]:
                device = f"{name}/{number}"
                port = self._ports.setdefault(device, _Port(device, f"{path}/ports/{number}", name))
                port.netdev = _netdev(path, number)
                port.counters = _counters(port.folder)
        carrying = {port.adapter for port in self._ports.values() if os.path.basename(port.netdev) in routed}
        self._roles |= topology.roles(pci, addresses, carrying)
        for port in self._ports.values():
            port.role = self._roles[port.adapter].role
        self._found = {
            "roles": {name: {"role": one.role, "basis": one.basis} for name, one in self._roles.items()},
            "interfaces": {one.device: os.path.basename(one.netdev) for one in self._ports.values() if one.netdev},
        }

    def _rename(self, addresses: dict[str, str]) -> None:
        """Forget adapters that are there under another name now: they did not vanish."""
        here = set(addresses.values()) - {""}
        for name in [name for name in self._adapters if name not in addresses and self._addresses.get(name) in here]:
            del self._adapters[name]
            self._ports = {device: port for device, port in self._ports.items() if port.adapter != name}

    def _context(self) -> Json:
        flaps = {port.device: list(port.history) for port in self._ports.values() if port.history}
        return {**self._found, "flaps": flaps}


def _count(look: files.Look, port: _Port) -> None:
    """Read what changes slowly: rate, kind of link, and all counters."""
    with look.tried(port.device, "port_rate"):
        look.add(port.device, "port_rate", files.number(files.read(f"{port.folder}/rate").partition(" ")[0]))
    look.word(port.device, "link_layer", f"{port.folder}/link_layer")
    for name, path in port.counters.items():
        look.number(port.device, name, path, kind=READINGS.get(name) or infiniband_names.other(name))


def _word(said: str) -> str:
    """``4: ACTIVE`` is ACTIVE."""
    word = said.partition(":")[2].strip()
    if not word:
        raise files.Unknown("unreadable", f"{said[:60]!r} is not of the form '4: ACTIVE'")
    return word


def _bound(device: topology.Device) -> bool:
    """Whether an adapter's driver has made, or should have made, a device of class infiniband for it."""
    driver = os.path.basename(os.path.realpath(f"{device.path}/driver"))
    return not device.virtual and (driver == "mlx5_core" or os.path.isdir(f"{device.path}/infiniband"))


def _netdev(adapter: str, port: str) -> str:
    """The network interface of a port; ``dev_port`` counts from 0."""
    folder = f"{adapter}/device/net"
    found = files.names(folder)
    for name in found:
        if files.text(f"{folder}/{name}/dev_port") == str(int(port) - 1 if port.isdigit() else port):
            return f"{folder}/{name}"
    return f"{folder}/{found[0]}" if len(found) == 1 else ""


def _counters(folder: str) -> dict[str, str]:
    return {
        name: f"{folder}/{kind}/{name}"
        for kind in ("counters", "hw_counters")
        for name in files.names(f"{folder}/{kind}")[:COUNTERS_MAX]
        if name not in _SETTINGS
    }


def _default_routes(procfs: Path) -> set[str]:
    """Interfaces that hold a default route (destination 0 and mask 0), and the ones below a bond that does."""
    try:
        lines = files.whole(f"{procfs}/net/route", 262_144).splitlines()[1:]
    except OSError:
        return set()
    fields = [line.split() for line in lines]
    routed = {words[0] for words in fields if len(words) > 7 and words[1] == words[7] == "00000000"}
    for bond in list(routed):
        for line in files.text(f"{procfs}/net/bonding/{bond}").splitlines():
            name, _, value = line.partition(":")
            if name == "Slave Interface":
                routed.add(value.strip())
    return routed
