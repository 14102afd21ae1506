"""NVMe drives: whether they are there and alive, and what they say of themselves.

In: class/nvme in sysfs, and each controller's own log page 2 (SMART) by an admin command that only reads, which needs
root. Out, a drive: present, state, critical warning bits, spare, wear, media errors, temperature. A controller that is
not ``live`` is not asked: its answer would take until the kernel's time-out. Where sysfs is not the kernel's own, the
log page lies there as a file, ``class/nvme/nvmeN/smart_log``.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.signals import files, topology

NAME: Final = "nvme"
RECORDED: Final = "smart_log"
DRIVES_MAX: Final = 64
LOG_BYTES: Final = 512
COMMAND_TIMEOUT_MS: Final = 2000
_PAGE: Final = "log page 2 (SMART / health)"
READINGS: Final[files.Names] = {
    "nvme_present": files.Kind("", "class/nvme/nvmeN"),
    "nvme_state": files.Kind("", "class/nvme/nvmeN/state"),
    "nvme_count": files.Kind("", "count of class/nvme/nvmeN that are drives of this node"),
    "critical_warning": files.Kind("", f"{_PAGE}, byte 0"),
    "temperature": files.Kind("C", f"{_PAGE}, bytes 1-2"),
    "available_spare": files.Kind("%", f"{_PAGE}, byte 3"),
    "available_spare_threshold": files.Kind("%", f"{_PAGE}, byte 4"),
    "percentage_used": files.Kind("%", f"{_PAGE}, byte 5"),
    "media_errors": files.Kind("", f"{_PAGE}, bytes 160-175", counter=True),
    "unsafe_shutdowns": files.Kind("", f"{_PAGE}, bytes 144-159", counter=True),
}
_SMART: Final = (
    *("critical_warning", "temperature", "available_spare", "available_spare_threshold"),
    *("percentage_used", "media_errors", "unsafe_shutdowns"),
)
_ADMIN_COMMAND: Final = 0xC0484E41  # NVME_IOCTL_ADMIN_CMD: _IOWR('N', 0x41, 72 bytes)
_GET_LOG_PAGE: Final = 0x02
_SMART_LOG: Final = 0x02
_ALL: Final = 0xFFFFFFFF
_KELVIN: Final = 273
_DRIVE: Final = re.compile(r"nvme\d+")


@dataclass(frozen=True)
class Smart:
    """The part of a health log that tells of faults. Shares in percent, temperature in C."""

    critical_warning: int
    temperature: float
    available_spare: int
    available_spare_threshold: int
    percentage_used: int
    media_errors: int
    unsafe_shutdowns: int


class Nvme:
    """A readings.Signal. ``ask``: the health log of a drive by name, in bytes; raises OSError."""

    name = NAME
    period_s = 60.0
    deadline_s = 10.0

    def __init__(
        self,
        sysfs: Path,
        procfs: Path,
        clock: clocks.Clock | None = None,
        devfs: Path = Path("/dev"),
        ask: Callable[[str], bytes] | None = None,
    ) -> None:
        self._folder = str(sysfs / "class/nvme")
        self._procfs = procfs
        self._clock = clock
        self._devfs = devfs
        self._ask = ask or (self._by_ioctl if files.is_live_sysfs(sysfs) else self._recorded)
        self._present: dict[str, bool] = {}

    def read(self) -> readings.Sweep:
        """Look once."""
        look = files.Look(NAME, READINGS, self._procfs, self._clock)
        found = [name for name in files.names(self._folder) if _DRIVE.fullmatch(name)][:DRIVES_MAX]
        # Drives over a network are a file server's business, and their paths come and go.
        found = [name for name in found if files.text(f"{self._folder}/{name}/transport") in ("", "pcie")]
        self._present = {**dict.fromkeys(self._present, False), **dict.fromkeys(found, True)}
        drives: Json = {}
        for name, present in self._present.items():
            look.add(name, "nvme_present", present)
            if present:
                drives[name] = self._drive(look, name)
        if self._present:
            look.add("", "nvme_count", float(len(found)))
        return look.sweep(absent=not self._present, context={"drives": drives})

    def _drive(self, look: files.Look, name: str) -> Json:
        at = f"{self._folder}/{name}"
        state = look.word(name, "nvme_state", f"{at}/state")
        with look.tried(name, *_SMART):
            if state not in (None, "live"):
                raise files.Unknown("unsupported", f"the controller is {state}")
            smart = parse(self._ask(name))
            for reading in _SMART:
                look.add(name, reading, float(getattr(smart, reading)))
        about = {word: files.text(f"{at}/{word}") for word in ("model", "serial", "firmware_rev")}
        return {**about, "pci": topology.address_of(f"{at}/device")}

    def _by_ioctl(self, name: str) -> bytes:
        file = os.open(self._devfs / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return health_log(file)
        finally:
            os.close(file)

    def _recorded(self, name: str) -> bytes:
        try:
            return Path(f"{self._folder}/{name}/{RECORDED}").read_bytes()[:LOG_BYTES]
        except FileNotFoundError:
            raise files.Unknown("unsupported", f"no {RECORDED} lies beside the drive") from None


def health_log(file: int, ioctl: Callable[[int, int, bytearray], int] = fcntl.ioctl) -> bytes:
    """Ask the open controller for its health log. Raises OSError, Unknown."""
    room = ctypes.create_string_buffer(LOG_BYTES)
    dwords = (LOG_BYTES // 4 - 1) << 16
    # struct nvme_passthru_cmd: opcode, flags, rsvd1, nsid, cdw2, cdw3, metadata, addr, metadata_len, data_len,
    # cdw10 to cdw15, timeout_ms, result.
    command = bytearray(72)
    struct.pack_into("BBHIIIQQII", command, 0, _GET_LOG_PAGE, 0, 0, _ALL, 0, 0, 0, ctypes.addressof(room), 0, LOG_BYTES)
    struct.pack_into("IIIIIIII", command, 40, dwords | _SMART_LOG, 0, 0, 0, 0, 0, COMMAND_TIMEOUT_MS, 0)
    status = ioctl(file, _ADMIN_COMMAND, command)
    if status:
        raise files.Unknown("unreadable", f"the drive answered with NVMe status 0x{status:x}")
    return room.raw


def parse(log: bytes) -> Smart:
    """A health log (NVMe base specification, figure "SMART / Health Information Log Page"). Raises Unknown."""
    if len(log) < LOG_BYTES:
        raise files.Unknown("unreadable", f"a health log of {len(log)} bytes instead of {LOG_BYTES}")
    return Smart(
        critical_warning=log[0],
        temperature=float(struct.unpack_from("<H", log, 1)[0] - _KELVIN),
        available_spare=log[3],
        available_spare_threshold=log[4],
        percentage_used=log[5],
        media_errors=int.from_bytes(log[160:176], "little"),
        unsafe_shutdowns=int.from_bytes(log[144:160], "little"),
    )
