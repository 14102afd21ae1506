"""The node's GPUs, read through NVML by helper processes; no call into the driver is made in the agent.

``Nvml`` is a readings.Signal whose ``read`` comes back within ``deadline_s``, whatever the driver does: what hangs is
left out, told (``nvml_call_hung``), and tried again by helpers of its own (``nvml/readers.py``). ``NvmlEvents``
(``nvml_events.py``) and ``Power`` (``power.py``) are made from an ``Nvml`` and share what it knows.

Threads: none is started here. One thread at a time calls ``read``; the events' and the power's ``read`` may run in
threads of their own beside it. ``close`` ends the helpers, after the last ``read``. A first ``read`` starts a helper
and may take ``read_s``.

A sweep holds what was looked at in it: readings of each look, those of 5 s, 30 s and an hour when they are due, and
everything when a helper is new. What it does not hold is as it was told last. ``nvml_call_hung`` is on each look, in
seconds: from 2 s on while a call is out, once for one that came late, and until a try came back in time where it hung
or was late again; else 0. ``error`` names the function. Of a GPU that is left alone the readings of each look are
unreadable.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from outrider import clock as clocks
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.nvml import names, presence, process, readers, samples
from outrider_agent.signals import host

NAME: Final = "nvml"
READINGS: Final = names.READINGS
EVERY_S: Final = {"fast": 0.0, "usual": 5.0, "slow": 30.0, "rare": 3600.0}
EARLY: Final = 0.9  # of a period: a look that comes a little early counts, or each would come a whole look late
NO_HARDWARE_S: Final = 600.0  # how often nvmlInit is tried where nothing says that there is a GPU
NO_DRIVER: Final = (9, 12)  # not loaded, no library
IDENTITY: Final = ("uuid", "serial", "name")


class Nvml:
    """Roots: of sysfs, /proc and /dev. ``library``: loaded in place of the driver's own."""

    name = NAME
    period_s = 1.0
    deadline_s = 6.0

    def __init__(
        self,
        library: Path | None = None,
        *,
        sysfs: Path = Path("/sys"),
        procfs: Path = Path("/proc"),
        devfs: Path = Path("/dev"),
        limits: readers.Limits | None = None,
        clock: clocks.Clock | None = None,
        kill: process.Kill = process.kill_for_good,
    ) -> None:
        self.limits = limits or readers.Limits()
        self.samples = samples.Samples()
        self.readers = readers.Readers(library, self.limits, kill)
        self._sysfs, self._procfs, self._devfs = sysfs, procfs, devfs
        self._clock = clock or clocks.RealClock()
        self._lock = threading.Lock()
        self._boot_id = host.boot_id(procfs)
        self._asked_at: dict[str, float] = {}
        self._restarts_told = 0
        self._facts: dict[int, dict[str, str]] = {}
        self._links: dict[int, tuple[int, int]] = {}  # GPU -> links it has, links that were up when first seen
        self._switched: dict[int, bool] = {}
        self._looked_at = -EVERY_S["slow"]
        self._addresses: list[str] = []
        self._switches = 0

    @property
    def library(self) -> Path | None:
        """The one that was named."""
        return self.readers.library

    def read(self) -> readings.Sweep:
        """Look once: at what is due, within ``limits.read_s`` and a little."""
        with self._lock:
            begun = time.monotonic()
            told = _Told()
            around = self._look_around(begun)
            messages = self.readers.look(self._due, begun + self.limits.read_s)
            done = False
            for message in messages:
                if message.get("done"):
                    done = True
                    self._node(message, told, begun)
                else:
                    self._gpu(message, told)
            self._presence(around, told)
            self._helpers(told)
            return self._sweep(told, done, time.monotonic() - begun)

    def close(self) -> None:
        """End the helpers."""
        with self._lock:
            self.readers.close()

    # ---------------------------------------------------------------- what is due

    def _due(self, fresh: bool) -> Sequence[str]:
        now = time.monotonic()
        if fresh:
            self._asked_at = {}
        return [
            period
            for period, every in EVERY_S.items()
            if period not in self._asked_at or now - self._asked_at[period] >= EARLY * every
        ]

    # ---------------------------------------------------------------- what was said

    def _gpu(self, message: process.Message, told: _Told) -> None:
        number = int(message["gpu"])
        device = f"gpu{number}"
        facts = self._facts.setdefault(number, {})
        up = 0
        power: float | None = None
        for row in message["rows"]:
            part, name, value = row[0], row[1], row[2]
            told.row(f"{device}/{part}" if part else device, name, value, *row[3:])
            if value is None:
                continue
            if name in IDENTITY:
                facts[name] = value
            elif name == "nvlink_state":
                up += value == 1
            elif name == "nvlink_remote_nvswitch":
                self._switched[number] = value
            elif name == "power_instant" or (name == "power" and power is None):
                power = value
        links = int(message["links"])
        if number not in self._links or self._links[number][0] != links:
            self._links[number] = (links, up)
        told.value(device, "nvml_code", float(message["code"]))
        told.seen.add(number)
        self._power(number, message, power)

    def _power(self, number: int, message: process.Message, power: float | None) -> None:
        now = self._clock.now()
        if message.get("power"):
            stamps, milliwatts = message["power"]
            self.samples.put(number, stamps, milliwatts, now)
        elif not message["samples"] and power is not None:
            self.samples.put_one(number, power, now)

    def _node(self, message: process.Message, told: _Told, begun: float) -> None:
        for period in message["periods"]:
            self._asked_at[period] = begun
        if message.get("count") is not None:
            told.value("", "gpu_count", float(message["count"]))
        if "rare" not in message["periods"]:
            return
        told.text("", "driver_version", self.readers.hello.get("driver_version", ""))
        told.text("", "library_version", library_version(self.readers.hello.get("nvml_version", "")))
        seen, broken = message["p2p_seen"], message["p2p_broken"]
        told.row("", "p2p_broken", *((float(broken),) if seen else (None, "unsupported", "no two GPUs have links")))
        for number, pci in self.readers.roster.items():
            told.text(f"gpu{number}", "pci_address", pci)
            links, up = self._links.get(number, (0, 0))
            expected = links if self._nvswitch else up
            told.row(f"gpu{number}", "nvlink_links_expected", *((float(expected),) if links else (None, "unsupported")))

    def _look_around(self, now: float) -> dict[str, int | OSError]:
        """What the machine itself says of its GPUs, every half minute."""
        if now - self._looked_at < EARLY * EVERY_S["slow"]:
            return {}
        self._looked_at = now
        found: dict[str, int | OSError] = {}
        for name, look in (("gpu_count_pci", self._pci), ("gpu_count_files", self._files)):
            try:
                found[name] = look()
            except OSError as error:
                found[name] = error
        return found

    def _presence(self, around: dict[str, int | OSError], told: _Told) -> None:
        if not around:
            return
        self.readers.fill(self._addresses)
        # A pretended GPU has neither a PCI function nor a file, which is no disagreement.
        pretended = bool(self.readers.hello.get("simulated"))
        for name, found in around.items():
            if isinstance(found, OSError):
                told.row("", name, None, "unreadable", str(found.strerror or found))
            elif pretended and not found:
                told.row("", name, None, "unsupported", "simulated")
            else:
                told.value("", name, float(found))
        version = presence.module_version(self._procfs)
        told.row("", "kernel_module_version", *((version,) if version else (None, "unsupported", "none is loaded")))

    def _pci(self) -> int:
        self._addresses, self._switches = presence.pci(self._sysfs)
        return len(self._addresses)

    def _files(self) -> int:
        return presence.files(self._devfs)

    def _helpers(self, told: _Told) -> None:
        """nvmlInit, the helpers, and what does not come back."""
        one = self.readers
        one.hopeless_s = 0.0 if self._hardware else NO_HARDWARE_S
        if one.init is None or self._absent:
            state = "unsupported" if self._absent else "unreadable"
            told.row("", "nvml_init", None, state, one.error or "nvmlInit has not come back yet")
        else:
            told.value("", "nvml_init", float(one.init))
        told.value("", "nvml_helper_restarts", float(one.restarts))
        told.value("", "nvml_helpers_stuck", float(one.stuck))
        silence = one.silence()
        seconds, function = silence or one.down or (0.0, "")
        told.row("", "nvml_call_hung", seconds, "value", function)
        worst = one.ward.worst()
        waiting = one.waiting()
        for number in sorted(one.roster.keys() | worst.keys() | waiting.keys()):
            seconds, function = max(worst.get(number, (0.0, "")), waiting.get(number, (0.0, "")))
            if silence:
                told.row(f"gpu{number}", "nvml_call_hung", None, "unreadable", "no GPU answers, see the node's")
            else:
                told.row(f"gpu{number}", "nvml_call_hung", seconds, "value", function)
        for number in sorted(one.ward.blocked - told.seen):
            function = max(worst.get(number, (0.0, "")), waiting.get(number, (0.0, "")))[1]
            for name in ("nvml_code", *names.FAST):
                told.row(f"gpu{number}", name, None, "unreadable", f"left alone: {function} does not come back")

    # ---------------------------------------------------------------- the sweep

    @property
    def _hardware(self) -> bool:
        """Whether anything says that there are GPUs."""
        return bool(self._addresses or self.library or self.readers.hello)

    @property
    def _absent(self) -> bool:
        return self.readers.init in NO_DRIVER and not self._hardware

    @property
    def _nvswitch(self) -> bool:
        return bool(self._switches) or any(self._switched.values())

    def _sweep(self, told: _Told, done: bool, duration_s: float) -> readings.Sweep:
        one = self.readers
        whole = done and not one.ward.blocked
        state = "ok" if whole else "partial" if told.seen else "absent" if self._absent else "failed"
        error = "" if state in ("ok", "absent") else one.error or self._why(told)
        return readings.Sweep(
            NAME, self._clock.now(), duration_s, state, tuple(told.readings), error=error, context=self._context()
        )

    def _why(self, told: _Told) -> str:
        left = [f"gpu{number}" for number in sorted(self.readers.ward.blocked)]
        if left:
            return f"{', '.join(left)}: left alone, a call did not come back"
        missing = [f"gpu{number}" for number in sorted(self.readers.roster.keys() - told.seen)]
        return f"{', '.join(missing) or 'the node'}: no answer within {self.limits.read_s:g} s"

    def _context(self) -> Json:
        one = self.readers
        restarted, self._restarts_told = one.restarts > self._restarts_told, one.restarts
        context: Json = {"boot_id": self._boot_id, "restarted": restarted}
        if one.hello:
            context |= {
                "driver_version": one.hello["driver_version"],
                "nvml_version": one.hello["nvml_version"],
                "simulated": one.hello["simulated"],
                "devices": {
                    f"gpu{number}": {"pci": pci, **self._facts.get(number, {})}
                    for number, pci in sorted(one.roster.items())
                },
                "board": "sxm" if self._nvswitch else "pcie",
                "nvswitch": self._nvswitch,
            }
        return context


class _Told:
    """The readings of one sweep, and the GPUs that answered."""

    def __init__(self) -> None:
        self.readings: list[readings.Reading] = []
        self.seen: set[int] = set()

    def row(self, device: str, name: str, value: Any, state: str = "value", error: str = "") -> None:
        """One reading; whole numbers become floats, flags and words stay."""
        kind = READINGS[name]
        if type(value) is int:
            value = float(value)
        self.readings.append(readings.Reading(device, name, value, kind.unit, state, kind.counter, error))

    def value(self, device: str, name: str, value: float) -> None:
        """A number that was read."""
        self.row(device, name, value)

    def text(self, device: str, name: str, text: str) -> None:
        """A word; "" was not said."""
        self.row(device, name, *((text,) if text else (None, "unreadable", "it does not say")))


def library_version(nvml_version: str) -> str:
    """``550.90.07`` of ``12.550.90.07``: NVML puts CUDA's major version before the driver's."""
    return nvml_version.partition(".")[2] if re.match(r"\d{1,2}\.\d{3,}\.", nvml_version) else nvml_version
