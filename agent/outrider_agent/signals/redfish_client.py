"""GET requests to a Redfish service, within bounds: time, requests, bytes, one address.

In: settings, paths. Out: resources as dictionaries, or RedfishError with a sentence that never holds the password.
Certificates are verified, by the system's list or by the file that the settings name; without TLS only loopback is
asked. Standard library alone, so that the agent needs nothing for a controller that most nodes do not configure.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib import parse

from outrider import addresses
from outrider.records import Json

REQUESTS_MAX: Final = 256
ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
ANSWER_WITHIN_S: Final = 10.0
CREDENTIALS_BYTES_MAX: Final = 4096
MEMBERS_MAX: Final = 4096
_BLOCK: Final = 65_536


class RedfishError(Exception):
    """The controller could not be asked, or its answer is of no use; the message says what and why."""


class NotThere(RedfishError):
    """The controller has no such resource."""


@dataclass(frozen=True)
class Settings:
    """Where the controller is. ``credentials``: a file with ``user:password`` that nobody else may read."""

    url: str
    credentials: Path
    ca_file: Path | None = None


class Client:
    """One look's requests, over one connection that is opened again where the controller closes it."""

    def __init__(self, settings: Settings, within_s: float) -> None:
        self._parts = _checked(settings.url)
        self._authorization = _authorization(settings.credentials)
        self._context = _context(settings) if self._parts.scheme == "https" else None
        self._until = time.monotonic() + within_s
        self._connection: http.client.HTTPConnection | None = None
        self.requests = 0

    def get(self, path: str) -> Json:
        """One resource. Raises RedfishError."""
        if not path.startswith("/redfish/"):
            raise RedfishError(f"{path[:120]!r} is no path of a Redfish service")
        if self.requests >= REQUESTS_MAX:
            raise RedfishError(f"{path}: not asked, {REQUESTS_MAX} requests were made already")
        self.requests += 1
        try:
            status, body = self._ask(path)
        except (OSError, http.client.HTTPException) as error:
            self._close()
            said = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or str(error)
            raise RedfishError(f"{path}: {said or type(error).__name__}") from None
        if status in (401, 403):
            raise RedfishError(f"{path}: status {status}; the credentials file is refused")
        if status == 404:
            raise NotThere(f"{path}: status 404")
        if status != 200:
            raise RedfishError(f"{path}: status {status}")
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            raise RedfishError(f"{path}: the answer is no JSON") from None
        if not isinstance(found, dict):
            raise RedfishError(f"{path}: the answer is no resource")
        return found

    def members(self, path: str, pages_max: int = 4, absent_is_empty: bool = False) -> Iterator[Json]:
        """The members of a collection, each fetched where the collection holds only its address."""
        held = 0
        for _ in range(pages_max):
            if not path:
                return
            try:
                page = self.get(path)
            except NotThere:
                if absent_is_empty:
                    return
                raise
            members = page.get("Members")
            for member in members if isinstance(members, list) else ():
                held += 1
                if held > MEMBERS_MAX or not isinstance(member, dict):
                    return
                only_address = set(member) <= {"@odata.id"}
                yield self.get(str(member.get("@odata.id", ""))) if only_address else member
            following = page.get("Members@odata.nextLink") or page.get("@odata.nextLink")
            path = following if isinstance(following, str) and members else ""
        if path:
            raise RedfishError(f"{path}: more than {pages_max} pages")

    def _ask(self, path: str) -> tuple[int, bytes]:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time of this look is over")
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        connection.timeout = min(left, ANSWER_WITHIN_S)
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        headers = {"Authorization": self._authorization, "Accept": "application/json", "OData-Version": "4.0"}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = self._body(answer)
        if answer.will_close:
            self._close()
        return answer.status, body

    def _body(self, answer: http.client.HTTPResponse) -> bytes:
        """All of it, within the look's time, however slowly it trickles."""
        blocks: list[bytes] = []
        size = 0
        while block := answer.read1(_BLOCK):
            blocks.append(block)
            size += len(block)
            if size > ANSWER_BYTES_MAX:
                raise http.client.HTTPException(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
            if time.monotonic() > self._until:
                raise TimeoutError("the time of this look is over")
        answer.close()  # read1 leaves an answer of known length open, and the connection would take no other request
        return b"".join(blocks)

    def _connect(self) -> http.client.HTTPConnection:
        host, port = str(self._parts.hostname), self._parts.port
        if self._context is not None:
            return http.client.HTTPSConnection(host, port or 443, context=self._context)
        return http.client.HTTPConnection(host, port or 80)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _checked(url: str) -> parse.SplitResult:
    parts = parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise RedfishError("the controller's address is not of the form https://bmc.example; credentials go in a file")
    if parts.scheme == "http" and not addresses.is_loopback(parts.hostname):
        raise RedfishError(f"{url}: would carry the password unencrypted; give https:// with a CA file where needed")
    return parts


def _authorization(path: Path) -> str:
    """The header. The file is refused when others may read it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            mode = os.fstat(file).st_mode
            said = os.read(file, CREDENTIALS_BYTES_MAX).strip()
        finally:
            os.close(file)
    except OSError as error:
        raise RedfishError(f"credentials {path}: {error.strerror or error}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise RedfishError(f"credentials {path}: may be read by others; chmod 600 {path}")
    if b":" not in said or b"\n" in said:
        raise RedfishError(f"credentials {path}: holds no single line user:password")
    return f"Basic {base64.b64encode(said).decode()}"


def _context(settings: Settings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise RedfishError(f"CA file {settings.ca_file}: {error}") from None


def check(settings: Settings) -> Any:
    """Raise RedfishError where the settings cannot work, before anything is asked."""
    return Client(settings, 0.0)
