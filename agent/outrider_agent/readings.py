"""What a signal hands upward: readings, events and the sweep that holds them, as plain data.

A signal is one module per outside thing (``signals/``). It reads when it is asked, says for every reading whether it is
a value, unsupported or unreadable, and judges nothing: that is for ``judgement``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from outrider.records import Json


@dataclass(frozen=True, slots=True)
class Reading:
    """One value at one moment. ``value`` counts only where ``state`` is ``value``.

    ``device``: gpu0, mlx5_0/1, nvme0, mem, a mount point, or "" for the node. ``name``: snake_case, with
    dcgm-exporter's meaning where it has one (temperature, power, ecc_volatile_uncorrected, port_state).
    """

    device: str
    name: str
    value: float | str | bool | None
    unit: str = ""
    state: str = "value"  # value | unsupported | unreadable
    counter: bool = False  # only its increase means anything
    error: str = ""


@dataclass(frozen=True)
class Event:
    """Something that happened once. ``source``: kernel-log or nvml-events."""

    at: float
    source: str
    kind: str
    device: str
    text: str
    evidence: Json


@dataclass(frozen=True)
class Sweep:
    """One look of one signal. ``state``: ok, partial, failed or absent.

    ``context``: boot_id, driver version, device list, so that a reboot is told from a fault.
    """

    signal: str
    at: float
    duration_s: float
    state: str
    readings: tuple[Reading, ...]
    events: tuple[Event, ...] = ()
    error: str = ""
    context: Json = field(default_factory=dict)


class Signal(Protocol):
    """One outside thing. ``read`` blocks; the runner gives it a worker of its own and a deadline."""

    name: str
    period_s: float
    deadline_s: float

    def read(self) -> Sweep:
        """Look once."""
        ...
