"""Names of the readings of InfiniBand and RoCE ports.

The port's counters are those of the InfiniBand specification (class/infiniband in the kernel's stable ABI), the
hardware's are mlx5's. Drivers add more: those are read too, under the file's name.
"""

from __future__ import annotations

from typing import Final

from outrider_agent.signals import files

_PORT: Final = "class/infiniband/DEVICE/ports/PORT"
# 4 bytes each: the specification counts data in words of four octets.
_DATA: Final = ("port_xmit_data", "port_rcv_data")
_COUNTERS: Final = (
    "VL15_dropped",
    "excessive_buffer_overrun_errors",
    "link_downed",
    "link_error_recovery",
    "local_link_integrity_errors",
    "multicast_rcv_packets",
    "multicast_xmit_packets",
    "port_rcv_constraint_errors",
    "port_rcv_errors",
    "port_rcv_packets",
    "port_rcv_remote_physical_errors",
    "port_rcv_switch_relay_errors",
    "port_xmit_constraint_errors",
    "port_xmit_discards",
    "port_xmit_packets",
    "port_xmit_wait",
    "symbol_error",
    "unicast_rcv_packets",
    "unicast_xmit_packets",
)
_HARDWARE: Final = (
    "clear_to_send",
    "duplicate_request",
    "implied_nak_seq_err",
    "local_ack_timeout_err",
    "np_cnp_sent",
    "np_ecn_marked_roce_packets",
    "out_of_buffer",
    "out_of_sequence",
    "packet_seq_err",
    "req_cqe_error",
    "req_cqe_flush_error",
    "req_remote_access_errors",
    "req_remote_invalid_request",
    "req_transport_retries_exceeded",
    "resp_cqe_error",
    "resp_cqe_flush_error",
    "resp_local_length_error",
    "resp_remote_access_errors",
    "rnr_nak_retry_err",
    "roce_adp_retrans",
    "roce_adp_retrans_to",
    "roce_slow_restart",
    "roce_slow_restart_cnps",
    "roce_slow_restart_trans",
    "rp_cnp_handled",
    "rp_cnp_ignored",
    "rx_atomic_requests",
    "rx_dct_connect",
    "rx_icrc_encapsulated",
    "rx_read_requests",
    "rx_write_requests",
)

READINGS: Final[files.Names] = {
    "port_state": files.Kind("", f"{_PORT}/state"),
    "port_phys_state": files.Kind("", f"{_PORT}/phys_state"),
    "port_rate": files.Kind("Gb/s", f"{_PORT}/rate"),
    "link_layer": files.Kind("", f"{_PORT}/link_layer"),
    "carrier_changes": files.Kind("", "class/net/INTERFACE/carrier_changes", counter=True),
    "port_down_s": files.Kind("s", "since when state and phys_state are not ACTIVE and LinkUp"),
    "port_flaps": files.Kind("", "times that the port was down for at least 25 s and came back", counter=True),
    "port_expected": files.Kind("", "a port beside a GPU, or one that was seen to work"),
    "port_role": files.Kind("", "PCIe and NUMA distance to the GPUs, default route"),
    "adapter_present": files.Kind("", "class/infiniband/DEVICE"),
    "adapters": files.Kind("", "class/infiniband"),
    "adapters_on_bus": files.Kind("", "bus/pci/devices with an RDMA driver"),
    "ports_active": files.Kind("", "ports beside a GPU (without any: expected ones) that are ACTIVE and LinkUp"),
    "ports_expected": files.Kind("", "ports beside a GPU; without any, ports that were seen to work"),
    **{name: files.Kind("", f"{_PORT}/counters/{name}", counter=True) for name in _COUNTERS},
    **{name: files.Kind("4 bytes", f"{_PORT}/counters/{name}", counter=True) for name in _DATA},
    **{name: files.Kind("", f"{_PORT}/hw_counters/{name}", counter=True) for name in _HARDWARE},
}


def other(name: str) -> files.Kind:
    """The kind of a counter that is not in the table."""
    return files.Kind("", f"{_PORT}/counters or hw_counters/{name}", counter=True)
