"""What a network adapter's driver counts beyond the ports' counters: pause per priority, FEC, raw errors, the cable.

In: the driver's statistics by the ioctl SIOCETHTOOL (what ``ethtool -S`` prints), for the interfaces of PCI adapters;
of them those that tell of faults, since a driver gives thousands. Where sysfs is not the kernel's own, the statistics
lie there as text, ``class/net/INTERFACE/ethtool_statistics`` in the form of ``ethtool -S``. Out: counters an interface
under ethtool's own names; what other drivers call otherwise carries mlx5's name.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider_agent import readings
from outrider_agent.signals import files, topology

NAME: Final = "ethtool"
LIST_EVERY_S: Final = 60.0
STATISTICS_MAX: Final = 65_536
INTERFACES_MAX: Final = 128
TEXT_BYTES_MAX: Final = 4 * 1024 * 1024
RECORDED: Final = "ethtool_statistics"
_SIOCETHTOOL: Final = 0x8946
_GSTRINGS, _GSTATS, _GSSET_INFO = 0x1B, 0x1D, 0x37
_SS_STATS: Final = 1
_NAME_BYTES: Final = 32

_US: Final = "us"
READINGS: Final[files.Names] = {
    **{
        f"{way}_prio{priority}_{what}": files.Kind(unit, f"ethtool -S {way}_prio{priority}_{what}", counter=True)
        for way in ("rx", "tx")
        for priority in range(8)
        for what, unit in (("pause", ""), ("pause_duration", _US))
    },
    **{
        f"rx_prio{priority}_{what}": files.Kind("", f"ethtool -S rx_prio{priority}_{what}", counter=True)
        for priority in range(8)
        for what in ("buf_discard", "cong_discard")
    },
    **{
        f"{way}_global_pause{more}": files.Kind(unit, f"ethtool -S {way}_global_pause{more}", counter=True)
        for way in ("rx", "tx")
        for more, unit in (("", ""), ("_duration", _US))
    },
    **{
        name: files.Kind("", f"ethtool -S {name}", counter=True)
        for name in (
            *("tx_pause_storm_warning_events", "tx_pause_storm_error_events", "rx_pause_ctrl_phy", "tx_pause_ctrl_phy"),
            *("rx_pcs_symbol_err_phy", "rx_symbol_err_phy", "rx_corrected_bits_phy", "rx_crc_errors_phy"),
            *("rx_err_lane_0_phy", "rx_err_lane_1_phy", "rx_err_lane_2_phy", "rx_err_lane_3_phy"),
            *("rx_err_lane_4_phy", "rx_err_lane_5_phy", "rx_err_lane_6_phy", "rx_err_lane_7_phy"),
            *("link_down_events_phy", "rx_discards_phy", "tx_discards_phy", "tx_errors_phy", "rx_out_of_buffer"),
            *("rx_bits_phy", "outbound_pci_stalled_wr_events", "rx_corrupt_packets_phy", "tx_timeout"),
            *("module_unplug", "module_bus_stuck", "module_high_temp", "module_bad_shorted"),
        )
    },
    "fec_corrected_blocks": files.Kind("", "ethtool -S *fec*corr*, --show-fec -I where -S has it", counter=True),
    "fec_uncorrected_blocks": files.Kind("", "ethtool -S *fec*uncorr*", counter=True),
}
# What other drivers (bnxt, ice, mlx4 and newer mlx5) say, in our names; priorities are numbers.
_SAME: Final = (
    (re.compile(r"(?:rx_)?(?:phy_)?fec_corr(?:ected|ectable)?_(?:blocks|cw|cnt)(?:_phy)?"), "fec_corrected_blocks"),
    (re.compile(r"(?:rx_)?(?:phy_)?fec_uncorr(?:ected|ectable)?_(?:blocks|cw|cnt)(?:_phy)?"), "fec_uncorrected_blocks"),
    (re.compile(r"(rx|tx)_pfc_ena_frames_pri([0-7])"), r"\1_prio\2_pause"),
    (re.compile(r"(rx|tx)_priority_([0-7])_xoff(?:\.nic)?"), r"\1_prio\2_pause"),
    (re.compile(r"(rx|tx)_pause_prio_([0-7])"), r"\1_prio\2_pause"),
    (re.compile(r"(rx|tx)_pause_duration_prio_([0-7])"), r"\1_prio\2_pause_duration"),
    (re.compile(r"rx_crc_errors(?:\.nic)?|rx_fcs_err_frames"), "rx_crc_errors_phy"),
)

Statistics = dict[str, int]
Asks = Callable[[str], Statistics]


class Ethtool:
    """A readings.Signal. ``ask``: the statistics of an interface by name; raises OSError."""

    name = NAME
    period_s = 10.0
    deadline_s = 5.0

    def __init__(self, sysfs: Path, procfs: Path, clock: clocks.Clock | None = None, ask: Asks | None = None) -> None:
        self._folder = str(sysfs / "class/net")
        self._procfs = procfs
        self._clock = clock or clocks.RealClock()
        real = files.is_live_sysfs(sysfs)
        self._ask = ask or (Kernel().ask if real else recorded(self._folder))
        self._listed_at: float | None = None
        self._interfaces: dict[str, str] = {}

    def read(self) -> readings.Sweep:
        """Look once."""
        look = files.Look(NAME, READINGS, self._procfs, self._clock)
        now = self._clock.monotonic()
        if self._listed_at is None or now - self._listed_at >= LIST_EVERY_S:
            self._listed_at = now
            self._interfaces = self._found()
        if not self._interfaces:
            return look.sweep(absent=True)
        unsupported: list[str] = []
        failed: list[str] = []
        for interface in self._interfaces:
            try:
                statistics = self._ask(interface)
            except OSError as error:
                (unsupported if files.state_of(error) == "unsupported" else failed).append(interface)
                continue
            for name, value in chosen(statistics).items():
                look.add(interface, name, float(value))
        lacking = f"no statistics of {', '.join(failed)}" if failed else ""
        context = {"pci": self._interfaces, "without_statistics": unsupported, "unreadable": failed}
        return look.sweep(context=context, error=lacking)

    def _found(self) -> dict[str, str]:
        """Interfaces of PCI adapters with their addresses; the functions that guests are given are left out."""
        found = {}
        for name in files.names(self._folder)[:INTERFACES_MAX]:
            address = topology.address_of(f"{self._folder}/{name}/device")
            if address and not Path(f"{self._folder}/{name}/device/physfn").exists():
                found[name] = address
        return found


def chosen(statistics: Statistics) -> Statistics:
    """Of a driver's statistics those in the table, under the table's names; two of one name are added."""
    found: Statistics = {}
    for name, value in statistics.items():
        wanted = named(name)
        if wanted:
            found[wanted] = found.get(wanted, 0) + value
    return found


def named(name: str) -> str:
    """Our name of a driver's statistic, "" for those that tell of no fault."""
    if name in READINGS:
        return name
    for pattern, ours in _SAME:
        if pattern.fullmatch(name):
            return pattern.sub(ours, name)
    return ""


def parse(said: str) -> Statistics:
    """What ``ethtool -S`` prints: a head line, and ``name: number`` on each of the others."""
    found: Statistics = {}
    for line in said.splitlines():
        name, _, value = line.strip().rpartition(":")
        value = value.strip()
        if name and value.isdigit() and len(found) < STATISTICS_MAX:
            found[name.strip()] = int(value)
    return found


def recorded(folder: str) -> Asks:
    """Asks files in place of the kernel."""

    def ask(interface: str) -> Statistics:
        return parse(files.whole(f"{folder}/{interface}/{RECORDED}", TEXT_BYTES_MAX))

    return ask


class Kernel:
    """Asks the kernel. Names are fetched once an interface, and again when their number changes.

    Kernels write as many statistics as the driver has at that moment, whatever number they were asked for (newer ones
    write none when it is another), so there is always room for STATISTICS_MAX of them.
    """

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._socket: socket.socket | None = None
        self._room = bytearray(0)

    def ask(self, interface: str) -> Statistics:
        """Every statistic of ``interface`` that tells of a fault. Raises OSError."""
        count = self._count(interface)
        names = self._names.get(interface)
        if names is None or len(names) != count:
            names = self._names[interface] = self._fetch_names(interface, count)
        self._room = self._room or bytearray(8 + 8 * STATISTICS_MAX)
        struct.pack_into("II", self._room, 0, _GSTATS, len(names))
        self._call(interface, self._room)
        written = struct.unpack_from("I", self._room, 4)[0]
        if written != len(names):
            del self._names[interface]
            raise OSError(errno.EAGAIN, "the driver's statistics are being changed", interface)
        values = array.array("Q", bytes(self._room[8 : 8 + 8 * written]))
        return {name: value for name, value in zip(names, values, strict=True) if name}

    def _count(self, interface: str) -> int:
        buffer = bytearray(24)
        struct.pack_into("IIQ", buffer, 0, _GSSET_INFO, 0, 1 << _SS_STATS)
        self._call(interface, buffer)
        mask, count = struct.unpack_from("QI", buffer, 8)
        return int(count) if mask else 0

    def _fetch_names(self, interface: str, count: int) -> list[str]:
        """By place; "" for what nobody wants, so that a poll makes no text of thousands of numbers."""
        buffer = bytearray(12 + _NAME_BYTES * STATISTICS_MAX)
        struct.pack_into("III", buffer, 0, _GSTRINGS, _SS_STATS, count)
        self._call(interface, buffer)
        written = struct.unpack_from("I", buffer, 8)[0]
        found = []
        for place in range(12, 12 + _NAME_BYTES * written, _NAME_BYTES):
            name = buffer[place : place + _NAME_BYTES].split(b"\0", 1)[0].decode("ascii", "replace").strip()
            found.append(name if named(name) else "")
        return found

    def _call(self, interface: str, buffer: bytearray) -> None:
        """One ioctl; the driver writes its answer into ``buffer``."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        view = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        request = struct.pack("16sP16x", interface.encode()[:15], ctypes.addressof(view))
        fcntl.ioctl(self._socket.fileno(), _SIOCETHTOOL, request)
