"""PCIe: what each link does of what it could, and the errors that the devices reported.

In: bus/pci/devices in sysfs, for GPUs, adapters, NVMe drives, NVSwitches and the bridges above them. Out, a device by
its address: speed and width now and at most (the most that both ends of the link can do: a card in a smaller slot is
not broken), totals of the AER files, whether it still answers on the bus, and for bridges whether access control
sends peer-to-peer traffic up to the root. Links of bridges are left out: they are the links of what is below.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider_agent import readings
from outrider_agent.signals import files, topology

NAME: Final = "pcie"
LIST_EVERY_S: Final = 300.0
CONFIG_BYTES: Final = 4096
READINGS: Final[files.Names] = {
    "kind": files.Kind("", "bus/pci/devices/ADDRESS/class and vendor"),
    "on_bus": files.Kind("", "bus/pci/devices/ADDRESS/config, vendor id"),
    "link_speed": files.Kind("GT/s", "bus/pci/devices/ADDRESS/current_link_speed"),
    "link_speed_max": files.Kind("GT/s", "max_link_speed of the device and of the bridge above it"),
    "link_width": files.Kind("", "bus/pci/devices/ADDRESS/current_link_width"),
    "link_width_max": files.Kind("", "max_link_width of the device and of the bridge above it"),
    "aer_fatal": files.Kind("", "bus/pci/devices/ADDRESS/aer_dev_fatal", counter=True),
    "aer_nonfatal": files.Kind("", "bus/pci/devices/ADDRESS/aer_dev_nonfatal", counter=True),
    "aer_correctable": files.Kind("", "bus/pci/devices/ADDRESS/aer_dev_correctable", counter=True),
    "acs_enabled": files.Kind("", "bus/pci/devices/ADDRESS/config, access control services"),
}
_AER: Final = (("aer_fatal", "fatal"), ("aer_nonfatal", "nonfatal"), ("aer_correctable", "correctable"))
_NOBODY: Final = b"\xff\xff"  # what the bus reads where nobody answers
_FIRST_EXTENDED: Final = 0x100
_ACS: Final = 0x000D
_ACS_REDIRECT: Final = 0b1100  # request redirect and completion redirect: the way through the root
_WIDTHS: Final = (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 32.0)


@dataclass(frozen=True)
class _Known:
    """A device with what does not change while it is there."""

    device: topology.Device
    speed_max: float | None
    width_max: float | None
    acs: bool | files.Unknown


class Pcie:
    """A readings.Signal."""

    name = NAME
    period_s = 30.0
    deadline_s = 5.0

    def __init__(self, sysfs: Path, procfs: Path, clock: clocks.Clock | None = None) -> None:
        self._sysfs = sysfs
        self._procfs = procfs
        self._clock = clock or clocks.RealClock()
        self._listed_at: float | None = None
        self._known: dict[str, _Known] = {}
        self._seen = False

    def read(self) -> readings.Sweep:
        """Look once."""
        look = files.Look(NAME, READINGS, self._procfs, self._clock)
        now = self._clock.monotonic()
        gone = [address for address, one in self._known.items() if not os.path.isdir(one.device.path)]
        if self._listed_at is None or gone or now - self._listed_at >= LIST_EVERY_S:
            self._listed_at = now
            found = topology.devices(self._sysfs)  # functions made for guests have no link of their own
            self._known = {address: _know(one) for address, one in found.items() if not one.virtual}
        self._seen = self._seen or bool(self._known)
        for address, one in self._known.items():
            _look_at(look, address, one)
        return look.sweep(absent=not self._seen)


def _look_at(look: files.Look, address: str, one: _Known) -> None:
    path = one.device.path
    look.add(address, "kind", one.device.kind)
    if one.device.kind == topology.BRIDGE:
        if isinstance(one.acs, files.Unknown):
            look.lack(address, "acs_enabled", one.acs.state, str(one.acs))
        else:
            look.add(address, "acs_enabled", one.acs)
    else:
        with look.tried(address, "on_bus"):
            look.add(address, "on_bus", _config(path, 2) != _NOBODY)
        _link(look, address, one)
    for name, word in _AER:
        with look.tried(address, name):
            look.add(address, name, aer_total(files.read(f"{path}/aer_dev_{word}")))


def _link(look: files.Look, address: str, one: _Known) -> None:
    path = one.device.path
    with look.tried(address, "link_speed"):
        look.add(address, "link_speed", speed(files.read(f"{path}/current_link_speed")))
    with look.tried(address, "link_width"):
        look.add(address, "link_width", width(files.read(f"{path}/current_link_width")))
    for name, most in (("link_speed_max", one.speed_max), ("link_width_max", one.width_max)):
        if most is None:
            look.lack(address, name, "unsupported", "neither end says what it can do")
        else:
            look.add(address, name, most)


def _know(device: topology.Device) -> _Known:
    above = os.path.dirname(device.path) if device.above else ""
    speeds = [_or_none(speed, f"{path}/max_link_speed") for path in (device.path, above) if path]
    widths = [_or_none(width, f"{path}/max_link_width") for path in (device.path, above) if path]
    acs: bool | files.Unknown
    try:
        acs = acs_redirects(_config(device.path, CONFIG_BYTES)) if device.kind == topology.BRIDGE else False
    except files.Unknown as error:
        acs = error
    except OSError as error:
        acs = files.Unknown(files.state_of(error), error.strerror or str(error))
    known_speeds, known_widths = [one for one in speeds if one], [one for one in widths if one]
    return _Known(device, min(known_speeds, default=None), min(known_widths, default=None), acs)


def speed(said: str) -> float:
    """``32.0 GT/s PCIe`` is 32. Raises Unknown: ``Unknown`` is what a device says that fell off the bus."""
    return files.number(said.partition(" ")[0])


def width(said: str) -> float:
    """``16`` lanes. Raises Unknown: 0 is a link that is down, 63 and 255 a device that does not answer."""
    lanes = files.number(said)
    if lanes == 0:
        raise files.Unknown("unsupported", "the link is down")
    if lanes not in _WIDTHS:
        raise files.Unknown("unreadable", f"{said!r} is no width of a link")
    return lanes


def aer_total(said: str) -> float:
    """The total of an AER file, which names each error with its count and the total at last. Raises Unknown."""
    counts: dict[str, float] = {}
    for line in said.splitlines():
        name, _, count = line.rpartition(" ")
        if name and count.isdigit():
            counts[name] = float(count)
    totals = [count for name, count in counts.items() if name.startswith("TOTAL_ERR")]
    if totals:
        return totals[0]
    if not counts:
        raise files.Unknown("unreadable", f"{said[:60]!r} names no error")
    return sum(counts.values())


def acs_redirects(config: bytes) -> bool:
    """Whether access control services redirect peer-to-peer traffic, by a device's config space. Raises Unknown."""
    if len(config) <= _FIRST_EXTENDED:
        raise files.Unknown("unreadable", "the extended config space is for root alone")
    place = _FIRST_EXTENDED
    for _ in range(CONFIG_BYTES // 8):
        if place < _FIRST_EXTENDED or place + 8 > len(config):
            break
        head = struct.unpack_from("<I", config, place)[0]
        if head in (0, 0xFFFFFFFF):
            break
        if head & 0xFFFF == _ACS:
            return bool(struct.unpack_from("<H", config, place + 6)[0] & _ACS_REDIRECT)
        place = head >> 20
    raise files.Unknown("unsupported", "has no access control services")


def _config(path: str, bytes_max: int) -> bytes:
    file = os.open(f"{path}/config", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, bytes_max)
    finally:
        os.close(file)


def _or_none(parse: Callable[[str], float], path: str) -> float | None:
    try:
        return parse(files.read(path))
    except (OSError, files.Unknown):
        return None
