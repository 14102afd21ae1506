"""What one line of the NVSwitch driver or of the fabric manager says.

``nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS crumbstore MCTO (First)``, then two lines
of the same number with severity, instance and data, which add nothing to it. Fatal or Non-fatal in the line outweighs
the table: the driver knows whether containment was armed. For a number without a row, Fatal is fatal and anything else
a warning.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from outrider.records import Json
from outrider_analysis.kernel_log import sxids
from outrider_analysis.kernel_log.faults import Hit, Key

_LINE: Final = re.compile(
    r"nvidia-nvswitch(?P<switch>\d{1,3}): SXid \(PCI:(?P<pci>[0-9a-fA-F:.]{7,16})\): (?P<number>\d{1,7})"
    r"(?:, (?P<rest>.*))?",
    re.DOTALL,
)
_WORD: Final = re.compile(r"(?P<word>Fatal|Non-[fF]atal)\b(?:, )?(?:Link (?P<link>\d{1,3})\b)?")
_DETAIL: Final = re.compile(r"Severity \d+ Engine|Data \{|Engine instance")
_MANAGER: Final = re.compile(
    r".{0,80}detected NVSwitch (?P<word>fatal|non-fatal) error (?P<number>\d{1,7})"
    r"(?:.*?pci bus id (?P<pci>[0-9a-fA-F:.]+))?(?:.*?port (?P<link>\d{1,3}))?",
    re.DOTALL,
)
# What ends an alarm of another number, on the same switch.
CLEARS: Final = {10005: (10004,), 28002: (28001,), 28004: (28003, 28005)}
_WITNESS: Final = 1  # a switch tells of a GPU that died; see faults.Hit.rank


def read(text: str) -> Hit | None:
    """An SXid; None where the line holds none."""
    if not (found := _LINE.match(text)):
        return None
    rest = found["rest"] or ""
    word = _WORD.match(rest)
    at = _device(found["pci"])
    link = int(word["link"]) if word and word["link"] else None
    hit = judged(int(found["number"]), at, link, word["word"].lower() if word else "")
    return hit if word or not _DETAIL.match(rest) else dataclasses.replace(hit, detail=True)


def manager(text: str) -> Hit | None:
    """The fabric manager's own words of a switch's fault."""
    found = _MANAGER.match(text)
    if not found:
        return None
    link = int(found["link"]) if found["link"] else None
    return judged(int(found["number"]), _device(found["pci"] or ""), link, found["word"])


def judged(number: int, at: str, link: int | None, word: str) -> Hit:
    """One SXid by table and by the word of its line (``fatal``, ``non-fatal`` or nothing)."""
    fault = sxids.BY_NUMBER.get(number)
    severity = fault.severity if fault else "warning"
    recovery = fault.recovery if fault else "contact_support"
    evidence: Json = {"sxid": number, "pci": at, "origin": fault.origin if fault else "unknown"}
    if word:
        evidence["word"] = word
    if link is not None:
        evidence["link"] = link
    if word == "fatal":
        severity = "fatal"
        recovery = recovery if recovery not in ("none", "restart_app") else "reset_gpu"
    elif word == "non-fatal" and severity == "fatal":
        severity = "warning"
        recovery = recovery if recovery not in ("reset_gpu", "reboot_node") else "check_fabric"
    name = fault.name if fault else "a fault that is in no table"
    where = f" on link {link}" if link is not None else ""
    text = f"NVSwitch {at}: {name}{where} (SXid {number}{', ' + word if word else ''})"
    group = fault.group if fault else None
    rank = None if severity == "info" else _WITNESS
    clears: tuple[Key, ...] = tuple(("sxid", other, at, link) for other in CLEARS.get(number, ()))
    return Hit(
        "sxid", ("sxid", number, at, link), severity, at, text, recovery, group, evidence, rank=rank, clears=clears
    )


def _device(pci: str) -> str:
    parts = pci.lower().split(":")
    return ":".join([parts[0][-4:], *parts[1:]])
