"""Records of /dev/kmsg, written as the kernel writes them, for the tests of the kernel log."""

import json
import pathlib

from outrider_analysis.kernel_log import finding, judge

RECORDED = pathlib.Path(__file__).parents[1] / "recorded/kernel_log"
FAULTS = json.loads((RECORDED / "faults.json").read_text())
KERNEL_ERROR = 3  # facility 0, level 3
USER_ERROR = 11  # facility 1, level 3: what a process that writes to /dev/kmsg gets


def record(text: str, at_s: float = 1.0, seq: int = 1, prio: int = KERNEL_ERROR) -> str:
    return f"{prio},{seq},{round(at_s * 1e6)},-;{text}"


def xid(number: int, at_s: float = 1.0, gpu: str = "3b", rest: str = "pid=4242, name=python3, Ch 00000008") -> str:
    return record(f"NVRM: Xid (PCI:0000:{gpu}:00): {number}, {rest}", at_s)


def sxid(number: int, word: str, at_s: float = 1.0, link: int = 30) -> str:
    return record(f"nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): {number}, {word}, Link {link} something (First)", at_s)


def only(*records: str) -> finding.Finding:
    found = judge.judged(records)
    assert len(found) == 1, found
    return found[0]


def by_xid(*records: str) -> dict[int, finding.Finding]:
    return {found.evidence["xid"]: found for found in judge.judged(records)}
