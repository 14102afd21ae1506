"""The library's own door: what a text would be as a world, asked by the same code that answers the driver's calls.

The checks and the values over time stand in the C source alone, so the builder and the library cannot disagree.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

MESSAGE_BYTES_MAX = 1024


class ImpossibleWorldError(ValueError):
    """The world could not exist. The message names the thing, the value and the way out."""


class Door:
    """The simulator's functions of a built library. Nothing here calls NVML."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.outriderCheckWorld.argtypes = [
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.c_double,
            ctypes.c_char_p,
            ctypes.c_uint,
        ]
        self._library.outriderReading.argtypes = [
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_char_p,
            ctypes.c_double,
            ctypes.POINTER(ctypes.c_double),
        ]
        self._library.outriderHistory.argtypes = [
            ctypes.c_char_p,
            ctypes.c_double,
            ctypes.POINTER(ctypes.c_double),
        ]
        self._library.outriderWriteLog.argtypes = [ctypes.c_char_p]

    def check(self, text: str, before: str | None, wall: float) -> None:
        """ImpossibleWorldError where the text is no possible world, or cannot follow the one before it."""
        message = ctypes.create_string_buffer(MESSAGE_BYTES_MAX)
        old = before.encode() if before is not None else None
        if not self._library.outriderCheckWorld(text.encode(), old, wall, message, MESSAGE_BYTES_MAX):
            raise ImpossibleWorldError(message.value.decode(errors="replace"))

    def reading(self, text: str, gpu: int, name: str, wall: float) -> float:
        """The value of a GPU in that world at a wall time (Unix seconds)."""
        answer = ctypes.c_double()
        if not self._library.outriderReading(text.encode(), gpu, name.encode(), wall, ctypes.byref(answer)):
            raise ValueError(f"gpu {gpu} has no value {name!r} in this world")
        return answer.value

    def history(self, text: str, gpus: int, wall: float) -> list[tuple[float, float, float]]:
        """World time, energy in J and seconds of full load of each of the world's `gpus` at a wall time."""
        answer = (ctypes.c_double * (3 * gpus))()
        if not self._library.outriderHistory(text.encode(), wall, answer):
            raise ValueError("this text is no possible world")
        return [(answer[3 * gpu], answer[3 * gpu + 1], answer[3 * gpu + 2]) for gpu in range(gpus)]

    def write_log(self, text: str) -> None:
        """Append the kernel log's lines of the events that are due, each once whoever writes it."""
        self._library.outriderWriteLog(text.encode())
