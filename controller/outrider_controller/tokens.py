"""Who may do what: one credential per node, one that reads and one that acts, each in a file only its owner can read.

``<state>/tokens/read``, ``<state>/tokens/act`` and ``<state>/tokens/nodes/<node>`` hold one line each. They are
looked up when they are used, so a token made or replaced by another process (``outrider token node NAME``) counts at
once.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path
from typing import Final

from outrider import wire

TOKEN_BYTES: Final = 32
TOKEN_CHARS_MAX: Final = 512
NODES_MAX: Final = 65536
SETTLED_NS: Final = 1_000_000_000


class TokenError(Exception):
    """A token that cannot be made or trusted; the message names the file and the way out."""


class Tokens:
    """The credentials of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir / "tokens"
        self._nodes = self._dir / "nodes"
        self._known: dict[str, str] = {}  # SHA-256 of a node's token -> node
        self._seen_ns = 0  # change time of the nodes' folder at the last look; 0 asks for another look

    def prepare(self) -> None:
        """Make what is missing and prove that what is there is private; raises TokenError."""
        for folder in (self._dir, self._nodes):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise TokenError(f"{folder}: cannot be made: {error.strerror}") from error
            _prove_private(folder)
        for name in ("read", "act"):
            _read_or_make(self._dir / name)

    def file(self, name: str) -> Path:
        """Path of the ``read`` or ``act`` token."""
        return self._dir / name

    def node_file(self, node: str) -> Path:
        """Path of a node's token; raises TokenError for a name that no node can have."""
        if not wire.is_node_name(node):
            raise TokenError(
                f"node {node[: wire.NODE_LENGTH_MAX]!r}: a node's name is 1 to {wire.NODE_LENGTH_MAX} letters, "
                "digits, '-', '_' or '.', and begins with a letter or digit"
            )
        return self._nodes / node

    def make_node(self, node: str) -> str:
        """The node's token, made now if it has none."""
        path = self.node_file(node)
        self._nodes.mkdir(mode=0o700, parents=True, exist_ok=True)
        token = _read_or_make(path)
        self._known[_digest(token)] = node
        return token

    def right(self, token: str) -> str | None:
        """``act``, ``read`` or None. Both are always compared, so the time taken tells nothing."""
        matches = [hmac.compare_digest(_digest(token), _digest(_read(self._dir / name))) for name in ("act", "read")]
        return "act" if matches[0] else "read" if matches[1] else None

    def node_of(self, token: str) -> str | None:
        """The node whose token this is, None for nobody's.

        The look-up goes by digest, whose time says nothing about the token; the file has the last word, so a token that
        was withdrawn ends here.
        """
        if not token or len(token) > TOKEN_CHARS_MAX:
            return None
        digest = _digest(token)
        node = self._known.get(digest) or self._look_again(digest)
        if node is None:
            return None
        if hmac.compare_digest(_digest(_read(self._nodes / node)), digest):
            return node
        del self._known[digest]
        return None

    def _look_again(self, digest: str) -> str | None:
        """Read every node's file, but only where one came or went since: a stranger's guesses must cost little."""
        try:
            changed_ns = self._nodes.stat().st_mtime_ns
            if changed_ns == self._seen_ns:
                return None
            names = [name for name in sorted(os.listdir(self._nodes)) if name[0] != "."][:NODES_MAX]
        except OSError:
            return None
        # A folder that changed this very moment may change again within the resolution of its time.
        self._seen_ns = changed_ns if time.time_ns() - changed_ns > SETTLED_NS else 0
        self._known = {_digest(_read(self._nodes / name)): name for name in names}
        return self._known.get(digest)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _read(path: Path) -> str:
    """The token in a file; an unguessable one where there is none, so that nothing ever equals it."""
    try:
        with path.open(encoding="ascii") as file:
            return file.read(TOKEN_CHARS_MAX).strip() or secrets.token_hex(TOKEN_BYTES)
    except (OSError, UnicodeDecodeError):
        return secrets.token_hex(TOKEN_BYTES)


def _read_or_make(path: Path) -> str:
    """The token in a file. A new one appears under its name whole, so that a reader never finds half of it."""
    if path.exists():
        _prove_private(path)
        return _read(path)
    token = secrets.token_urlsafe(TOKEN_BYTES)
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(token + "\n")
            os.link(draft, path)
        except FileExistsError:
            return _read(path)
        finally:
            draft.unlink()
    except OSError as error:
        raise TokenError(f"{path}: cannot be written: {error.strerror}") from error
    return token


def _prove_private(path: Path) -> None:
    found = path.stat()
    if found.st_mode & 0o077:
        raise TokenError(f"{path}: others can read it (mode {found.st_mode & 0o777:o}); run chmod go-rwx {path}")
    if found.st_uid not in (os.getuid(), 0):
        raise TokenError(f"{path}: belongs to user {found.st_uid}, not to us; remove it or give another --state DIR")
