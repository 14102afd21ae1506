"""Memory that is free inside the process, given back to the system."""

from __future__ import annotations

import ctypes
import gc


def settle() -> None:
    """What starting took and nobody needs any more goes back; what is left is not looked through for garbage again.

    A C library without malloc_trim keeps it.
    """
    gc.collect()
    gc.freeze()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass
