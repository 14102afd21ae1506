"""Sensors of the board: temperatures, fans and their alarms, from hwmon and the thermal zones.

In: class/hwmon and class/thermal in sysfs. Out: ``hwmonN/tempM`` and ``zoneN`` with temperature and the limits that the
chip itself names, ``hwmonN/fanM`` with its speed and alarm. Which chip and label a sensor has, and the PCI device it
sits on, is in the context, because hwmon's numbers change from boot to boot. Of a processor's sensors the package is
read and its cores are not: each read of a core's would interrupt that core.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.signals import files, topology

NAME: Final = "hwmon"
LIST_EVERY_S: Final = 600.0
SENSORS_MAX: Final = 512
READINGS: Final[files.Names] = {
    "temperature": files.Kind("C", "class/hwmon/hwmonN/tempM_input, class/thermal/thermal_zoneN/temp"),
    "temperature_crit": files.Kind("C", "class/hwmon/hwmonN/tempM_crit, trip_point_M_temp of type critical"),
    "temperature_max": files.Kind("C", "class/hwmon/hwmonN/tempM_max"),
    "temperature_alarm": files.Kind("", "class/hwmon/hwmonN/tempM_crit_alarm, tempM_alarm, tempM_fault"),
    "fan_rpm": files.Kind("rpm", "class/hwmon/hwmonN/fanM_input"),
    "fan_min": files.Kind("rpm", "class/hwmon/hwmonN/fanM_min"),
    "fan_alarm": files.Kind("", "class/hwmon/hwmonN/fanM_alarm, fanM_fault"),
}
_MILLI: Final = 0.001
_INPUT: Final = re.compile(r"(temp|fan)\d+_input")
_ALARMS: Final = {"temp": ("_crit_alarm", "_alarm", "_fault"), "fan": ("_alarm", "_fault")}
_LIMITS: Final = {"temp": (("temperature_crit", "_crit"), ("temperature_max", "_max")), "fan": (("fan_min", "_min"),)}
_PER_CORE: Final = ("coretemp",)


@dataclass(frozen=True)
class _Sensor:
    """One sensor. ``limits`` were read once, since chips do not change them; ``alarms`` are files."""

    device: str
    kind: str  # temp, fan or zone
    path: str
    limits: tuple[tuple[str, float], ...]
    alarms: tuple[str, ...]
    about: Json


class Hwmon:
    """A readings.Signal."""

    name = NAME
    period_s = 60.0
    deadline_s = 10.0  # sensors behind a slow bus take tens of milliseconds each

    def __init__(self, sysfs: Path, procfs: Path, clock: clocks.Clock | None = None) -> None:
        self._chips = str(sysfs / "class/hwmon")
        self._zones = str(sysfs / "class/thermal")
        self._procfs = procfs
        self._clock = clock or clocks.RealClock()
        self._listed_at: float | None = None
        self._sensors: list[_Sensor] = []

    def read(self) -> readings.Sweep:
        """Look once."""
        look = files.Look(NAME, READINGS, self._procfs, self._clock)
        now = self._clock.monotonic()
        if self._listed_at is None or now - self._listed_at >= LIST_EVERY_S:
            self._listed_at = now
            self._sensors = [*self._of_chips(), *self._of_zones()][:SENSORS_MAX]
        for sensor in self._sensors:
            name, scale = ("fan_rpm", 1.0) if sensor.kind == "fan" else ("temperature", _MILLI)
            look.number(sensor.device, name, sensor.path, scale)
            for limit, value in sensor.limits:
                look.add(sensor.device, limit, value)
            if sensor.alarms:
                _alarm(look, sensor)
        return look.sweep(
            absent=not self._sensors, context={"sensors": {one.device: one.about for one in self._sensors}}
        )

    def _of_chips(self) -> list[_Sensor]:
        found = []
        for number in files.names(self._chips):
            folder = f"{self._chips}/{number}"
            chip = files.text(f"{folder}/name")
            inside = set(files.names(folder))
            address = topology.address_of(f"{folder}/device")
            for file in sorted((name for name in inside if _INPUT.fullmatch(name)), key=files.counted):
                place, kind = file.removesuffix("_input"), file[:3] if file.startswith("fan") else "temp"
                label = files.text(f"{folder}/{place}_label")
                if chip in _PER_CORE and not label.startswith("Package"):
                    continue
                limits = _limits(folder, place, kind, inside)
                alarms = tuple(f"{folder}/{place}{end}" for end in _ALARMS[kind] if place + end in inside)
                about = {"chip": chip, "label": label, "pci": address}
                found.append(_Sensor(f"{number}/{place}", kind, f"{folder}/{file}", limits, alarms, about))
        return found

    def _of_zones(self) -> list[_Sensor]:
        found = []
        for zone in files.names(self._zones):
            if not zone.startswith("thermal_zone"):
                continue
            folder = f"{self._zones}/{zone}"
            about = {"chip": "thermal zone", "label": files.text(f"{folder}/type"), "pci": ""}
            device = zone.removeprefix("thermal_")
            found.append(_Sensor(device, "zone", f"{folder}/temp", _trip(folder), (), about))
        return found


def _limits(folder: str, place: str, kind: str, inside: set[str]) -> tuple[tuple[str, float], ...]:
    """What the chip names; 0 and less is what it says where nobody has set a limit."""
    found = []
    for name, end in _LIMITS[kind]:
        if place + end in inside:
            try:
                value = files.number(files.read(f"{folder}/{place}{end}"), 1.0 if kind == "fan" else _MILLI)
            except (OSError, files.Unknown):
                continue
            if value > 0:
                found.append((name, value))
    return tuple(found)


def _trip(folder: str) -> tuple[tuple[str, float], ...]:
    """The temperature at which the kernel shuts the machine down, where the zone has one."""
    for name in files.names(folder):
        if name.startswith("trip_point_") and name.endswith("_type") and files.text(f"{folder}/{name}") == "critical":
            try:
                value = files.number(files.read(f"{folder}/{name.removesuffix('_type')}_temp"), _MILLI)
            except (OSError, files.Unknown):
                continue
            return (("temperature_crit", value),) if value > 0 else ()
    return ()


def _alarm(look: files.Look, sensor: _Sensor) -> None:
    name = "fan_alarm" if sensor.kind == "fan" else "temperature_alarm"
    with look.tried(sensor.device, name):
        look.add(sensor.device, name, any(files.number(files.read(path)) != 0 for path in sensor.alarms))
