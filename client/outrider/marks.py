"""Marks: what a training script says about its progress, as datagrams that can never hold it up.

Flow: ``attach`` reads the environment that the keeper set -> ``Run`` turns each call into one JSON datagram (at most
MARK_BYTES_MAX) for the agent's Unix socket. A full or absent socket loses the mark and counts it in ``Run.dropped``;
the few marks that say something once (attach, checkpoint) are tried again beside the next one.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import socket
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

from outrider import fence

MARK_VERSION: Final = 1
MARK_BYTES_MAX: Final = 2048
KEPT_MAX: Final = 16  # marks worth a second try
MESH_CHARACTERS_MAX: Final = 200
SAID_ONCE: Final = frozenset({"attach", "checkpoint"})


def attach(mesh: object = None, flops_per_token: float | None = None, environ: Mapping[str, str] = os.environ) -> Run:
    """Speak to the supervisor of this rank, if it has one. ``mesh``: text such as ``dp=2,pp=2`` or an outrider mesh."""
    run = Run(environ)
    known = None if mesh is None else _text(mesh)[:MESH_CHARACTERS_MAX]
    run._mark("attach", mesh=known, flops=_number(flops_per_token), phase="start")
    return run


class Run:
    """A rank's progress as it tells it. Every method returns at once and raises nothing, supervised or not."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.dropped = 0  # marks the agent did not take
        self.resume_from = environ.get("OUTRIDER_RESUME_FROM", "")  # checkpoint to load; empty for none
        self._environ = environ
        self._path = environ.get("OUTRIDER_MARKS", "")
        self._who = _identity(environ) if self._path else {}
        self._kept: list[bytes] = []
        self._socket = _socket() if self._who else None
        if self._socket is not None:
            atexit.register(self.close)

    def step(self, step: int, tokens: Any = None, loss: Any = None, grad_norm: Any = None) -> None:
        """Step number ``step`` is finished: tokens of the whole step over all ranks, its loss and gradient norm."""
        self._mark("step", step=_whole(step), tokens=_number(tokens), loss=_number(loss), grad_norm=_number(grad_norm))

    def phase(self, name: str) -> Phase:
        """``with run.phase("checkpoint"):`` tells what the time goes into: load, checkpoint, evaluation."""
        return Phase(self, name)

    def checkpoint_saved(self, path: Any, step: int) -> None:
        """The checkpoint of ``step`` is committed at ``path``."""
        self._mark("checkpoint", path=_text(path), step=_whole(step))

    def may_commit(self) -> bool:
        """Whether this rank's generation is still the newest; ask right before a checkpoint is made visible."""
        return fence.may_commit(self._environ)

    def close(self) -> None:
        """Say that the script is done. Called at exit by itself."""
        if self._socket is None or self._who["pid"] != os.getpid():
            return
        self._mark("done")
        self._socket.close()
        self._socket = None

    def _mark(self, kind: str, **values: object) -> None:
        # A forked helper of the rank inherits the Run; only the rank itself speaks.
        if self._socket is None or self._who["pid"] != os.getpid():
            return
        try:
            text = json.dumps({**self._who, "kind": kind, "at": time.time(), **values}, separators=(",", ":"))
            datagram = text.encode()
        except (TypeError, ValueError):
            self.dropped += 1
            return
        self._again()
        if not self._send(datagram):
            self._lost(kind, datagram)

    def _send(self, datagram: bytes) -> bool:
        if self._socket is None or len(datagram) > MARK_BYTES_MAX:
            return False
        try:
            self._socket.sendto(datagram, self._path)
        except OSError:
            return False
        return True

    def _again(self) -> None:
        while self._kept and self._send(self._kept[0]):
            del self._kept[0]

    def _lost(self, kind: str, datagram: bytes) -> None:
        if kind in SAID_ONCE and len(datagram) <= MARK_BYTES_MAX and len(self._kept) < KEPT_MAX:
            self._kept.append(datagram)
        else:
            self.dropped += 1


class Phase:
    """One stretch of time with a name; an exception inside passes through."""

    def __init__(self, run: Run, name: str) -> None:
        self._run = run
        self._name = name

    def __enter__(self) -> None:
        self._run._mark("begin", phase=self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run._mark("end", phase=self._name)


def _identity(environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields every mark carries; empty (and one line on stderr) where the environment makes no sense."""
    try:
        return {
            "v": MARK_VERSION,
            "rank": int(environ["RANK"]),
            "local_rank": int(environ["LOCAL_RANK"]),
            "pid": os.getpid(),
            "job": environ["OUTRIDER_JOB"],
            "gen": int(environ["OUTRIDER_GENERATION"]),
        }
    except (KeyError, ValueError) as error:
        _say(f"OUTRIDER_MARKS is set, but {error} is missing or no number: no marks are sent")
        return {}


def _socket() -> socket.socket | None:
    try:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        _say(f"no socket for marks ({error}): no marks are sent")
        return None
    return made


def _number(value: Any) -> float | str | None:
    """A plain number for JSON, with nan and the infinities as text. None for what is not at hand as a number."""
    if value is None or _is_elsewhere(value):
        return None
    try:
        number = float(value)
    except Exception:  # noqa: BLE001 - whatever a foreign number type raises, the training goes on
        return None
    return number if math.isfinite(number) else str(number)


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if isinstance(number, float) else None


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - as above
        return ""


def _is_elsewhere(value: object) -> bool:
    """A tensor whose value must be fetched: from a device, or from other ranks. Fetching would hold up the step."""
    if isinstance(value, int | float):
        return False
    try:
        kind = getattr(getattr(value, "device", None), "type", "cpu")
        return kind != "cpu" or hasattr(value, "placements")
    except Exception:  # noqa: BLE001 - as above
        return True


def _say(text: str) -> None:
    try:
        print(f"outrider: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # a closed stderr must not stop the training
