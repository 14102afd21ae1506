"""What a controller is told when it starts: read once at the entry, checked, frozen, and handed down.

Everything binds to loopback unless told otherwise; another address without TLS is refused with the way out, because
tokens would cross the network in clear.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib import parse

from outrider import addresses, wire
from outrider_controller.core import node_checks

PORT_DEFAULT: Final = 8470
SECRET_BYTES_MAX: Final = 4096


class SettingsError(ValueError):
    """A controller that cannot be started like this; the message names the option, the value and the way out."""


@dataclass(frozen=True)
class Settings:
    """One controller on one state directory."""

    state: Path
    address: str = "127.0.0.1"  # where people and agents reach it; anything but loopback needs TLS
    port: int = PORT_DEFAULT  # 0 takes a free one; controller.json says which
    tls_cert: Path | None = None  # PEM, with the chain
    tls_key: Path | None = None
    runbooks: Path | None = None  # None: those that came with this version
    webhook_url: str = ""  # told of opened and closed incidents; empty for nobody
    webhook_secret_file: Path | None = None  # signs what the webhook is sent
    check_before: str = "never"  # nodes are checked before they return, or also before they join (node_checks.BEFORE)
    heartbeat_s: float = wire.HEARTBEAT_S  # asked of agents; three missed ones make a node silent
    log_to_stderr: bool = True  # False where the terminal belongs to somebody else; the log file is written either way

    @property
    def tls(self) -> bool:
        """Connections are encrypted."""
        return self.tls_cert is not None


def check(settings: Settings) -> Settings:
    """Return ``settings`` when they hold together; raises SettingsError."""
    if not 0 <= settings.port <= 65535:
        raise SettingsError(f"--listen HOST:{settings.port}: is not a port; 0 takes a free one")
    if settings.check_before not in node_checks.BEFORE:
        raise SettingsError(f"--check-before {settings.check_before}: is none of {', '.join(node_checks.BEFORE)}")
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise SettingsError("--tls-cert and --tls-key: give both or neither")
    for option, path in (
        ("--tls-cert", settings.tls_cert),
        ("--tls-key", settings.tls_key),
        ("--webhook-secret-file", settings.webhook_secret_file),
    ):
        if path is not None and not (path.is_file() and os.access(path, os.R_OK)):
            raise SettingsError(f"{option} {path}: is missing or this user may not read it")
    if not settings.tls and not addresses.is_loopback(settings.address):
        raise SettingsError(
            f"--listen {settings.address}:{settings.port}: is not loopback, and without TLS the tokens would cross "
            "the network in clear. Give --tls-cert FILE and --tls-key FILE, or listen on 127.0.0.1"
        )
    _check_webhook(settings)
    return settings


def webhook_secret(settings: Settings) -> bytes:
    """The secret of the webhook, empty without one."""
    if settings.webhook_secret_file is None:
        return b""
    with settings.webhook_secret_file.open("rb") as file:
        secret = file.read(SECRET_BYTES_MAX).strip()
    if not secret:
        raise SettingsError(f"--webhook-secret-file {settings.webhook_secret_file}: is empty")
    return secret


def _check_webhook(settings: Settings) -> None:
    if not settings.webhook_url:
        if settings.webhook_secret_file is not None:
            raise SettingsError("--webhook-secret-file: has no --webhook URL to sign for")
        return
    try:
        parts = parse.urlsplit(settings.webhook_url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise SettingsError(
            f"--webhook {settings.webhook_url!r}: is not an address such as https://hooks.example/outrider"
        )
