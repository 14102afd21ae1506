"""Wire messages as text frames and back, strictly: a frame that does not fit its record is refused with the reason.

In: frames of at most wire.FRAME_BYTES_MAX bytes, from a peer that may be of another version or broken. Out: records of
``outrider.wire``. Unknown fields pass (a newer peer may say more); missing or mistyped ones are a CodecError.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from outrider import wire


class CodecError(ValueError):
    """A frame that is not one of the messages; the text names what is wrong with it."""


class _Peek(msgspec.Struct):
    type: str


def encode(message: wire.FromAgent) -> bytes:
    """One message as the UTF-8 of its text frame."""
    return msgspec.json.encode(message)


def decode(frame: str | bytes) -> wire.FromController:
    """The message in ``frame``; raises CodecError for anything that a controller does not say."""
    size = len(frame)
    if size > wire.FRAME_BYTES_MAX:
        raise CodecError(f"a frame of {size} bytes is larger than the {wire.FRAME_BYTES_MAX} a message may have")
    try:
        name = msgspec.json.decode(frame, type=_Peek).type
        cls = wire.MESSAGES.get(name)
        if cls not in (wire.Welcome, wire.Refused, wire.Ack, wire.Order):
            raise CodecError(f"type {name[:64]!r} is not a message of a controller")
        message: wire.FromController = _decoder(name).decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CodecError(f"a frame of {size} bytes is not a message: {error}") from error
    return message


@functools.cache
def _decoder(name: str) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(wire.MESSAGES[name], strict=True)
