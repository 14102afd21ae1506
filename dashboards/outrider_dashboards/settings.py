"""What the page is told by the command that serves it: one JSON object in the environment, read once.

The environment and not a command line, because it holds the token, and command lines are seen by every user.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Final

VARIABLE: Final = "OUTRIDER_DASHBOARD"


class SettingsError(ValueError):
    """The page cannot be served like this; the message says by what it is served."""


@dataclass(frozen=True)
class Settings:
    """One served page."""

    controller_url: str
    token: str = ""  # to read with
    state: str = ""  # state directory in which a controller that was started again says its new address
    ca_file: str = ""  # certificates to trust in place of the system's
    job: str = ""  # shown first
    host: str = "127.0.0.1"
    port: int = 8471
    tls_cert: str = ""
    tls_key: str = ""
    viewer_token: str = ""  # asked of whoever opens the page
    public_url: str = ""
    behind_proxy: str = ""


def from_environment() -> Settings:
    """The settings of this process; raises SettingsError."""
    text = os.environ.get(VARIABLE)
    if not text:
        raise SettingsError(f"{VARIABLE} is not set: the page is served by `outrider dashboard`")
    try:
        return Settings(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{VARIABLE}: cannot be understood ({error}); use one version of Outrider") from error
