"""``outrider dashboard``: the web page of a running controller, served by a child process for as long as it is wanted.

In: where the controller is, the token to read with, where to listen. Out: the address of a page that answers. The
token reaches the child through its environment, never through a command line, and the child ends when this process
does, however that happens.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final
from urllib import parse

from outrider import addresses, vocabulary
from outrider_cli import errors, finding, http_client, parsing

HOST_DEFAULT: Final = "127.0.0.1"
PORT_DEFAULT: Final = 8471
PORTS_TRIED_MAX: Final = 32
START_S_MAX: Final = 90.0  # importing Streamlit takes 1 s on an idle machine, and tens of seconds on a loaded one
STOP_S_MAX: Final = 5.0
POLL_S: Final = 0.1
LOG_LINES_SHOWN: Final = 5
NEEDED: Final = ("streamlit", "plotly")
SETTINGS_VARIABLE: Final = "OUTRIDER_DASHBOARD"
NOT_HANDED_DOWN: Final = ("STREAMLIT_", "OUTRIDER_")

EXAMPLES: Final = """\
examples:
  outrider dashboard
      the page of the controller on this machine, at http://127.0.0.1:8471 or the next free port
  outrider dashboard --controller https://controller.example:8470 --token-file read.token --ca-file ca.pem
  outrider dashboard --listen 10.0.0.5:8471 --tls-cert chain.pem --tls-key key.pem --viewer-token-file page.token
      for other machines; whoever opens the page is asked for the content of page.token
  outrider dashboard --behind-proxy --public-url https://outrider.example
      a proxy on this machine does TLS and asks who comes
"""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the page listens and who may see it. ``port``: None takes PORT_DEFAULT or the next free one, 0 any."""

    host: str = HOST_DEFAULT
    port: int | None = None
    tls_cert: str = ""
    tls_key: str = ""
    viewer_token: str = ""  # asked of whoever opens the page; empty asks nobody
    behind_proxy: bool = False
    public_url: str = ""  # how people reach it, where that differs from the address


@dataclasses.dataclass
class Dashboard:
    """A page that is being served. ``url``: where people open it."""

    url: str
    child: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """End it; ending it twice is fine."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        if self.child.stdin is not None:
            self.child.stdin.close()
        self.log.unlink(missing_ok=True)


def start(
    controller_url: str,
    token: str,
    *,
    state: Path | None = None,
    ca_file: Path | None = None,
    job: str | None = None,
    place: Place | None = None,
) -> Dashboard:
    """Serve the page of one controller and return once it answers; blocks for seconds. Raises CommandError.

    ``state``: the controller's state directory, where one that was started again says its new address.
    """
    place = checked(place or Place())
    _check_installed()
    settings = {
        "controller_url": controller_url,
        "token": token,
        "state": str(state) if state else "",
        "ca_file": str(ca_file) if ca_file else "",
        "job": job or "",
    }
    port = place.port or None
    for candidate in _ports(place):
        found = _serve(settings, place, candidate)
        if found is not None:
            return found
    raise errors.CommandError(
        f"{place.host}:{port or PORT_DEFAULT}: the port is in use; give another with --listen HOST:PORT"
    )


def checked(place: Place) -> Place:
    """``place`` when it may be served; raises CommandError with the way out."""
    if bool(place.tls_cert) != bool(place.tls_key):
        raise errors.CommandError("--tls-cert and --tls-key: give both or neither")
    for option, name in (("--tls-cert", place.tls_cert), ("--tls-key", place.tls_key)):
        if name and not os.access(name, os.R_OK):
            raise errors.CommandError(f"{option} {name}: is missing or this user may not read it")
    if place.public_url and parse.urlsplit(place.public_url).scheme not in ("http", "https"):
        raise errors.CommandError(f"--public-url {place.public_url!r}: is not an address such as https://page.example")
    if addresses.is_loopback(place.host) or place.behind_proxy:
        return place
    if not (place.tls_cert and place.viewer_token):
        raise errors.CommandError(
            f"--listen {place.host}: is not loopback, and without TLS and a token everybody on the network could read "
            "the page. Give --tls-cert FILE, --tls-key FILE and --viewer-token-file FILE, or --behind-proxy where a "
            "proxy in front does that, or listen on 127.0.0.1"
        )
    if place.host in ("0.0.0.0", "::") and not place.public_url:
        raise errors.CommandError(
            f"--listen {place.host}: say with --public-url https://NAME:PORT how people reach it; "
            "browsers of other names are turned away"
        )
    return place


# --- the command


def add_to(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "dashboard",
        help="the web page: is it training, what interrupted it, where the time went",
        description="Serve the page of a running controller. It follows the job by itself and changes nothing.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--job", metavar="NAME", help="show this one first; the page lets you pick")
    add = parser.add_argument
    add("--listen", metavar="HOST:PORT", help=f"where it is served (default {HOST_DEFAULT}:{PORT_DEFAULT})")
    add("--tls-cert", metavar="FILE", help="certificate chain (PEM); needed off loopback")
    add("--tls-key", metavar="FILE", help="its key (PEM)")
    add("--viewer-token-file", metavar="FILE", help="whoever opens the page is asked for this; needed off loopback")
    add("--behind-proxy", action="store_true", help="a proxy in front does TLS and asks who comes")
    add("--public-url", metavar="URL", help="how people reach it, where that differs from --listen")
    parsing.add_places(parser)
    parser.set_defaults(handler=dashboard)


def dashboard(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    place = _place(options)
    api = finding.needed_api(options, "read")
    _check_installed()
    token = finding.token(options, finding.state_dir(options), "read")
    try:
        names = [str(item["job"]) for item in api.get("/v1/jobs")["jobs"]]
        if options.job and names:
            finding.chosen_job(names, options.job)
    except http_client.NoAnswerError as error:
        print(f"outrider: {error}; the page shows it once it answers.", file=sys.stderr)
    wanted = {signal.SIGINT, signal.SIGTERM}
    # Blocked while the child starts, so that it is never left behind; then waited for.
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    served = start(
        api.url,
        token,
        state=None if finding.named_url(options) else finding.state_dir(options),
        ca_file=Path(options.ca_file).absolute() if options.ca_file else None,
        job=options.job,
        place=place,
    )
    try:
        print(f"the page is at {served.url}; Ctrl-C ends it", flush=True)
        while signal.sigtimedwait(wanted, POLL_S) is None:
            if served.child.poll() is not None:
                raise errors.CommandError(f"the page has ended by itself: {_last_words(served.log)}")
    finally:
        served.stop()
    return vocabulary.EXIT_DONE


def _place(options: argparse.Namespace) -> Place:
    host, port = _listen(options.listen)
    return checked(
        Place(
            host=host,
            port=port,
            tls_cert=os.path.abspath(options.tls_cert) if options.tls_cert else "",
            tls_key=os.path.abspath(options.tls_key) if options.tls_key else "",
            viewer_token=_viewer_token(options.viewer_token_file),
            behind_proxy=options.behind_proxy,
            public_url=options.public_url or "",
        )
    )


def _listen(text: str | None) -> tuple[str, int | None]:
    if text is None:
        return HOST_DEFAULT, None
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise errors.CommandError(f"--listen {text!r} is not HOST:PORT, as in {HOST_DEFAULT}:{PORT_DEFAULT}")
    return host.strip("[]") or HOST_DEFAULT, int(port)


def _viewer_token(name: str | None) -> str:
    if not name:
        return ""
    try:
        token = Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.CommandError(f"--viewer-token-file {name}: cannot be read: {error}") from error
    if not token or len(token) > finding.TOKEN_CHARS_MAX:
        raise errors.CommandError(
            f"--viewer-token-file {name}: must hold 1 to {finding.TOKEN_CHARS_MAX} characters; "
            "openssl rand -hex 32 makes some"
        )
    return token


# --- the child


def _check_installed() -> None:
    with errors.extra("dashboard"):
        for name in NEEDED:
            if importlib.util.find_spec(name) is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _ports(place: Place) -> list[int]:
    if place.port == 0:
        return [_free_port(place.host, 0) for _ in range(PORTS_TRIED_MAX)]
    if place.port is not None:
        return [place.port]
    return list(range(PORT_DEFAULT, PORT_DEFAULT + PORTS_TRIED_MAX))


def _free_port(host: str, port: int) -> int:
    """``port``, or any for 0; 0 where it is taken. Raises CommandError where the address cannot be had at all."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (98, 48):
                return 0
            raise errors.CommandError(f"--listen {host}:{port}: cannot be used: {error.strerror or error}") from error
        return int(probe.getsockname()[1])


def _serve(settings: dict[str, str], place: Place, port: int) -> Dashboard | None:
    """A page on ``port``, None where somebody else has it."""
    if not _free_port(place.host, port):
        return None
    given = {**settings, "host": place.host, "port": port, **_for_viewers(place)}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_HANDED_DOWN)}
    handle, name = tempfile.mkstemp(prefix="outrider-dashboard-", suffix=".log")
    with os.fdopen(handle, "wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "outrider_dashboards"],
            env=inherited | {SETTINGS_VARIABLE: json.dumps(given)},
            stdin=subprocess.PIPE,  # closed when this process ends, which ends the child
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us; we end the child
        )
    found = Dashboard(_url(place, port), child, Path(name))
    try:
        _wait_until_it_answers(found, _health_url(place, port))
    except BaseException:
        words = _last_words(found.log)
        found.stop()
        if "already in use" in words or "not available" in words:
            return None
        raise
    return found


def _for_viewers(place: Place) -> dict[str, str]:
    return {
        "tls_cert": place.tls_cert,
        "tls_key": place.tls_key,
        "viewer_token": place.viewer_token,
        "public_url": place.public_url,
        "behind_proxy": "yes" if place.behind_proxy else "",
    }


def _wait_until_it_answers(found: Dashboard, health: str) -> None:
    until = time.monotonic() + START_S_MAX
    context = ssl.create_default_context()
    context.check_hostname = False  # our own child, on this machine
    context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    while time.monotonic() < until:
        if found.child.poll() is not None:
            raise errors.CommandError(f"the page could not be served: {_last_words(found.log)}")
        try:
            with opener.open(health, timeout=2.0) as answer:
                if answer.status == 200:
                    return
        except (OSError, urllib.error.URLError):
            pass  # not yet
        time.sleep(POLL_S)
    raise errors.CommandError(f"the page did not answer within {START_S_MAX:g} s: {_last_words(found.log)}")


def _health_url(place: Place, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(place.host, place.host)
    return f"{'https' if place.tls_cert else 'http'}://{_shown(host)}:{port}/_stcore/health"


def _url(place: Place, port: int) -> str:
    return place.public_url or f"{'https' if place.tls_cert else 'http'}://{_shown(place.host)}:{port}"


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return " | ".join(lines[-LOG_LINES_SHOWN:]) or "it left no word"
