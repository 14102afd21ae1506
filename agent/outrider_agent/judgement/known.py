"""What the judgement knows beside the one reading before it: the newest values that bounds and conditions ask for.

Values older than FRESH_S say nothing about load any more; a bound (a limit, a size) is kept until it is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from outrider.records import Json
from outrider_agent import readings
from outrider_agent.judgement import rules as ruling

FRESH_S: Final = 120.0
VALUES_MAX: Final = 8192
BUSY_PERCENT: Final = 30.0
IDLE_PERCENT: Final = 5.0
GPUS_MAX: Final = 64
Value = float | str | bool
SETTLES_S: Final = 180.0
HOT_WITHIN_C: Final = 15.0
THERMAL_BITS: Final = 0x60  # of the clocks' event reasons: slowed by software or by hardware because of heat
_FOR_CONDITIONS: Final = (
    *(
        "utilization",
        "processes",
        "temperature",
        "temperature_slowdown",
        "clocks_event_reasons",
        "sram_threshold_exceeded",
    ),
    *("fabric_state", "pcie_generation", "gpu_count_pci", "nvswitch_present", "kind", "ports_expected", "port_role"),
    *("nvml_call_hung", "recovery_action", "port_state", "retired_pages_double", "port_expected", "ports_active"),
)


class Known:
    """The newest of each reading that some rule refers to, and what the sweeps' contexts say of the node."""

    def __init__(self, rules: Iterable[ruling.Rule], expectations: ruling.Expectations) -> None:
        self.expectations = expectations
        self.wanted = frozenset({*_FOR_CONDITIONS, *referred(rules)})
        self.boot_id = ""
        self.rebooted_at: float | None = None  # when another boot id was first seen
        self.board = ""
        self.nvswitch: bool | None = None
        self.simulated = False
        self.gpus: dict[str, str] = {}  # by shortened PCI address
        self._values: dict[tuple[str, str], tuple[Value, float]] = {}

    def note(self, reading: readings.Reading, at: float) -> None:
        """Keep one reading of ``wanted``."""
        key = (reading.device, reading.name)
        if reading.state != "value" or reading.value is None:
            self._values.pop(key, None)
        elif key in self._values or len(self._values) < VALUES_MAX:
            self._values[key] = (reading.value, at)

    def context(self, context: Json) -> bool:
        """What a sweep says of the node, but for the boot id, which the engine looks at first.

        Whether the GPUs are others than before.
        """
        before = self.gpus
        devices = context.get("devices")
        if isinstance(devices, dict):
            self._devices(devices)
        if isinstance(board := context.get("board"), str):
            self.board = board
        if isinstance(switch := context.get("nvswitch"), bool):
            self.nvswitch = switch
        if context.get("simulated") is True:
            self.simulated = True
        return self.gpus != before

    def value(self, device: str, name: str) -> Value | None:
        """Of the device, else of the GPU it is part of, else of the node."""
        found = self._values.get((device, name))
        if found is None and device:
            whole = device.partition("/")[0]
            found = self._values.get((whole, name)) or self._values.get(("", name))
        return found[0] if found else None

    def number(self, device: str, name: str) -> float | None:
        """The same where it is a number."""
        found = self.value(device, name)
        return float(found) if isinstance(found, int | float) else None

    def fresh(self, device: str, name: str, at: float) -> float | None:
        """A number of this very device that is not older than FRESH_S."""
        found = self._values.get((device, name))
        if found is None or at - found[1] > FRESH_S or not isinstance(found[0], int | float):
            return None
        return float(found[0])

    def bound(self, bound: ruling.Bound, device: str) -> float | None:
        """The level that ``bound`` stands for now, None where it is not known."""
        base = self.expectations.of(bound.expected) if bound.expected else None
        if base is None and bound.reading:
            base = self.number(device, bound.reading)
        return bound.level if base is None else base * bound.times + bound.plus

    def gpu(self, device: str) -> str:
        """``gpu3`` for its PCI address, anything else as it is."""
        return self.gpus.get(short_pci(device), device) if ":" in device else device

    def holds(self, needs: tuple[str, ...], device: str, at: float) -> bool:
        """Whether every condition holds for this device."""
        return all(CONDITIONS[need](self, device, at) for need in needs)

    def load(self, device: str, at: float) -> float | None:
        """How busy a GPU is, percent."""
        return self.fresh(self.gpu(device).partition("/")[0], "utilization", at)

    def busiest(self, at: float) -> float | None:
        """The load of the busiest GPU of the node."""
        loads = [load for gpu in self.gpus.values() if (load := self.fresh(gpu, "utilization", at)) is not None]
        return max(loads, default=None)

    def _devices(self, devices: Json) -> None:
        found = {}
        for name, facts in list(devices.items())[:GPUS_MAX]:
            if isinstance(facts, dict) and isinstance(pci := facts.get("pci"), str):
                found[short_pci(pci)] = name
        self.gpus = found


def referred(rules: Iterable[ruling.Rule]) -> set[str]:
    """The names of the readings that rules compare with."""
    found: set[str] = set()
    for rule in rules:
        test = rule.test
        if isinstance(test, ruling.Above | ruling.Below):
            found.add(test.bound.reading)
        elif isinstance(test, ruling.Differs):
            found.update(test.readings)
        elif isinstance(test, ruling.Faster):
            found.add(test.times_reading)
    return found - {""}


def short_pci(pci: str) -> str:
    """``0000:3b:00`` from any spelling of an address."""
    parts = pci.lower().partition(".")[0].split(":")
    return ":".join([parts[0][-4:], *parts[1:]]) if len(parts) == 3 else ":".join(parts)


def _busy(known: Known, device: str, at: float) -> bool:
    load = known.load(device, at)
    return load is not None and load >= BUSY_PERCENT


def _idle(known: Known, device: str, at: float) -> bool:
    load = known.load(device, at)
    return load is not None and load < IDLE_PERCENT and not known.fresh(known.gpu(device), "processes", at)


def _gpus(known: Known, device: str, at: float) -> bool:
    """There ought to be GPUs here."""
    return bool(known.expectations.gpus or known.number("", "gpu_count_pci") or known.gpus)


def _sxm(known: Known, device: str, at: float) -> bool:
    return known.board == "sxm"


def _nvswitch(known: Known, device: str, at: float) -> bool:
    return known.nvswitch is True or known.value("", "nvswitch_present") is True


def _adapter_or_nvme(known: Known, device: str, at: float) -> bool:
    return known.value(device, "kind") in ("adapter", "nvme")


def _busy_node(known: Known, device: str, at: float) -> bool:
    load = known.busiest(at)
    return load is not None and load >= BUSY_PERCENT


def _quiet_node(known: Known, device: str, at: float) -> bool:
    return not _busy_node(known, device, at)


def _settled(known: Known, device: str, at: float) -> bool:
    """Ports and services need some minutes after a boot."""
    return known.rebooted_at is None or not 0 <= at - known.rebooted_at < SETTLES_S


def _answers(known: Known, device: str, at: float) -> bool:
    """No call about it is overdue: one that hangs is a finding of its own."""
    return not known.fresh(device, "nvml_call_hung", at)


def _hot(known: Known, device: str, at: float) -> bool:
    """Another sensor says that this GPU is warm: the margin alone is not to be trusted on every board."""
    temperature, limit = known.fresh(device, "temperature", at), known.number(device, "temperature_slowdown")
    reasons = known.fresh(device, "clocks_event_reasons", at)
    near = temperature is not None and limit is not None and temperature >= limit - HOT_WITHIN_C
    return near or bool(reasons is not None and int(reasons) & THERMAL_BITS)


def _sram_threshold(known: Known, device: str, at: float) -> bool:
    return known.value(device, "sram_threshold_exceeded") is True


def _fabric_ready(known: Known, device: str, at: float) -> bool:
    """Links train while the fabric comes up; 0 is no fabric, 3 is done."""
    return known.number(device, "fabric_state") in (None, 0, 3)


def _generation(number: int) -> Callable[[Known, str, float], bool]:
    return lambda known, device, at: known.number(device, "pcie_generation") == number


def _checkpoint_volume(known: Known, device: str, at: float) -> bool:
    return device in known.expectations.checkpoint_mounts


def _many_retired(known: Known, device: str, at: float) -> bool:
    return (known.number(device, "retired_pages_double") or 0) >= 15


def _root(known: Known, device: str, at: float) -> bool:
    return device == "/"


def _card(known: Known, device: str, at: float) -> bool:
    return known.value(device, "kind") in ("gpu", "adapter", "nvme")


def _port_active(known: Known, device: str, at: float) -> bool:
    return known.value(device, "port_state") == "ACTIVE"


def _ports(known: Known, device: str, at: float) -> bool:
    return bool(known.expectations.ports or known.number("", "ports_expected")) and _gpus(known, device, at)


def _port_wanted(known: Known, device: str, at: float) -> bool:
    """One that ought to work, unless as many work as the settings ask for."""
    asked, active = known.expectations.ports, known.number("", "ports_active")
    enough = asked is not None and active is not None and active >= asked
    return known.value(device, "port_expected") is True and not enough


def _compute_port(known: Known, device: str, at: float) -> bool:
    return known.value(device, "port_role") == "compute"


CONDITIONS: Final[dict[str, Callable[[Known, str, float], bool]]] = {
    "busy": _busy,
    "idle": _idle,
    "gpus": _gpus,
    "sxm": _sxm,
    "nvswitch": _nvswitch,
    "adapter-or-nvme": _adapter_or_nvme,
    "busy-node": _busy_node,
    "quiet-node": _quiet_node,
    "settled": _settled,
    "answers": _answers,
    "hot": _hot,
    "sram-threshold": _sram_threshold,
    "fabric-ready": _fabric_ready,
    "gen4": _generation(4),
    "gen5": _generation(5),
    "checkpoint-volume": _checkpoint_volume,
    "ports": _ports,
    "port-active": _port_active,
    "port-wanted": _port_wanted,
    "many-retired": _many_retired,
    "root": _root,
    "card": _card,
    "compute-port": _compute_port,
}
