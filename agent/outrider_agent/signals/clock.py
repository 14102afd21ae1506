"""The node's clock: whether something keeps it right, by how much it is off, and whether it was set meanwhile.

In: adjtimex(2) of the running kernel, asked for reading alone; procfs gives the boot id. Out: ``clock_synchronised``
(the kernel's flag, which chronyd, ntpd and timesyncd keep), ``clock_offset`` (what the kernel still has to correct;
daemons that steer by frequency alone leave it at 0), ``clock_max_error`` (grows by 500 us a second while nobody
corrects it), ``clock_step``: how far the time of day went away from the time since boot between two looks.
Where procfs is not the kernel's own, the answer lies there as four numbers, ``adjtimex``.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from outrider import clock as clocks
from outrider_agent import readings
from outrider_agent.signals import files

NAME: Final = "clock"
RECORDED: Final = "adjtimex"
READINGS: Final[files.Names] = {
    "clock_synchronised": files.Kind("", "adjtimex status, STA_UNSYNC"),
    "clock_offset": files.Kind("s", "adjtimex offset"),
    "clock_max_error": files.Kind("s", "adjtimex maxerror"),
    "clock_state": files.Kind("", "adjtimex return value"),
    "clock_step": files.Kind("s", "CLOCK_REALTIME against CLOCK_BOOTTIME since the look before"),
}
_UNSYNC: Final = 0x0040
_NANO: Final = 0x2000
_STATES: Final = ("ok", "leap-second-added", "leap-second-deleted", "leap-second", "leap-second-over", "error")


@dataclass(frozen=True)
class Kept:
    """What adjtimex says. ``offset_s`` and ``max_error_s`` in seconds; ``state`` is one of the kernel's."""

    synchronised: bool
    offset_s: float
    max_error_s: float
    state: str


class _Timex(ctypes.Structure):
    """struct timex of Linux on 64 bits."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
        ("status", ctypes.c_int),
        *((name, ctypes.c_long) for name in ("constant", "precision", "tolerance", "seconds", "microseconds", "tick")),
        ("rest", ctypes.c_byte * 128),
    )


def ask_kernel() -> Kept:
    """adjtimex with no mode set, which any user may. Raises OSError."""
    library: Any = ctypes.CDLL(None, use_errno=True)
    asked = _Timex()
    state = int(library.adjtimex(ctypes.byref(asked)))
    if state < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return kept_of(state, asked.status, asked.offset, asked.maxerror)


def kept_of(state: int, status: int, offset: int, maxerror: int) -> Kept:
    """The kernel's numbers with their units: the offset is in ns where STA_NANO is set, else in us."""
    word = _STATES[state] if state < len(_STATES) else f"state-{state}"
    unit = 1e-9 if status & _NANO else 1e-6
    return Kept(not status & _UNSYNC, offset * unit, maxerror * 1e-6, word)


def recorded(procfs: Path) -> Callable[[], Kept]:
    """Asks a file in place of the kernel: what adjtimex returned, status, offset and maxerror."""

    def ask() -> Kept:
        state, status, offset, maxerror = (int(word, 0) for word in files.read(f"{procfs}/{RECORDED}").split())
        return kept_of(state, status, offset, maxerror)

    return ask


def both_times() -> tuple[float, float]:
    """The kernel's time of day, and its time since boot that goes on in suspension, in seconds."""
    return time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """A readings.Signal."""

    name = NAME
    period_s = 30.0
    deadline_s = 2.0

    def __init__(
        self,
        procfs: Path,
        clock: clocks.Clock | None = None,
        ask: Callable[[], Kept] | None = None,
        times: Callable[[], tuple[float, float]] = both_times,
    ) -> None:
        self._procfs = procfs
        self._clock = clock
        self._ask = ask or (ask_kernel if files.is_live_procfs(procfs) else recorded(procfs))
        self._times = times
        self._began_at: float | None = None

    def read(self) -> readings.Sweep:
        """Look once."""
        look = files.Look(NAME, READINGS, self._procfs, self._clock)
        with look.tried("", "clock_synchronised", "clock_offset", "clock_max_error", "clock_state"):
            kept = self._ask()
            look.add("", "clock_synchronised", kept.synchronised)
            look.add("", "clock_offset", kept.offset_s)
            look.add("", "clock_max_error", kept.max_error_s)
            look.add("", "clock_state", kept.state)
        now, since_boot = self._times()
        if self._began_at is not None:
            look.add("", "clock_step", now - since_boot - self._began_at)
        self._began_at = now - since_boot
        return look.sweep()
