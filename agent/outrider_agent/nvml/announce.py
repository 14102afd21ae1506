"""Which NVML call is being made, told through shared memory so that it is known when the call never returns.

The helper writes before and after each call (under a microsecond); the agent reads when an answer stays out. The number
is odd while a call is under way; a record read half-written shows by its number and is read again.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

NODE: Final = -1  # in place of a GPU's number: a call about the whole node
SIZE: Final = mmap.PAGESIZE
_RECORD: Final = struct.Struct("<QdiI96s")  # number, monotonic seconds, GPU, phase, function
_NUMBER: Final = struct.Struct("<Q")
_TRIES: Final = 8

T = TypeVar("T")


class Call(NamedTuple):
    """A call under way. ``number`` differs from one call to the next, ``began`` is in monotonic seconds."""

    number: int
    began: float
    gpu: int
    function: str


class Announcer:
    """The helper's side. One thread calls."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, SIZE)
        self._number = 0
        self._names: dict[str, bytes] = {}

    def call(self, gpu: int, function: str, make: Callable[..., T], *arguments: Any) -> T:
        """Announce, make the call, take the announcement back."""
        name = self._names.get(function)
        if name is None:
            name = self._names[function] = function.encode()
        self._number += 1
        _RECORD.pack_into(self._memory, 0, self._number, time.monotonic(), gpu, 0, name)
        try:
            return make(*arguments)
        finally:
            self._number += 1
            _NUMBER.pack_into(self._memory, 0, self._number)


class Listener:
    """The agent's side: memory that both sides see. ``descriptor`` is for the helper to inherit."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("outrider-nvml-call", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, SIZE)
        self._memory = mmap.mmap(self.descriptor, SIZE)

    def call(self) -> Call | None:
        """The call that is under way, None between calls."""
        for _ in range(_TRIES):
            number, began, gpu, _, name = _RECORD.unpack_from(self._memory)
            if _NUMBER.unpack_from(self._memory)[0] == number:
                return Call(number, began, gpu, name.rstrip(b"\0").decode(errors="replace")) if number % 2 else None
        return None

    def close(self) -> None:
        """Let the memory go."""
        self._memory.close()
        os.close(self.descriptor)
