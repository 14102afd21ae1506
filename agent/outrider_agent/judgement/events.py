"""What happened once, as the kernel's log and NVML's event set tell it: the same thing from both is told once.

The kernel's log judges severity, recovery and repetition itself (``outrider_analysis.kernel_log``); NVML gives a
number, which is looked up in the same tables. GPUs are named by their number instead of their PCI address. What calls
for more than a new start of the job stands until the kernel says that it is over, the GPU is reset or the machine
started anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from outrider.records import Json
from outrider_agent import readings
from outrider_agent.judgement import kernel
from outrider_agent.judgement.draft import GRAVITY, Draft
from outrider_agent.judgement.known import Known
from outrider_analysis.kernel_log import xids

SAID_MAX: Final = 512
SAME_S: Final = 60.0  # the two ways by which an event comes are at most this far apart
QUIET_S: Final = 3600.0
NAMED_OTHERWISE_S: Final = 120.0
KERNEL_LOG: Final = "kernel-log"
Key = tuple[str, str, str]


@dataclass
class Said:
    """One event that was told, or would have been if a rule had not told it before (``told``).

    ``device``: as it was told; an event that came before the GPUs were known was told by its PCI address.
    """

    device: str
    severity: str
    recovery: str
    since: float
    last_at: float
    source: str
    mark: str  # what tells its repetition by a restarted reader apart from another occurrence
    told: bool
    over: bool = False
    count: int = 1

    @property
    def stands(self) -> bool:
        """Whether it lasts: what only asks for a new start of the job is over with it."""
        return not self.over and (self.severity == "fatal" or self.recovery not in ("none", "restart_app"))


class Events:
    """The events that are known. ``forgotten``: those dropped for want of room."""

    def __init__(self, known: Known) -> None:
        self.forgotten = 0
        self._known = known
        self._said: dict[Key, Said] = {}

    def take(self, event: readings.Event, held: Any) -> Draft | None:
        """What is to be told of ``event``; ``held(kind, device)`` is the severity that a rule has told."""
        draft = self._of_kernel(event) if event.source == KERNEL_LOG else self._of_nvml(event)
        if draft is None:
            return None
        key = (draft.kind, draft.device, _number(draft))
        mark = _mark(draft)
        said = self._said.get(key)
        if draft.evidence.get("cleared"):
            return self._cleared(draft, said)
        if said is not None and not said.over and self._known_already(said, draft, mark):
            said.last_at = max(said.last_at, draft.at)
            said.count += 1
            return None
        told = GRAVITY.get(held(draft.kind, draft.device), -1) < GRAVITY[draft.severity]
        before = said.since if said is not None and not said.over else draft.at
        self._keep(key, Said(draft.device, draft.severity, draft.recovery, before, draft.at, event.source, mark, told))
        return draft if told else None

    def severity(self, kind: str, device: str, at: float) -> str:
        """What was told of this kind and stands: on this device, or on any just now.

        The kernel's log and a counter name the same thing in two ways (a process and the node, a disk and its mount).
        """
        found = ""
        for key, said in self._said.items():
            if key[0] != kind or not said.told or said.over:
                continue
            same = key[1] == device and said.stands
            if (same or abs(at - said.last_at) <= NAMED_OTHERWISE_S) and GRAVITY[said.severity] > GRAVITY.get(
                found, -1
            ):
                found = said.severity
        return found

    def fatal_on(self, device: str) -> bool:
        """Whether something fatal stands for this device."""
        return any(key[1] == device and said.severity == "fatal" and not said.over for key, said in self._said.items())

    def reset(self, device: str, at: float) -> list[Draft]:
        """A GPU was reset: what stood for it is over."""
        return self._end(at, "the GPU was reset", [key for key in self._said if key[1] == device])

    def rebooted(self, at: float) -> list[Draft]:
        """The machine was started anew."""
        drafts = self._end(at, "the machine was started anew", list(self._said))
        self._said.clear()
        return drafts

    def name_gpus(self) -> None:
        """The GPUs became known: what was told by an address is found by the GPU's name from now on."""
        for key in [key for key in self._said if self._known.gpu(key[1]) != key[1]]:
            kind, device, number = key
            self._said.setdefault((kind, self._known.gpu(device), number), self._said[key])
            del self._said[key]

    def memory(self) -> list[list[Any]]:
        """As JSON."""
        return [
            [*key, s.device, s.severity, s.recovery, s.since, s.last_at, s.source, s.mark, s.told, s.over]
            for key, s in self._said.items()
        ]

    def restore(self, rows: list[Any]) -> None:
        """Take up what ``memory`` gave; a row that does not look like it raises."""
        for row in rows[-SAID_MAX:]:
            kind, device, number, as_told, severity, recovery, since, last_at, source, mark, told, over = row
            if severity in GRAVITY:
                when = float(since), float(last_at)
                words = str(as_told), str(severity), str(recovery), *when, str(source), str(mark)
                self._said[str(kind), str(device), str(number)] = Said(*words, told is True, over is True)

    def _known_already(self, said: Said, draft: Draft, mark: str) -> bool:
        graver = GRAVITY[draft.severity] > GRAVITY[said.severity]
        if mark and mark == said.mark:
            return True
        if draft.evidence["source"] != said.source and abs(draft.at - said.last_at) <= SAME_S:
            return not graver and draft.recovery in (said.recovery, "none")
        if draft.evidence["source"] == KERNEL_LOG:
            return False  # it tells nothing twice by itself
        return not graver and draft.at - said.last_at <= QUIET_S

    def _cleared(self, draft: Draft, said: Said | None) -> Draft | None:
        if said is None or said.over:
            return None
        said.over = True
        draft.device = said.device
        draft.evidence.setdefault("since", said.since)
        return draft if said.told else None

    def _end(self, at: float, why: str, keys: list[Key]) -> list[Draft]:
        drafts = []
        for key in keys:
            said = self._said[key]
            if said.over or not said.stands:
                continue
            said.over = True
            kind, _, number = key
            device = said.device
            what = f"{kind} {number}".strip() + (f" on {device}" if device else "")
            evidence: Json = {"cleared": True, "was": said.severity, "since": said.since, "cleared_by": why}
            evidence |= {"source": said.source}
            if kind in ("xid", "sxid") and number.isdigit():
                evidence[kind] = int(number)
            if said.told:
                drafts.append(Draft(kind, "info", device, f"{what} is over: {why}", "none", at, evidence))
        return drafts

    def _keep(self, key: Key, said: Said) -> None:
        if key not in self._said and len(self._said) >= SAID_MAX:
            oldest = min(self._said, key=lambda key: (self._said[key].stands, self._said[key].last_at))
            del self._said[oldest]
            self.forgotten += 1
        self._said[key] = said

    def _of_kernel(self, event: readings.Event) -> Draft:
        evidence = dict(event.evidence)
        severity = str(evidence.pop("severity", "error"))
        recovery = str(evidence.pop("recovery", "none"))
        evidence["source"] = event.source
        device = self._device(event.device, evidence)
        severity = severity if severity in GRAVITY else "error"
        draft = Draft(event.kind, severity, device, event.text, recovery, event.at, evidence)
        draft.rank = 1 if evidence.get("echo_of") else 0
        return self._as_the_driver_asks(draft)

    def _of_nvml(self, event: readings.Event) -> Draft | None:
        evidence: Json = {**event.evidence, "source": event.source}
        device = self._device(event.device, evidence)
        if event.kind == "xid":
            number = evidence.get("xid", evidence.get("data"))
            number = int(number) if isinstance(number, int | float) else None
            evidence["xid"] = number
            severity, recovery, name = _xid(number)
            text = f"{device or 'a GPU'} reported Xid {number if number is not None else 'without a number'} ({name})"
            return self._as_the_driver_asks(Draft("xid", severity, device, text, recovery, event.at, evidence))
        meaning = kernel.NVML_EVENTS.get(event.kind, kernel.UNKNOWN_EVENT)
        if meaning is None:
            return None
        kind, severity, recovery = meaning
        evidence["event"] = event.kind
        if event.kind == "recovery-action":
            recovery = dict(kernel.RECOVERY_ACTIONS).get(_whole(evidence), recovery)
            if _whole(evidence) == 0:
                return None  # the reading says so too, and ends the finding
        return Draft(kind, severity, device, event.text or f"{device}: {event.kind}", recovery, event.at, evidence)

    def _as_the_driver_asks(self, draft: Draft) -> Draft:
        """The driver's own recovery action outweighs every table."""
        action = self._known.number(draft.device, "recovery_action") if draft.device.startswith("gpu") else None
        asked = dict(kernel.RECOVERY_ACTIONS).get(int(action)) if action else None
        if asked and draft.kind == "xid" and GRAVITY[draft.severity] >= GRAVITY["error"]:
            draft.evidence["driver_asks"] = asked
            draft.recovery = asked
        return draft

    def _device(self, device: str, evidence: Json) -> str:
        gpu = self._known.gpu(device)
        if gpu != device:
            evidence.setdefault("pci", device)
        return gpu


def _xid(number: int | None) -> tuple[str, str, str]:
    fault = xids.BY_NUMBER.get(number) if number is not None else None
    if fault is None:
        return "error", "contact_support", "in no table"
    return fault.severity, fault.recovery, fault.name


def _number(draft: Draft) -> str:
    number = draft.evidence.get(draft.kind)
    link = draft.evidence.get("link")
    return f"{number if number is not None else ''}" + (f" link {link}" if draft.kind == "sxid" and link else "")


def _mark(draft: Draft) -> str:
    seq = draft.evidence.get("seq")
    if seq is None:
        return ""
    again = draft.evidence.get("again", False)
    return f"{draft.evidence.get('boot_id', '')} {seq} {draft.severity} {draft.recovery} {again}"


def _whole(evidence: Json) -> int:
    for name in ("recovery_action", "action", "data", "value"):
        if isinstance(found := evidence.get(name), int | float):
            return int(found)
    return -1
