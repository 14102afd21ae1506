"""Lines of a kernel log in order become findings, each told once.

In: ``lines.Line``. Out, as lines come: a finding when something begins, when it turns graver, and when it is over; and
at any time all findings as they stand. Identical lines are counted, not told again: one field case logged 800,000
copies of 29 lines. The first GPU fault within WINDOW_S on a node is the candidate cause; what came within that window
after it (or before it, where it is of the kind that follows others) is its echo. Time is the log's own. Memory is
bounded: KNOWN_MAX things, TEXTS_MAX texts that were read before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

from outrider.records import Json
from outrider_analysis.kernel_log import host, lines, nvlink, xid
from outrider_analysis.kernel_log.faults import Hit, Key
from outrider_analysis.kernel_log.finding import LINE_CHARS_MAX, OCCURRENCE_GAP_S, Finding, Known

WINDOW_S: Final = 3.0
KNOWN_MAX: Final = 512
CLOSED_MAX: Final = 512
TEXTS_MAX: Final = 4096
DEVICES_MAX: Final = 64
LOOKALIKE: Final = "user-space-lookalike"
# Echoes that may come later than the window: 137 follows a link that went down, 94 the error that it contained.
_LATE: Final = {137: (30.0, frozenset({74, 136})), 94: (60.0, frozenset({48}))}
_DRIVER_ASKS_WITHIN_S: Final = 60.0
_GRAVITY: Final = {"info": 0, "warning": 1, "error": 2, "fatal": 3}
_READINGS: Final = {reading.name: reading for _, _, reading in nvlink.BITS}
_BOOT: Final = "Linux version "


class Judge:
    """One node's kernel log, judged. ``forgotten``: things dropped for want of room, ``lines``: how many were taken."""

    def __init__(self) -> None:
        self.lines = 0
        self.forgotten = 0
        self._known: dict[Key, Known] = {}
        self._closed: list[Known] = []
        self._texts: dict[tuple[bool, str], Hit | None] = {}
        self._uuids: dict[str, str] = {}
        self._probed: tuple[str, int] = ("", -9)
        self._cause: Known | None = None  # of the newest window
        self._now = 0.0

    def take(self, line: lines.Line) -> list[Finding]:
        """What is new by this line."""
        self.lines += 1
        if line.at_s is not None:
            self._now = line.at_s
        forged = line.from_user_space
        try:
            hit = self._texts[forged, line.text]
        except KeyError:
            if not forged and line.text.startswith(_BOOT):
                return self.rebooted()
            hit = self._read(line, forged)
        return [] if hit is None else self._take(hit, line)

    def findings(self) -> list[Finding]:
        """Everything as it stands, in the order of its beginning; what is over is information."""
        return [known.finding() for known in (*self._closed, *self._known.values())]

    def rebooted(self) -> list[Finding]:
        """The machine was started anew: what was wrong is over until it is said again."""
        over = [self._over(known, "reboot") for known in self._known.values() if not known.cleared]
        self._closed = [*self._closed, *self._known.values()][-CLOSED_MAX:]
        self._known, self._cause = {}, None
        return [finding for finding in over if finding.evidence["was"] != "info"]

    def memory(self) -> Json:
        """What must outlive a restart of whoever reads the log, so that nothing is told twice."""
        known = [
            [
                list(k.hit.key),
                k.hit.kind,
                k.hit.device,
                k.hit.text,
                k.severity,
                k.recovery,
                k.count,
                k.at_s,
                k.last_at_s,
            ]
            for k in self._known.values()
            if not k.cleared
        ]
        return {"known": known}

    def restore(self, memory: object) -> None:
        """Take up ``memory``; what does not look like it is passed over."""
        rows = memory.get("known") if isinstance(memory, dict) else None
        for row in rows[:KNOWN_MAX] if isinstance(rows, list) else []:
            try:
                key, kind, device, text, severity, recovery, count, at_s, last_at_s = row
                if severity not in _GRAVITY:
                    continue
                hit = Hit(str(kind), tuple(key), severity, str(device), str(text), str(recovery))
                self._known[hit.key] = Known(
                    hit, "", None, float(at_s), float(last_at_s), hit.severity, hit.recovery, int(count)
                )
            except (TypeError, ValueError):
                continue

    def _read(self, line: lines.Line, forged: bool) -> Hit | None:
        text = line.text
        if text.startswith("NVRM: ") and not forged:
            self._note(text)
        hit = host.read(text)
        if forged:
            hit = _lookalike(hit) if hit else None
        elif hit is not None and hit.kind == "xid" and not hit.device and hit.key[1] == xid.OFF_BUS:
            return self._located(hit)  # depends on the lines before it, so it is not kept
        if len(self._texts) >= TEXTS_MAX:
            self._texts.clear()
        self._texts[forged, text] = hit
        return hit

    def _note(self, text: str) -> None:
        if named := xid.uuid(text):
            if len(self._uuids) < DEVICES_MAX:
                self._uuids[named[0]] = named[1]
        elif device := xid.probed(text):
            self._probed = (device, self.lines)

    def _located(self, hit: Hit) -> Hit:
        """A GPU that is gone, in a line without an address: the one that was named just before."""
        device, at = self._probed
        if self.lines - at > 4:
            lost = [known for key, known in self._known.items() if key[:2] == ("xid", xid.OFF_BUS) and known.hit.device]
            device = lost[-1].hit.device if lost else ""
        return dataclasses.replace(
            hit, device=device, key=("xid", xid.OFF_BUS, device), text=hit.text.replace("at an unknown address", device)
        ) if device else hit  # fmt: skip

    def _take(self, hit: Hit, line: lines.Line) -> list[Finding]:
        now = self._now
        told = self._clear(hit.clears) if hit.clears else []
        if hit.clears and hit.kind not in ("xid", "sxid"):
            return told
        known = self._known.get(hit.key)
        if known is None:
            if hit.detail and self._explains(hit, now):
                return []
            known = self._begin(hit, line, now)
        else:
            again = known.cleared or now - known.last_at_s > hit.quiet_s
            known.seen(hit, now)
            before = (known.severity, known.recovery)
            self._escalate(known, hit, now)
            if not again and (known.severity, known.recovery) == before:
                return told
            known.cleared = False
            if again:
                known.marks["again"] = True
        if hit.rank is not None and known.count == 1:
            self._order(known, now)
        return [*told, known.finding()]

    def _begin(self, hit: Hit, line: lines.Line, now: float) -> Known:
        if len(self._known) >= KNOWN_MAX:
            self._forget()
        known = Known(hit, line.text[:LINE_CHARS_MAX], line.seq, now, now, hit.severity, hit.recovery)
        if hit.device in self._uuids:
            known.marks["uuid"] = self._uuids[hit.device]
        if hit.place or hit.evidence.get("pid"):
            known.occur(hit, now)
        if hit.often:
            known.window = (now, 1)
        self._known[hit.key] = known
        if "driver_asks" in hit.evidence:
            self._driver_asks(known, now)
        return known

    def _forget(self) -> None:
        """Drop an eighth of what is known: what is over, least grave and oldest goes first."""
        order = sorted(
            self._known.values(), key=lambda known: (not known.cleared, _GRAVITY[known.severity], known.last_at_s)
        )
        for known in order[: KNOWN_MAX // 8]:
            del self._known[known.hit.key]
            self.forgotten += 1

    def _explains(self, hit: Hit, now: float) -> bool:
        """Whether a line of detail belongs to something that was told just before."""
        return any(key[:3] == hit.key[:3] and now - known.last_at_s <= WINDOW_S for key, known in self._known.items())

    def _clear(self, begun: Iterable[Key]) -> list[Finding]:
        over = [
            known
            for start in begun
            for key, known in self._known.items()
            if key[: len(start)] == start and not known.cleared
        ]
        return [self._over(known, "said") for known in over]

    def _over(self, known: Known, by: str) -> Finding:
        known.cleared = True
        known.marks["cleared_by"] = by
        found = known.finding()
        why = "the machine was started anew" if by == "reboot" else "it was said to be over"
        return dataclasses.replace(found, text=f"{found.text}: over, {why}", at_s=self._now)

    def _order(self, known: Known, now: float) -> None:
        """Candidate cause or echo? See the module's own words."""
        cause, rank = self._cause, known.hit.rank or 0
        late = self._late(known, now)
        if late is not None:
            known.marks["echo_of"] = late.name
        elif cause is None or not 0 <= now - cause.at_s <= WINDOW_S or cause.cleared:
            known.marks["first"] = True
            self._cause = known
        elif rank < (cause.hit.rank or 0):
            known.marks["first"] = True
            for other in self._known.values():
                if other is cause or other.marks.get("echo_of") == cause.name:
                    other.marks["echo_of"] = known.name
            cause.marks.pop("first", None)
            self._cause = known
        else:
            known.marks["echo_of"] = cause.name

    def _late(self, known: Known, now: float) -> Known | None:
        within_s, numbers = _LATE.get(known.hit.evidence.get("xid") or 0, (0.0, frozenset()))
        for other in self._known.values():
            if other is known or not 0 <= now - other.last_at_s <= within_s:
                continue
            number = other.hit.evidence.get("xid")
            same = number != 48 or other.hit.device == known.hit.device
            if same and number in numbers:
                return other
        return None

    def _driver_asks(self, asked: Known, now: float) -> None:
        """The driver's recovery action outweighs the table, for the fault that it followed."""
        for known in reversed(self._known.values()):
            near = known.hit.device == asked.hit.device and 0 <= now - known.last_at_s <= _DRIVER_ASKS_WITHIN_S
            if near and known is not asked and known.hit.kind == "xid" and known.severity in ("fatal", "error"):
                known.marks["driver_asks"] = asked.hit.recovery
                if asked.hit.recovery != "none":
                    known.recovery = asked.hit.recovery

    def _escalate(self, known: Known, hit: Hit, now: float) -> None:
        if hit.often:
            since, count = known.window if now - known.window[0] <= hit.often.within_s else (now, 0)
            known.window = (since, count + 1)
            if count + 1 >= hit.often.times and _GRAVITY[hit.often.severity] > _GRAVITY[known.severity]:
                known.severity = hit.often.severity
                known.marks["advice"] = f"{count + 1} times within {now - since:.0f} s"
        number = hit.evidence.get("xid")
        if number in (13, 31):
            self._by_place(known, number, now)
        elif number == 74 and hit.place in _READINGS:
            reading = _READINGS[hit.place]
            times = known.places.get(hit.place, (0, 0.0))[0]
            if reading.then and times >= reading.after:
                known.recovery = reading.then
                known.marks["advice"] = f"seen {times} times on this link"

    def _by_place(self, known: Known, number: int, now: float) -> None:
        """One GPU, the same unit (13) or several processes (31) points at silicon; many units or GPUs point at code."""
        others = [
            other
            for key, other in self._known.items()
            if key[:2] == ("xid", number) and other is not known and now - other.last_at_s <= 86_400.0
        ]
        units = [times for what, (times, _) in known.places.items() if not what.startswith("pid ")]
        processes = [what for what in known.places if what.startswith("pid ")]
        again = number == 13 and max(units, default=0) >= 2 and len(units) <= 2
        again |= number == 31 and len(processes) >= 2 and now - known.at_s >= OCCURRENCE_GAP_S
        if others or not again:
            if others or len(units) > 2:
                known.marks["points_at"] = "application"
            return
        known.marks["points_at"] = "hardware"
        known.marks["advice"] = "the same place on the same GPU again: take it out and run diagnostics"
        known.recovery = "drain"


def _lookalike(hit: Hit) -> Hit | None:
    """A process wrote what the kernel would have written: worth knowing, and no fault."""
    evidence: Json = {"looks_like": hit.kind, "claims": hit.severity, **hit.evidence}
    text = f"a process, not the kernel, wrote a user-space line that looks like {hit.kind}"
    return Hit(LOOKALIKE, (LOOKALIKE, hit.kind), "info", hit.device, text, "none", None, evidence)


def judged(raws: Iterable[str]) -> list[Finding]:
    """The findings of a whole log."""
    judge = Judge()
    for line in lines.parse_all(raws):
        judge.take(line)
    return judge.findings()
