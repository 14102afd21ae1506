"""A healthy HGX H100 node as files: what the kernel shows of it below /sys and /proc, and ways to break it.

Eight GPUs, each with a ConnectX-7 and an NVMe drive below a PCIe switch of their own; four NVSwitches; two more
adapters (storage, management) elsewhere; two processors with eight memory controllers; sensors, mounts, services. The
adapters' names follow the bus, so a name does not say what an adapter is for. GPU and NVSwitch addresses are those of
the fake NVML library. A node that could not exist is refused.
"""

from __future__ import annotations

import os
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path

GPU_BUSES = (0x18, 0x2A, 0x3A, 0x5D, 0x9A, 0xAB, 0xBA, 0xDB)
SWITCH_BUSES = (0x05, 0x06, 0x07, 0x08)
STORAGE_BUS, MANAGEMENT_BUS = 0x41, 0xE7
BOOT_ID = "0b1f6a6e-5a52-4c1a-9d55-3a2f0c9d7e11"
GB = 10**9
RATES = {400: "400 Gb/sec (4X NDR)", 200: "200 Gb/sec (4X HDR)", 100: "100 Gb/sec (4X EDR)", 10: "10 Gb/sec (4X SDR)"}
STATES = {"DOWN": 1, "INIT": 2, "ARMED": 3, "ACTIVE": 4}
PHYSICAL = {
    "Sleep": 1,
    "Polling": 2,
    "Disabled": 3,
    "PortConfigurationTraining": 4,
    "LinkUp": 5,
    "LinkErrorRecovery": 6,
}
SPEEDS = {1: "2.5 GT/s PCIe", 2: "5.0 GT/s PCIe", 3: "8.0 GT/s PCIe", 4: "16.0 GT/s PCIe", 5: "32.0 GT/s PCIe"}
WIDTHS = (1, 2, 4, 8, 16)
COUNTERS = (
    *("VL15_dropped", "excessive_buffer_overrun_errors", "link_downed", "link_error_recovery"),
    *("local_link_integrity_errors", "multicast_rcv_packets", "multicast_xmit_packets", "port_rcv_constraint_errors"),
    *("port_rcv_data", "port_rcv_errors", "port_rcv_packets", "port_rcv_remote_physical_errors"),
    *("port_rcv_switch_relay_errors", "port_xmit_constraint_errors", "port_xmit_data", "port_xmit_discards"),
    *("port_xmit_packets", "port_xmit_wait", "symbol_error", "unicast_rcv_packets", "unicast_xmit_packets"),
)
HW_COUNTERS = (
    *("duplicate_request", "implied_nak_seq_err", "local_ack_timeout_err", "np_cnp_sent", "np_ecn_marked_roce_packets"),
    *("out_of_buffer", "out_of_sequence", "packet_seq_err", "req_cqe_error", "req_cqe_flush_error"),
    *("req_remote_access_errors", "req_remote_invalid_request", "req_transport_retries_exceeded", "resp_cqe_error"),
    *("resp_cqe_flush_error", "resp_local_length_error", "resp_remote_access_errors", "rnr_nak_retry_err"),
    *("roce_adp_retrans", "roce_adp_retrans_to", "roce_slow_restart", "roce_slow_restart_cnps"),
    *("roce_slow_restart_trans", "rp_cnp_handled", "rp_cnp_ignored", "rx_atomic_requests", "rx_dct_connect"),
    *("rx_icrc_encapsulated", "rx_read_requests", "rx_write_requests"),
)
AER_FATAL = (
    *("Undefined", "DLP", "SDES", "TLP", "FCP", "CmpltTO", "CmpltAbrt", "UnxCmplt", "RxOF", "MalfTLP", "ECRC"),
    *("UnsupReq", "ACSViol", "UncorrIntErr", "BlockedTLP", "AtomicOpBlocked", "TLPBlockedErr", "PoisonTLPBlocked"),
)
AER_CORRECTABLE = ("RxErr", "BadTLP", "BadDLLP", "Rollover", "Timeout", "NonFatalErr", "CorrIntErr", "HeaderOF")
ETHTOOL = (
    *(f"{way}_prio{n}_{what}" for way in ("rx", "tx") for n in range(8) for what in ("pause", "pause_duration")),
    *("rx_pcs_symbol_err_phy", "rx_corrected_bits_phy", "rx_symbol_err_phy", "rx_crc_errors_phy", "rx_bits_phy"),
    *("link_down_events_phy", "rx_discards_phy", "tx_discards_phy", "tx_errors_phy", "module_high_temp"),
    *("rx_fec_corrected_blocks", "rx_fec_uncorrectable_blocks", "rx_packets", "tx_packets"),
)
MEMINFO = {
    "MemTotal": 2_113_530_000,
    "MemFree": 1_900_000_000,
    "MemAvailable": 2_000_000_000,
    "Dirty": 1_024,
    "SwapTotal": 0,
    "SwapFree": 0,
    "HardwareCorrupted": 0,
}
SERVICES = ("nvidia-fabricmanager", "nvidia-persistenced", "containerd", "slurmd", "chronyd")


OTHER_SERVICES = ("nvidia-imex", "docker", "crio", "kubelet", "systemd-timesyncd", "openibd")


class ImpossibleNode(ValueError):
    """A node that could not exist; the message says why."""


@dataclass
class Adapter:
    """One adapter with one port. ``home``: its PCI folder."""

    name: str
    address: str
    home: Path
    netdev: str
    layer: str
    rate: int
    role: str


@dataclass
class Node:
    """A made node. Whatever is set shows at the next look of a signal."""

    sysfs: Path
    procfs: Path
    gpus: tuple[str, ...] = ()
    nvswitches: tuple[str, ...] = ()
    adapters: dict[str, Adapter] = field(default_factory=dict)
    drives: tuple[str, ...] = ()
    mounts: dict[str, tuple[str, str, str, str]] = field(default_factory=dict)
    rooms: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    units: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    meminfo: dict[str, int] = field(default_factory=dict)

    # --- files ---

    def put(self, path: Path, said: str | bytes | int) -> Path:
        """One file, with the line end that the kernel's files have."""
        content = said if isinstance(said, bytes) else f"{said}\n".encode()
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        except FileNotFoundError:  # asking first would cost as much as writing
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(file, content)
        os.close(file)
        return path

    def breaks(self, path: Path) -> None:
        """Let reading ``path`` fail with a real EIO, as a dying device does."""
        if not path.exists():
            raise ImpossibleNode(f"{path} is not there, so it cannot fail")
        path.unlink()
        path.symlink_to("/proc/self/mem")

    def pci(self, address: str) -> Path:
        """The folder of a PCI device."""
        found = self.sysfs / "bus/pci/devices" / address
        if not found.is_dir():
            raise ImpossibleNode(f"there is no PCI device {address}")
        return found.resolve()

    # --- ports ---

    def port(self, adapter: str) -> Path:
        """The folder of an adapter's port."""
        found = self.sysfs / "class/infiniband" / adapter / "ports/1"
        if not found.is_dir():
            raise ImpossibleNode(f"there is no adapter {adapter}")
        return found

    def set_port(self, adapter: str, state: str = "ACTIVE", phys: str = "LinkUp", rate: int | None = None) -> None:
        """State of a link; each change of the physical one is a change of carrier."""
        if state not in STATES or phys not in PHYSICAL:
            raise ImpossibleNode(f"no port says {state}, {phys}")
        if (state != "DOWN") != (phys == "LinkUp"):
            raise ImpossibleNode(f"a port that is {state} cannot be {phys}")
        if rate is not None and rate not in RATES:
            raise ImpossibleNode(f"no link has {rate} Gb/s")
        home, netdev = self.port(adapter), self.netdev(adapter)
        before = (home / "phys_state").read_text() if (home / "phys_state").exists() else ""
        said = f"{PHYSICAL[phys]}: {phys}"
        self.put(home / "state", f"{STATES[state]}: {state}")
        self.put(home / "phys_state", said)
        self.put(home / "rate", RATES[rate or self.adapters[adapter].rate if phys == "LinkUp" else 10])
        if before and (phys == "LinkUp") != before.strip().endswith("LinkUp"):
            self.put(netdev / "carrier_changes", int((netdev / "carrier_changes").read_text()) + 1)

    def netdev(self, adapter: str) -> Path:
        """The folder of an adapter's interface."""
        return self.adapters[adapter].home / "net" / self.adapters[adapter].netdev

    def count(self, adapter: str, counter: str, value: int) -> None:
        """A counter of a port. Counters rise; they begin anew with ``reboot`` alone."""
        kind = "counters" if counter in COUNTERS else "hw_counters"
        path = self.port(adapter) / kind / counter
        if not path.exists():
            raise ImpossibleNode(f"a port has no counter {counter}")
        if value < int(path.read_text()):
            raise ImpossibleNode(f"{counter} cannot fall to {value}")
        self.put(path, value)

    def ethtool(self, adapter: str, **values: int) -> None:
        """Statistics of an interface, those that are not named as they were."""
        path = self.netdev(adapter) / "ethtool_statistics"
        known = dict.fromkeys(ETHTOOL, 0)
        if path.exists():
            lines = [line.strip().split(": ") for line in path.read_text().splitlines()[1:]]
            known |= {name: int(value) for name, value in lines}
        for name, value in values.items():
            if value < known.get(name, 0):
                raise ImpossibleNode(f"{name} cannot fall to {value}")
        lines = [f"     {name}: {value}" for name, value in {**known, **values}.items()]
        self.put(path, "\n".join(["NIC statistics:", *lines]))

    def remove_adapter(self, name: str, from_bus: bool = False) -> None:
        """The driver gave the adapter up; ``from_bus``: so did the bus."""
        adapter = self.adapters.get(name)
        if adapter is None or not (self.sysfs / "class/infiniband" / name).is_symlink():
            raise ImpossibleNode(f"there is no adapter {name}")
        (self.sysfs / "class/infiniband" / name).unlink()
        (self.sysfs / "class/net" / adapter.netdev).unlink()
        shutil.rmtree(adapter.home / "infiniband")
        shutil.rmtree(adapter.home / "net")
        if from_bus:
            self.remove_pci(adapter.address)

    def remove_pci(self, address: str) -> None:
        """The device is gone from the bus."""
        home = self.pci(address)
        (self.sysfs / "bus/pci/devices" / address).unlink()
        shutil.rmtree(home)

    # --- PCIe, memory, sensors, drives ---

    def set_link(self, address: str, generation: int | None = None, width: int | None = None) -> None:
        """What a link does now; not more than it can."""
        home = self.pci(address)
        most = next(n for n, said in SPEEDS.items() if said == (home / "max_link_speed").read_text().strip())
        if generation is not None:
            if not 1 <= generation <= most:
                raise ImpossibleNode(f"{address} cannot do generation {generation}, its most is {most}")
            self.put(home / "current_link_speed", SPEEDS[generation])
        if width is not None:
            if width not in WIDTHS or width > int((home / "max_link_width").read_text()):
                raise ImpossibleNode(f"{address} cannot have {width} lanes")
            self.put(home / "current_link_width", width)

    def off_the_bus(self, address: str) -> None:
        """The device answers no more, as a GPU after Xid 79: all bits read as one."""
        home = self.pci(address)
        self.put(home / "config", b"\xff" * 4096)
        self.put(home / "current_link_speed", "Unknown")
        self.put(home / "current_link_width", 63)

    def aer(self, address: str, kind: str, error: str, count: int) -> None:
        """So many errors of one name; ``kind``: fatal, nonfatal or correctable."""
        names = AER_CORRECTABLE if kind == "correctable" else AER_FATAL
        if (error and error not in names) or count < 0:
            raise ImpossibleNode(f"no {kind} error is called {error}")
        total = {"fatal": "FATAL", "nonfatal": "NONFATAL", "correctable": "COR"}[kind]
        lines = [f"{name} {count if name == error else 0}" for name in names]
        self.put(self.pci(address) / f"aer_dev_{kind}", "\n".join([*lines, f"TOTAL_ERR_{total} {count}"]))

    def memory_errors(self, controller: int, dimm: int, corrected: int = 0, uncorrected: int = 0) -> None:
        """Errors of one DIMM; its controller counts them as well."""
        home = self.sysfs / f"devices/system/edac/mc/mc{controller}"
        if not (home / f"dimm{dimm}").is_dir():
            raise ImpossibleNode(f"there is no DIMM {dimm} at memory controller {controller}")
        for word, value in (("ce", corrected), ("ue", uncorrected)):
            old = int((home / f"dimm{dimm}/dimm_{word}_count").read_text())
            if value < old:
                raise ImpossibleNode(f"{word}_count cannot fall to {value}")
            self.put(home / f"dimm{dimm}/dimm_{word}_count", value)
            self.put(home / f"{word}_count", int((home / f"{word}_count").read_text()) + value - old)

    def temperature(self, sensor: str, celsius: float) -> None:
        """``hwmon3/temp1`` or ``zone0``."""
        if not -55 <= celsius <= 150:
            raise ImpossibleNode(f"no sensor shows {celsius} C")
        path = self.sysfs / f"class/thermal/thermal_{sensor}/temp"
        if "/" in sensor:
            path = self.sysfs / f"class/hwmon/{sensor}_input"
        if not path.exists():
            raise ImpossibleNode(f"there is no sensor {sensor}")
        self.put(path, round(celsius * 1000))

    def fan(self, sensor: str, rpm: int, alarm: bool) -> None:
        """A fan's speed; one that stands still has its alarm on."""
        if rpm < 0 or (rpm == 0 and not alarm):
            raise ImpossibleNode("a fan that stands still without an alarm")
        self.put(self.sysfs / f"class/hwmon/{sensor}_input", rpm)
        self.put(self.sysfs / f"class/hwmon/{sensor}_alarm", int(alarm))

    def drive(self, name: str, state: str = "live") -> None:
        """State of an NVMe controller."""
        if state not in ("live", "new", "resetting", "connecting", "deleting", "dead"):
            raise ImpossibleNode(f"no NVMe controller is {state}")
        if not (self.sysfs / "class/nvme" / name).is_dir():
            raise ImpossibleNode(f"there is no drive {name}")
        self.put(self.sysfs / "class/nvme" / name / "state", state)

    def smart(self, name: str, warning: int = 0, spare: int = 100, used: int = 1, media_errors: int = 0) -> None:
        """A drive's health log."""
        if not (0 <= warning <= 0x3F and 0 <= spare <= 100 and 0 <= used <= 255 and media_errors >= 0):
            raise ImpossibleNode("no drive says that of itself")
        if spare < 10 and not warning & 1:
            raise ImpossibleNode("spare below its threshold of 10 % sets bit 0 of the critical warning")
        log = bytearray(512)
        struct.pack_into("<BHBBB", log, 0, warning, 273 + 38, spare, 10, used)
        log[160:176] = media_errors.to_bytes(16, "little")
        self.put(self.sysfs / "class/nvme" / name / "smart_log", bytes(log))

    def remove_drive(self, name: str) -> None:
        """The drive is gone."""
        home = (self.sysfs / "class/nvme" / name).resolve()
        (self.sysfs / "class/nvme" / name).unlink()
        shutil.rmtree(home)

    # --- host ---

    def mount(self, point: str, kind: str, source: str, mounted: str = "rw", superblock: str = "rw") -> None:
        """Mount a file system, or change the options of one."""
        if mounted not in ("rw", "ro") or superblock not in ("rw", "ro"):
            raise ImpossibleNode(f"no mount is {mounted}, {superblock}")
        self.mounts[point] = (kind, source, mounted, superblock)
        self._write_mounts()

    def unmount(self, point: str) -> None:
        """Take a mount away."""
        if point not in self.mounts:
            raise ImpossibleNode(f"{point} is not mounted")
        del self.mounts[point]
        self._write_mounts()

    def room(self, point: str, size: int, free: int, inodes: int = 10_000_000, inodes_free: int = 9_000_000) -> None:
        """What statvfs says of a mount."""
        if free > size or inodes_free > inodes:
            raise ImpossibleNode(f"{point} has more free than there is")
        self.rooms[point] = (size, free, inodes, inodes_free)
        lines = [f"{name} {' '.join(map(str, numbers))}" for name, numbers in self.rooms.items()]
        self.put(self.procfs / "self/statvfs", "\n".join(lines))

    def memory(self, **kib: int) -> None:
        """Lines of meminfo, in KiB."""
        wanted = {**self.meminfo, **kib}
        if wanted["MemAvailable"] > wanted["MemTotal"] or wanted["SwapFree"] > wanted["SwapTotal"]:
            raise ImpossibleNode("more memory is available than there is")
        self.meminfo = wanted
        lines = [f"{name + ':':<15} {value:>9} kB" for name, value in wanted.items()]
        self.put(self.procfs / "meminfo", "\n".join([*lines, "HugePages_Total:       0", "HugePages_Free:        0"]))

    def process(self, pid: int, name: str, state: str = "S", started: int = 1000) -> None:
        """One process in the table."""
        if state not in "RSDTtZI":
            raise ImpossibleNode(f"no process is {state}")
        rest = " ".join(["0"] * 18)
        self.put(self.procfs / f"{pid}/stat", f"{pid} ({name}) {state} {rest} {started} 0 0")
        self.put(self.procfs / f"{pid}/comm", name[:15])
        self.put(self.procfs / f"{pid}/wchan", "nvidia_unlocked_ioctl" if state == "D" else "0")

    def end(self, pid: int) -> None:
        """The process is gone."""
        shutil.rmtree(self.procfs / str(pid))

    def clock(self, offset_s: float = 0.0, synchronised: bool = True) -> None:
        """What adjtimex says: an offset in us; a clock that nobody sets has the largest error there is."""
        if abs(offset_s) > 0.5:
            raise ImpossibleNode("the kernel steers by half a second at most; more is set at once")
        error_us = 1000 + abs(round(offset_s * 1e6)) if synchronised else 16_000_000
        self.put(
            self.procfs / "adjtimex",
            f"{0 if synchronised else 5} {0x1 if synchronised else 0x40:#x} {round(offset_s * 1e6)} {error_us}",
        )

    def service(self, name: str, active: str = "active", load: str = "loaded", restarts: int = 0) -> None:
        """What systemd says of a unit."""
        if load == "not-found" and active != "inactive":
            raise ImpossibleNode(f"{name} is not installed and yet {active}")
        self.units[name] = (load, active, restarts)
        blocks = [
            f"Id={unit}.service\nLoadState={load}\nActiveState={active}\nNRestarts={restarts}\nResult=success"
            for unit, (load, active, restarts) in self.units.items()
        ]
        self.put(self.procfs / "systemctl_show", "\n\n".join(blocks))

    def reboot(self, boot_id: str) -> None:
        """Another boot: every counter begins at 0."""
        if (self.procfs / "sys/kernel/random/boot_id").read_text().strip() == boot_id:
            raise ImpossibleNode("two boots have two ids")
        self.put(self.procfs / "sys/kernel/random/boot_id", boot_id)
        for adapter in self.adapters:
            for kind, names in (("counters", COUNTERS), ("hw_counters", HW_COUNTERS)):
                for name in names:
                    self.put(self.port(adapter) / kind / name, 0)
            self.put(self.netdev(adapter) / "ethtool_statistics", "NIC statistics:")
            self.ethtool(adapter)

    def _write_mounts(self) -> None:
        lines = [
            f"{20 + at} 1 259:{at} / {point.replace(' ', chr(92) + '040')} {mounted},relatime shared:{at} - "
            f"{kind} {source} {superblock}"
            for at, (point, (kind, source, mounted, superblock)) in enumerate(self.mounts.items())
        ]
        self.put(self.procfs / "self/mountinfo", "\n".join(lines))


def healthy(folder: Path, hardware: bool = True) -> Node:
    """A node as it should be, with its files below ``folder``.

    ``hardware`` False leaves out what PCI, sensors and memory controllers show: the rest is made in a few milliseconds.
    """
    node = Node(folder / "sys", folder / "proc")
    if hardware:
        _hardware(node)
    _host(node)
    return node


def _hardware(node: Node) -> None:
    adapters: list[tuple[int, str, str, int, str]] = []
    for index, bus in enumerate(GPU_BUSES):
        _switch_of(node, index, bus)
        adapters.append((bus + 1, _below(bus, 1, bus + 1), "InfiniBand", 400, "compute"))
    node.gpus = tuple(_address(bus) for bus in GPU_BUSES)
    for number, bus in enumerate(SWITCH_BUSES):
        port = f"pci0000:00/0000:00:{number + 1:02x}.0"
        _device(node, port, "0x060400", "0x8086", 5, 16, 0)
        _device(node, f"{port}/{_address(bus)}", "0x068000", "0x10de", 4, 2, 0)
    node.nvswitches = tuple(_address(bus) for bus in SWITCH_BUSES)
    for bus, numa, rate, role in ((STORAGE_BUS, 0, 200, "storage"), (MANAGEMENT_BUS, 1, 100, "management")):
        port = f"pci0000:{bus - 1:02x}/0000:{bus - 1:02x}:01.0"
        _device(node, port, "0x060400", "0x8086", 5, 16, numa)
        _device(node, f"{port}/{_address(bus)}", "0x020000", "0x15b3", 5, 16, numa)
        adapters.append((bus, f"{port}/{_address(bus)}", "Ethernet", rate, role))
    for number, (bus, path, layer, rate, role) in enumerate(sorted(adapters)):
        _adapter(node, f"mlx5_{number}", _address(bus), path, layer, rate, role)
    node.drives = tuple(f"nvme{index}" for index in range(len(GPU_BUSES)))
    _sensors(node)
    _memory_controllers(node)


def _address(bus: int) -> str:
    return f"0000:{bus:02x}:00.0"


def _below(gpu_bus: int, slot: int, bus: int) -> str:
    """The way from the root to what sits in a slot of the PCIe switch of a GPU."""
    root, up, down = gpu_bus - 3, gpu_bus - 2, gpu_bus - 1
    head = f"pci0000:{root:02x}/0000:{root:02x}:01.0/0000:{up:02x}:00.0/0000:{down:02x}:{slot:02x}.0"
    return f"{head}/{_address(bus)}"


def _switch_of(node: Node, index: int, bus: int) -> None:
    """A PCIe switch with a GPU, an adapter and a drive below it."""
    numa = 0 if index < len(GPU_BUSES) // 2 else 1
    parts = _below(bus, 0, bus).split("/")
    _device(node, "/".join(parts[:2]), "0x060400", "0x8086", 5, 16, numa)
    _device(node, "/".join(parts[:3]), "0x060400", "0x1000", 5, 16, numa)
    for slot, below in enumerate((bus, bus + 1, bus + 2)):
        _device(node, _below(bus, slot, below).rpartition("/")[0], "0x060400", "0x1000", 5, 16, numa)
    _device(node, _below(bus, 0, bus), "0x030200", "0x10de", 5, 16, numa)
    _device(node, _below(bus, 1, bus + 1), "0x020700", "0x15b3", 5, 16, numa)
    home = _device(node, _below(bus, 2, bus + 2), "0x010802", "0x144d", 4, 4, numa)
    drive = f"nvme{index}"
    node.put(home / "nvme" / drive / "state", "live")
    for word, said in (
        *(("model", "MZWLR3T8HBLS-00007"), ("serial", f"S6RBNE0T90{index:04d}"), ("firmware_rev", "MPP95D5Q")),
        ("transport", "pcie"),
    ):
        node.put(home / "nvme" / drive / word, said)
    _link(home / "nvme" / drive / "device", home)
    _link(node.sysfs / "class/nvme" / drive, home / "nvme" / drive)
    node.smart(drive)


def _device(node: Node, path: str, pci_class: str, vendor: str, generation: int, width: int, numa: int) -> Path:
    home = node.sysfs / "devices" / path
    address = home.name
    if (home / "class").exists():
        raise ImpossibleNode(f"two devices at {address}")
    for name, said in (("class", pci_class), ("vendor", vendor), ("numa_node", numa)):
        node.put(home / name, said)
    for word in ("current", "max"):
        node.put(home / f"{word}_link_speed", SPEEDS[generation])
        node.put(home / f"{word}_link_width", width)
    node.put(home / "config", config(int(vendor, 16), bridge=pci_class.startswith("0x0604")))
    _link(node.sysfs / "bus/pci/devices" / address, home)
    for kind in ("fatal", "nonfatal", "correctable"):
        node.aer(address, kind, "", 0)
    return home


def config(vendor: int, bridge: bool, redirects: bool = False) -> bytes:
    """A config space: advanced error reporting at 0x100, and for bridges access control services at 0x148."""
    room = bytearray(4096)
    struct.pack_into("<H", room, 0, vendor)
    struct.pack_into("<I", room, 0x100, 0x0001 | 1 << 16 | (0x148 if bridge else 0) << 20)
    if bridge:
        struct.pack_into("<IHH", room, 0x148, 0x000D | 1 << 16, 0x005F, 0b1111101 if redirects else 0)
    return bytes(room)


def _adapter(node: Node, name: str, address: str, path: str, layer: str, rate: int, role: str) -> None:
    home = node.sysfs / "devices" / path
    number = name.removeprefix("mlx5_")
    netdev = f"ib{number}" if layer == "InfiniBand" else f"ens{number}np0"
    node.adapters[name] = Adapter(name, address, home, netdev, layer, rate, role)
    _link(home / "driver", node.sysfs / "bus/pci/drivers/mlx5_core")
    (node.sysfs / "bus/pci/drivers/mlx5_core").mkdir(parents=True, exist_ok=True)
    device = home / "infiniband" / name
    for word, said in (("fw_ver", "28.39.3004"), ("board_id", "MT_0000000838"), ("hca_type", "MT4129")):
        node.put(device / word, said)
    for kind, names in (("counters", COUNTERS), ("hw_counters", HW_COUNTERS)):
        for counter in names:
            node.put(device / "ports/1" / kind / counter, 0)
    node.put(device / "ports/1/hw_counters/lifespan", 10)
    node.put(device / "ports/1/link_layer", layer)
    _link(device / "device", home)
    for word, said in (("dev_port", 0), ("carrier_changes", 2), ("carrier", 1)):
        node.put(home / "net" / netdev / word, said)
    _link(home / "net" / netdev / "device", home)
    _link(node.sysfs / "class/infiniband" / name, device)
    _link(node.sysfs / "class/net" / netdev, home / "net" / netdev)
    node.set_port(name)
    node.ethtool(name)


def _sensors(node: Node) -> None:
    package = (("Package id 0", 52, 100), ("Core 0", 50, 100), ("Core 1", 49, 100))
    chips: list[tuple[str, Path | None, tuple[tuple[str, int, int], ...]]] = [("coretemp", None, package)] * 2
    for drive in node.drives:
        home = (node.sysfs / "class/nvme" / drive).resolve().parents[1]
        chips.append(("nvme", home, (("Composite", 38, 84),)))
    chips += [("mlx5", one.home, (("asic", 61, 105),)) for one in node.adapters.values()]
    for number, (chip, device, sensors) in enumerate(chips):
        home = node.sysfs / f"class/hwmon/hwmon{number}"
        node.put(home / "name", chip)
        if device is not None:
            _link(home / "device", device)
        for at, (label, celsius, critical) in enumerate(sensors, start=1):
            for end, said in (("input", celsius * 1000), ("crit", critical * 1000), ("crit_alarm", 0)):
                node.put(home / f"temp{at}_{end}", said)
            node.put(home / f"temp{at}_label", label)
    board = node.sysfs / f"class/hwmon/hwmon{len(chips)}"
    node.put(board / "name", "board")
    for at in range(1, 5):
        for end, rpm in (("input", 9800), ("min", 2000), ("alarm", 0)):
            node.put(board / f"fan{at}_{end}", rpm)
    for zone in range(2):
        home = node.sysfs / f"class/thermal/thermal_zone{zone}"
        for name, said in (("type", "x86_pkg_temp"), ("temp", 52000), ("trip_point_0_type", "passive")):
            node.put(home / name, said)
        node.put(home / "trip_point_0_temp", 0)


def _memory_controllers(node: Node) -> None:
    for controller in range(8):
        home = node.sysfs / f"devices/system/edac/mc/mc{controller}"
        for word in ("ce_count", "ue_count", "ce_noinfo_count", "ue_noinfo_count"):
            node.put(home / word, 0)
        node.put(home / "mc_name", f"Intel_10nm Socket#{controller // 4} IMC#{controller % 4}")
        for dimm in range(4):
            node.put(home / f"dimm{dimm}/dimm_ce_count", 0)
            node.put(home / f"dimm{dimm}/dimm_ue_count", 0)
            label = f"CPU_SrcID#{controller // 4}_MC#{controller % 4}_Chan#{dimm // 2}_DIMM#{dimm % 2}"
            node.put(home / f"dimm{dimm}/dimm_label", label)


def _processors(node: Node) -> None:
    cpu = node.sysfs / "devices/system/cpu"
    for word in ("online", "present", "possible"):
        node.put(cpu / word, "0-111")
    for core in range(112):
        node.put(cpu / f"cpufreq/policy{core}/scaling_governor", "performance")
    node.put(node.sysfs / "devices/system/node/online", "0-1")


def _host(node: Node) -> None:
    _processors(node)
    proc = node.procfs
    version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.90.07  Release Build  (dvs-builder)"
    for path, said in (
        ("sys/kernel/random/boot_id", BOOT_ID),
        ("sys/kernel/osrelease", "5.15.0-1053-nvidia"),
        ("sys/kernel/pid_max", "4194304"),
        ("sys/kernel/threads-max", "16508916"),
        ("sys/fs/file-nr", "21504\t0\t9223372036854775807"),
        ("driver/nvidia/version", f"{version}\nGCC version:  gcc version 12.3.0"),
        ("loadavg", "12.50 11.80 10.90 9/3120 48211"),
        ("vmstat", "nr_free_pages 475000000\noom_kill 0"),
        ("net/route", _routes(node)),
        *(
            (f"pressure/{kind}", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n" + full)
            for kind, full in (("cpu", ""), ("memory", _FULL), ("io", _FULL))
        ),
    ):
        node.put(proc / path, said)
    node.clock()
    node.meminfo = dict(MEMINFO)
    node.memory()
    for module in ("nvidia", "nvidia_uvm", "nvidia_peermem", "gdrdrv", "mlx5_core", "mlx5_ib"):
        (node.sysfs / "module" / module).mkdir(parents=True)
    (node.sysfs / "fs/pstore").mkdir(parents=True)
    node.put(node.sysfs / "class/dmi/id/bios_version", "1.1.3")
    node.put(node.sysfs / "class/dmi/id/product_name", "HGX H100 node")
    node.mount("/", "ext4", "/dev/md0")
    node.mount("/raid", "xfs", "/dev/md1")
    node.mount("/ckpt", "lustre", "10.1.1.2@o2ib:10.1.1.3@o2ib:/ckpt")
    node.room("/", 900 * GB, 600 * GB)
    node.room("/raid", 28_000 * GB, 20_000 * GB)
    node.room("/ckpt", 5_000_000 * GB, 2_000_000 * GB, 0, 0)
    for pid, name in ((1, "systemd"), (2, "kthreadd"), (1843, "nv-fabricmanager"), (1850, "nvidia-persistenced")):
        node.process(pid, name)
    for service in SERVICES:
        node.service(service)
    for service in OTHER_SERVICES:
        node.service(service, "inactive", "not-found")


_FULL = "full avg10=0.00 avg60=0.00 avg300=0.00 total=0"


def _routes(node: Node) -> str:
    default = next((one.netdev for one in node.adapters.values() if one.role == "management"), "eth0")
    head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT"
    return f"{head}\n{default}\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0"


def _link(path: Path, to: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(to, path.parent))
