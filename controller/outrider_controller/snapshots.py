"""The core's whole state as one JSON document, and back, so that a start need not read a long ledger from row 1.

In: the state after some row. Out: a ``ledger.Snapshot`` of it; or the state of one, or a SnapshotError that says why it
cannot be used. Nothing is guessed: a snapshot is taken only by a program whose state has the same fields throughout and
whose core is the same code, down to the last line, because another ``evolve`` may read the same rows differently.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
import typing
from pathlib import Path
from typing import Any, Final

import msgspec

from outrider import version
from outrider_controller import core, ledger
from outrider_controller.core import records
from outrider_controller.core import state as states

ROWS_BETWEEN: Final = 2_000  # a start evolves at most so many rows after a snapshot, which takes a fraction of a second
ROWS_AT_STOP_MIN: Final = 200  # fewer are read faster than a snapshot is written


class SnapshotError(Exception):
    """A snapshot that cannot be used; the message says why. The rows are still there."""


def take(state: states.State, seq: int, row_sum: str) -> ledger.Snapshot:
    """The snapshot of ``state`` after row ``seq``, whose checksum is ``row_sum``."""
    data = msgspec.json.encode(state)
    return ledger.Snapshot(seq, records.SCHEMA, shape(), row_sum, _sum(data), data)


def restore(snapshot: ledger.Snapshot, row_sum: str | None) -> states.State:
    """The state that ``take`` was given; raises SnapshotError. ``row_sum``: checksum of that row in the ledger."""
    if snapshot.schema != records.SCHEMA or snapshot.shape != shape():
        raise SnapshotError("another version of Outrider wrote it")
    if row_sum is None or snapshot.row_sum != row_sum:
        raise SnapshotError(f"row {snapshot.seq} is not the row that it was taken after")
    if not isinstance(snapshot.data, bytes) or snapshot.sum != _sum(snapshot.data):
        raise SnapshotError("its checksum is wrong")
    try:
        found: states.State = _decoder().decode(snapshot.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise SnapshotError(f"it cannot be read: {error}") from error
    return found


@functools.cache
def shape() -> str:
    """What a snapshot of this program looks like: the state's fields throughout, and the code that made it."""
    digest = hashlib.blake2b(version.__version__.encode(), digest_size=ledger.CHECKSUM_BYTES)
    for line in _fields(states.State, {}).values():
        digest.update(line.encode())
    for path in sorted(Path(core.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _fields(hint: Any, found: dict[type, str]) -> dict[type, str]:
    """Every dataclass that ``hint`` reaches, with the names and types of its fields."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint not in found:
        hints = typing.get_type_hints(hint)
        own = [(field.name, hints[field.name]) for field in dataclasses.fields(hint)]
        found[hint] = f"{hint.__qualname__}({', '.join(f'{name}: {kind!r}' for name, kind in own)})"
        for _, kind in own:
            _fields(kind, found)
    elif isinstance(hint, types.GenericAlias | types.UnionType) or typing.get_origin(hint) is not None:
        for inner in typing.get_args(hint):
            _fields(inner, found)
    return found


@functools.cache
def _decoder() -> msgspec.json.Decoder[states.State]:
    return msgspec.json.Decoder(states.State, strict=True)


def _sum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=ledger.CHECKSUM_BYTES).hexdigest()
