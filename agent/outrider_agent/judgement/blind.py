"""Could not look: looks that failed or never came, and readings that cannot be read, told after POLLS_MAX polls.

What is unsupported is not here: it is neither healthy nor faulty, and it says so from the beginning. Nor is a signal
whose thing is absent and always was, such as NVML on a machine without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from outrider.records import Json
from outrider_agent import readings
from outrider_agent.judgement.draft import Draft

KIND: Final = "could-not-look"
POLLS_MAX: Final = 3  # the next one tells
CLEAR_POLLS: Final = 3  # good looks in a row before it is over
DEVICES_MAX: Final = 512
NAMES_MAX: Final = 64


@dataclass
class Gap:
    """One signal (device None) or one device of it that cannot be read."""

    names: dict[str, int] = field(default_factory=dict)  # polls in a row, by reading
    good: int = 0
    since: float = 0.0
    told: str = ""  # the severity that was told
    why: str = ""


class Blind:
    """``gaps`` by signal and device; the signal itself is the device None."""

    def __init__(self) -> None:
        self._gaps: dict[tuple[str, str | None], Gap] = {}
        self._answered: set[str] = set()

    def missed(self, signal: str, at: float, why: str) -> list[Draft]:
        """A look failed as a whole."""
        gap = self._gap((signal, None), at)
        if gap is None:
            return []
        gap.good = 0
        gap.why = why
        gap.names[""] = gap.names.get("", 0) + 1
        if gap.told or gap.names[""] <= POLLS_MAX:
            return []
        gap.told = "warning"
        text = f"{signal} could not be looked at {gap.names['']} times in a row: {why or 'no reason given'}"
        return [_draft(signal, "", "warning", text, at, gap)]

    def looked(self, signal: str, at: float) -> list[Draft]:
        """A look that worked, at least in part."""
        self._answered.add(signal)
        gap = self._gaps.get((signal, None))
        return self._better(signal, "", gap, at, (signal, None)) if gap else []

    def absent(self, signal: str, at: float, why: str) -> list[Draft]:
        """The thing is not there: a gap only where it had answered before."""
        return self.missed(signal, at, why) if signal in self._answered else []

    def has(self, signal: str) -> bool:
        """Whether some device of this signal could not be read the last time."""
        return any(gap[0] == signal and gap[1] is not None for gap in self._gaps)

    def unreadable(
        self, sweep: readings.Sweep, known_dead: Callable[[str], bool], grave: Callable[[str], bool]
    ) -> list[Draft]:
        """Count what this sweep could not read, device by device, and what it can read again."""
        by_device: dict[str, list[readings.Reading]] = {}
        again = {device for signal, device in self._gaps if signal == sweep.signal and device is not None}
        for reading in sweep.readings:
            if reading.state == "unreadable" or reading.device in again:
                by_device.setdefault(reading.device, []).append(reading)
        drafts: list[Draft] = []
        for device, found in by_device.items():
            drafts += self._device(sweep, device, found, known_dead(device), grave)
        return drafts

    def memory(self) -> list[list[Any]]:
        """As JSON: what was told and is not over, and who has answered."""
        told = [[signal, device, gap.since, gap.told, gap.why, sorted(gap.names)]
                for (signal, device), gap in self._gaps.items() if gap.told]  # fmt: skip
        return [sorted(self._answered), *told]

    def restore(self, rows: list[Any]) -> None:
        """Take up what ``memory`` gave; a row that does not look like it raises."""
        self._answered = {str(signal) for signal in rows[0]}
        for signal, device, since, told, why, names in rows[1 : DEVICES_MAX + 1]:
            polls = {str(name): POLLS_MAX + 1 for name in names[:NAMES_MAX]}
            key = (str(signal), None if device is None else str(device))
            self._gaps[key] = Gap(polls, 0, float(since), str(told), str(why))

    def _device(
        self,
        sweep: readings.Sweep,
        device: str,
        found: list[readings.Reading],
        dead: bool,
        grave: Callable[[str], bool],
    ) -> list[Draft]:
        key = (sweep.signal, device)
        gap = self._gap(key, sweep.at)
        if gap is None:
            return []
        for reading in found:
            if reading.state != "unreadable":
                gap.names.pop(reading.name, None)
            elif reading.name in gap.names or len(gap.names) < NAMES_MAX:
                gap.names[reading.name] = gap.names.get(reading.name, 0) + 1
                gap.why = reading.error or gap.why
        if not gap.names:
            return self._better(sweep.signal, device, gap, sweep.at, key)
        gap.good = 0
        worst = [name for name, polls in gap.names.items() if polls > POLLS_MAX]
        if not worst or gap.told or dead:
            return []
        gap.told = "warning" if any(grave(name) for name in worst) else "info"
        names = ", ".join(sorted(worst)[:8])
        text = f"{device or sweep.signal}: {names} could not be read {POLLS_MAX + 1} times in a row: {gap.why}"
        return [_draft(sweep.signal, device, gap.told, text, sweep.at, gap)]

    def _better(self, signal: str, device: str, gap: Gap, at: float, key: tuple[str, str | None]) -> list[Draft]:
        gap.good += 1
        gap.names.clear()
        if gap.told and gap.good < CLEAR_POLLS:
            return []
        del self._gaps[key]
        if not gap.told:
            return []
        draft = _draft(signal, device, "info", f"{device or signal} can be looked at again", at, gap)
        draft.evidence |= {"cleared": True, "was": gap.told}
        return [draft]

    def _gap(self, key: tuple[str, str | None], at: float) -> Gap | None:
        gap = self._gaps.get(key)
        if gap is None and len(self._gaps) < DEVICES_MAX:
            gap = self._gaps[key] = Gap(since=at)
        return gap


def _draft(signal: str, device: str, severity: str, text: str, at: float, gap: Gap) -> Draft:
    names = sorted(name for name in gap.names if name)
    evidence: Json = {"source": signal, "readings": names, "since": gap.since, "why": gap.why}
    return Draft(KIND, severity, device or signal, text, "none", at, evidence, rank=2)
