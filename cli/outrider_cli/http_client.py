"""Asks a controller over HTTP with the standard library alone: JSON in, JSON out, every wait and every size bounded.

Whatever goes wrong becomes a CommandError that names the address, what was answered and the way out. A token never
leaves this machine unencrypted, and redirects are not followed, since they would carry it elsewhere.
"""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any, Final
from urllib import parse

from outrider import addresses
from outrider_cli import errors

TIMEOUT_S: Final = 20.0
ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024
ERROR_CHARS_MAX: Final = 500

Json = dict[str, Any]


class NoAnswerError(errors.CommandError):
    """Nobody listens at the address (any more)."""


class NotThereError(errors.CommandError):
    """The controller knows no such thing."""


class Api:
    """One controller. ``url``: its address; ``token``: what we may do there."""

    def __init__(self, url: str, token: str = "", ca_file: Path | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        self._parts = _checked(url)
        self._token = token
        self._timeout_s = timeout_s
        self._tls = _tls(ca_file) if self._parts.scheme == "https" else None

    def get(self, path: str) -> Any:
        """The JSON document at ``path``."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Json) -> Any:
        """Send ``body``; the JSON document that comes back."""
        return self._ask("POST", path, json.dumps(body).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        connection = self._connection()
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, body=body, headers=headers)
            answer = connection.getresponse()
            data = answer.read(ANSWER_BYTES_MAX + 1)
        except ssl.SSLCertVerificationError as error:
            raise errors.CommandError(
                f"{self.url}: its certificate is not trusted: {error}. Give --ca-file FILE"
            ) from error
        except ssl.SSLError as error:
            raise errors.CommandError(f"{self.url}: does not speak TLS as we do: {error}; is it http://?") from error
        except http.client.RemoteDisconnected as error:
            other = "https" if self._parts.scheme == "http" else "http"
            raise NoAnswerError(f"{self.url}: whoever listens there hung up; does it expect {other}://?") from error
        except ConnectionError as error:
            raise NoAnswerError(
                f"{self.url}: no controller answers ({error.strerror or error}). Start one with outrider controller"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswerError(
                f"{self.url}: no answer within {self._timeout_s:g} s: {error or type(error).__name__}"
            ) from error
        finally:
            connection.close()
        if len(data) > ANSWER_BYTES_MAX:
            raise errors.CommandError(f"{self.url}{path}: the answer is larger than {ANSWER_BYTES_MAX} bytes")
        return self._read(path, answer.status, data)

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._tls is not None:
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=self._timeout_s)

    def _read(self, path: str, status: int, data: bytes) -> Any:
        try:
            document = json.loads(data) if data else {}
        except ValueError:
            words = data[:ERROR_CHARS_MAX].decode(errors="replace").strip()
            raise errors.CommandError(
                f"{self.url}{path}: answered {status} with something that is not JSON: {words}"
            ) from None
        if status in (401, 403):
            words = _words(document) or "the token was refused"
            raise errors.CommandError(f"{self.url}: {words}. --token-file FILE gives another token")
        if status == 404:
            raise NotThereError(_words(document) or f"{self.url}{path}: there is no such thing")
        if status >= 300:
            raise errors.CommandError(_words(document) or f"{self.url}{path}: answered {status}")
        return document


def _words(document: Any) -> str:
    """What is wrong and what would help, as the controller says it; empty where it says neither."""
    if not isinstance(document, dict):
        return ""
    said = [str(document[key])[:ERROR_CHARS_MAX] for key in ("error", "remedy") if document.get(key)]
    return "; ".join(said)


def _checked(url: str) -> parse.SplitResult:
    try:
        parts = parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise errors.CommandError(f"controller {url!r}: is not an address such as http://127.0.0.1:8470")
    if parts.scheme == "http" and not addresses.is_loopback(parts.hostname or ""):
        raise errors.CommandError(
            f"controller {url!r}: would carry the token unencrypted off this machine; give https:// with --ca-file FILE"
        )
    return parts


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise errors.CommandError(f"--ca-file {ca_file}: cannot be used: {error}") from error
