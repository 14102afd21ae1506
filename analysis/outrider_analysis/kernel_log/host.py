"""What one line of the kernel says, whoever in it speaks: the GPU's driver, the switches', or one of the rows."""

from __future__ import annotations

import re
from typing import Final

from outrider_analysis.kernel_log import rows, switches, xid
from outrider_analysis.kernel_log.faults import Hit

_MACHINE_CHECK: Final = re.compile(
    r"(?:mce: )?\[Hardware Error\]: CPU (?P<cpu>\d+): Machine Check: \w+ Bank (?P<bank>\d+): (?P<status>[0-9a-f]{16})"
)
_UNCORRECTED: Final = 1 << 61  # bits of MCi_STATUS, "Machine-Check Architecture" in the processor manuals
_CONTEXT_LOST: Final = 1 << 57


def read(text: str) -> Hit | None:
    """The finding in one line's text, None where there is none. Lines are long at most as lines.TEXT_CHARS_MAX."""
    if text.startswith("NVRM: ") and (hit := xid.read(text)):
        return hit
    if "SXid" in text and (hit := switches.read(text)):
        return hit
    if "detected NVSwitch" in text and (hit := switches.manager(text)):
        return hit
    if "Machine Check: " in text and (hit := _machine_check(text)):
        return hit
    for row in rows.ROWS:
        if row.needle in text and (hit := row.read(text)):
            return hit
    return None


def _machine_check(text: str) -> Hit | None:
    """A machine check by its bank's status: corrected, uncorrected, or with the processor's context lost."""
    found = _MACHINE_CHECK.match(text)
    if not found:
        return None
    status = int(found["status"], 16)
    severity, what = "info", "corrected"
    if status & _UNCORRECTED:
        severity, what = ("fatal", "fatal") if status & _CONTEXT_LOST else ("error", "uncorrected")
    device = f"cpu{found['cpu']}"
    return Hit(
        "machine-check",
        ("machine-check", device, severity),
        severity,
        device,
        f"CPU {found['cpu']} reported a {what} machine check in bank {found['bank']}",
        "none" if severity == "info" else "drain",
        "CPU",
        {"bank": int(found["bank"]), "status": found["status"]},
        often=rows.CORRECTED_OFTEN if severity == "info" else None,
    )
