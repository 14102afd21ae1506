"""What the driver writes to the kernel log behind a number, for the numbers that simulations use most.

The forms are those of published logs; the world file carries the text, so any other can be given.
"""

from __future__ import annotations

from typing import Final

NOBODY: Final = "pid='<unknown>', name=<unknown>"

_XIDS: Final[dict[int, str]] = {
    13: "pid=4711, name=python3, Graphics SM Warp Exception on (GPC 1, TPC 0, SM 0): Out Of Range Address",
    31: "pid=4711, name=python3, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0 faulted @ "
    "0x7f2c_10000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ",
    43: "pid=4711, name=python3, Ch 00000008",
    45: "pid=4711, name=python3, Ch 00000008",
    48: f"{NOBODY}, An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer at partition "
    "4, subpartition 1.",
    63: f"{NOBODY}, Row Remapper: New row marked for remapping, reset gpu to activate.",
    64: f"{NOBODY}, Row Remapper: Failed to remap row, reset gpu to recover.",
    74: f"{NOBODY}, NVLink: fatal error detected on link 7(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)",
    79: f"{NOBODY}, GPU has fallen off the bus.",
    92: f"{NOBODY}, Excessive SBE interrupts observed.",
    94: "pid=4711, name=python3, Contained: SM (0x1). RST: No, D-RST: No",
    95: f"{NOBODY}, Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No",
    119: "pid=4711, name=python3, Timeout after 6s of waiting for RPC response from GPU0 GSP! Expected function 76 "
    "(GSP_RM_CONTROL) (0x20802002 0x8).",
    154: f"{NOBODY}, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
}

_SXIDS: Final[dict[int, str]] = {
    10004: "Non-fatal, Link 00 switch temperature over limit",
    12028: "Non-fatal, Link 32 egress non-posted PRIV error (First)",
    20009: "Non-fatal, Link 04 RX Short Error Rate",
    20034: "Fatal, Link 30 LTSSM Fault Up",
    24007: "Fatal, Link 28 sourcetrack timeout error (First)",
}


def of_xid(number: int) -> str:
    """What follows `NVRM: Xid (PCI:0000:18:00): 79, `."""
    return _XIDS.get(number, NOBODY)


def of_sxid(number: int) -> str:
    """What follows `nvidia-nvswitch1: SXid (PCI:0000:06:00.0): 20034, `."""
    return _SXIDS.get(number, "Non-fatal, Link 00 error")


def line_key(line: str) -> str:
    """The name that the library gives a line of the world file: FNV-1a over its bytes, 16 hexadecimal digits."""
    key = 14695981039346656037
    for byte in line.encode():
        key = (key ^ byte) * 1099511628211 % 2**64
    return f"{key:016x}"
