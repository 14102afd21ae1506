"""Where a helper process begins: spares what pynvml imports and needs on Windows alone, then serves (``helper``).

pynvml asks ``ctypes.util`` for ``find_library``, which brings subprocess, tempfile, shutil and three compressors: 2 MiB
in each of the two helpers that stand beside an agent. Here it is imported when somebody calls it.
"""

from __future__ import annotations

import importlib
import sys
import types

from outrider_agent import resident

UTIL = "ctypes.util"


def main() -> int:
    """The helper's exit status."""
    put_off()
    from outrider_agent.nvml import helper

    resident.settle()
    return helper.main()


def put_off() -> None:
    """``ctypes.util`` is one function until that is called."""

    def find_library(name: str) -> str | None:
        sys.modules.pop(UTIL, None)
        found: str | None = importlib.import_module(UTIL).find_library(name)
        return found

    stands_for = types.ModuleType(UTIL)
    vars(stands_for)["find_library"] = find_library
    sys.modules.setdefault(UTIL, stands_for)


if __name__ == "__main__":
    sys.exit(main())
