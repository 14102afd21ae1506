"""Finding the controller and being let in: from settings to an open connection that has been welcomed.

In: settings, and the state directory as it is at this moment (a controller that restarts listens on another port, and a
token may be made anew). Out: a connection and its Welcome, or one of two errors, which tell the caller what to do:

    DialError
        AwayError        nobody is there now; try again soon
        TurnedAwayError  somebody is there and does not take us; a person has to act, so try again slowly
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import websockets
from websockets.asyncio import client

from outrider import wire
from outrider_agent import codec
from outrider_agent import settings as settings_module

OPEN_TIMEOUT_S: Final = 5.0
WELCOME_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 1.0
PING_INTERVAL_S: Final = 10.0  # a controller that answers no ping for as long again counts as gone
CONTROLLER_FILE: Final = "controller.json"

# The library writes request headers, and with them the token, to its log when that is set to debug; ours never is.
_quiet = logging.getLogger("outrider_agent.websocket")
_quiet.setLevel(logging.INFO)


class DialError(Exception):
    """No connection this time."""


class AwayError(DialError):
    """Nobody is there now; trying again soon is right."""


class TurnedAwayError(DialError):
    """The controller, or common sense, refuses this agent; ``remedy`` is what a person can do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True)
class Target:
    """Where to dial. The token stays out of ``repr``, and so out of logs."""

    url: str
    token: str
    tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"Target({self.url})"


class _ControllerFile(msgspec.Struct):
    url: str


def target(settings: settings_module.Settings) -> Target:
    """The controller of this moment and the token for it; raises DialError."""
    url = settings.controller_url or _url_from_state(settings.state)
    try:
        url = settings_module.websocket_url(url)
    except settings_module.SettingsError as error:
        raise TurnedAwayError(str(error), "then start this agent again") from error
    return Target(url, _token(settings), _tls(settings.ca_file) if url.startswith("wss:") else None)


def signature(settings: settings_module.Settings) -> tuple[tuple[int, int, int] | None, ...]:
    """Changes when a controller has started in the state directory or the token or CA file was written anew."""
    paths = (settings.state / CONTROLLER_FILE, token_path(settings), settings.ca_file)
    return tuple(_stamp(path) for path in paths)


def token_path(settings: settings_module.Settings) -> Path:
    """The file that holds this node's token."""
    return settings.token_file or settings.state / "tokens" / "nodes" / settings.node


async def dial(where: Target, hello: wire.Hello) -> tuple[client.ClientConnection, wire.Welcome]:
    """Connect, say ``hello`` and be welcomed; raises DialError. The caller closes the connection."""
    connection = await _connect(where)
    try:
        await connection.send(codec.encode(hello), text=True)
        async with asyncio.timeout(WELCOME_TIMEOUT_S):
            answer = codec.decode(await connection.recv())
    except TimeoutError as error:
        await connection.close()
        raise AwayError(f"the controller at {where.url} did not answer hello within {WELCOME_TIMEOUT_S:g} s") from error
    except websockets.ConnectionClosed as error:
        raise _closed_early(where, error) from error
    except codec.CodecError as error:
        await connection.close()
        raise TurnedAwayError(
            f"{where.url} answered hello with {error}", "is it the controller of this version?"
        ) from error
    except BaseException:
        await connection.close()
        raise
    if isinstance(answer, wire.Welcome) and wire.PROTOCOL_OLDEST <= answer.protocol <= wire.PROTOCOL:
        return connection, answer
    await connection.close()
    raise _not_welcome(answer)


async def _connect(where: Target) -> client.ClientConnection:
    try:
        return await client.connect(
            where.url,
            additional_headers={"Authorization": f"Bearer {where.token}"},
            proxy=None,  # the token is for the controller, not for whatever HTTP_PROXY names
            ssl=where.tls,
            max_size=wire.FRAME_BYTES_MAX,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=PING_INTERVAL_S,
            compression=None,  # frames are small; compressing would cost the ranks' cores more than it saves
            logger=_quiet,
        )
    except websockets.InvalidStatus as error:
        raise _status(where, error.response.status_code) from error
    except ssl.SSLError as error:
        remedy = "give --ca-file with the certificate that signed the controller's"
        raise TurnedAwayError(f"the certificate of {where.url} cannot be trusted ({error.reason})", remedy) from error
    except (OSError, TimeoutError, websockets.InvalidHandshake, websockets.InvalidURI, EOFError) as error:
        raise AwayError(f"no controller answers at {where.url}: {error or type(error).__name__}") from error


def _status(where: Target, status: int) -> DialError:
    if status in (401, 403):
        return TurnedAwayError(
            f"the controller at {where.url} does not accept this node's token (HTTP {status})",
            "make it anew with `outrider token node NAME` on the controller's machine and put it in the token file",
        )
    if status == 404:
        return TurnedAwayError(f"{where.url} is not a door for agents (HTTP 404)", "check the controller's address")
    return AwayError(f"the controller at {where.url} is not ready (HTTP {status})")


def _closed_early(where: Target, error: websockets.ConnectionClosed) -> DialError:
    close = error.rcvd
    if close is not None and (close.code in (1008, 4401, 4403) or 4000 <= close.code < 5000):
        return TurnedAwayError(f"the controller at {where.url} refused: {close.reason or close.code}", "see its log")
    return AwayError(f"the controller at {where.url} ended the connection before a welcome")


def _not_welcome(answer: wire.FromController) -> TurnedAwayError:
    if isinstance(answer, wire.Refused):
        return TurnedAwayError(f"the controller refused this agent: {answer.reason}", answer.remedy)
    if isinstance(answer, wire.Welcome):
        spoken = f"{wire.PROTOCOL_OLDEST} to {wire.PROTOCOL}"
        reason = f"the controller (version {answer.version}) speaks protocol {answer.protocol}, this agent {spoken}"
        return TurnedAwayError(reason, "install the same version of outrider on both")
    return TurnedAwayError(
        f"the controller answered hello with {answer.type}", "install the same version of outrider on both"
    )


def _url_from_state(state: Path) -> str:
    path = state / CONTROLLER_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=_ControllerFile).url
    except FileNotFoundError as error:
        raise AwayError(f"no controller has started in {state} yet") from error
    except (OSError, msgspec.DecodeError) as error:
        raise AwayError(f"{path} does not say where the controller is: {error}") from error


def _token(settings: settings_module.Settings) -> str:
    path = token_path(settings)
    remedy = f"make one with `outrider token node {settings.node}` on the controller's machine"
    try:
        words = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise TurnedAwayError(
            f"the token of node {settings.node} cannot be read from {path}: {error}", remedy
        ) from error
    if len(words) != 1:
        raise TurnedAwayError(f"{path} holds {len(words)} words where one token is expected", remedy)
    return words[0]


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise TurnedAwayError(f"{ca_file} cannot be read as certificates: {error}", "give another --ca-file") from error


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
