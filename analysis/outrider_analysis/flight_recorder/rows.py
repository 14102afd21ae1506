"""Rows of a digest that came from elsewhere, checked before they are believed: types, ranges, lengths.

A digest is read by whoever judges the whole job, so one that is damaged or made up must cost itself alone: an error
names the place, the value and what was expected. A row is a list of values in the order of its fields.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

SHOWN_CHARS: Final = 40
BIG: Final = 2**63
_LIST: Final = frozenset({list, tuple})


@dataclass(frozen=True, slots=True)
class Field:
    """One value. ``most``: the bound of a number (which it stays below), or of a length."""

    name: str
    types: frozenset[type]
    most: int
    least: int = -1
    words: str = "a whole number"


def number(name: str, most: int = BIG, least: int = -1) -> Field:
    """A whole number from ``least`` to below ``most``."""
    return Field(name, frozenset({int}), most, least)


def count(name: str, most: int = 2**31) -> Field:
    """A number that may be unknown (null)."""
    return Field(name, frozenset({int, type(None)}), most, -1, "a whole number or null")


def flag(name: str) -> Field:
    """True or false."""
    return Field(name, frozenset({bool}), 2, 0, "true or false")


def text(name: str, most: int = 256) -> Field:
    """A text of at most so many characters."""
    return Field(name, frozenset({str}), most, 0, "a text")


def items(name: str, most: int) -> Field:
    """A list of at most so many items."""
    return Field(name, _LIST, most, 0, "a list")


def column(name: str, bytes_max: int) -> Field:
    """Bytes as text in base 64."""
    return Field(name, frozenset({str}), (bytes_max + 2) // 3 * 4, 0, "a text in base 64")


def check(row: Any, fields: Sequence[Field], where: str) -> Sequence[Any]:
    """The row itself. Raises ValueError where it is not one of these fields."""
    if type(row) not in _LIST or len(row) != len(fields):
        raise ValueError(f"{where}: {shown(row)} instead of a list of {len(fields)} values")
    for value, field in zip(row, fields, strict=True):
        kind = type(value)
        if kind not in field.types:
            raise ValueError(f"{where}, {field.name}: {shown(value)} instead of {field.words}")
        if kind is int:
            if not field.least <= value < field.most:
                raise ValueError(f"{where}, {field.name}: {shown(value)} is not from {field.least} to {field.most - 1}")
        elif kind is not bool and value is not None and len(value) > field.most:
            raise ValueError(f"{where}, {field.name}: has a length of {len(value)}; at most {field.most} was expected")
    return row  # type: ignore[no-any-return]


def texts(given: Any, most: int, chars: int, where: str) -> tuple[str, ...]:
    """A list of texts. Raises ValueError."""
    if type(given) not in _LIST or len(given) > most:
        raise ValueError(f"{where}: {shown(given)} instead of a list of at most {most} texts")
    for item in given:
        if type(item) is not str or len(item) > chars:
            raise ValueError(f"{where}: {shown(item)} instead of a text of at most {chars} characters")
    return tuple(given)


def opened(column_text: str, each: int, where: str) -> bytes:
    """The bytes of a column whose items have ``each`` of them. Raises ValueError."""
    try:
        found = binascii.a2b_base64(column_text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{where}: {shown(column_text)} is no text in base 64") from error
    if len(found) % each:
        raise ValueError(f"{where}: has {len(found)} bytes, which is no multiple of {each}")
    return found


def shown(value: Any) -> str:
    """A value for a message: short, whatever it is."""
    if type(value) in (dict, list, tuple):
        return f"a {'mapping' if type(value) is dict else 'list'} of {len(value)}"
    if type(value) is int and abs(value) >= 10**SHOWN_CHARS:
        return f"a number of {value.bit_length()} bits"
    return repr(value[:SHOWN_CHARS] if type(value) is str else value)
