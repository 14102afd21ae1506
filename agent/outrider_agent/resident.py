"""Memory that is free inside the process, given back to the system."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_M_ARENA_MAX: Final = -8  # of mallopt, from malloc.h of glibc
ARENAS: Final = 2


def begin() -> None:
    """Keep the C library from giving each of the many short threads a heap of its own; call before there are any."""
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)
    except (OSError, AttributeError):
        pass


def settle() -> None:
    """What starting took and nobody needs any more goes back; what is left is not looked through for garbage again."""
    gc.collect()
    gc.freeze()
    trim()


def trim() -> None:
    """Give back what is free now. A C library without malloc_trim keeps it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass
