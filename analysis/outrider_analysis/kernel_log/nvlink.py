"""Read the seven registers of Xid 74: which kind of NVLink trouble a GPU's link reports.

Source of the bits: the vendor's catalogue, workflow NVLINK_ERR (docs.nvidia.com/deploy/xid-errors). The first, third,
fourth and fifth registers decide. Order matters: the gravest reading that a set bit has is the reading of the line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_LINK: Final = re.compile(r"\blink (\d{1,3})\b\s*(?:\(([^)]{1,200})\))?")


@dataclass(frozen=True)
class Reading:
    """What a set of bits means. ``after``: occurrences on one link from which ``then`` is the recovery."""

    name: str
    text: str
    severity: str
    recovery: str
    rank: int  # how readily it is an echo; see faults.Hit
    after: int = 0
    then: str = ""


PARITY: Final = Reading("parity", "memory of the link is damaged", "fatal", "check_nvlink", 1, 3, "replace_gpu")
SIGNAL: Final = Reading("signal", "the channel is marginal", "fatal", "check_nvlink", 1, 2, "replace_gpu")
SEATING: Final = Reading(
    "seating", "connection or seating is suspect", "fatal", "check_nvlink", 1, 2, "contact_support"
)
REPEATED: Final = Reading("repeated", "matters when it comes again", "fatal", "check_nvlink", 1, 2, "contact_support")
UNEXPECTED: Final = Reading("unexpected", "not expected on a node in service", "fatal", "contact_support", 1)
SYMPATHETIC: Final = Reading("sympathetic", "follows a fault elsewhere", "fatal", "check_nvlink", 2)
THRESHOLD: Final = Reading("threshold", "corrected errors crossed a limit; work can go on", "warning", "none", 2)
IGNORED: Final = Reading("ignored", "only bits that can be ignored", "info", "none", 2)

# Register (counted from 0), bits, reading; from the gravest to the least.
BITS: Final = (
    (0, (4, 5), PARITY),
    (2, (0, 1, 2, 6), PARITY),
    (4, (18, 19, 21, 22, 24, 25, 27, 28), PARITY),
    (0, (21, 22), SIGNAL),
    (0, (8, 9, 12, 16, 17, 24, 28), SEATING),
    (2, (13,), UNEXPECTED),
    (0, (27, 29), REPEATED),
    (2, (16, 17, 18, 19), REPEATED),
    (0, (1, 20), SYMPATHETIC),
    (3, (16, 17, 18), SYMPATHETIC),
    (4, (20, 23, 26, 29), THRESHOLD),
    (0, (0, 23, 30), IGNORED),
)
_DECIDING: Final = (0, 2, 3, 4)


def read(text: str) -> tuple[int | None, tuple[int, ...], Reading | None]:
    """Link, registers and what they mean; None for a reading where no register is there or none is set."""
    found = _LINK.search(text)
    if not found:
        return None, (), None
    registers = _registers(found[2] or "")
    return int(found[1]), registers, meaning(registers)


def meaning(registers: tuple[int, ...]) -> Reading | None:
    """The gravest reading of the bits that are set; bits that nobody documented are unexpected."""
    if len(registers) < 5 or not any(registers[index] for index in _DECIDING):
        return None
    left = {index: registers[index] for index in _DECIDING}
    known: Reading | None = None
    for index, bits, reading in BITS:
        mask = sum(1 << bit for bit in bits)
        if left[index] & mask:
            known = known or reading
            left[index] &= ~mask
    return UNEXPECTED if any(left.values()) and known in (None, SYMPATHETIC, THRESHOLD, IGNORED) else known


def _registers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word, 16) & 0xFFFFFFFF for word in text.split(","))
    except ValueError:
        return ()
