"""What makes any rule begin, hold and end: readings for a rule, made from the rule's own data.

A rule is judged alone (``alone``), on the device it speaks of, with the conditions it needs. ``Play`` gives it good and
bad samples in turn and keeps count of what the judge says.
"""

from __future__ import annotations

import json

from outrider import records
from outrider_agent import readings
from outrider_agent.judgement import engine, known, rules

START = 1_000_000.0
GPUS = 8
ADDRESSES = {f"gpu{number}": {"pci": f"0000:{0x19 + number:02x}:00.0"} for number in range(GPUS)}
NODE_READINGS = (
    *("nvml_init", "gpu_count", "gpu_count_pci", "library_version", "driver_version", "p2p_broken", "ports_active"),
    *("nvml_helper_restarts", "nvml_helpers_stuck"),
)
DEVICE = {
    "nvml": "gpu3",
    "infiniband": "mlx5_0/1",
    "ethtool": "ib0",
    "pcie": "0000:c1:00.0",
    "edac": "mc0",
    "hwmon": "hwmon0/temp1",
    "nvme": "nvme0",
    "filesystems": "/ckpt",
    "cpu": "cpu",
    "services": "containerd",
    "redfish": "chassis/psu1",
}
# What each condition needs to hold: readings of a device (None: the rule's own).
CONDITIONS: dict[str, tuple[tuple[str | None, str, float | str | bool], ...]] = {
    "busy": ((None, "utilization", 99.0),),
    "idle": ((None, "utilization", 0.0), (None, "processes", 0.0)),
    "gpus": (("", "gpu_count_pci", 8.0),),
    "sxm": (),
    "nvswitch": (),
    "fabric-ready": (("gpu3", "fabric_state", 3.0),),
    "adapter-or-nvme": ((None, "kind", "adapter"),),
    "card": ((None, "kind", "adapter"),),
    "quiet-node": (),
    "settled": (),
    "busy-node": (("gpu5", "utilization", 99.0),),
    "answers": ((None, "nvml_call_hung", 0.0),),
    "hot": ((None, "temperature", 86.0), (None, "temperature_slowdown", 87.0)),
    "sram-threshold": ((None, "sram_threshold_exceeded", True),),
    "gen4": ((None, "pcie_generation", 4.0),),
    "gen5": ((None, "pcie_generation", 5.0),),
    "checkpoint-volume": (),
    "ports": (("", "ports_expected", 8.0), ("", "gpu_count_pci", 8.0)),
    "compute-port": ((None, "port_role", "compute"),),
    "port-wanted": ((None, "port_expected", True),),
    "port-active": ((None, "port_state", "ACTIVE"),),
    "many-retired": ((None, "retired_pages_double", 20.0),),
    "root": (),
}
# Those that hold where nothing is known.
HOLD_BY_THEMSELVES = {
    *("answers", "quiet-node", "settled", "fabric-ready", "sxm", "nvswitch", "checkpoint-volume", "root"),
}
EXPECTED = rules.Expectations(gpus=8, ports=8, port_rate=400.0, checkpoint_mounts=("/ckpt",))


def device_of(rule: rules.Rule) -> str:
    if rule.reading in NODE_READINGS or rule.signal in ("memory", "tasks", "clock", "inventory"):
        return ""
    if rule.reading.startswith("nvlink_"):
        return "gpu3/link7"
    if rule.reading == "adapter_present":
        return "mlx5_0"
    if "root" in rule.needs:
        return "/"
    return rule.devices if rule.signal == "services" and rule.devices else DEVICE[rule.signal]


def context(boot_id: str = "first") -> records.Json:
    return {"boot_id": boot_id, "devices": ADDRESSES, "board": "sxm", "nvswitch": True}


class Play:
    """One rule alone on a node, and the hands of the clock."""

    def __init__(self, rule: rules.Rule, conditions: bool = True) -> None:
        self.rule = rule
        self.device = device_of(rule)
        self.judge = engine.Judge("n0", (rule,), EXPECTED)
        self.at = START
        self.boot_id = "first"
        self.conditions = conditions
        self.count = 1000.0
        self.energy = 1e6
        test = rule.test
        self.step_s = rule.share.every_s if rule.share else 5.0 if isinstance(test, rules.Flaps) else 10.0
        self.flips = 0
        self.same: float | str = 8.0 if rule.reading == "gpu_count" else "same"

    def good(self, **more: str) -> list[records.Observation]:
        return self.take(self._good(), **more)

    def bad(self, **more: str) -> list[records.Observation]:
        return self.take(self._bad(), **more)

    def take(self, found: list[readings.Reading], state: str = "ok") -> list[records.Observation]:
        self.at += self.step_s
        around = [*self._bounds(), *(self._needed() if self.conditions else ())]
        # Conditions and bounds come from whichever signal has them; the engine notes them by name alone.
        told = self.judge.take(
            readings.Sweep("around", self.at, 0.0, "ok", tuple(around), context=context(self.boot_id))
        )
        self.energy += 1
        energy = readings.Reading("gpu3", "energy", self.energy, "J", counter=True)
        sweep = readings.Sweep(self.rule.signal, self.at, 0.0, state, (*found, energy), context=context(self.boot_id))
        return [*told, *self.judge.take(sweep)]

    def restart(self) -> None:
        """Another agent takes over, with what this one remembers."""
        memory = json.loads(json.dumps(self.judge.memory()))
        self.judge = engine.Judge("n0", (self.rule,), EXPECTED)
        self.judge.restore(memory)

    def bad_until_told(self, samples_max: int = 400) -> tuple[list[records.Observation], float, int]:
        """Observations, since when it was bad, and how many samples it took."""
        begun = self.at + self.step_s
        for samples in range(1, samples_max):
            if told := self.bad():
                return told, begun, samples
        return [], begun, samples_max

    def good_until_told(self, samples_max: int = 20_000) -> list[records.Observation]:
        self.step_s = max(self.step_s, 90.0) if not self.rule.share else self.step_s
        for _ in range(samples_max):
            if told := self.good():
                return told
        return []

    def reading(self, value: float | str | bool | None, state: str = "value", device: str = "") -> readings.Reading:
        counter = isinstance(self.rule.test, rules.Rises | rules.Faster)
        return readings.Reading(device or self.device, self.rule.reading, value, "u", state, counter)

    def _bounds(self) -> list[readings.Reading]:
        """The readings that the rule compares with."""
        test = self.rule.test
        names = known.referred([self.rule]) - {need[1] for name in self.rule.needs for need in CONDITIONS[name]}
        if isinstance(test, rules.Differs):
            return [readings.Reading(self.device, name, self.same) for name in names]
        return [readings.Reading(self.device.partition("/")[0], name, 16.0) for name in names]

    def _needed(self) -> list[readings.Reading]:
        return [
            readings.Reading(self.device if device is None else device, name, value)
            for need in self.rule.needs
            for device, name, value in CONDITIONS[need]
            if (device or self.device, name) != (self.device, self.rule.reading)
        ]

    def _bound(self, bound: rules.Bound) -> float:
        expected = EXPECTED.of(bound.expected) if bound.expected else None
        base = expected if expected is not None else 16.0 if bound.reading else None
        if base is None:
            assert bound.level is not None
            return bound.level
        return base * bound.times + bound.plus

    def _good(self) -> list[readings.Reading]:
        test = self.rule.test
        match test:
            case rules.Above():
                return [self.reading(self._bound(test.bound) - test.easing - 0.01)]
            case rules.Below():
                return [self.reading(self._bound(test.bound) + test.easing + 0.01)]
            case rules.OneOf():
                return [self.reading(_another(test.values[0]))]
            case rules.NoneOf():
                return [self.reading(test.values[0])]
            case rules.Differs():
                return [self.reading(self.same)]
            case rules.Sibling() | rules.Unlike():
                return self._siblings(100.0, 100.0)
            case rules.Fell():
                return [self.reading(400.0)]
            case rules.Changed():
                return [self.reading(f"version {self.flips}")]
            case rules.Flaps():
                return [self.reading(test.good[0])]
            case rules.Vanished():
                return [self.reading("ACTIVE"), self.reading("ACTIVE", device="mlx5_9/1")]
            case rules.Bits():
                return [self.reading(0.0)]
            case _:
                return [self.reading(self.count)]

    def _bad(self) -> list[readings.Reading]:
        test = self.rule.test
        match test:
            case rules.Above():
                return [self.reading(self._bound(test.bound) + 0.01)]
            case rules.Below():
                return [self.reading(self._bound(test.bound) - 0.01)]
            case rules.OneOf():
                return [self.reading(test.values[0])]
            case rules.NoneOf():
                return [self.reading(_another(test.values[0]))]
            case rules.Differs():
                return [self.reading("another")]
            case rules.Sibling():
                return self._siblings(100.0, 1000.0 if test.above else 10.0)
            case rules.Unlike():
                return self._siblings(100.0, 101.0)
            case rules.Fell():
                return [self.reading(200.0)]
            case rules.Bits():
                return [self.reading(float(test.mask & -test.mask))]
        return self._happening()

    def _happening(self) -> list[readings.Reading]:
        """A bad sample of what happens, each unlike the one before."""
        test = self.rule.test
        self.flips += 1
        match test:
            case rules.Changed():
                return [self.reading(f"version {self.flips}")]
            case rules.Flaps():
                away = self.flips % (int(test.down_s / self.step_s) + 2)
                return [self.reading("DOWN" if away else test.good[0])]
            case rules.Vanished():
                return [self.reading("ACTIVE", device="mlx5_9/1")]
            case rules.Rises():
                self.count += test.by
                return [self.reading(self.count)]
            case rules.Faster():
                times = 16.0 if test.times_reading else 1.0
                self.count += test.per_s * times * self.step_s * 1.01
                return [self.reading(self.count)]
        raise AssertionError(test)

    def _siblings(self, usual: float, own: float) -> list[readings.Reading]:
        values = {f"gpu{number}": own if number == 3 else usual for number in range(GPUS)}
        loads = [readings.Reading(device, "utilization", 95.0) for device in values]
        return [*loads, *(self.reading(value, device=device) for device, value in values.items())]


def _another(value: float | str | bool) -> float | str | bool:
    if isinstance(value, bool):
        return not value
    return "another" if isinstance(value, str) else 1.0 if value == 0 else 0.0
