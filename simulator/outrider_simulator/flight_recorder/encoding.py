"""A Dump as the bytes that torch writes: a pickle of protocol 2, or JSON.

The pickle follows torch's own writer opcode by opcode (seen in dumps of torch 2.13): strings are memoized where they
are first written, frames when they are closed, nothing else; whole numbers take the shortest of one, two or four bytes,
and eight with LONG1 beyond. Entries of one call differ in a few numbers, so all other bytes are put together once for
each file.
"""

from __future__ import annotations

import functools
import json
import struct
from typing import Any, Final

from outrider_simulator.flight_recorder import entries as recorded
from outrider_simulator.flight_recorder import layout as layouts

_BYTE: Final = [b"K" + bytes([value]) for value in range(256)]
_NONE, _TRUE, _FALSE = b"N", b"\x88", b"\x89"
_DICT, _LIST, _MARK, _SETITEMS, _APPENDS, _TUPLE2 = b"}", b"]", b"(", b"u", b"e", b"\x86"
_STATUS: Final = ("last_enqueued_collective", "last_started_collective", "last_completed_collective")
LIBRARY: Final = "2.27.5"


def encode(dump: recorded.Dump) -> bytes:
    """The bytes of one dump, in the form its settings name."""
    return _json(dump) if dump.settings.form == "json" else _Pickle(dump).written()


@functools.lru_cache(maxsize=4096)
def members_text(group: layouts.Group) -> str:
    """Members as the recorder writes them."""
    return "[" + ", ".join(map(str, group.ranks)) + "]"


def _whole(value: int) -> bytes:
    if 0 <= value < 256:
        return _BYTE[value]
    if 0 <= value < 65536:
        return b"M" + struct.pack("<H", value)
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _time(value: int | None) -> bytes:
    return _NONE if value is None else b"\x8a\x08" + struct.pack("<q", value)


class _Pickle:
    """Writes one file."""

    def __init__(self, dump: recorded.Dump) -> None:
        self._dump = dump
        self._settings = dump.settings
        self._memo: dict[object, bytes] = {}
        self._known: dict[int, tuple[bytes, ...]] = {}
        self._thread = str(139_000_000_000_000 + dump.rank * 4096)

    def written(self) -> bytes:
        out = [b"\x80\x02", _DICT, _MARK, self._text("version"), self._text(self._settings.version)]
        out += [self._text("pg_config"), self._config()]
        if self._settings.minor >= 9:
            out.append(self._text("comm_lib_version" if self._settings.minor >= 10 else "nccl_version"))
            out.append(self._text(LIBRARY))
        out += [self._text("pg_status"), self._status(), self._text("entries"), _LIST]
        if self._dump.entries:
            out.append(_MARK)
            out += [self._entry(entry) for entry in self._dump.entries]
            out.append(_APPENDS)
        return b"".join([*out, _SETITEMS, b"."])

    def _text(self, text: str) -> bytes:
        known = self._memo.get(text)
        if known is not None:
            return known
        encoded = text.encode()
        return b"X" + struct.pack("<I", len(encoded)) + encoded + self._put(text)

    def _put(self, thing: object) -> bytes:
        number = len(self._memo)
        if number < 256:
            self._memo[thing] = b"h" + bytes([number])
            return b"q" + bytes([number])
        self._memo[thing] = b"j" + struct.pack("<I", number)
        return b"r" + struct.pack("<I", number)

    def _config(self) -> bytes:
        out = [_DICT]
        if self._dump.config:
            out.append(_MARK)
            for group in reversed(self._dump.config):
                out += [self._text(group.name), _DICT, _MARK, self._text("name"), self._text(group.name)]
                out += [self._text("desc"), self._text(group.description), self._text("ranks")]
                out += [self._text(members_text(group)), _SETITEMS]
            out.append(_SETITEMS)
        return b"".join(out)

    def _status(self) -> bytes:
        out = [_DICT]
        if self._dump.status:
            out.append(_MARK)
            for pg_id, counts in self._dump.status:
                out += [self._text(str(pg_id)), _DICT, _MARK]
                for key, count in zip(_STATUS, counts, strict=True):
                    out += [self._text(key), _whole(count)]
                out.append(_SETITEMS)
            out.append(_SETITEMS)
        return b"".join(out)

    def _entry(self, entry: recorded.Entry) -> bytes:
        known = self._known.get(id(entry.line))
        if known is None or entry.state not in self._memo or (entry.duration_ms and "duration_ms" not in self._memo):
            written = b"".join(self._pieces(entry))
            self._known[id(entry.line)] = self._constant(entry.line)
            return written
        return b"".join(_filled(known, entry, self._memo))

    def _constant(self, line: recorded.Line) -> tuple[bytes, ...]:
        """The bytes between the numbers of an entry, all strings being memoized by now."""
        return (self._head(line), *self._middle(line), *self._tail(line))

    def _pieces(self, entry: recorded.Entry) -> list[bytes]:
        """An entry in order of writing, which is the order in which strings are memoized."""
        line = entry.line
        out = [self._head(line), _whole(entry.record), self._group(line), _whole(entry.cseq)]
        out += [self._text("p2p_seq_id"), _whole(entry.pseq), self._text("op_id"), _whole(entry.op_id)]
        out += [self._named(line), _time(entry.created)]
        if entry.duration_ms is not None:
            out += [self._text("duration_ms"), b"G" + struct.pack(">d", entry.duration_ms)]
        out.append(self._sizes(line))
        out += [self._text(entry.state), self._text("time_discovered_started_ns"), _time(entry.started)]
        out += [self._text("time_discovered_completed_ns"), _time(entry.completed)]
        out += [self._text("retired"), _TRUE if entry.retired else _FALSE, self._end(line)]
        return out

    def _middle(self, line: recorded.Line) -> tuple[bytes, ...]:
        return self._group(line), self._text("p2p_seq_id"), self._text("op_id"), self._named(line)

    def _tail(self, line: recorded.Line) -> tuple[bytes, ...]:
        keys = ("time_discovered_started_ns", "time_discovered_completed_ns", "retired")
        return self._sizes(line), *(self._text(key) for key in keys), self._end(line)

    def _head(self, line: recorded.Line) -> bytes:
        out = [_DICT, _MARK]
        if self._settings.stacks:
            out += [self._text("frames"), _LIST, _MARK, *(self._frame(frame) for frame in line.frames), _APPENDS]
        return b"".join([*out, self._text("record_id")])

    def _frame(self, frame: tuple[str, str, int]) -> bytes:
        if frame in self._memo:
            return self._memo[frame]
        name, filename, number = frame
        out = [_DICT, _MARK, self._text("name"), self._text(name), self._text("filename"), self._text(filename)]
        return b"".join([*out, self._text("line"), _whole(number), _SETITEMS, self._put(frame)])

    def _group(self, line: recorded.Line) -> bytes:
        out = [self._text("pg_id"), _whole(line.pg_id), self._text("process_group")]
        out += [self._text(line.group.name), self._text(line.group.description), _TUPLE2]
        if self._settings.minor >= 9:
            out += [self._text("thread_name"), self._text(line.thread)]
            out += [self._text("thread_id"), self._text(self._thread)]
        return b"".join([*out, self._text("collective_seq_id")])

    def _named(self, line: recorded.Line) -> bytes:
        return b"".join([self._text("profiling_name"), self._text(line.name), self._text("time_created_ns")])

    def _sizes(self, line: recorded.Line) -> bytes:
        out = []
        for word, sizes, dtypes in zip(("input", "output"), (line.inputs, line.outputs), line.dtypes, strict=True):
            shapes = [_list([_whole(value) for value in shape]) for shape in sizes]
            out += [self._text(f"{word}_sizes"), _list(shapes), self._text(f"{word}_dtypes")]
            out.append(_list([self._text(dtype) for dtype in dtypes]))
        return b"".join([*out, self._text("state")])

    def _end(self, line: recorded.Line) -> bytes:
        out = [self._text("timeout_ms"), _whole(recorded.TIMEOUT_MS), self._text("is_p2p")]
        return b"".join([*out, _TRUE if line.p2p else _FALSE, _SETITEMS])


def _list(items: list[bytes]) -> bytes:
    return b"".join([_LIST, _MARK, *items, _APPENDS]) if items else _LIST


def _filled(known: tuple[bytes, ...], entry: recorded.Entry, memo: dict[object, bytes]) -> list[bytes]:
    head, group, pseq, op_id, name, sizes, started, completed, retired, end = known
    out = [head, _whole(entry.record), group, _whole(entry.cseq), pseq, _whole(entry.pseq), op_id]
    out += [_whole(entry.op_id), name, _time(entry.created)]
    if entry.duration_ms is not None:
        out += [memo["duration_ms"], b"G" + struct.pack(">d", entry.duration_ms)]
    out += [sizes, memo[entry.state], started, _time(entry.started), completed, _time(entry.completed)]
    return [*out, retired, _TRUE if entry.retired else _FALSE, end]


def _json(dump: recorded.Dump) -> bytes:
    document: dict[str, Any] = {"version": dump.settings.version, "nccl_comm_state": {}}
    if dump.settings.minor >= 9:
        document["comm_lib_version" if dump.settings.minor >= 10 else "nccl_version"] = LIBRARY
    document["pg_config"] = {
        group.name: {"name": group.name, "desc": group.description, "ranks": members_text(group)}
        for group in dump.config
    }
    document["pg_status"] = {
        str(pg_id): {key: str(count) for key, count in zip(_STATUS, counts, strict=True)}
        for pg_id, counts in dump.status
    }
    if dump.entries:
        document["entries"] = [_document(entry, dump) for entry in dump.entries]
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _document(entry: recorded.Entry, dump: recorded.Dump) -> dict[str, Any]:
    line = entry.line
    document: dict[str, Any] = {
        "record_id": entry.record,
        "pg_id": line.pg_id,
        "process_group": [line.group.name, line.group.description],
        "collective_seq_id": entry.cseq,
        "p2p_seq_id": entry.pseq,
        "op_id": entry.op_id,
        "profiling_name": line.name,
        "time_created_ns": entry.created,
        "input_sizes": line.inputs,
        "input_dtypes": line.dtypes[0],
        "output_sizes": line.outputs,
        "output_dtypes": line.dtypes[1],
        "state": entry.state,
        "time_discovered_started_ns": entry.started or 0,
        "time_discovered_completed_ns": entry.completed or 0,
        "retired": entry.retired,
        "timeout_ms": recorded.TIMEOUT_MS,
        "is_p2p": line.p2p,
    }
    if entry.duration_ms is not None:
        document["duration_ms"] = entry.duration_ms
    if dump.settings.minor >= 9:
        document |= {"thread_name": line.thread, "thread_id": str(139_000_000_000_000 + dump.rank * 4096)}
    return document
