"""One GPU as the helper reads it: its handle, got by its PCI address, and what of the plan this board answers.

In: which periods are due and which functions to leave alone. Out: rows of (part, name, value) or (part, name, None,
state, why). A call that the board or driver does not have is not made again until ``forget``; one that failed is made
again in its next round. A lost GPU is asked for its handle alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

import pynvml as n

from outrider_agent.nvml import announce, buffers, plan

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

Row = list[Any]
Found = dict[plan.Call, tuple[int, plan.Values]]  # the first code that is not 0, and the values


class Again(Exception):
    """The driver went away: only a new process can read on. ``code`` is what it answered."""

    def __init__(self, code: int) -> None:
        super().__init__(f"NVML answers {code}")
        self.code = code


def code_of(error: Exception) -> int:
    """NVML's return code; 13 for a function that this pynvml does not know."""
    return 13 if isinstance(error, AttributeError) else int(getattr(error, "value", 999))


class _Batch(NamedTuple):
    """What one round asks. ``asked``: calls by fields, with where their values are; ``steady``: those of them that are
    told when they change, the last of the fields; ``calls``: all but these.
    """

    fields: buffers.Fields | None
    asked: tuple[tuple[plan.Call, plan.Fields, int], ...]
    steady: tuple[tuple[plan.Call, plan.Fields, int], ...]
    calls: list[plan.Call]
    steady_from: int

    @property
    def by_fields(self) -> list[plan.Call]:
        return [one[0] for one in (*self.asked, *self.steady)]


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
        self._batches: dict[tuple[str, ...], _Batch] = {}  # made anew when a way changes
        self._steady: tuple[Any, ...] = ()  # codes and values of the steady fields, as they were told last
        self._told: dict[plan.Call, Any] = {}
        self._sampled_at = 0
        self._sampled_in_vain = 0
        self._samples = True
        self._buffer = buffers.Samples(plan.POWER_SAMPLES)
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
            self._forget_ways()  # what was not supported may be by now
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

    def samples(self) -> tuple[list[int], list[float]] | None:
        """Power since the last time: stamps in microseconds of the driver's clock and mW; None where there is none."""
        if not self._samples or self._handle is None:
            return None
        if self._sampled_in_vain > SAMPLES_EMPTY_MAX:
            self._sampled_at = 0  # the driver's clock may have been set back
        try:
            stamps, powers = self._made(SAMPLES, self._buffer.ask, self._handle, self._sampled_at)
        except (n.NVMLError, AttributeError) as error:
            self._samples = code_of(error) not in UNKNOWN_FIELD
            self._sampled_in_vain += 1
            return None
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
        values: Found = {}
        calls = due
        if FIELDS not in leave:
            batch = self._batch(tuple(periods), due)
            values, changed = self._fields(handle, batch, slow)
            calls = [*batch.calls, *changed]
        for index, call in enumerate(calls):
            if self._codes & GONE:
                steady = [] if FIELDS in leave or changed else [one[0] for one in batch.steady]
                self._unreadable([*calls[index:], *steady], rows)
                return
            values_of_call = values.get(call)
            if values_of_call is not None and values_of_call[0] == 0:
                self._tell(call, values_of_call[1], slow, rows)
            elif values_of_call is not None and values_of_call[0] not in UNKNOWN_FIELD:
                self._unreadable([call], rows, values_of_call[0])
            else:
                self._by_function(handle, call, leave, slow, rows)

    def _batch(self, periods: tuple[str, ...], due: list[plan.Call]) -> _Batch:
        found = self._batches.get(periods)
        if found is not None:
            return found
        ids: list[tuple[int, int]] = []
        asked: list[tuple[plan.Call, plan.Fields, int]] = []
        steady: list[tuple[plan.Call, plan.Fields, int]] = []
        for group, wanted in ((asked, False), (steady, True)):
            steady_from = len(ids)
            for call in due:
                way = call.ways[self._way.get(call, 0)] if self._way.get(call, 0) < len(call.ways) else None
                if isinstance(way, plan.Fields) and call.steady is wanted:
                    group.append((call, way, len(ids)))
                    ids += way.ids
        mine = {one[0] for one in steady}
        calls = [call for call in due if call not in mine]
        fields = buffers.Fields(ids) if ids else None
        made = self._batches[periods] = _Batch(fields, tuple(asked), tuple(steady), calls, steady_from)
        return made

    def _fields(self, handle: Any, batch: _Batch, slow: bool) -> tuple[Found, list[plan.Call]]:
        """What was answered, and those of the steady calls that may be other than they were told last. One call of the
        driver for all.
        """
        fields = batch.fields
        if fields is None:
            return {}, []
        try:
            self._made(FIELDS, fields.ask, handle)
        except (n.NVMLError, AttributeError) as error:
            code = self._noted(code_of(error))
            return dict.fromkeys(batch.by_fields, (code, ())), [one[0] for one in batch.steady]
        found = {call: self._field(fields, way, start) for call, way, start in batch.asked}
        codes, raw = fields.codes[batch.steady_from :], fields.raw[batch.steady_from :]
        now = (batch.steady, codes, raw)
        if now == self._steady and not slow:
            return found, []
        self._steady = () if any(codes) else now
        for call, way, start in batch.steady:
            found[call] = self._field(fields, way, start)
        return found, [one[0] for one in batch.steady]

    def _field(self, fields: buffers.Fields, way: plan.Fields, start: int) -> tuple[int, plan.Values]:
        places = range(start, start + len(way.ids))
        code = next((fields.codes[place] for place in places if fields.codes[place]), 0)
        if code:
            if code not in UNKNOWN_FIELD:
                self._noted(code)
            return code, ()
        values = map(fields.number, places)
        return 0, tuple(map(bool, values) if way.flag else [plan.known(value, way.scale) for value in values])

    def _forget_ways(self) -> None:
        self._way.clear()
        self._batches.clear()

    def _take_way(self, call: plan.Call, number: int) -> None:
        if self._way.get(call, 0) != number:
            self._way[call] = number
            self._batches.clear()

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
                self._take_way(call, number)
            self._tell(call, values, slow, rows)
            return
        if left:
            self._unreadable([call], rows, why=f"{left} is left alone: it did not come back")
            return
        self._take_way(call, len(call.ways))
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
        self._steady = ()  # one of these may be among them
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
            self._forget_ways()

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
