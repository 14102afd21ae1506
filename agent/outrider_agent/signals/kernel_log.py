"""The kernel log of this node, followed: each finding told once, over restarts of the agent as well.

In: /dev/kmsg (or a file that stands for it) and the boot id. Out: a sweep whose events are findings of
``outrider_analysis.kernel_log``, with severity, recovery, boot id and the record's number in their evidence. Where the
log cannot be read the sweep says so: that is no sign of health. Position and what was told are kept in ``state``; they
are written when the next read begins or ``commit`` is called, that is after the events were taken, so an agent that
dies in between tells an event twice, with the same ``boot_id`` and ``seq``, and loses none.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.signals import kernel_records
from outrider_analysis.kernel_log import finding, judge, lines

DEVICE: Final = Path("/dev/kmsg")
SOURCE: Final = "kernel-log"
LOST: Final = "kernel-log-lost"
LOST_EVERY_S: Final = 60.0
STATE_BYTES_MAX: Final = 4 * 1024 * 1024
READS_MAX: Final = 1000  # of one look to the end: more than any ring or file of a node holds
_EPOCH_S: Final = 1e9  # times above it are Unix seconds, below it seconds since boot


class KernelLog:
    """A readings.Signal. ``once``: read to the end and hand over everything as it stands then."""

    name = SOURCE
    period_s = 0.5
    deadline_s = 5.0

    def __init__(
        self,
        path: Path = DEVICE,
        procfs: Path = Path("/proc"),
        state: Path | None = None,
        clock: clocks.Clock | None = None,
        once: bool = False,
    ) -> None:
        self._path = path
        self._procfs = procfs
        self._state = state
        self._clock = clock or clocks.RealClock()
        self._once = once
        self._judge = judge.Judge()
        self._source: kernel_records.Source | None = None
        self._boot_id = ""
        self._started = False
        self._left_at: Json = {}  # where a source that broke stood
        self._dirty = False
        self._given: Json | None = None
        self._records = 0
        self._lost_told = 0
        self._lost_at = -LOST_EVERY_S
        self._state_error = ""

    def read(self) -> readings.Sweep:
        """What is new since the last read."""
        self.commit()
        begun = time.monotonic()
        events: list[readings.Event] = []
        try:
            source = self._opened(events)
            self._follow(source, events)
        except OSError as error:
            self._close()
            return self._blind(error, events, time.monotonic() - begun)
        if self._once:
            events = [self._event(found) for found in self._judge.findings()]
        self._tell_lost(source, events)
        state = "partial" if source.behind else "ok"
        return readings.Sweep(
            self.name,
            self._clock.now(),
            time.monotonic() - begun,
            state,
            self._readings(source),
            tuple(events),
            context=self._context(source.behind),
        )

    def findings(self) -> list[finding.Finding]:
        """Everything that is known, as it stands."""
        return self._judge.findings()

    def fileno(self) -> int | None:
        """What to wait on for more lines, None where it has to be asked from time to time."""
        return self._source.fileno() if self._source else None

    def commit(self) -> None:
        """Keep position and memory: the events handed over so far were taken."""
        if self._state is None or self._source is None or not self._dirty:
            return
        kept = self._to_keep(self._source)
        spare = self._state.with_name(f"{self._state.name}.new")
        try:
            spare.write_text(json.dumps(kept))
            os.replace(spare, self._state)
            self._dirty, self._state_error = False, ""
        except OSError as error:
            self._state_error = str(error)

    def memory(self) -> Json | None:
        """Position and memory after the last read, for an owner that keeps them itself together with what came of the
        events; None where nothing changed since it was asked.
        """
        if self._source is None or not self._dirty:
            return None
        self._dirty = False
        return self._to_keep(self._source)

    def restore(self, memory: object) -> None:
        """Go on from what ``memory`` gave, in place of a file; before the first read."""
        self._given = memory if isinstance(memory, dict) else None

    def _to_keep(self, source: kernel_records.Source) -> Json:
        return {"boot_id": self._boot_id, "position": source.position(), "memory": self._judge.memory()}

    def _opened(self, events: list[readings.Event]) -> kernel_records.Source:
        if self._source is not None:
            return self._source
        source = kernel_records.open_source(self._path, self._once)
        boot_id = self._read_boot_id()
        kept = {} if self._started else self._kept()
        if not self._started:
            self._judge.restore(kept.get("memory"))
            self._started = True
        same_boot = not kept or kept.get("boot_id") == boot_id
        if not same_boot:
            events += [self._event(found) for found in self._judge.rebooted()]
            self._dirty = True
        position = kept.get("position")
        position = position if isinstance(position, dict) else {}
        if same_boot or "seq" not in position:
            source.go_on(position if kept else self._left_at)
        self._source, self._boot_id = source, boot_id
        return source

    def _follow(self, source: kernel_records.Source, events: list[readings.Event]) -> None:
        for _ in range(READS_MAX if self._once else 1):
            raws = source.read()
            self._records += len(raws)
            self._dirty = self._dirty or bool(raws)
            for line in lines.parse_all(raws):
                events += [self._event(found) for found in self._judge.take(line)]
            if not source.behind:
                break

    def _event(self, found: finding.Finding) -> readings.Event:
        evidence = {
            **found.evidence,
            "severity": found.severity,
            "recovery": found.recovery,
            "cause_group": found.cause_group,
            "at_s": found.at_s,
            "boot_id": self._boot_id,
        }
        return readings.Event(self._at(found.at_s), SOURCE, found.kind, found.device, found.text, evidence)

    def _at(self, at_s: float | None) -> float:
        """Unix seconds. A file's seconds since boot are of a boot that nobody knows: its lines happen when read."""
        now = self._clock.now()
        if at_s is not None and at_s > _EPOCH_S:
            return min(at_s, now)
        if at_s is not None and isinstance(self._source, kernel_records.Device):
            return min(now - time.monotonic() + at_s, now)
        return now

    def _tell_lost(self, source: kernel_records.Source, events: list[readings.Event]) -> None:
        lost = source.lost - self._lost_told
        if lost <= 0 or time.monotonic() - self._lost_at < LOST_EVERY_S:
            return
        self._lost_told, self._lost_at = source.lost, time.monotonic()
        text = f"{lost} records of the kernel log were overwritten before they could be read"
        evidence: Json = {"severity": "warning", "recovery": "none", "count": lost, "boot_id": self._boot_id}
        events.append(readings.Event(self._clock.now(), SOURCE, LOST, "", text, evidence))

    def _readings(self, source: kernel_records.Source) -> tuple[readings.Reading, ...]:
        return (
            readings.Reading("", "kernel_log_records", float(self._records), counter=True),
            readings.Reading("", "kernel_log_lost", float(source.lost), counter=True),
            readings.Reading("", "kernel_log_forgotten", float(self._judge.forgotten), counter=True),
        )

    def _blind(self, error: OSError, events: list[readings.Event], duration_s: float) -> readings.Sweep:
        why = f"{self._path}: {error.strerror or error}"
        state = "absent" if isinstance(error, FileNotFoundError) else "failed"
        reading = readings.Reading("", "kernel_log_records", None, state="unreadable", counter=True, error=why)
        return readings.Sweep(
            self.name, self._clock.now(), duration_s, state, (reading,), tuple(events), why, self._context(False)
        )

    def _context(self, behind: bool) -> Json:
        context: Json = {"boot_id": self._boot_id, "source": str(self._path), "behind": behind}
        return context | ({"state_error": self._state_error} if self._state_error else {})

    def _close(self) -> None:
        if self._source is not None:
            self._left_at = self._source.position()
            try:
                self._source.close()
            except OSError:
                pass  # it was broken already
            self._source = None

    def _read_boot_id(self) -> str:
        try:
            return (self._procfs / "sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return ""

    def _kept(self) -> Json:
        """What the agent before this one kept; nothing where there is none or it is damaged."""
        if self._state is None:
            return self._given or {}
        try:
            with self._state.open() as file:
                found = json.loads(file.read(STATE_BYTES_MAX))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
