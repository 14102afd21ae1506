"""The forms that the tables of faults and what was read of a line take."""

from __future__ import annotations

from dataclasses import dataclass, field

from outrider.records import Json

Key = tuple[str | int | None, ...]


@dataclass(frozen=True)
class Fault:
    """One Xid. ``severity`` is a word of vocabulary.SEVERITIES; ``h100`` tells whether an H100 can say it."""

    number: int
    name: str
    origin: str
    severity: str
    recovery: str
    group: str | None
    h100: bool


@dataclass(frozen=True)
class SwitchFault:
    """Several SXids that mean the same."""

    numbers: tuple[int, ...]
    name: str
    origin: str
    severity: str
    recovery: str
    group: str | None
    h100: bool


@dataclass(frozen=True)
class Often:
    """Something that becomes ``severity`` once it was said ``times`` times within ``within_s``."""

    times: int
    within_s: float
    severity: str


@dataclass(frozen=True)
class Hit:
    """What one line says, before anything is known of the lines around it.

    Lines with the same ``key`` tell of the same thing. ``device``: a PCI address, a device's name, or "" for the node.
    ``rank``: how readily a GPU fault is the first cause (0 by itself, higher when it tends to follow another), None for
    what takes no part in that question. ``place``: where on the device, ``clears``: the beginnings of the keys that are
    over by this. ``detail``: whether it only adds to a line before it.
    """

    kind: str
    key: Key
    severity: str
    device: str
    text: str
    recovery: str = "none"
    group: str | None = None
    evidence: Json = field(default_factory=dict)
    rank: int | None = None
    place: str = ""
    often: Often | None = None
    clears: tuple[Key, ...] = ()
    detail: bool = False
    quiet_s: float = 3600.0  # silence after which the same thing is told anew
