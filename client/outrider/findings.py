"""What was observed of a node and is not over: the findings that stand, kept alike by an agent and by the controller.

In: observations in their order. Out: at most FINDINGS_MAX of them, one for each kind and device (and Xid or SXid); the
least severe and oldest gives way. An observation whose evidence says ``cleared`` ends the finding of its kind and
device; a few kinds are ended by a kind of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

from outrider import records

FINDINGS_MAX: Final = 256
TEXT_CHARS_MAX: Final = 500
ENDED_BY: Final = {"disk-clear": "disk-full", "rank-continued": "rank-stopped"}
_GRAVITY: Final = {"fatal": 3, "error": 2, "warning": 1, "info": 0}

_Key = tuple[str, str, str]


class Standing:
    """The findings of one node."""

    def __init__(self, former: Iterable[records.Observation] = ()) -> None:
        self._known: dict[_Key, records.Observation] = {}
        for one in former:
            self.take(one)

    def take(self, seen: records.Observation) -> None:
        """One more observation."""
        key = _key(seen)
        if seen.evidence.get("cleared") or seen.kind in ENDED_BY:
            for one in [one for one in self._known if one == key or (not key[2] and one[:2] == key[:2])]:
                del self._known[one]
            return
        if seen.severity == "info":
            return
        self._known.pop(key, None)
        self._known[key] = seen
        if len(self._known) > FINDINGS_MAX:
            del self._known[min(self._known, key=lambda one: _GRAVITY.get(self._known[one].severity, 1))]

    def all(self) -> list[records.Observation]:
        """Those that stand, oldest first."""
        return list(self._known.values())

    def told(self) -> tuple[records.Observation, ...]:
        """The same with the evidence that decides what they mean; the ledger has all of it."""
        short = dataclasses.replace
        return tuple(short(one, evidence=_told(one), text=one.text[:TEXT_CHARS_MAX]) for one in self.all())

    def xids(self) -> dict[str, int]:
        """The newest Xid of each device that has one."""
        numbers = {device: one.evidence.get("xid") for (kind, device, _), one in self._known.items() if kind == "xid"}
        return {device: number for device, number in numbers.items() if isinstance(number, int)}


def _key(seen: records.Observation) -> _Key:
    """A GPU may have several Xids at once; each is a finding of its own."""
    number = next(iter(_number(seen).values()), "")
    return ENDED_BY.get(seen.kind, seen.kind), seen.device or "", str(number)


def _number(seen: records.Observation) -> records.Json:
    return {name: seen.evidence[name] for name in ("xid", "sxid") if seen.evidence.get(name)}


def _told(seen: records.Observation) -> records.Json:
    return {name: seen.evidence[name] for name in _DECIDES if seen.evidence.get(name)}


_DECIDES: Final = ("xid", "sxid", "origin", "stops", "echo_of", "driver_asks", "link", "simulated")
