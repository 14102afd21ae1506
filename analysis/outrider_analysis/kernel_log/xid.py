"""What one line of the GPU driver says: an Xid by the table and by its text, or one of the forms without a number.

Line shape: ``NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python3, text``; older drivers leave out ``PCI:``, ``pid``
or ``name``, and one with MIG adds the instance within the brackets.
"""

from __future__ import annotations

import re
from typing import Final

from outrider.records import Json
from outrider_analysis.kernel_log import nvlink, xids
from outrider_analysis.kernel_log.faults import Fault, Hit

_LINE: Final = re.compile(
    r"NVRM: Xid \((?:PCI:)?(?P<pci>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-7])?)(?P<mig>[^)]{0,40})\):? "
    r"(?P<number>\d{1,6})(?:, (?P<rest>.*))?",
    re.DOTALL,
)
_PID: Final = re.compile(r"pid=(?P<pid>\d{1,10}|'?<unknown>'?|<n/a>|)(?:, name=(?P<name>[^,]{0,64}))?(?:, |$)")
_UUID: Final = re.compile(r"NVRM: GPU at PCI:(?P<pci>[0-9a-fA-F:.]{7,16}): (?P<uuid>GPU-[0-9a-f-]{36})")
# The two ways the driver says, without a number, that a GPU is gone: while it runs, and when it is first looked at.
_OFF_BUS: Final = re.compile(
    r"NVRM: GPU (?:at )?(?:PCI:)?(?P<pci>[0-9a-fA-F:.]{7,16}?):? (?:GPU )?has fallen off the bus"
)
_OFF_BUS_AT_PROBE: Final = re.compile(
    r"NVRM: The NVIDIA GPU (?P<pci>[0-9a-fA-F:.]{7,16}).{0,200}?fallen off the bus", re.DOTALL
)
_PROBED: Final = re.compile(r"NVRM: The NVIDIA GPU (?P<pci>[0-9a-fA-F:.]{7,16})\s*$")
_OFF_BUS_TAIL: Final = re.compile(r"NVRM: fallen off the bus|NVRM: .*(?:fallen off the bus|GPU_IS_LOST)")
_PLACE: Final = re.compile(r"\(?GPC ?(\d+),? TPC ?(\d+)(?:, SM ?(\d+))?")
_MMU_PLACE: Final = re.compile(r"(?:ENGINE|engine) (\w+)(?: (GPC\d+|HUBCLIENT_\w+|GPCCLIENT_\w+))?")
_ACTION: Final = re.compile(
    r"recovery action changed from 0x[0-9a-fA-F]+ \([^)]*\) "
    r"to 0x(?P<code>[0-9a-fA-F]+) \((?P<word>[^)]*)\)"
)

OFF_BUS: Final = 79
RECOVERY_CHANGED: Final = 154
# Those that tend to follow another fault: see faults.Hit.rank. 0 is the cause itself.
_RANKS: Final = {74: 1, 108: 2, 92: 2, 171: 2, 172: 2, 63: 2, 64: 2, 94: 2, 43: 3, 45: 3, 137: 3, 154: 3}
_RANK_OF: Final = {"fatal": 0, "error": 0, "warning": 2, "info": None}
# The words of the driver's recovery action (NVML field 230) as Xid 154 prints them.
_ACTIONS: Final = (
    ("none", "info", "none"),
    ("drain and reset", "fatal", "reset_gpu"),
    ("drain p2p", "error", "drain"),
    ("reboot", "fatal", "reboot_node"),
    ("gpu reset", "fatal", "reset_gpu"),
    ("reset", "fatal", "reset_gpu"),
    ("flr", "fatal", "reset_gpu"),  # a reset of the PCIe function
)


def read(text: str) -> Hit | None:
    """What a line that begins with ``NVRM:`` says of a GPU; None where it is no fault of one."""
    found = _LINE.match(text)
    if found:
        return _numbered(found)
    if text.startswith("NVRM: Xid"):
        told = f"the driver reported an Xid that cannot be read: {text[:120]}"
        return Hit("xid", ("xid", None, text[:80]), "error", "", told, "contact_support", None, {"xid": None}, rank=0)
    if "fallen off the bus" in text or "GPU_IS_LOST" in text:
        return _off_bus(text)
    return None


def device(pci: str) -> str:
    """``0000:3b:00`` from any spelling of a PCI address: a GPU is its own function 0."""
    parts = pci.lower().split(".")[0].split(":")
    return ":".join([parts[0][-4:], *parts[1:]]) if len(parts) == 3 else ":".join(parts)


def uuid(text: str) -> tuple[str, str] | None:
    """Device and UUID where the driver names them (it does before a first Xid)."""
    found = _UUID.match(text)
    return (device(found["pci"]), found["uuid"]) if found else None


def probed(text: str) -> str:
    """The device of ``The NVIDIA GPU <pci>``, which dmesg shows two lines before it says what is wrong with it."""
    found = _PROBED.match(text)
    return device(found["pci"]) if found else ""


def _off_bus(text: str) -> Hit | None:
    found = _OFF_BUS.match(text) or _OFF_BUS_AT_PROBE.match(text)
    if not found and not _OFF_BUS_TAIL.match(text):
        return None
    at = device(found["pci"]) if found else ""
    evidence: Json = {"xid": OFF_BUS, "numbered": False, "origin": "hardware"}
    return _of(xids.BY_NUMBER[OFF_BUS], at, evidence, "")


def _numbered(found: re.Match[str]) -> Hit:
    number, at, rest = int(found["number"]), device(found["pci"]), found["rest"] or ""
    evidence: Json = {"xid": number, "pci": at}
    if who := _PID.match(rest):
        evidence["pid"] = int(who["pid"]) if who["pid"].isdigit() else None
        evidence["process"] = (who["name"] or "").strip("'<>") or None
        rest = rest[who.end() :]
    if found["mig"].strip():
        evidence["mig"] = found["mig"].strip()
    fault = xids.BY_NUMBER.get(number)
    if fault is None:
        text = f"GPU {at} reported Xid {number}, which is in no table: {rest[:120]}".rstrip(": ")
        evidence["origin"] = "unknown"
        return Hit("xid", ("xid", number, at), "error", at, text, "contact_support", None, evidence, rank=0)
    evidence["origin"] = fault.origin
    if number == RECOVERY_CHANGED:
        return _recovery(fault, at, evidence, rest)
    if number == 74:
        return _link(fault, at, evidence, rest)
    place = _place(number, rest)
    if place:
        evidence["place"] = place
    return _of(fault, at, evidence, place)


def _of(fault: Fault, at: str, evidence: Json, place: str) -> Hit:
    who = evidence.get("process")
    by = f" while {who} (pid {evidence.get('pid')}) used it" if who and who != "unknown" else ""
    text = f"GPU {at or 'at an unknown address'}: {fault.name} (Xid {fault.number}){by}"
    return Hit(
        "xid",
        ("xid", fault.number, at),
        fault.severity,
        at,
        text,
        fault.recovery,
        fault.group,
        evidence,
        rank=_RANKS.get(fault.number, _RANK_OF[fault.severity]),
        place=place,
        clears=(("xid", 163, at),) if fault.number == 162 else (),
    )


def _place(number: int, rest: str) -> str:
    if number == 13 and (found := _PLACE.search(rest)):
        return f"GPC {found[1]}, TPC {found[2]}"
    if number == 31 and (found := _MMU_PLACE.search(rest)):
        return " ".join(word for word in found.groups() if word)
    return ""


def _recovery(fault: Fault, at: str, evidence: Json, rest: str) -> Hit:
    found = _ACTION.search(rest)
    if not found:
        return _of(fault, at, evidence, "")
    word = found["word"]
    severity, recovery = next(
        ((severity, recovery) for part, severity, recovery in _ACTIONS if part in word.lower()),
        ("error", "contact_support"),
    )
    text = f"GPU {at}: the driver now asks for: {word} (Xid 154)"
    evidence = {**evidence, "driver_asks": recovery, "action": int(found["code"], 16)}
    key = ("xid", fault.number, at, recovery)
    return Hit("xid", key, severity, at, text, recovery, fault.group, evidence, rank=_RANKS[154])


def _link(fault: Fault, at: str, evidence: Json, rest: str) -> Hit:
    link, registers, reading = nvlink.read(rest)
    if link is None:
        return _of(fault, at, evidence, "")
    evidence = {**evidence, "link": link, "registers": [hex(value) for value in registers]}
    severity, recovery, rank = fault.severity, fault.recovery, _RANKS[74]
    text = f"GPU {at}: {fault.name} on link {link} (Xid 74)"
    if reading is not None:
        evidence["reading"] = reading.name
        severity, recovery, rank = reading.severity, reading.recovery, reading.rank
        text += f": {reading.text}"
    key = ("xid", fault.number, at, link)
    return Hit(
        "xid",
        key,
        severity,
        at,
        text,
        recovery,
        fault.group,
        evidence,
        rank=rank,
        place=reading.name if reading else "",
    )
