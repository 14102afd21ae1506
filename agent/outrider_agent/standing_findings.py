"""What was told of this node and is not over: the findings that stand, for the controller's picture and /metrics.

In: observations in their order. Out: at most FINDINGS_MAX of them, one for each kind and device; the least severe and
oldest gives way. An observation whose evidence says ``cleared`` ends the finding of its kind and device.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import msgspec

from outrider import records

FINDINGS_MAX: Final = 256
TEXT_CHARS_MAX: Final = 500
_RANKS: Final = {"fatal": 3, "error": 2, "warning": 1, "info": 0}


class Standing:
    """The findings of one node. ``kept``: what the agent before this one had, as ``encoded`` gave it."""

    def __init__(self, kept: bytes | None = None) -> None:
        self._known: dict[tuple[str, str, str], records.Observation] = {}
        try:
            former = msgspec.json.decode(kept, type=list[records.Observation]) if kept else []
        except msgspec.DecodeError:  # also msgspec.ValidationError: of another version
            former = []
        for one in former:
            self.take(one)

    def take(self, seen: records.Observation) -> None:
        """One more observation."""
        key = _key(seen)
        if seen.evidence.get("cleared"):
            over = [one for one in self._known if one == key or (not key[2] and one[:2] == key[:2])]
            for one in over:
                del self._known[one]
            return
        if seen.severity == "info":
            return
        self._known.pop(key, None)
        self._known[key] = seen
        if len(self._known) > FINDINGS_MAX:
            del self._known[min(self._known, key=lambda one: _RANKS.get(self._known[one].severity, 1))]

    def all(self) -> list[records.Observation]:
        """Those that stand, oldest first."""
        return list(self._known.values())

    def told(self) -> tuple[records.Observation, ...]:
        """The same without their evidence, which the ledger has."""
        return tuple(
            dataclasses.replace(one, evidence=_number(one), text=one.text[:TEXT_CHARS_MAX]) for one in self.all()
        )

    def xids(self) -> dict[str, int]:
        """The newest Xid of each device that has one."""
        numbers = {device: one.evidence.get("xid") for (kind, device, _), one in self._known.items() if kind == "xid"}
        return {device: number for device, number in numbers.items() if isinstance(number, int)}

    def encoded(self) -> bytes:
        """For the next agent."""
        return msgspec.json.encode(self.all())


def _key(seen: records.Observation) -> tuple[str, str, str]:
    """A GPU may have several Xids at once; each is a finding of its own."""
    number = next(iter(_number(seen).values()), "")
    return seen.kind, seen.device or "", str(number)


def _number(seen: records.Observation) -> records.Json:
    return {name: seen.evidence[name] for name in ("xid", "sxid") if seen.evidence.get(name)}
