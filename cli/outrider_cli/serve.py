"""``outrider controller`` and ``outrider token``: the standing controller, and the credentials of its agents."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from outrider import places
from outrider_cli import errors, parsing

CONTROLLER_EXAMPLES = """\
examples:
  outrider controller
      on this machine alone: binds to loopback, makes the tokens, says where it listens
  outrider controller --listen 10.0.0.5:8470 --tls-cert chain.pem --tls-key key.pem
      for agents on other machines; each needs the token that `outrider token node NAME` prints
"""


def add_to(commands: Any) -> None:
    """Add the sub-commands."""
    _add_controller(commands)
    _add_token(commands)


def _add_controller(commands: Any) -> None:
    parser = commands.add_parser(
        "controller",
        help="run the controller until it is told to stop",
        description="Take in what agents see, decide, act, and record all of it in the state directory's ledger.",
        epilog=CONTROLLER_EXAMPLES,
    )
    parsing.add_places(parser, controller=False)
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="where agents and people reach it (default 127.0.0.1:8470)"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate chain (PEM); needed off loopback")
    parser.add_argument("--tls-key", metavar="FILE", help="its key (PEM)")
    parser.add_argument("--runbooks", metavar="DIR", help="the policy (default: the runbooks of this version)")
    parser.add_argument("--webhook", metavar="URL", help="is told of opened and closed incidents, as JSON")
    parser.add_argument("--webhook-secret-file", metavar="FILE", help="key of the webhook's HMAC signature")
    parser.add_argument(
        "--check-before",
        metavar="WHEN",
        choices=("never", "return", "join"),
        default="never",
        help="have nodes checked: before they return to use (return), also before they first join (join), or never",
    )
    parser.set_defaults(handler=run_controller)


def _add_token(commands: Any) -> None:
    parser = commands.add_parser(
        "token",
        help="make and print an agent's credential",
        description="Tokens lie in the state directory, in files that only their owner can read.",
        epilog="example:\n  outrider token node n17 > n17.token",
    )
    parser.add_argument("kind", metavar="KIND", choices=["node"], help="node")
    parser.add_argument("name", metavar="NAME", help="the node's name, as its agent gives it with --node")
    parsing.add_places(parser, controller=False)
    parser.set_defaults(handler=print_token)


def run_controller(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    with errors.extra("controller"):
        from outrider_controller import settings, standing
    state = prepared_state(options.state)
    address, port = _listen(options.listen, settings.PORT_DEFAULT)
    chosen = settings.Settings(
        state=state,
        address=address,
        port=port,
        tls_cert=_path(options.tls_cert),
        tls_key=_path(options.tls_key),
        runbooks=_path(options.runbooks),
        webhook_url=options.webhook or "",
        webhook_secret_file=_path(options.webhook_secret_file),
        check_before=options.check_before,
    )
    return asyncio.run(standing.main(chosen))


def print_token(options: argparse.Namespace) -> int:
    """Print the node's token, made now if it has none."""
    from outrider_controller import tokens

    try:
        held = tokens.Tokens(prepared_state(options.state))
        held.prepare()
        print(held.make_node(options.name))
    except tokens.TokenError as error:
        raise errors.CommandError(str(error)) from error
    sys.stdout.flush()
    return 0


def prepared_state(given: str | None) -> Path:
    """The state directory, made and proven usable."""
    try:
        return places.make_private(places.state_dir(given))
    except places.PlaceError as error:
        raise errors.CommandError(str(error)) from error


def _path(text: str | None) -> Path | None:
    return Path(text).absolute() if text else None


def _listen(text: str | None, port_default: int) -> tuple[str, int]:
    if text is None:
        return "127.0.0.1", port_default
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise errors.CommandError(f"--listen {text!r} is not HOST:PORT, as in 127.0.0.1:{port_default}")
    return host.strip("[]") or "127.0.0.1", int(port)
