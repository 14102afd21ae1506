"""Rows of the ledger and frames of agents as JSON, and back, strictly.

In: bytes that an older or newer version, a damaged disk or a stranger may have written. Out: records, or a CodecError
that says what is wrong. Unknown fields pass, because fields are only ever added; missing and mistyped ones do not.

    CodecError
      UnknownRowError     a kind or a schema that this version does not know: a newer controller wrote it
"""

from __future__ import annotations

import functools
from typing import Any, Final

import msgspec

from outrider import wire
from outrider_controller.core import jobs, records

TEXT_SHOWN_MAX: Final = 64


class CodecError(ValueError):
    """Bytes that are not the record they should be; the message says which and why."""


class UnknownRowError(CodecError):
    """A row that a newer version wrote; this one must not guess what it means."""


class _Peek(msgspec.Struct):
    type: str


def row_data(row: records.Row) -> str:
    """The fields of a row as one JSON object; numbers that JSON lacks (NaN) become null."""
    return msgspec.json.encode(row).decode()


def row(kind: str, schema: int, data: str | bytes) -> records.Row:
    """The row that ``row_data`` wrote; raises UnknownRowError for a newer one and CodecError for a damaged one."""
    if schema > records.SCHEMA:
        raise UnknownRowError(
            f"a row of kind {kind!r} has schema {schema}, this version reads up to {records.SCHEMA}; "
            "run the version of Outrider that wrote the ledger, or a newer one"
        )
    if kind not in records.ROWS:
        raise UnknownRowError(
            f"a row is of kind {kind[:TEXT_SHOWN_MAX]!r}, which this version does not know; "
            "run the version of Outrider that wrote the ledger, or a newer one"
        )
    try:
        found: records.Row = _decoder(records.ROWS[kind]).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"a row of kind {kind!r} cannot be read: {error}") from error
    return found


def job(document: dict[str, Any]) -> jobs.JobSpec:
    """The job as it will read from the ledger; raises JobError where it will not."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document))
    return jobs.parse(found)


def from_agent(frame: str | bytes) -> wire.FromAgent:
    """The message in an agent's frame; raises CodecError for anything that an agent does not say."""
    size = len(frame)
    if size > wire.FRAME_BYTES_MAX:
        raise CodecError(f"a frame of {size} bytes is larger than the {wire.FRAME_BYTES_MAX} that a message may have")
    try:
        name = msgspec.json.decode(frame, type=_Peek).type
        cls = wire.MESSAGES.get(name)
        if cls not in (wire.Hello, wire.Observations, wire.Heartbeat, wire.Marks, wire.OrderResult):
            raise CodecError(f"type {name[:TEXT_SHOWN_MAX]!r} is not a message of an agent")
        message: wire.FromAgent = _decoder(cls).decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"a frame of {size} bytes is not a message: {error}") from error
    return message


def to_agent(message: wire.FromController) -> str:
    """One message as its text frame."""
    return msgspec.json.encode(message).decode()


def protocol_of(frame: str | bytes) -> int | None:
    """The protocol number of a hello that cannot be read otherwise; None when there is none."""
    try:
        found = msgspec.json.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    number = found.get("protocol") if isinstance(found, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else None


@functools.cache
def _decoder(cls: type) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(cls, strict=True)
