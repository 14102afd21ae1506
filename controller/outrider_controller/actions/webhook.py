"""The generic webhook: a JSON POST when an incident opens and when it closes.

In: an incident's contract document. Out: delivered, or why not. The event id is the effect's, so a receiver that sees
it twice (we crashed between sending and recording) can drop the second. With a secret, ``X-Outrider-Signature`` is
``sha256=`` and the HMAC of the body. Redirects are not followed: they would carry the report to a place nobody chose.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from dataclasses import dataclass
from typing import Any, Final
from urllib import parse

import httpx

from outrider import clock as clock_module
from outrider_controller import incident_documents

TRIES_MAX: Final = 4
BACKOFF_FIRST_S: Final = 0.5
TIMEOUT_S: Final = 5.0
TRY_AGAIN: Final = frozenset({408, 425, 429})  # beside every 5xx: the receiver asks for another try

# The library writes every address it calls to its log, and an address may hold a secret.
logging.getLogger("httpx").setLevel(logging.WARNING)


class _PermanentError(Exception):
    """Trying again would bring the same answer."""


@dataclass(frozen=True)
class Webhook:
    """One address to tell. The secret stays out of ``repr``, and so out of logs."""

    url: str
    clock: clock_module.Clock
    secret: bytes = b""
    timeout_s: float = TIMEOUT_S
    backoff_first_s: float = BACKOFF_FIRST_S

    def __repr__(self) -> str:
        return f"Webhook({self.name})"

    @property
    def name(self) -> str:
        """The sink in words: the host alone, because a path often holds a secret."""
        return f"webhook {parse.urlsplit(self.url).hostname}"

    async def send(self, event_id: str, event: str, incident: dict[str, Any]) -> str | None:
        """Deliver one event, trying at most TRIES_MAX times; None when delivered, else the reason it was not."""
        document = {
            "event": event,
            "event_id": event_id,
            "sent_at": incident_documents.iso(self.clock.now()),
            "incident": incident,
        }
        body = json.dumps(document, allow_nan=False, default=str).encode()
        headers = self._headers(event_id, event, body)
        why = ""
        async with httpx.AsyncClient(timeout=self.timeout_s, follow_redirects=False) as client:
            for tries in range(TRIES_MAX):
                if tries:
                    await self.clock.sleep(self.backoff_first_s * 2 ** (tries - 1))
                try:
                    why = await self._try(client, body, headers)
                except _PermanentError as error:
                    return str(error)
                if not why:
                    return None
        return f"{why}; given up after {TRIES_MAX} tries"

    async def _try(self, client: httpx.AsyncClient, body: bytes, headers: dict[str, str]) -> str:
        try:
            async with client.stream("POST", self.url, content=body, headers=headers) as answer:
                status = answer.status_code  # the body is not read: it may have no end
        except httpx.HTTPError as error:
            return f"{self.name} cannot be reached: {type(error).__name__}"
        except httpx.InvalidURL as error:
            raise _PermanentError(f"{self.name}: the address cannot be used: {error}") from error
        if 200 <= status < 300:
            return ""
        if status >= 500 or status in TRY_AGAIN:
            return f"{self.name} answered {status}"
        reason = "which points elsewhere; redirects are not followed" if 300 <= status < 400 else "and will again"
        raise _PermanentError(f"{self.name} answered {status}, {reason}")

    def _headers(self, event_id: str, event: str, body: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "outrider",
            "X-Outrider-Event": event,
            "X-Outrider-Event-Id": event_id,
        }
        if self.secret:
            headers["X-Outrider-Signature"] = "sha256=" + hmac.new(self.secret, body, hashlib.sha256).hexdigest()
        return headers
