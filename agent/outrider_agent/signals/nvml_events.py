"""The driver's own events (Xid, ECC, recovery action), heard from a helper that waits for them.

A readings.Signal beside ``Nvml``: it knows the GPUs from there, leaves alone those that are left alone there, and has a
helper of its own, so that a reading that hangs delays no event and the wait for events delays no reading. ``read``
takes what has come and does not wait; ``fileno`` can be waited on. It is ok once every GPU is registered for events,
and partial while some are not. The kernel log tells the same Xids with more words; this is the faster way, and one more
that can fail.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.nvml import process
from outrider_agent.signals import files, host, nvml

NAME: Final = "nvml-events"
READINGS: Final[files.Names] = {
    "nvml_events": files.Kind("", "nvmlEventSetWait_v2", True),
    "nvml_event_helper_restarts": files.Kind("", "the helper process", True),
}
EVENTS_MAX: Final = 1000  # of one look
RESTART_S: Final = 1.0
RESTART_S_MAX: Final = 60.0
STOPS_MAX: Final = 2  # helpers that may be dying at a time
WAIT_S: Final = 2.0  # for which the helper's wait for events lasts when nothing comes
_TEXTS: Final = {
    "xid": "Xid {data}, told by the driver's event",
    "ecc-single-bit": "corrected memory error",
    "ecc-double-bit": "uncorrected memory error",
    "recovery-action": "the driver asks for another recovery action",
    "gpu-unavailable": "the driver says that the GPU is not available",
}


class NvmlEvents:
    """Of the GPUs that ``source`` has found. One thread at a time calls ``read``."""

    name = NAME
    period_s = 0.25
    deadline_s = 3.0

    def __init__(self, source: nvml.Nvml, procfs: Path = Path("/proc"), clock: clocks.Clock | None = None) -> None:
        self._source = source
        self._clock = clock or clocks.RealClock()
        self._boot_id = host.boot_id(procfs)
        self._helper: process.Helper | None = None
        self._dying: list[process.Helper] = []
        self._watches: frozenset[int] = frozenset()
        self._begun = False  # nvmlInit is done
        self._watched: frozenset[int] | None = None  # registered for events, None before it says so
        self._count = 0
        self._restarts = -1
        self._failed = 0
        self._start_at = 0.0
        self._error = ""

    def read(self) -> readings.Sweep:
        """What has come since the last look."""
        begun = time.monotonic()
        self._dying = [one for one in self._dying if not one.ended()]
        events: list[readings.Event] = []
        if self._helper is None:
            self._start(begun)
        if self._helper is not None:
            self._hear(self._helper, events)
        self._count += sum(int(event.evidence["count"]) for event in events)
        state, error = self._state()
        told = (
            self._counted("nvml_events", self._count),
            self._counted("nvml_event_helper_restarts", max(0, self._restarts)),
        )
        context: Json = {"boot_id": self._boot_id, "simulated": bool(self._source.readers.hello.get("simulated"))}
        duration_s = time.monotonic() - begun
        return readings.Sweep(NAME, self._clock.now(), duration_s, state, told, tuple(events), error, context)

    def fileno(self) -> int | None:
        """What to wait on for an event, None while nobody waits for one."""
        return self._helper.fileno() if self._helper is not None else None

    def close(self) -> None:
        """End the helper."""
        self._stop("closed", at_once=False)
        for one in self._dying:
            if not one.wait(1.0):
                one.forget()

    def _state(self) -> tuple[str, str]:
        """State and error. Without a GPU there is nothing to hear."""
        if self._watched is not None:
            unheard = sorted(frozenset(self._source.readers.roster) - self._watched)
            deaf = ", ".join(f"gpu{number}" for number in unheard)
            return ("partial", f"no events are heard of {deaf}") if deaf else ("ok", "")
        none = self._source.readers.init not in (0, None) or self._source.readers.hello.get("roster") == []
        if none and not self._watches:
            return "absent", ""
        return "failed", self._error or "the GPUs are not known yet"

    def _start(self, now: float) -> None:
        source = self._source.readers
        if source.init != 0 or not source.roster or now < self._start_at or len(self._dying) >= STOPS_MAX:
            return
        roster, blocked = sorted(source.roster.items()), source.ward.blocked
        begin = {"roster": roster, "blocked": sorted(blocked), "alone": True}
        try:
            self._helper = process.Helper(self._source.library, begin, events=True, kill=source.kill)
        except OSError as error:
            self._put_off(f"no NVML helper can be started: {error.strerror or error}")
            return
        self._watches = frozenset(number for number, _ in roster) - blocked
        self._restarts += 1

    def _hear(self, helper: process.Helper, events: list[readings.Event]) -> None:
        try:
            while len(events) < EVENTS_MAX and (message := helper.hear(0)) is not None:
                if "kind" in message:
                    events.append(self._event(message))
                elif "watched" in message:
                    self._watched, self._error = frozenset(message["watched"]), ""
                elif message.get("init") == 0:
                    self._begun, self._error = True, "the GPUs are not registered for events yet"
                else:
                    self._stop(f"NVML answers {message.get('init') or message.get('again')}", at_once=False)
                    return
        except process.Ended as ended:
            self._stop(str(ended), at_once=False)
            return
        if events:
            return
        # One that is left alone stays in the set it is in; its registration is not what hangs.
        if frozenset(self._source.readers.roster) - self._source.readers.ward.blocked - self._watches:
            self._stop("a GPU is to be watched too", at_once=True)
            return
        seconds, call = helper.silent()
        limits = self._source.limits
        if seconds >= (limits.act_s + WAIT_S if self._begun else limits.init_s):
            self._stop(
                f"{call.function if call else 'the helper'} has not come back for {seconds:.0f} s", at_once=False
            )
        elif self._watched is not None:
            self._failed = 0

    def _event(self, message: process.Message) -> readings.Event:
        kind, data, number = str(message["kind"]), int(message["data"]), int(message["gpu"])
        device = f"gpu{number}" if number >= 0 else ""
        evidence: Json = {"data": data, "count": int(message["count"]), "boot_id": self._boot_id}
        if kind == "xid":
            evidence["xid"] = data
        if pci := self._source.readers.roster.get(number):
            evidence["pci"] = pci
        if self._source.readers.hello.get("simulated"):
            evidence["simulated"] = True
        text = _TEXTS.get(kind, kind.replace("-", " ")).format(data=data)
        return readings.Event(min(float(message["at"]), self._clock.now()), NAME, kind, device, text, evidence)

    def _stop(self, why: str, at_once: bool) -> None:
        """End the helper; the next one starts at once, or after a pause that grows."""
        if self._helper is not None:
            self._helper.end()
            self._dying.append(self._helper)
        self._helper, self._begun, self._watched = None, False, None
        self._put_off(why)
        if at_once:
            self._start_at = 0.0

    def _put_off(self, why: str) -> None:
        self._error = why
        pause = min(RESTART_S * 2 ** min(self._failed, 16), RESTART_S_MAX)
        self._failed += 1
        self._start_at = time.monotonic() + pause

    def _counted(self, name: str, value: int) -> readings.Reading:
        kind = READINGS[name]
        return readings.Reading("", name, float(value), kind.unit, counter=kind.counter)
