"""Memory errors that the memory controllers counted: EDAC, in sysfs.

In: devices/system/edac/mc/mcN with its DIMMs (or ranks, or the older csrows). Out: corrected and uncorrected errors of
each controller, and of each DIMM under its own name; the boards' labels for them are in the context, so that a person
finds the slot. ``noinfo`` counts errors that no DIMM could be named for; the kernel has them in the totals as well.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.signals import files

NAME: Final = "edac"
FOLDER: Final = "devices/system/edac/mc"
DIMMS_MAX: Final = 256
READINGS: Final[files.Names] = {
    "memory_corrected": files.Kind("", "devices/system/edac/mc/mcN/ce_count", counter=True),
    "memory_uncorrected": files.Kind("", "devices/system/edac/mc/mcN/ue_count", counter=True),
    "dimm_corrected": files.Kind("", "mcN/dimmM/dimm_ce_count, mcN/rankM/dimm_ce_count, mcN/csrowM/ce_count", True),
    "dimm_uncorrected": files.Kind("", "mcN/dimmM/dimm_ue_count, mcN/rankM/dimm_ue_count, mcN/csrowM/ue_count", True),
    "memory_controllers": files.Kind("", "count of devices/system/edac/mc/mcN"),
}
_CONTROLLER: Final = re.compile(r"mc\d+")
_DIMM: Final = re.compile(r"(dimm|rank|csrow)\d+")


class Edac:
    """A readings.Signal."""

    name = NAME
    period_s = 30.0
    deadline_s = 5.0

    def __init__(self, sysfs: Path, procfs: Path, clock: clocks.Clock | None = None) -> None:
        self._folder = str(sysfs / FOLDER)
        self._procfs = procfs
        self._clock = clock
        self._seen = False

    def read(self) -> readings.Sweep:
        """Look once. Counts fall to 0 when the module of the memory controller is loaded again."""
        look = files.Look(NAME, READINGS, self._procfs, self._clock)
        controllers = [name for name in files.names(self._folder) if _CONTROLLER.fullmatch(name)]
        self._seen = self._seen or bool(controllers)
        labels: Json = {}
        for controller in controllers:
            at = f"{self._folder}/{controller}"
            look.number(controller, "memory_corrected", f"{at}/ce_count")
            look.number(controller, "memory_uncorrected", f"{at}/ue_count")
            dimms = [name for name in files.names(at) if _DIMM.fullmatch(name)]
            if any(not name.startswith("csrow") for name in dimms):
                dimms = [name for name in dimms if not name.startswith("csrow")]  # older names of the same DIMMs
            for dimm in dimms[:DIMMS_MAX]:
                device, before = f"{controller}/{dimm}", "" if dimm.startswith("csrow") else "dimm_"
                look.number(device, "dimm_corrected", f"{at}/{dimm}/{before}ce_count")
                look.number(device, "dimm_uncorrected", f"{at}/{dimm}/{before}ue_count")
                labels[device] = files.text(f"{at}/{dimm}/dimm_label")
        if self._seen:
            look.add("", "memory_controllers", float(len(controllers)))
        return look.sweep(absent=not self._seen, context={"labels": labels})
