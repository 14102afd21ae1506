r"""One line of a kernel log, whatever form it was kept in, becomes a ``Line``.

Forms: records of /dev/kmsg (``prio,seq,usec,flags[,caller=..];text`` with ``\xNN`` for what is not printable, and
`` KEY=value`` lines after it; Linux, Documentation/ABI/testing/dev-kmsg), dmesg with seconds, ``-T``, ``-x``, ``-r`` or
iso times, syslog and the journal's short form, and bare text. Only the first form tells for sure who wrote a line: a
facility other than 0 is user space, whatever the text claims. In syslog and journal the identifier tells it.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

TEXT_CHARS_MAX: Final = 4096
KERNEL: Final = 0
USER: Final = 1
MANAGERS: Final = ("nv-fabricmanager", "nvidia-fabricmanager", "fabricmanager")  # their words count as the switches'
_FACILITIES: Final = (
    "kern",
    "user",
    "mail",
    "daemon",
    "auth",
    "syslog",
    "lpr",
    "news",
    "uucp",
    "cron",
    "authpriv",
    "ftp",
)
_LEVELS: Final = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")

_ESCAPED: Final = re.compile(rb"\\x([0-9a-fA-F]{2})")
_RAW_PRIO: Final = re.compile(r"<(\d{1,4})>")
_DECODED: Final = re.compile(r"(\w+)\s*:(\w+)\s*: (?=\[)")
_SECONDS: Final = re.compile(r"\[\s*(\d{1,10}\.\d{1,9})\](?:\s*\[\s*[TC]\d+\])?[: ]?")
_CTIME: Final = re.compile(r"\[(\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4})\] ?")
_ISO: Final = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,6})?(?:Z|[+-]\d\d:?\d\d)?) ")
_SYSLOG: Final = re.compile(r"(\w{3} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{1,6})?) ")
_IDENTIFIER: Final = re.compile(r"(?:\S+ )?([\w./@-]+)(?:\[\d+\])?: ?")


@dataclass(frozen=True, slots=True)
class Line:
    """``at_s``: seconds on the log's own clock (since boot, or since an epoch), ``facility``: 0 kernel, None unknown.

    ``writer``: the identifier in syslog and journal; ``continues``: the text belongs to the record before it.
    """

    text: str
    at_s: float | None = None
    seq: int | None = None
    facility: int | None = None
    level: int | None = None
    continues: bool = False
    writer: str = ""

    @property
    def from_user_space(self) -> bool:
        """Whether it is known that a process wrote it and not the kernel, nor the fabric manager under its name."""
        return self.facility is not None and self.facility != KERNEL and self.writer not in MANAGERS


def parse(raw: str) -> Line | None:
    """One record or line; None when there is nothing in it (blank, or only the `` KEY=value`` part of a record)."""
    if raw[:1] in " \t" and "=" in raw:
        return None
    return _record(raw) or _kept(raw)


def parse_all(raws: Iterable[str]) -> Iterator[Line]:
    """Records in order, with fragments joined to the record that they continue."""
    held: Line | None = None
    for raw in raws:
        line = parse(raw)
        if line is None:
            continue
        if line.continues and held is not None and held.facility == line.facility:
            held = replace(held, text=(held.text + line.text)[:TEXT_CHARS_MAX])
            continue
        if held is not None:
            yield held
        held = line
    if held is not None:
        yield held


def _record(raw: str) -> Line | None:
    head, found, text = raw.partition(";")
    if not found or not head[:1].isdigit():
        return None
    fields = head.split(",")
    if len(fields) < 4 or not all(field.isascii() and field.isdigit() and len(field) < 20 for field in fields[:3]):
        return None
    text = text.partition("\n")[0][:TEXT_CHARS_MAX]  # what follows on further lines is the record's dictionary
    prio = int(fields[0])
    return Line(
        plain(text).rstrip("\n"), int(fields[2]) / 1e6, int(fields[1]), prio >> 3, prio & 7, continues="+" in fields[3]
    )


def plain(text: str) -> str:
    r"""Text with its ``\xNN`` turned back; what is not UTF-8 is replaced."""
    if "\\x" not in text:
        return text
    data = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), text.encode("utf-8", "replace"))
    return data.decode("utf-8", "replace")


def _kept(raw: str) -> Line | None:
    rest = raw.rstrip("\r\n")[:TEXT_CHARS_MAX]
    if not rest.strip():
        return None
    facility: int | None = None
    level: int | None = None
    at: float | None = None
    writer = ""
    if prio := _RAW_PRIO.match(rest):
        facility, level, rest = int(prio[1]) >> 3, int(prio[1]) & 7, rest[prio.end() :]
    elif (words := _DECODED.match(rest)) and words[1] in _FACILITIES:
        facility = _FACILITIES.index(words[1])
        level = _LEVELS.index(words[2]) if words[2] in _LEVELS else None
        rest = rest[words.end() :]
    for form, read in ((_CTIME, _from_ctime), (_ISO, _from_iso), (_SYSLOG, _from_syslog)):
        if stamp := form.match(rest):
            at, rest = read(stamp[1]), rest[stamp.end() :]
            break
    if (at is not None or rest.startswith("kernel:")) and (who := _IDENTIFIER.match(rest)) and _names(who):
        writer = who[1]
        facility = KERNEL if writer == "kernel" else USER
        rest = rest[who.end() :]
    if seconds := _SECONDS.match(rest):
        at, rest = float(seconds[1]), rest[seconds.end() :]
    return Line(rest, at, None, facility, level, writer=writer)


def _names(who: re.Match[str]) -> bool:
    """``host kernel: text`` and ``kernel: text`` name a writer; dmesg's ``nvme nvme0: text`` begins with the text."""
    if who[1] == "kernel":
        return True
    return " " in who[0].rstrip() and who[0].split(" ")[0] not in _TEXT_BEGINS


# Drivers' names that begin a kernel's text where a host's name would stand.
_TEXT_BEGINS: Final = frozenset(
    {"nvme", "block", "infiniband", "pcieport", "mlx5_core", "nvidia", "thermal", "watchdog:", "rcu:", "NVRM:", "INFO:"}
)


def _from_ctime(text: str) -> float | None:
    try:
        return datetime.datetime.strptime(text + " +0000", "%a %b %d %H:%M:%S %Y %z").timestamp()
    except ValueError:
        return None


def _from_iso(text: str) -> float | None:
    try:
        found = datetime.datetime.fromisoformat(text.replace(",", ".").replace("Z", "+00:00"))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()


def _from_syslog(text: str) -> float | None:
    """Syslog names no year; a leap year stands in for it, which keeps order and durations but for New Year's Eve."""
    try:
        clock = text.partition(".")[0]
        return datetime.datetime.strptime(f"2000 {clock} +0000", "%Y %b %d %H:%M:%S %z").timestamp()
    except ValueError:
        return None
