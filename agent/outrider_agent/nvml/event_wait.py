"""The driver's events, waited for in a helper of its own: an Xid is known as soon as the driver tells it.

Sends one message for each event; the same one again within a moment is counted and told once more with its count, so a
storm of corrected errors costs a few messages a second. A set that watches a lost GPU answers at once for ever: then a
new set is made without it, never more often than once a second, and the lost one is tried again from time to time.
A set hears what happens after a GPU was registered in it, and nothing before: which GPUs are watched is said once they
are, and what the old set still holds is taken out of it before it is let go.
"""

from __future__ import annotations

import ctypes
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import pynvml as n

from outrider_agent.nvml import announce, gpu

WAIT_MS: Final = 2000
TIMEOUT: Final = 10
PAUSE_S: Final = 1.0  # between two sets
ALL_AGAIN_S: Final = 30.0  # after which left-out GPUs are tried again
TOGETHER_S: Final = 1.0  # within which the same event is counted and not told
KINDS: Final = {
    0x1: "ecc-single-bit",
    0x2: "ecc-double-bit",
    0x8: "xid",
    0x200: "ecc-single-bit-storm",
    0x400: "dram-retirement",
    0x800: "dram-retirement-failure",
    0x1000: "poison",
    0x2000: "fatal-poison",
    0x4000: "gpu-unavailable",
    0x8000: "recovery-action",
}
WANTED: Final = sum(KINDS)
AT_ONCE_MS: Final = 1
TAKEN_OUT_MAX: Final = 10_000  # events of a set that is let go

Event = tuple[int, int, int]  # GPU, type and data
Say = Callable[[dict[str, Any]], None]


def run(gpus: dict[int, gpu.Gpu], announcer: announce.Announcer, say: Say) -> None:
    """Wait for ever; returns when the driver went away."""
    watch = Watch(gpus, announcer)
    storm = Storm(say)
    try:
        while True:
            if watch.due():
                for held in watch.renew():
                    storm.take(*held)
                say({"watched": watch.watched})
            code, event = watch.wait(storm.wait_ms)
            if event is not None:
                storm.take(*event)
            storm.tell()
            if code in gpu.BEGIN_ANEW:
                say({"again": code})
                return
    except gpu.Again as error:
        say({"again": error.code})


class Watch:
    """An event set, made anew when one of its GPUs is lost and when left-out ones may be back."""

    def __init__(self, gpus: dict[int, gpu.Gpu], announcer: announce.Announcer) -> None:
        self._gpus = gpus
        self._announcer = announcer
        self._set: Any = None
        self._watched: dict[int, int] = {}  # handle -> GPU
        self._stale = True
        self._made_at = 0.0

    @property
    def watched(self) -> list[int]:
        """The GPUs whose events are heard."""
        return sorted(self._watched.values())

    def due(self) -> bool:
        """Whether a new set is to be made."""
        missing = len(self._watched) < len(self._gpus)
        return self._stale or (missing and time.monotonic() - self._made_at > ALL_AGAIN_S)

    def renew(self) -> Iterator[Event]:
        """Make a new set, and give what the old one still holds. The new one is registered before the old is let go, so
        what happens meanwhile may be in both: it is given once.
        """
        old, known = self._set, self._watched
        yield from self._taken_out(old, known)
        if time.monotonic() - self._made_at < PAUSE_S and old is not None:
            time.sleep(PAUSE_S)
        self._made_at, self._stale, self._watched = time.monotonic(), False, {}
        self._set = self._call(announce.NODE, "nvmlEventSetCreate", n.nvmlEventSetCreate)
        for number, one in self._gpus.items():
            handle = self._registered(number, one)
            if handle is not None:
                self._watched[ctypes.cast(handle, ctypes.c_void_p).value or 0] = number
        if old is None:
            return
        since = self._taken_out(old, known)
        yield from since
        self._call(announce.NODE, "nvmlEventSetFree", n.nvmlEventSetFree, old)
        yield from (Counter(self._taken_out(self._set, self._watched)) - Counter(since)).elements()

    def wait(self, wait_ms: int) -> tuple[int, Event | None]:
        """The code, and an event."""
        if not self._watched:
            time.sleep(PAUSE_S)
            return TIMEOUT, None
        code, event = self._next(self._set, self._watched, wait_ms)
        if code not in (0, TIMEOUT):
            self._stale = True  # lost, or nothing that a second wait would cure
        return code, event

    def _taken_out(self, of: Any, known: dict[int, int]) -> list[Event]:
        """What a set holds now, in order."""
        taken: list[Event] = []
        while known and of is not None and len(taken) < TAKEN_OUT_MAX:
            _, event = self._next(of, known, AT_ONCE_MS)
            if event is None:
                break
            taken.append(event)
        return taken

    def _next(self, of: Any, known: dict[int, int], wait_ms: int) -> tuple[int, Event | None]:
        try:
            found = self._announcer.call(announce.NODE, "nvmlEventSetWait_v2", n.nvmlEventSetWait_v2, of, wait_ms)
        except n.NVMLError as error:
            return gpu.code_of(error), None
        number = known.get(ctypes.cast(found.device, ctypes.c_void_p).value or 0, announce.NODE)
        return 0, (number, int(found.eventType), int(found.eventData))

    def _registered(self, number: int, one: gpu.Gpu) -> Any:
        """The handle of a GPU that is watched from now on, None where it cannot be."""
        handle = one.handle()
        if handle is None:
            return None
        try:
            types = self._announcer.call(
                number, "nvmlDeviceGetSupportedEventTypes", n.nvmlDeviceGetSupportedEventTypes, handle
            )
            # The fake and some drivers register a lost GPU without a word; this one answers.
            self._announcer.call(number, "nvmlDeviceGetTemperature", n.nvmlDeviceGetTemperature, handle, 0)
        except n.NVMLError as error:
            if gpu.code_of(error) != gpu.RESET_REQUIRED:
                return None
            types = 0xA
        register = n.nvmlDeviceRegisterEvents
        done = self._call(number, "nvmlDeviceRegisterEvents", register, handle, types & WANTED, self._set, ok=True)
        return handle if done else None

    def _call(self, number: int, function: str, make: Any, *arguments: Any, ok: bool = False) -> Any:
        try:
            answer = self._announcer.call(number, function, make, *arguments)
        except n.NVMLError as error:
            if gpu.code_of(error) in gpu.BEGIN_ANEW:
                raise gpu.Again(gpu.code_of(error)) from error
            return None
        return True if ok else answer


class Storm:
    """Tells each event once, and what comes again within TOGETHER_S as a count."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._told: dict[tuple[int, int, int], float] = {}
        self._held: dict[tuple[int, int, int], int] = {}

    @property
    def wait_ms(self) -> int:
        """How long the next wait may be."""
        return int(TOGETHER_S * 1000) if self._held else WAIT_MS

    def take(self, number: int, kind: int, data: int) -> None:
        """One event, as it comes."""
        key = (number, kind, data)
        now = time.monotonic()
        if now - self._told.get(key, -TOGETHER_S) < TOGETHER_S:
            self._held[key] = self._held.get(key, 0) + 1
            return
        self._told = {known: at for known, at in self._told.items() if now - at < TOGETHER_S}
        self._told[key] = now
        self._send(key, 1 + self._held.pop(key, 0))

    def tell(self) -> None:
        """Those that were held long enough."""
        now = time.monotonic()
        for key in [held for held in self._held if now - self._told.get(held, 0.0) >= TOGETHER_S]:
            self._told[key] = now
            self._send(key, self._held.pop(key))

    def _send(self, key: tuple[int, int, int], count: int) -> None:
        number, kind, data = key
        name = KINDS.get(kind, f"event-{kind:#x}")
        self._say({"gpu": number, "kind": name, "data": data, "count": count, "at": time.time()})
