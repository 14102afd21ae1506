"""Where the running controller is, and with which token it is asked.

``--controller``, else OUTRIDER_CONTROLLER, else the one that wrote controller.json into the state directory. The
token is the one of ``--token-file``, else of OUTRIDER_TOKEN_FILE, else the state directory's for reading or for
acting.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Final

from outrider import places
from outrider_cli import errors, http_client

TOKEN_CHARS_MAX: Final = 512


def state_dir(options: argparse.Namespace) -> Path:
    """The state directory that is meant; it need not exist."""
    return places.state_dir(options.state)


def named_url(options: argparse.Namespace) -> str | None:
    """The address that a person gave, by option or environment."""
    return options.controller or os.environ.get("OUTRIDER_CONTROLLER") or None


def api(options: argparse.Namespace, right: str) -> http_client.Api | None:
    """The controller to ask, None where nobody named one and none has run here. ``right``: read or act."""
    state = state_dir(options)
    url = named_url(options) or recorded_url(state)
    if url is None:
        return None
    ca_file = Path(options.ca_file) if options.ca_file else None
    return http_client.Api(url, token(options, state, right), ca_file)


def needed_api(options: argparse.Namespace, right: str) -> http_client.Api:
    """The controller to ask; raises CommandError where there is none."""
    found = api(options, right)
    if found is None:
        raise errors.CommandError(
            f"no controller runs on {state_dir(options)}: start one with outrider controller, "
            "or name one with --controller URL, or its directory with --state DIR"
        )
    return found


def recorded_url(state: Path) -> str | None:
    """The address in controller.json, None where there is none or it is damaged. Raises PermissionError."""
    try:
        url = json.loads((state / "controller.json").read_text())["url"]
    except PermissionError:
        raise  # "could not look" is not "there is none"
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return url if isinstance(url, str) else None


def token(options: argparse.Namespace, state: Path, right: str) -> str:
    """The token that gives ``right`` (read or act), empty where there is none; raises CommandError."""
    given = options.token_file or os.environ.get("OUTRIDER_TOKEN_FILE")
    path = Path(given) if given else state / "tokens" / right
    try:
        with path.open(encoding="ascii") as file:
            found = file.read(TOKEN_CHARS_MAX).strip()
    except FileNotFoundError:
        if given is None:
            return ""
        raise errors.CommandError(f"--token-file {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise errors.CommandError(f"{path}: the token cannot be read: {error}. Give --token-file FILE") from error
    if not found:
        raise errors.CommandError(f"{path}: holds no token; `outrider controller` makes the tokens at its start")
    return found


def chosen_job(names: list[str], given: str | None, none: str = "there is none yet") -> str:
    """The job that is meant: the named one, or the only one. Raises CommandError naming those there are."""
    there = f"there are {', '.join(names)}" if names else none
    if given is not None and given not in names:
        raise errors.CommandError(f"--job {given!r} is unknown; {there}")
    if given is None and len(names) != 1:
        raise errors.CommandError(f"--job NAME is needed to pick a job; {there}")
    return given or names[0]
