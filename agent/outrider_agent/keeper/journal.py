"""The keeper's numbered events, on disk before anyone hears of them, and kept until they are acknowledged.

Flow: events -> one JSON line each in ``events.jsonl`` (synced) -> the client, from any number on, as often as it asks.
Numbers grow for as long as the file lives, over deaths of the keeper too; ``identity`` names the file, so that
numbers of a later file are never taken for these.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any, Final

EVENTS_MAX: Final = 10_000  # unacknowledged; beyond it no attempt is started
TRIM_BYTES: Final = 64 * 1024  # a longer file is rewritten once its beginning is acknowledged

Event = dict[str, Any]


class Journal:
    """Invariant: every number in ``_events`` is below ``next_event`` and above the newest acknowledged one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._events: dict[int, Event] = {}
        self.identity = secrets.token_hex(8)
        self.next_event = 1
        self._behind = False  # the disk lacks something that memory holds
        self._fd = -1
        self._read()
        self._rewrite()

    @property
    def full(self) -> bool:
        """So many events wait for an acknowledgement that nothing new may begin."""
        return len(self._events) >= EVENTS_MAX

    @property
    def empty(self) -> bool:
        """Every event is acknowledged."""
        return not self._events

    def add(self, events: list[Event]) -> list[tuple[int, Event]]:
        """Number and keep ``events``; they are on disk when this returns (or the trouble is in the keeper's log)."""
        numbered = list(enumerate(events, start=self.next_event))
        self._events.update(numbered)
        self.next_event += len(numbered)
        if self._behind:
            self._rewrite()
        else:
            self._append(numbered)
        return numbered

    def since(self, from_event: int) -> list[tuple[int, Event]]:
        """The kept events from a number on, in order."""
        return [(n, event) for n, event in self._events.items() if n >= from_event]

    def ack(self, event: int) -> None:
        """Forget every event up to this number."""
        for n in [n for n in self._events if n <= event]:
            del self._events[n]
        try:
            long = self._path.stat().st_size > TRIM_BYTES
        except OSError:
            long = True
        if long:
            self._rewrite()

    def fileno(self) -> int:
        """The open file, which a forked rank closes."""
        return self._fd

    def _append(self, numbered: list[tuple[int, Event]]) -> None:
        lines = "".join(_line(n, event) for n, event in numbered).encode()
        try:
            if os.write(self._fd, lines) != len(lines):
                raise OSError("the disk took only a part")
            os.fdatasync(self._fd)
        except OSError as error:
            # Losing what a rank's end was is worse than telling it before it is safe: it stays in memory and is
            # written with the next event.
            self._behind = True
            print(f"keeper: events cannot be written to {self._path}: {error}", file=sys.stderr, flush=True)

    def _rewrite(self) -> None:
        head = json.dumps({"journal": self.identity, "next": self.next_event}) + "\n"
        lines = head + "".join(_line(n, event) for n, event in self._events.items())
        part = self._path.with_suffix(".part")
        try:
            part.write_text(lines)
            fd = os.open(part, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            os.fsync(fd)
            os.replace(part, self._path)
        except OSError as error:
            if self._fd < 0:
                raise
            self._behind = True
            print(f"keeper: {self._path} cannot be rewritten: {error}", file=sys.stderr, flush=True)
            return
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._behind = False

    def _read(self) -> None:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        head = _decoded(lines[0]) if lines else None
        if head is None or not isinstance(head.get("journal"), str) or not isinstance(head.get("next"), int):
            os.replace(self._path, self._path.with_suffix(".damaged"))
            return
        self.identity, self.next_event = head["journal"], head["next"]
        for line in lines[1:]:
            entry = _decoded(line)  # None for a torn last line: it was never told to anyone
            if entry is not None and isinstance(entry.get("n"), int) and isinstance(entry.get("event"), dict):
                self._events[entry["n"]] = entry["event"]
                self.next_event = max(self.next_event, entry["n"] + 1)


def _line(n: int, event: Event) -> str:
    return json.dumps({"n": n, "event": event}) + "\n"


def _decoded(line: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
