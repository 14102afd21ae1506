"""Answers of NVML that are long and come each second, in buffers that are made once and read as numbers.

pynvml makes its structures anew for each call, one Python object a field or sample, which costs many times the call.
These fill pynvml's own structures once, hand them to the library that pynvml has loaded, and unpack what came back in
one stroke. Layouts are those of nvml.h (``nvmlFieldValue_t``, ``nvmlSample_t``), which never changed.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any, Final

import pynvml as n

INSUFFICIENT_SIZE: Final = 7
SAMPLES_MIN: Final = 128  # room for samples; a driver keeps two seconds or so of them
SAMPLES_MAX: Final = 16_384
_FIELD: Final = "IIqqIIQ"  # field, scope, stamp, latency, type of the value, code, value
_EACH: Final = len(_FIELD)
_DOUBLE: Final = struct.Struct("<d")
_RAW: Final = struct.Struct("<Q")
assert ctypes.sizeof(n.c_nvmlFieldValue_t) == struct.calcsize("<" + _FIELD)
assert ctypes.sizeof(n.c_nvmlSample_t) == 2 * _RAW.size


class Fields:
    """Values of (field, scope), asked for with one call. ``types``, ``codes`` and ``raw``: of the newest answer."""

    def __init__(self, ids: Sequence[tuple[int, int]]) -> None:
        self._array = (n.c_nvmlFieldValue_t * len(ids))()
        for one, (field, scope) in zip(self._array, ids, strict=True):
            one.fieldId, one.scopeId = field, scope
        self._count = len(ids)
        self._layout = struct.Struct("<" + _FIELD * len(ids))
        self.types: tuple[int, ...] = ()
        self.codes: tuple[int, ...] = ()
        self.raw: tuple[int, ...] = ()

    def ask(self, handle: Any) -> None:
        """Raises NVMLError, and AttributeError where the library has no such function."""
        _check(n.nvmlLib.nvmlDeviceGetFieldValues(handle, self._count, self._array))
        flat = self._layout.unpack_from(self._array)
        self.types, self.codes, self.raw = flat[4::_EACH], flat[5::_EACH], flat[6::_EACH]

    def number(self, index: int) -> float:
        """One value, as its type says."""
        return number(self.types[index], self.raw[index])


class Samples:
    """The driver's buffer of one kind of sample."""

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._room = 0
        self._array: Any = None
        self._type = ctypes.c_uint()
        self._count = ctypes.c_uint()

    def ask(self, handle: Any, since: int) -> tuple[list[int], list[float]]:
        """Stamps (microseconds, the driver's clock) and values of what is newer than ``since``; raises like Fields."""
        if not self._room:
            self._call(handle, since, None)
            self._room = min(max(self._count.value, SAMPLES_MIN), SAMPLES_MAX)
            self._array = (n.c_nvmlSample_t * self._room)()
        self._count.value = self._room
        try:
            self._call(handle, since, self._array)
        except n.NVMLError as error:
            if error.value == INSUFFICIENT_SIZE:
                self._room = 0  # asked for anew the next time
            raise
        count = min(self._count.value, self._room)
        if count == self._room:
            self._room = 0
        flat = memoryview(self._array).cast("B")[: count * 16].cast("Q").tolist()
        kind = self._type.value
        return flat[::2], [raw & 0xFFFFFFFF if kind == 1 else number(kind, raw) for raw in flat[1::2]]

    def _call(self, handle: Any, since: int, array: Any) -> None:
        function, stamp = n.nvmlLib.nvmlDeviceGetSamples, ctypes.c_ulonglong(since)
        _check(function(handle, self._kind, stamp, ctypes.byref(self._type), ctypes.byref(self._count), array))


def number(kind: int, raw: int) -> float:
    """The member of ``nvmlValue_t`` that ``kind`` names, from its eight bytes."""
    if kind == 0:
        return float(_DOUBLE.unpack(_RAW.pack(raw))[0])
    if kind == 1:
        return raw & 0xFFFFFFFF
    if kind == 4:
        return raw - (1 << 64) if raw >> 63 else raw
    if kind == 5:
        return (raw & 0x7FFFFFFF) - (raw & 0x80000000)
    return raw & 0xFFFF if kind == 6 else raw


def _check(code: int) -> None:
    if code:
        raise n.NVMLError(code)
