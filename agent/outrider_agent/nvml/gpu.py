"""One GPU as the helper reads it: its handle, got by its PCI address, and what of the plan this board answers.

In: which periods are due and which functions to leave alone. Out: rows of (part, name, value) or (part, name, None,
state, why). A call that the board or driver does not have is not made again until ``forget``; one that failed is made
again in its next round. A lost GPU is asked for its handle alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection
from typing import Any, Final

import pynvml as n

from outrider_agent.nvml import announce, plan

LOST: Final = 15
CORRUPT_INFOROM: Final = 14
GONE: Final = frozenset((LOST, 6, 17))  # answers after which a GPU is not asked for more in this round
# NVML's codes for "this board or driver has no such thing": not supported, no such function, another version of the
# structure, deprecated. A field adds "invalid argument", for one that the driver does not know.
UNSUPPORTED: Final = frozenset((3, 13, 25, 26))
UNKNOWN_FIELD: Final = UNSUPPORTED | {2}
RESET_REQUIRED: Final = 16
INVALID: Final = 2  # a handle that went stale, or, when it comes again, something that the board does not have
STALE: Final = frozenset((INVALID, LOST))  # the handle is got anew after these
BEGIN_ANEW: Final = frozenset((1, 9, 18))  # the driver was taken away below this process
LINKS_MAX: Final = 36
FIELDS: Final = "nvmlDeviceGetFieldValues"
SAMPLES: Final = "nvmlDeviceGetSamples"
SAMPLES_EMPTY_MAX: Final = 5  # rounds without a sample after which all of the buffer is asked for again
_TYPES: Final = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")

Row = list[Any]
# pynvml's structures turn bytes into text with each access, which costs five times the access; numbers need none of it.
_read: Final = ctypes.Structure.__getattribute__


class Again(Exception):
    """The driver went away: only a new process can read on. ``code`` is what it answered."""

    def __init__(self, code: int) -> None:
        super().__init__(f"NVML answers {code}")
        self.code = code


def code_of(error: Exception) -> int:
    """NVML's return code; 13 for a function that this pynvml does not know."""
    return 13 if isinstance(error, AttributeError) else int(getattr(error, "value", 999))


class Gpu:
    """One GPU. ``number`` is that of gpuN; ``pci`` may be "" for one that would not say, which is asked by index."""

    def __init__(self, number: int, pci: str, announcer: announce.Announcer) -> None:
        self.number, self.pci = number, pci
        self.links = 0
        self._announcer = announcer
        self._handle: Any = None
        self._calls: tuple[plan.Call, ...] = ()
        self._due: dict[tuple[str, ...], list[plan.Call]] = {}
        self._way: dict[plan.Call, int] = {}
        self._told: dict[plan.Call, Any] = {}
        self._sampled_at = 0
        self._sampled_in_vain = 0
        self._samples = True
        self._inforom = 0
        self._invalid: set[plan.Call] = set()
        self._codes: set[int] = set()
        self._handle_code = 0

    def read(self, periods: Collection[str], leave: Collection[str]) -> tuple[list[Row], int]:
        """One round: rows, and the gravest code that this GPU answered. Raises Again."""
        self._codes = set()
        rows: list[Row] = []
        handle = self.handle()
        due = self._due_in(tuple(periods))
        if plan.RARE in periods:
            self._way.clear()  # what was not supported may be by now
            self._invalid.clear()
            self._inforom = 0
        if handle is None:
            self._unreadable(due, rows)
        else:
            self._round(handle, due, periods, leave, rows)
        if self._codes & STALE:
            self._handle = None
        return rows, self._gravest()

    def _gravest(self) -> int:
        """What nvml_code tells: lost or to be reset by whichever call, any code of the handle, a corrupt InfoROM."""
        for code in (LOST, RESET_REQUIRED):
            if code in self._codes:
                return code
        return self._handle_code if self._handle is None else self._inforom

    def handle(self) -> Any:
        """The driver's handle, None where it gives none."""
        if self._handle is None:
            how, what = (n.nvmlDeviceGetHandleByPciBusId, self.pci) if self.pci else (_by_index, self.number)
            self._handle = self._call(f"nvmlDeviceGetHandleBy{'PciBusId' if self.pci else 'Index'}_v2", how, what)
            self._handle_code = min(self._codes, default=0) if self._handle is None else 0
            if self._handle is not None:
                self._look_at_links()
        return self._handle

    def samples(self) -> tuple[list[int], list[int]] | None:
        """Power since the last time: stamps in microseconds of the driver's clock and mW; None where there is none."""
        if not self._samples or self._handle is None:
            return None
        if self._sampled_in_vain > SAMPLES_EMPTY_MAX:
            self._sampled_at = 0  # the driver's clock may have been set back
        try:
            kind, found = self._made(
                SAMPLES, n.nvmlDeviceGetSamples, self._handle, plan.POWER_SAMPLES, self._sampled_at
            )
        except n.NVMLError as error:
            self._samples = code_of(error) not in UNKNOWN_FIELD
            self._sampled_in_vain += 1
            return None
        value = _TYPES[kind] if kind < len(_TYPES) else "uiVal"
        stamps = [_read(one, "timeStamp") for one in found]
        powers = [getattr(_read(one, "sampleValue"), value) for one in found]
        self._sampled_in_vain = 0 if stamps else self._sampled_in_vain + 1
        self._sampled_at = max(stamps, default=self._sampled_at)
        return stamps, powers

    @property
    def samples_supported(self) -> bool:
        """Whether the driver gives its buffer of power samples, as far as it was asked."""
        return self._samples

    def _due_in(self, periods: tuple[str, ...]) -> list[plan.Call]:
        if periods not in self._due:
            self._due[periods] = [call for call in self._calls or plan.of_gpu() if call.period in periods]
        return self._due[periods]

    def _round(
        self, handle: Any, due: list[plan.Call], periods: Collection[str], leave: Collection[str], rows: list[Row]
    ) -> None:
        slow = plan.SLOW in periods
        values = self._fields(handle, [call for call in due if FIELDS not in leave and self._asks_fields(call)])
        for index, call in enumerate(due):
            if self._codes & GONE:
                self._unreadable(due[index:], rows)
                return
            values_of_call = values.get(call)
            if values_of_call is not None and values_of_call[0] == 0:
                self._tell(call, values_of_call[1], slow, rows)
            elif values_of_call is not None and values_of_call[0] not in UNKNOWN_FIELD:
                self._unreadable([call], rows, values_of_call[0])
            else:
                self._by_function(handle, call, leave, slow, rows)

    def _asks_fields(self, call: plan.Call) -> bool:
        way = self._way.get(call, 0)
        return way < len(call.ways) and isinstance(call.ways[way], plan.Fields)

    def _fields(self, handle: Any, calls: list[plan.Call]) -> dict[plan.Call, tuple[int, plan.Values]]:
        """For each call the first code that is not 0, and the values. One call of the driver for all."""
        asked = [call.ways[self._way.get(call, 0)] for call in calls]
        ids = [one for way in asked if isinstance(way, plan.Fields) for one in way.ids]
        if not ids:
            return {}
        try:
            answered = self._made(FIELDS, n.nvmlDeviceGetFieldValues, handle, ids)
        except (n.NVMLError, AttributeError) as error:
            code = self._noted(code_of(error))
            return dict.fromkeys(calls, (code, ()))
        found: dict[plan.Call, tuple[int, plan.Values]] = {}
        at = 0
        for call, way in zip(calls, asked, strict=True):
            assert isinstance(way, plan.Fields)
            mine = answered[at : at + len(way.ids)]
            at += len(way.ids)
            codes = [code for one in mine if (code := _read(one, "nvmlReturn"))]
            if codes and codes[0] not in UNKNOWN_FIELD:
                self._noted(codes[0])
            found[call] = (codes[0] if codes else 0, tuple(_value(one, way) for one in mine))
        return found

    def _by_function(self, handle: Any, call: plan.Call, leave: Collection[str], slow: bool, rows: list[Row]) -> None:
        """The first function that this board has; whichever answers is used from then on."""
        first = self._way.get(call, 0)
        left = ""
        for number, way in enumerate(call.ways[first:], first):
            function = FIELDS if isinstance(way, plan.Fields) else way.function
            left = left or (function if function in leave else "")
            if isinstance(way, plan.Fields) or function in leave:
                continue  # fields were asked before, in vain or not at all
            try:
                values = self._made(function, way.read, handle)
            except (n.NVMLError, AttributeError) as error:
                code = code_of(error)
                if code in UNSUPPORTED or (code == INVALID and call in self._invalid):
                    continue
                self._failed(call, self._noted(code), rows)
                return
            if not left:
                self._way[call] = number
            self._tell(call, values, slow, rows)
            return
        if left:
            self._unreadable([call], rows, why=f"{left} is left alone: it did not come back")
            return
        self._way[call] = len(call.ways)
        if slow or first < len(call.ways):
            rows += [[call.part, name, None, "unsupported", ""] for name in call.names]

    def _failed(self, call: plan.Call, code: int, rows: list[Row]) -> None:
        if code == CORRUPT_INFOROM and call.names == ("inforom_valid",):
            self._inforom = code
            rows.append([call.part, "inforom_valid", False])
            return
        if code == INVALID:
            self._invalid.add(call)
        self._unreadable([call], rows, code)

    def _tell(self, call: plan.Call, values: plan.Values, slow: bool, rows: list[Row]) -> None:
        if call.steady:
            if self._told.get(call) == values and not slow:
                return
            self._told[call] = values
        for name, value in zip(call.names, values, strict=True):
            if value is not None:
                rows.append([call.part, name, value])
            elif slow or call.period in (plan.SLOW, plan.RARE):
                rows.append([call.part, name, None, "unsupported", ""])

    def _unreadable(self, calls: list[plan.Call], rows: list[Row], code: int = 0, why: str = "") -> None:
        code = code or min(self._codes, default=0)
        why = why or f"NVML answers {code}: {explained(code)}"
        for call in calls:
            self._told.pop(call, None)
            rows += [[call.part, name, None, "unreadable", why] for name in call.names]

    def _look_at_links(self) -> None:
        """How many links the board has, which the plan follows from."""
        self.links = 0
        field = self._call(FIELDS, n.nvmlDeviceGetFieldValues, self._handle, [(91, 0)])
        if field is not None and field[0].nvmlReturn == 0:
            self.links = min(int(field[0].value.uiVal), LINKS_MAX)
        elif field is not None and field[0].nvmlReturn in UNKNOWN_FIELD:
            state = n.nvmlDeviceGetNvLinkState
            while self.links < LINKS_MAX and self._answers("nvmlDeviceGetNvLinkState", state, self.links):
                self.links += 1
        calls = plan.of_gpu() + tuple(call for link in range(self.links) for call in plan.of_link(link))
        if len(calls) != len(self._calls):
            self._calls = calls
            self._due.clear()
            self._way.clear()

    def _answers(self, function: str, make: Callable[..., Any], *arguments: Any) -> bool:
        return self._call(function, make, self._handle, *arguments) is not None

    def _call(self, function: str, make: Callable[..., Any], *arguments: Any) -> Any:
        """The answer, None for an error, which is noted."""
        try:
            return self._made(function, make, *arguments)
        except (n.NVMLError, AttributeError) as error:
            self._noted(code_of(error))
            return None

    def _made(self, function: str, make: Callable[..., Any], *arguments: Any) -> Any:
        return self._announcer.call(self.number, function, make, *arguments)

    def _noted(self, code: int) -> int:
        if code in BEGIN_ANEW:
            raise Again(code)
        self._codes.add(code)
        return code


def explained(code: int) -> str:
    """NVML's own words for a code."""
    return str(n.NVMLError(code)) if code else "no answer"


def _by_index(index: int) -> Any:
    return n.nvmlDeviceGetHandleByIndex(index)


def _value(field: Any, way: plan.Fields) -> plan.Value:
    kind = _read(field, "valueType")
    number = getattr(_read(field, "value"), _TYPES[kind] if kind < len(_TYPES) else "ullVal")
    if way.flag:
        return bool(number)
    return plan.known(number, way.scale)
