"""What the doors may ask of the controller, and who may ask for what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

import fastapi
from fastapi import security

from outrider import clock as clock_module
from outrider_controller import documents as documents_module
from outrider_controller import nodes as nodes_module
from outrider_controller import tokens as tokens_module
from outrider_controller.core import jobs
from outrider_controller.intake import failures


class House(Protocol):
    """The controller, as seen from its doors."""

    @property
    def clock(self) -> clock_module.Clock:
        """The time."""
        ...

    @property
    def tokens(self) -> tokens_module.Tokens:
        """Credentials."""
        ...

    @property
    def nodes(self) -> nodes_module.Nodes:
        """The agents' side."""
        ...

    @property
    def documents(self) -> documents_module.Documents:
        """The readers' side."""
        ...

    @property
    def controller_id(self) -> str:
        """Which ledger this is."""
        ...

    @property
    def epoch(self) -> int:
        """This controller's epoch."""
        ...

    def version(self) -> str:
        """Version of Outrider."""
        ...

    def about(self) -> dict[str, Any]:
        """Versions and identity."""
        ...

    def ailing(self) -> str:
        """Why the controller cannot do its work, empty while it can."""
        ...

    def damage(self) -> str:
        """What is wrong with its past, empty where nothing is known to be."""
        ...

    async def submit_job(self, spec: jobs.JobSpec, by: str = "person") -> None:
        """Take a job; raises ConflictError."""
        ...

    async def ask_job(self, job: str, verb: str, by: str) -> None:
        """Stop, hold, approve, reject; raises ConflictError and UnknownError."""
        ...

    async def ask_node(self, node: str, verb: str, by: str) -> None:
        """Cordon, uncordon; raises UnknownError."""
        ...


class ConflictError(Exception):
    """What was asked does not fit how things stand; ``remedy`` is the way out."""

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(text)
        self.remedy = remedy


_bearer = security.HTTPBearer(auto_error=False, description="The content of <state>/tokens/read or <state>/tokens/act")
Credentials = Annotated[security.HTTPAuthorizationCredentials | None, fastapi.Depends(_bearer)]


def house_of(connection: fastapi.Request | fastapi.WebSocket) -> House:
    """The controller behind a connection."""
    house: House = connection.app.state.house
    return house


def may_read(request: fastapi.Request, credentials: Credentials) -> None:
    """Either token reads; raises ApiError 401."""
    _right(request, credentials)


def may_act(request: fastapi.Request, credentials: Credentials) -> None:
    """The act token alone acts; raises ApiError 401 or 403."""
    if _right(request, credentials) != "act":
        raise failures.ApiError(
            403,
            "this token may read and not act",
            f"use the act token, which lies in {house_of(request).tokens.file('act')}",
        )


def bearer(headers: Mapping[str, str]) -> str:
    """The token of an Authorization header, empty without one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _right(request: fastapi.Request, credentials: security.HTTPAuthorizationCredentials | None) -> str:
    tokens = house_of(request).tokens
    given = credentials.credentials if credentials is not None else ""
    right = tokens.right(given[: tokens_module.TOKEN_CHARS_MAX])
    if right is None:
        words = "this token is not known here" if given else "a token is needed"
        remedy = f"send Authorization: Bearer TOKEN with the content of {tokens.file('read')} or {tokens.file('act')}"
        raise failures.ApiError(401, words, remedy)
    return right
