"""Asks a controller's REST door with the standard library alone. Every wait and every size is bounded.

Errors: LookError
          AwayError      nobody answers, or the answer is none of a controller
          RefusedError   the token is not taken
          NotThereError  the controller knows no such thing (an older one may lack the path)
"""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any, Final
from urllib import parse

from outrider import addresses

TIMEOUT_S: Final = 5.0  # a person waits; a report of 54 days takes a controller less
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
ERROR_CHARS_MAX: Final = 300

Json = dict[str, Any]


class LookError(Exception):
    """The controller could not be looked at; the message says why and what would help."""


class AwayError(LookError):
    """Nobody answers."""


class RefusedError(LookError):
    """The token is not taken."""


class NotThereError(LookError):
    """No such thing there."""


class Api:
    """One controller."""

    def __init__(self, url: str, token: str = "", ca_file: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        self._parts = parse.urlsplit(self.url)
        self._token = token
        self._ca_file = ca_file
        self._timeout_s = timeout_s

    def get(self, path: str, **query: object) -> Json:
        """The JSON object at ``path``; raises LookError."""
        asked = {name: value for name, value in query.items() if value is not None}
        target = self._parts.path + path + (f"?{parse.urlencode(asked)}" if asked else "")
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = self._connection()
        try:
            connection.request("GET", target, headers=headers)
            answer = connection.getresponse()
            data = answer.read(ANSWER_BYTES_MAX + 1)
        except TimeoutError as error:
            raise AwayError(f"no answer from {self.url} within {self._timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            words = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AwayError(f"no controller answers at {self.url} ({words})") from error
        finally:
            connection.close()
        return self._read(path, answer.status, data)

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            try:
                context = ssl.create_default_context(cafile=self._ca_file or None)
            except (OSError, ssl.SSLError) as error:
                raise AwayError(f"the certificates of {self._ca_file} cannot be used: {error}") from error
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        if not addresses.is_loopback(host):
            raise AwayError(f"{self.url} would carry the token unencrypted off this machine; give an https:// address")
        return http.client.HTTPConnection(host, port, timeout=self._timeout_s)

    def _read(self, path: str, status: int, data: bytes) -> Json:
        if len(data) > ANSWER_BYTES_MAX:
            raise AwayError(f"the answer of {self.url}{path} is larger than {ANSWER_BYTES_MAX} bytes")
        try:
            document = json.loads(data)
        except ValueError:
            document = None
        if status in (401, 403):
            raise RefusedError(_words(document) or f"{self.url} does not take this token")
        if status == 404:
            raise NotThereError(_words(document) or f"there is nothing at {self.url}{path}")
        if status != 200 or not isinstance(document, dict):
            raise AwayError(_words(document) or f"{self.url}{path} answered {status}, and not as a controller does")
        return document


def _words(document: object) -> str:
    if not isinstance(document, dict):
        return ""
    said = [str(document[key])[:ERROR_CHARS_MAX] for key in ("error", "remedy") if document.get(key)]
    return "; ".join(said)
