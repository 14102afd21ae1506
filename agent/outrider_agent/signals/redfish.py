"""The node's management controller (BMC) over Redfish: power supplies, fans, temperatures, critical log entries.

In: the controller's address, a file with ``user:password``, and the certificate authority where it is not a public one.
Out, a component: its health in Redfish's words, whether power supplies and fans are redundant, fan speeds,
temperatures, and how many critical entries each log holds. Both forms are read: Power and Thermal, and the newer
PowerSubsystem and ThermalSubsystem. A look takes at most LOOK_S and REQUESTS_MAX requests of ANSWER_BYTES_MAX; it
follows no redirection, stays on the controller's address, and tells the password to nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from outrider import clock as clocks
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.signals import files, redfish_client

NAME: Final = "redfish"
LOOK_S: Final = 30.0
ENTRIES_SHOWN_MAX: Final = 8
LOG_PAGES_MAX: Final = 16
READINGS: Final[files.Names] = {
    "redfish_reachable": files.Kind("", "GET /redfish/v1/Chassis"),
    "health": files.Kind("", "Status.Health of a chassis, power supply, fan or sensor"),
    "power_supply_redundancy": files.Kind("", "Power Redundancy[], PowerSubsystem PowerSupplyRedundancy[]"),
    "fan_redundancy": files.Kind("", "Thermal Redundancy[], ThermalSubsystem FanRedundancy[]"),
    "fan_rpm": files.Kind("rpm", "Thermal Fans[].Reading, Fan SpeedPercent.SpeedRPM"),
    "temperature": files.Kind("C", "Thermal Temperatures[].ReadingCelsius"),
    "temperature_crit": files.Kind("C", "Thermal Temperatures[].UpperThresholdCritical"),
    "log_critical": files.Kind("", "LogServices/LOG/Entries of severity Critical", counter=True),
}
_ABSENT: Final = ("Absent", "Disabled")


class Redfish:
    """A readings.Signal. Built only where a controller is configured."""

    name = NAME
    period_s = 60.0
    deadline_s = LOOK_S + 5.0

    def __init__(
        self, settings: redfish_client.Settings, procfs: Path = Path("/proc"), clock: clocks.Clock | None = None
    ) -> None:
        self._settings = settings
        self._procfs = procfs
        self._clock = clock

    def read(self) -> readings.Sweep:
        """Look once."""
        look = files.Look(NAME, READINGS, self._procfs, self._clock)
        shown: list[Json] = []
        try:
            client = redfish_client.Client(self._settings, LOOK_S)
            chassis = list(client.members("/redfish/v1/Chassis"))
        except redfish_client.RedfishError as error:
            look.add("", "redfish_reachable", False)
            return look.sweep(error=str(error))
        look.add("", "redfish_reachable", True)
        lacking: list[str] = []
        for one in chassis:
            _part(lacking, lambda one=one: _chassis(look, client, one))
        for collection in ("/redfish/v1/Systems", "/redfish/v1/Managers"):
            _part(lacking, lambda path=collection: _logs(look, client, path, shown))
        context: Json = {"critical": shown[-ENTRIES_SHOWN_MAX:], "requests": client.requests}
        return look.sweep(context=context, error="; ".join(lacking)[:500])


def _part(lacking: list[str], read: Any) -> None:
    """One part of a look; what it could not have is said, and the others go on."""
    try:
        read()
    except redfish_client.RedfishError as error:
        lacking.append(str(error))


def _chassis(look: files.Look, client: redfish_client.Client, chassis: Json) -> None:
    home = f"chassis/{_name(chassis)}"
    _health(look, home, chassis)
    power, thermal = _link(chassis, "PowerSubsystem"), _link(chassis, "ThermalSubsystem")
    if power:
        subsystem = client.get(power)
        _redundancy(look, home, "power_supply_redundancy", subsystem.get("PowerSupplyRedundancy"))
        for supply in client.members(_link(subsystem, "PowerSupplies")):
            _health(look, f"{home}/power/{_name(supply)}", supply)
    elif _link(chassis, "Power"):
        old = client.get(_link(chassis, "Power"))
        _redundancy(look, home, "power_supply_redundancy", old.get("Redundancy"))
        for supply in _list(old, "PowerSupplies"):
            _health(look, f"{home}/power/{_name(supply)}", supply)
    if thermal:
        subsystem = client.get(thermal)
        _redundancy(look, home, "fan_redundancy", subsystem.get("FanRedundancy"))
        for fan in client.members(_link(subsystem, "Fans")):
            speed = fan.get("SpeedPercent")
            _fan(look, f"{home}/fan/{_name(fan)}", fan, speed.get("SpeedRPM") if isinstance(speed, dict) else None)
    if _link(chassis, "Thermal"):
        _thermal(look, home, client.get(_link(chassis, "Thermal")), fans=not thermal)


def _thermal(look: files.Look, home: str, thermal: Json, fans: bool) -> None:
    if fans:
        _redundancy(look, home, "fan_redundancy", thermal.get("Redundancy"))
    for fan in _list(thermal, "Fans") if fans else ():
        _fan(look, f"{home}/fan/{_name(fan)}", fan, fan.get("Reading") if fan.get("ReadingUnits") == "RPM" else None)
    for sensor in _list(thermal, "Temperatures"):
        device = f"{home}/temperature/{_name(sensor)}"
        if _health(look, device, sensor) and isinstance(sensor.get("ReadingCelsius"), int | float):
            look.add(device, "temperature", float(sensor["ReadingCelsius"]))
            if isinstance(sensor.get("UpperThresholdCritical"), int | float):
                look.add(device, "temperature_crit", float(sensor["UpperThresholdCritical"]))


def _fan(look: files.Look, device: str, fan: Json, rpm: Any) -> None:
    if _health(look, device, fan) and isinstance(rpm, int | float):
        look.add(device, "fan_rpm", float(rpm))


def _health(look: files.Look, device: str, of: Json) -> bool:
    """Tell the health of a component that is fitted; whether it is."""
    status = of.get("Status")
    status = status if isinstance(status, dict) else {}
    if status.get("State") in _ABSENT:
        return False
    if isinstance(status.get("Health"), str):
        look.add(device, "health", status["Health"])
    else:
        look.lack(device, "health", "unsupported", f"the controller says no health (state {status.get('State')})")
    return True


def _redundancy(look: files.Look, device: str, name: str, groups: Any) -> None:
    """The worst of the groups: its health, or ``lost`` where the controller says that members are missing."""
    words = []
    for group in groups if isinstance(groups, list) else ():
        status = group.get("Status") if isinstance(group, dict) else None
        if isinstance(status, dict):
            lost = status.get("State") in ("UnavailableOffline", "Degraded")
            words.append("lost" if lost else str(status.get("Health") or "unknown"))
    if words:
        order = ("lost", "Critical", "Warning", "unknown", "OK")
        look.add(device, name, min(words, key=lambda word: order.index(word) if word in order else 0))


def _logs(look: files.Look, client: redfish_client.Client, collection: str, shown: list[Json]) -> None:
    for owner in client.members(collection, absent_is_empty=True):
        services = _link(owner, "LogServices")
        for service in client.members(services, absent_is_empty=True) if services else ():
            entries = _link(service, "Entries")
            if entries:
                device = f"{collection.rpartition('/')[2].lower()}/{_name(owner)}/log/{_name(service)}"
                critical = [entry for entry in _entries(client, entries) if entry.get("Severity") == "Critical"]
                look.add(device, "log_critical", float(len(critical)))
                shown += [_entry(device, entry) for entry in critical[-ENTRIES_SHOWN_MAX:]]


def _entries(client: redfish_client.Client, path: str) -> Iterator[Json]:
    return client.members(path, pages_max=LOG_PAGES_MAX)


def _entry(device: str, entry: Json) -> Json:
    words = {word: str(entry.get(word, ""))[:200] for word in ("Id", "Created", "Message", "SensorType")}
    return {"log": device, **words}


def _name(of: Json) -> str:
    return str(of.get("Id") or of.get("MemberId") or of.get("Name") or "")[:60].replace(" ", "-")


def _link(of: Json, name: str) -> str:
    found = of.get(name)
    path = found.get("@odata.id") if isinstance(found, dict) else None
    return path if isinstance(path, str) else ""


def _list(of: Json, name: str) -> list[Json]:
    found = of.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
