"""A free port for a job's rendezvous, out of the kernel's way.

The kernel hands ports of its ephemeral range to any outgoing connection, so a port picked there may be gone before
rank 0 listens on it (eight ranks open dozens of connections while they start). We take one outside the range, prove it
by binding, and keep it from our other jobs for a while.
"""

from __future__ import annotations

import array
import errno
import random
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PORT_FIRST: Final = 10_000  # below lie the well-known services of a cluster
PORT_LAST: Final = 65_535
RESERVED_FOR_S: Final = 120.0  # a reservation that no attempt has used by then is free again
RESERVED_MAX: Final = 1_024
TRIES_MAX: Final = 512
EPHEMERAL_DEFAULT: Final = (32_768, 60_999)
EPHEMERAL_FILE: Final = "/proc/sys/net/ipv4/ip_local_port_range"


class PortError(OSError):
    """No port can be given; the message names the range or the port, and the way out."""


class Ports:
    """The ports this agent has promised of late. One owner, the orders."""

    def __init__(self, candidates: Sequence[int] | None = None, seed: int | None = None) -> None:
        self._candidates = candidates if candidates is not None else array.array("H", outside(ephemeral_range()))
        self._random = random.Random(seed)
        self._reserved: dict[int, float] = {}

    def reserve(self, wanted: int, now: float) -> int:
        """A port that can be bound at this moment: ``wanted``, or any when it is 0. ``now``: monotonic seconds."""
        self._reserved = {port: until for port, until in self._reserved.items() if until > now}
        if wanted:
            if not can_bind(wanted):
                raise PortError(f"port {wanted} is taken on this node; give another master_port, or 0 for any free one")
            return wanted
        tries = self._random.sample(self._candidates, min(TRIES_MAX, len(self._candidates)))
        for port in tries:
            if port not in self._reserved and can_bind(port):
                if len(self._reserved) < RESERVED_MAX:
                    self._reserved[port] = now + RESERVED_FOR_S
                return port
        raise PortError(
            f"none of {len(tries)} ports tried between {min(self._candidates, default=PORT_FIRST)} and "
            f"{max(self._candidates, default=PORT_LAST)} is free on this node; "
            "end what holds them, or name one with master_port"
        )


def outside(ephemeral: tuple[int, int]) -> list[int]:
    """Ports that the kernel gives to nobody by itself."""
    low, high = ephemeral
    free = [port for port in range(PORT_FIRST, PORT_LAST + 1) if not low <= port <= high]
    # A machine whose ephemeral range leaves nothing over still has to work.
    return free or list(range(PORT_FIRST, PORT_LAST + 1))


def ephemeral_range(path: str = EPHEMERAL_FILE) -> tuple[int, int]:
    """First and last port the kernel uses for outgoing connections."""
    try:
        low, high = Path(path).read_text().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return EPHEMERAL_DEFAULT


def can_bind(port: int) -> bool:
    """Whether ``port`` can be bound on every address, both families where the machine has both."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(("::", port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
    # A machine without IPv6 refuses the first in several ways; the second is what counts there, and both elsewhere.
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("0.0.0.0", port))
    except OSError:
        return False
    return True
