"""The bytes of one dump -> Dump, or Unreadable with the reason. Nothing in the bytes is ever carried out.

A pickle is a program; this one is given no names at all, so that it can build dicts, lists, texts and numbers and do
nothing else. What it can still do is use up memory, so whoever reads strangers' files does it in a process that is
bounded. The forms: pickle (2.0 to 2.10 and newer minors), JSON, and the bare list of formats before 2.0 in either.

A field that has another form than it should costs that field or that entry and never the file; ``problems`` says so.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

DUMP_BYTES_MAX: Final = 256 * 1024 * 1024  # a ring of 65,536 entries with stacks is a tenth of that
ENTRIES_MAX: Final = 262_144
READ_AHEAD_BYTES: Final = 128 * 1024
GROUPS_MAX: Final = 16_384
WORD_CHARS_MAX: Final = 256
NEVER: Final = -1

_VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,4})")
_WHOLE: Final = re.compile(r"-?\d{1,18}")
_KNOWN: Final = ("version", "pg_config", "pg_status", "entries", "comm_lib_version", "nccl_version", "nccl_comm_state")
_RANK: Final = re.compile(r"(\d{1,7})(?:\.(?:pkl|pickle|json|bin|dump|trace))?$")


@dataclass(frozen=True, slots=True)
class Config:
    """A process group as ``pg_config`` names it; ``ranks`` is the text as it stands there."""

    name: str
    description: str
    ranks: str


@dataclass(frozen=True, slots=True)
class Status:
    """``pg_status`` of one local group number; NEVER (-1) before the first."""

    enqueued: int = NEVER
    started: int = NEVER
    completed: int = NEVER


@dataclass(frozen=True, slots=True)
class Dump:
    """One rank's dump. ``entries`` are mappings as they came, oldest first; their values are checked by the digest."""

    form: str  # pickle or json
    version: tuple[int, int]  # (1, 0) for the bare list
    entries: tuple[Mapping[str, Any], ...]
    groups: tuple[Config, ...] = ()
    status: Mapping[str, Status] = field(default_factory=dict)
    library: str = ""
    unknown: Mapping[str, Any] = field(default_factory=dict)  # keys of a newer format, kept as they came
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that is no dump that can be read. ``kind``: empty, too-large, refused, damaged or foreign."""

    kind: str
    why: str


class _RefusedError(Exception):
    """The pickle asks for something that no dump needs; the message names it."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise _RefusedError(f"the pickle asks for {_shown(f'{module}.{name}')}; a dump holds plain values alone")

    def persistent_load(self, pid: object) -> Any:
        raise _RefusedError("the pickle asks for an object by a persistent id; a dump holds plain values alone")


def read(data: bytes) -> Dump | Unreadable:
    """Read one dump. MemoryError goes through: it says something about the caller's bounds."""
    if not data:
        return Unreadable("empty", "the file is empty")
    if len(data) > DUMP_BYTES_MAX:
        return Unreadable("too-large", f"{len(data)} bytes; at most {DUMP_BYTES_MAX} are read")
    as_json = data[:1] != b"\x80" and data.lstrip()[:1] in (b"{", b"[")
    try:
        found = json.loads(data) if as_json else _Plain(_ahead(data), encoding="utf-8").load()
    except _RefusedError as error:
        return Unreadable("refused", str(error))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged pickle may raise nearly anything
        if not as_json and data[:1] != b"\x80":
            return Unreadable("foreign", f"neither a pickle nor JSON: it begins with {_shown(repr(data[:16]))}")
        form = "JSON" if as_json else "pickle"
        return Unreadable("damaged", f"no {form} that can be read: {type(error).__name__}: {_shown(str(error))}")
    return _dump("json" if as_json else "pickle", found)


def _ahead(data: bytes) -> io.BufferedReader:
    """A file that may be looked ahead in: without that the unpickler fetches every opcode by a call of its own."""
    return io.BufferedReader(io.BytesIO(data), READ_AHEAD_BYTES)


def rank_of(name: str) -> int | None:
    """The rank that a file's name ends with (nothing inside a dump says it); None where it ends with no number."""
    found = _RANK.search(name)
    return int(found[1]) if found else None


def _dump(form: str, found: object) -> Dump | Unreadable:
    given: object = None
    if type(found) is list:
        if found and not any(type(entry) is dict for entry in found):
            return Unreadable("foreign", f"a {form} of a list without a single mapping, but no flight record")
        found = {"entries": found}
        version: tuple[int, int] | None = (1, 0)
    elif type(found) is dict and any(key in found for key in _KNOWN[:4]):
        given = found.get("version")
        version = _version(given)
    elif type(found) is dict and "outrider_flight_record" in found:
        return Unreadable("foreign", "a digest, not a dump: `outrider fr merge` judges those")
    else:
        return Unreadable("foreign", f"a {form} of {type(found).__name__}, but no flight record")
    if version is None:
        return Unreadable(
            "foreign", f"a flight record of format {_shown(_word(given)) or type(given).__name__}; 2.x is read"
        )
    problems: list[str] = []
    library = found.get("comm_lib_version", found.get("nccl_version"))
    return Dump(
        form=form,
        version=version,
        entries=_entries(found.get("entries"), problems),
        groups=_groups(found.get("pg_config"), problems),
        status=_status(found.get("pg_status"), problems),
        library=_word(library),
        unknown={key: value for key, value in found.items() if key not in _KNOWN},
        problems=tuple(problems),
    )


def _version(given: object) -> tuple[int, int] | None:
    """Two whole numbers, since 2.10 follows 2.9. A dump without one is read as what it holds."""
    if given is None:
        return (2, 0)
    match = _VERSION.fullmatch(given) if isinstance(given, str) else None
    return (int(match[1]), int(match[2])) if match and match[1] in ("1", "2") else None


def _entries(given: object, problems: list[str]) -> tuple[Mapping[str, Any], ...]:
    if given is None:
        return ()
    if not isinstance(given, list | tuple):
        problems.append(f"entries: {type(given).__name__} instead of a list; passed over")
        return ()
    if len(given) > ENTRIES_MAX:
        problems.append(f"entries: {len(given)}; the newest {ENTRIES_MAX} are read")
        given = given[-ENTRIES_MAX:]
    if set(map(type, given)) <= {dict}:
        return tuple(given)
    entries = tuple(entry for entry in given if type(entry) is dict)
    if len(entries) < len(given):
        problems.append(f"entries: {len(given) - len(entries)} are no mappings; passed over")
    return entries


def _groups(given: object, problems: list[str]) -> tuple[Config, ...]:
    if given is None:
        return ()
    if not isinstance(given, dict):
        problems.append(f"pg_config: {type(given).__name__} instead of a mapping; passed over")
        return ()
    found = []
    for name, values in list(given.items())[:GROUPS_MAX]:
        if type(name) is not str or type(values) is not dict or type(values.get("ranks")) is not str:
            problems.append(f"pg_config: group {_shown(_word(name))!r} is not in the form of a group; passed over")
        elif name:  # gloo writes one nameless group, whose members may be another's
            found.append(Config(name[:WORD_CHARS_MAX], _word(values.get("desc")), values["ranks"]))
    return tuple(found)


def _status(given: object, problems: list[str]) -> dict[str, Status]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        problems.append(f"pg_status: {type(given).__name__} instead of a mapping; passed over")
        return {}
    found = {}
    for number, values in list(given.items())[:GROUPS_MAX]:
        if type(values) is dict and type(number) in (str, int):
            told = [_whole(values.get(f"last_{word}_collective")) for word in ("enqueued", "started", "completed")]
            found[str(number)[:WORD_CHARS_MAX]] = Status(*told)
    return found


def _whole(given: object) -> int:
    """A number of collectives, or its text as the JSON form writes it; NEVER for anything else: a digest holds no more
    than 31 bits of it, and one strange number must not cost a node its digest.
    """
    if type(given) is str and _WHOLE.fullmatch(given):
        given = int(given)
    return given if type(given) is int and 0 <= given < 2**31 else NEVER


def _word(given: object) -> str:
    return given[:WORD_CHARS_MAX] if type(given) is str else ""


def _shown(text: str) -> str:
    """Foreign text for a message: short, and printable."""
    return text[:120].encode("ascii", "backslashreplace").decode("ascii").replace("\n", " ")
