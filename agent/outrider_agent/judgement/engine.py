"""Sweeps in, observations out: each finding told when it begins, when it turns graver, and when it is over.

A sweep's readings are noted first and judged then, so that bounds and loads are of the same look. Rules are found by
the name of the reading; what a rule remembers of a device is a ``track.Track``, made when the reading is first seen.
A new boot id ends what happened before it; a fall of a GPU's energy or error counts within one boot is its reset.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Final

from outrider import records
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.judgement import blind, echoes, events, findings, groups, known, measures, recall, table, track
from outrider_agent.judgement import rules as ruling
from outrider_agent.judgement.draft import TEXT_CHARS_MAX, Draft

CELLS_MAX: Final = 16_384
REBOOTED: Final = "the machine was started anew"
RESET: Final = "the GPU was reset"
# Counters of a GPU that begin anew when it is reset, and at no other time within a boot.
RESETS_BY: Final = frozenset({"energy", "ecc_volatile_uncorrected", "ecc_volatile_corrected"})
# Findings from before a reboot that no sample confirms within this time are over: their device may have another name.
CONFIRM_S: Final = 900.0
Cell = tuple[track.Track, ...]


class Judge:
    """One node's readings and events, judged. ``forgotten``: what was dropped for want of room.

    ``memory`` and ``restore``: what must outlive a restart of the agent, as JSON, so that the next one neither repeats
    nor forgets a finding, and knows when it is over. Without ``rules`` those of ``table.RULES`` hold.
    """

    def __init__(
        self,
        node: str,
        rules: Iterable[ruling.Rule] = (),
        expectations: ruling.Expectations | None = None,
        simulated: bool = False,
    ) -> None:
        self.rules = tuple(rules) or table.RULES
        self.cells: dict[tuple[str, str], Cell] = {}
        self.by_name: dict[str, dict[str, Cell]] = {}  # the same by reading, then by device
        self._rest: dict[tuple[str, str], known.Value] = {}  # values that all tracks of a cell rest on
        self.counts: dict[tuple[str, str], float] = {}  # of RESETS_BY, by GPU
        self.known = known.Known(self.rules, expectations or ruling.Expectations())
        self.known.simulated = simulated
        self.book = findings.Book(self.known)
        self.events: events.Events = events.Events(self.known)
        self.blind: blind.Blind = blind.Blind()
        self.echoes: echoes.Echoes = echoes.Echoes()
        self._node = node
        self._by_reading = table.by_reading(self.rules)
        self.groups = groups.Groups(self.rules)
        self._no_room = 0
        self.confirmed = True  # every finding from before the last reboot was seen since

    @property
    def forgotten(self) -> int:
        """Devices, findings and events for which there was no room."""
        return self._no_room + self.book.forgotten + self.events.forgotten

    def take(self, sweep: readings.Sweep) -> list[records.Observation]:
        """What is new by this sweep; ``seq`` of each is 0, the spool numbers them."""
        at = sweep.at
        drafts = self._boot(sweep)
        if self.known.context(sweep.context):
            self.events.name_gpus()
        drafts += self._readings(sweep)
        for event in sweep.events:
            if draft := self.events.take(event, self.book.severity):
                drafts.append(draft)
        self._confirm(at)
        return self._observations([*drafts, *self.book.flush(at, self.events.severity)])

    def silent(self, signal: str, at: float, why: str) -> list[records.Observation]:
        """A look that did not come in time, or whose worker failed."""
        return self._observations(self.blind.missed(signal, at, why))

    def memory(self) -> Json:
        """All that is not yet over, the counters' last values, and what devices were seen."""
        return recall.memory(self)

    def restore(self, memory: object) -> None:
        """Take up ``memory``; what does not look like it is passed over."""
        self._rest.clear()
        recall.restore(self, memory)

    def cell(self, device: str, name: str) -> Cell:
        """The tracks of one reading of one device."""
        key = (device, name)
        found = self.cells.get(key)
        if found is None:
            rules = [rule for rule in self._by_reading.get(name, ()) if device.startswith(rule.devices)]
            if rules and len(self.cells) >= CELLS_MAX:
                self._no_room += 1
                rules = []
            found = tuple(track.Track(rule, device) for rule in rules)
            if rules:
                self.cells[key] = found
                self.by_name.setdefault(name, {})[device] = found
        return found

    def _readings(self, sweep: readings.Sweep) -> list[Draft]:
        at, wanted, judged = sweep.at, self.known.wanted, self._by_reading
        failed = sweep.state in ("failed", "absent")
        lost = self.blind.absent if sweep.state == "absent" else self.blind.missed
        drafts = lost(sweep.signal, at, sweep.error) if failed else self.blind.looked(sweep.signal, at)
        unreadable = False
        for reading in sweep.readings:
            if reading.name in wanted:
                self.known.note(reading, at)
            if reading.name in RESETS_BY:
                drafts += self._reset(reading, at)
            unreadable = unreadable or reading.state == "unreadable"
        for reading in sweep.readings:
            if reading.name in judged:
                self._judge(reading, sweep.signal, at)
        for each, what in self.groups.take(sweep, self):
            self._told(each, what, at, "")
        if not failed and (unreadable or self.blind.has(sweep.signal)):
            drafts += self.blind.unreadable(sweep, self._is_dead, table.is_grave)
        return drafts

    def _judge(self, reading: readings.Reading, signal: str, at: float) -> None:
        """What one reading says by itself. One that says the same again, and was well, costs a look into a table."""
        key, value = (reading.device, reading.name), reading.value
        if value is not None and self._rest.get(key) == value and reading.state == "value":
            return
        cell = self.cell(*key)
        resting = bool(cell)
        for each in cell:
            if each.rule.signal != signal:
                resting = False
                continue
            if each.grouped:
                continue
            if what := each.take(reading, at, self.known):
                self._told(each, what, at, "")
            resting = resting and each.resting
        if resting and value is not None:
            self._rest[key] = value
        else:
            self._rest.pop(key, None)

    def _told(self, each: track.Track, what: str, at: float, why: str) -> None:
        if what == track.BEGINS:
            self.book.begins(each, at)
        else:
            self.book.ends(each, at, why or ("a good sample" if not each.rule.clear.after_s else "it stayed good"))

    def _is_dead(self, device: str) -> bool:
        whole = device.partition("/")[0]
        return bool(whole) and (self.book.fatal_on(whole) or self.events.fatal_on(whole))

    def _boot(self, sweep: readings.Sweep) -> list[Draft]:
        boot_id = sweep.context.get("boot_id")
        if not isinstance(boot_id, str) or not boot_id or boot_id == self.known.boot_id:
            return []
        before, self.known.boot_id = self.known.boot_id, boot_id
        if not before:
            return []
        self.known.rebooted_at = sweep.at
        self.confirmed = False
        self.counts.clear()
        self._rest.clear()
        for cell in self.cells.values():
            for each in cell:
                if each.rebooted():
                    self.book.ends(each, sweep.at, REBOOTED)
        return self.events.rebooted(sweep.at)

    def _reset(self, reading: readings.Reading, at: float) -> list[Draft]:
        value = reading.value
        if reading.state != "value" or isinstance(value, str) or value is None:
            return []
        key = (reading.device, reading.name)
        before = self.counts.get(key)
        if before is None and len(self.counts) >= CELLS_MAX:
            return []
        self.counts[key] = value
        if before is None or measures.increase(before, value) is not None:
            return []
        gpu = reading.device
        for cell in self.cells.values():
            for each in cell:
                if each.active and each.rule.clear.reset and each.device.partition("/")[0] == gpu:
                    each.end(forget=True)
                    self.book.ends(each, at, RESET)
        return self.events.reset(gpu, at)

    def _confirm(self, at: float) -> None:
        rebooted_at = self.known.rebooted_at
        if self.confirmed or (rebooted_at is not None and 0 <= at - rebooted_at < CONFIRM_S):
            return
        self.confirmed = True
        for cell in self.cells.values():
            for each in cell:
                if each.unconfirmed:
                    each.end()
                    self.book.ends(each, at, "nothing showed it after the reboot")

    def _observations(self, drafts: list[Draft]) -> list[records.Observation]:
        if not drafts:
            return []
        self.echoes.mark(drafts)
        return [self._observation(draft) for draft in drafts]

    def _observation(self, draft: Draft) -> records.Observation:
        evidence: dict[str, Any] = draft.evidence
        evidence.setdefault("boot_id", self.known.boot_id)
        if self.known.simulated:
            evidence["simulated"] = True
        found = records.Observation(
            0, draft.kind, draft.severity, draft.at, self._node, draft.text[:TEXT_CHARS_MAX], evidence=evidence
        )
        return dataclasses.replace(found, device=draft.device or None, recovery=draft.recovery)
