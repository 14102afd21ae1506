"""Serves the page with Streamlit: ``python -m outrider_dashboards``, a child of ``outrider dashboard``.

Ends when its standard input does, so that a parent that was killed leaves no page behind.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from urllib import parse

from outrider import addresses
from outrider_dashboards import settings as settings_module

PAGE = Path(__file__).parent / "page.py"


def main() -> None:
    """Serve until told to stop."""
    # The parent waits for its signals with them blocked, and a child inherits that.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    settings = settings_module.from_environment()
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    os.chdir(PAGE.parent)  # Streamlit reads .streamlit/config.toml, our theme, here
    from streamlit.web import cli

    sys.argv = ["streamlit", "run", str(PAGE), *options(settings)]
    cli.main()


def options(settings: settings_module.Settings) -> list[str]:
    """Streamlit's options. They outrank its configuration files; the rest is in .streamlit/config.toml."""
    found = {
        "server.address": settings.host,
        "server.port": settings.port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        # Named, so that Streamlit asks no service on the internet for this machine's address.
        "browser.serverAddress": _public_host(settings),
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",  # a traceback is for the log
    }
    if settings.tls_cert:
        found |= {"server.sslCertFile": settings.tls_cert, "server.sslKeyFile": settings.tls_key}
    words = [f"--{name}={value}" for name, value in found.items()]
    if addresses.is_loopback(settings.host):
        # A page of the internet whose name is made to mean 127.0.0.1 must not read this one.
        names = dict.fromkeys(("localhost", "127.0.0.1", "[::1]", "::1", settings.host, _public_host(settings)))
        words += [f"--server.allowedHosts={name}" for name in names]
    return words


def _public_host(settings: settings_module.Settings) -> str:
    return parse.urlsplit(settings.public_url).hostname or settings.host


def _end_with_parent() -> None:
    # read() and not iteration: nothing is ever said here, and the end is what is waited for
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
