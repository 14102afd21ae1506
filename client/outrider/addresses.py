"""Which network addresses stay on this machine: tokens travel unencrypted to those alone."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether an address or name stays on this machine. A name other than localhost is not looked up, and does not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
