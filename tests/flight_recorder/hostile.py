"""Files that want something from whoever reads them: code to be run, memory, time, or a crash."""

from __future__ import annotations

import base64
import gzip
import json
import pathlib
import pickle
import random
import struct
from collections.abc import Iterator

from outrider_simulator import flight_recorder

RECORDED = pathlib.Path(__file__).resolve().parents[1] / "recorded" / "flight_recorder" / "campaign"
STRANGE = (
    *(
        None,
        True,
        0,
        -1,
        7,
        2**31,
        2**63,
        -(2**70),
        10**400,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        "\ud800",
        b"\xff",
    ),
    *([], [[]], [None], [[2**70, -1]], ["a", 1], {}, {"a": 1}, {1: 2}, (), (1, 2, 3), ["a", "b"], [[["x"]]]),
    *("9" * 5000, "\x1b[2J\n", [[0] * 5000], [[1]] * 5000, -0.0, "nccl:send 0->99999999", "nccl:recv 3<-3", ":"),
)


def _text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def executing(command: str) -> dict[str, bytes]:
    """Pickles that run ``command`` in a shell when they are loaded by ``pickle.loads``, one for each road there."""
    said, short = _text(command), b"\x8c" + bytes([len(command)]) + command.encode()
    call = b"cposix\nsystem\n" + said + b"\x85R"
    dump = b"\x80\x02}q\x00(" + _text("version") + _text("2.10") + _text("entries") + b"](}("
    return {
        "global and reduce": b"\x80\x02" + call + b".",
        "text protocol": b"cposix\nsystem\n(V" + command.encode() + b"\ntR.",
        "os, not posix": b"cos\nsystem\n(V" + command.encode() + b"\ntR.",
        "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + short + b"\x85R.",
        "inst": b"(V" + command.encode() + b"\niposix\nsystem\n.",
        "obj": b"(cposix\nsystem\n" + said + b"o.",
        "eval": b"cbuiltins\neval\n" + _text(f"__import__('os').system({command!r})") + b"\x85R.",
        "inside an entry": dump + _text("frames") + call + _text("state") + _text("completed") + b"ueu.",
        "as a key": b"\x80\x02}" + call + b"K\x01s.",
        "framed": b"\x80\x04\x95" + struct.pack("<Q", len(call) + 1) + call + b".",
    }


def forbidden(command: str) -> dict[str, bytes]:
    """Pickles that ask for classes, codes or objects by other roads; what those do is the loader's luck."""
    said = _text(command)
    return {
        "newobj": b"\x80\x02csubprocess\nPopen\n" + said + b"\x85\x81.",
        "newobj_ex": b"\x80\x04csubprocess\nPopen\n" + said + b"\x85}\x92.",
        "build": b"\x80\x02cbuiltins\nException\n)\x81}" + _text("args") + said + b"sb.",
        "build on a dict": b"\x80\x02}}" + _text("__setstate__") + said + b"sb.",
        "reduce of a text": b"\x80\x02" + _text("posix.system") + said + b"\x85R.",
        "newobj of a text": b"\x80\x02" + _text("posix.system") + said + b"\x85\x81.",
        "extension 1": b"\x80\x02\x82\x01" + said + b"\x85R.",
        "extension 2": b"\x80\x02\x83\x01\x01" + said + b"\x85R.",
        "extension 4": b"\x80\x02\x84\x01\x01\x01\x01" + said + b"\x85R.",
        "persistent id": b"Pposix.system\n.",
        "binary persistent id": b"\x80\x02" + said + b"Q.",
        "next buffer": b"\x80\x05\x97.",
        "memo that is not there": b"\x80\x02h\xff.",
        "stack that is empty": b"\x80\x02R.",
        "module with dots": b"\x80\x04\x8c\x02os\x8c\x0bpath.os.env\x93.",
    }


def bombs() -> dict[str, bytes]:
    """Small files that become large: they need gigabytes, or an hour."""
    laughs = b"\x80\x02" + _text("lol") + b"q\x00"
    for at in range(60):
        laughs += b"](" + b"h" + bytes([at]) + b"h" + bytes([at]) + b"e" + b"q" + bytes([at + 1])
    opens = b"\x80\x02}(" + _text("version") + _text("2.10") + _text("entries")
    return {
        "memo at 2 ** 31": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "memo at 2 ** 28": b"\x80\x02Nr\x00\x00\x00\x10.",
        "bytes by count": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
        "text by count": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
        "bytearray by count": b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b"x.",
        "bytearray of most": b"\x80\x05\x96" + struct.pack("<Q", 2**63) + b"x.",
        "long by count": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
        "negative count": b"\x80\x02\x8b" + struct.pack("<i", -1) + b"x.",
        "frame by count": b"\x80\x04\x95" + struct.pack("<Q", 2**61) + b"N.",
        "lists in lists": b"\x80\x02" + b"]" * 3_000_000 + b"a" * 2_999_999 + b".",
        "tuples in tuples": b"\x80\x02N" + b"\x85" * 3_000_000 + b".",
        "dicts": b"\x80\x02" + b"}" * 9_000_000 + b".",
        "marks": b"\x80\x02" + b"(" * 9_000_000 + b".",
        "laughs": laughs + b".",
        "laughs as entries": opens + laughs[2:] + b"u.",
        "laughs as sizes": opens
        + b"](}("
        + _text("process_group")
        + _text("1")
        + _text("tp")
        + b"\x86"
        + _text("profiling_name")
        + _text("nccl:all_reduce")
        + _text("state")
        + _text("scheduled")
        + _text("input_sizes")
        + laughs[2:]
        + b"ueu.",
        "arrays in arrays": b"[" * 2_000_000,
        "objects in objects": b'{"entries":' * 500_000,
        "a number of a million digits": b'{"version": "2.10", "entries": [' + b"9" * 1_000_000 + b"]}",
        "a large exponent": b'{"version": "2.10", "entries": [{"collective_seq_id": 1e999999}]}',
    }


def endless() -> bytes:
    """Keys that all fall into one place of the table, so that building it takes the square of their count."""
    step = 2**61 - 1  # of the interpreter's hash of numbers
    keys = b"".join(b"\x8a\x0b" + (step * at).to_bytes(11, "little") + b"N" for at in range(1, 150_000))
    return b"\x80\x02}(" + keys + b"u."


def cyclic() -> dict[str, bytes]:
    """Objects that hold themselves."""
    one: list[object] = []
    one.append(one)
    entry: dict[str, object] = {"process_group": ("1", "tp"), "profiling_name": "nccl:all_reduce", "state": "scheduled"}
    found = {"a list of itself": one, "entries of itself": {"version": "2.10", "entries": one}}
    for key in ("input_sizes", "input_dtypes", "process_group", "frames", "collective_seq_id"):
        found[f"{key} of itself"] = {"version": "2.10", "entries": [{**entry, key: one}]}  # type: ignore[assignment]
    whole: dict[str, object] = {"version": "2.10"}
    whole.update(entries=[whole], pg_config=whole, pg_status=whole, unknown=whole)
    return {name: pickle.dumps(value, 2) for name, value in [*found.items(), ("a dump of itself", whole)]}


def broken(sound: bytes) -> dict[str, bytes]:
    """What disks and crashes leave."""
    return {
        "empty": b"",
        "one byte": b"\x80",
        "half": sound[: len(sound) // 2],
        "all but the end": sound[:-1],
        "zeros": bytes(4096),
        "zeros behind the half": sound[: len(sound) // 2] + bytes(len(sound) // 2),
        "noise": random.Random(1).randbytes(4096),
        "words": b"Killed\n",
        "an ELF": b"\x7fELF" + bytes(200),
        "a zip": b"PK\x03\x04" + bytes(200),
        "half a JSON": b'{"version": "2.10", "entries": [{"pg',
        "another JSON": b'{"hello": "world"}',
        "a pickle of text": pickle.dumps("hello", 2),
        "another major": pickle.dumps({"version": "3.0", "entries": []}, 2),
        "no version": pickle.dumps({"version": [2, 10], "entries": []}, 2),
    }


def recorded() -> list[bytes]:
    """Real dumps: gloo, JSON and pickle."""
    found = []
    for path in sorted(RECORDED.glob("*.json.gz")):
        dumps = json.loads(gzip.decompress(path.read_bytes()))["dumps"]
        found += [base64.b64decode(data) for data in dumps.values()][:2]
    return found


def sound(count: int = 12) -> list[bytes]:
    """Dumps of generated jobs, several versions and forms, and real ones."""
    found = []
    for seed in range(count):
        case = flight_recorder.make(seed, mesh="dp=2,pp=2,tp=2", name=("stuck-tp", "no-send", "wrong-size")[seed % 3])
        found += [data for rank, data in case.dumps() if rank in (0, seed % 8)]
    return found + recorded()


_OPCODES = b"(.0123BCFGIJKLMNPQRSTUVXabcdeghijloprstuq}]\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90"
_OPCODES += b"\x91\x92\x93\x94\x95\x96\x97\x98"
_PARTS = (b"cposix\nsystem\n", b"\x8c\x05posix\x8c\x06system\x93", b"r\xff\xff\xff\x7f", b"\xff" * 8, b"R", b"2" * 40)


def mutated(seed: int, count: int, bases: list[bytes]) -> Iterator[bytes]:
    """Damaged dumps: bits, bytes, opcodes, pieces moved, left out, doubled, or taken from another dump."""
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(chance.choice(bases))
        for _ in range(chance.choice((1, 1, 2, 4, 16))):
            _mutate(chance, data, bases)
        yield bytes(data)


def _mutate(chance: random.Random, data: bytearray, bases: list[bytes]) -> None:
    at, kind = chance.randrange(len(data) + 1), chance.randrange(9)
    end = min(len(data), at + chance.choice((1, 2, 8, 64, 512)))
    if kind == 0 and at < len(data):
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = chance.randrange(256)
    elif kind == 2 and at < len(data):
        data[at] = chance.choice(_OPCODES)
    elif kind == 3:
        del data[at:end]
    elif kind == 4:
        data[at:at] = data[at:end]
    elif kind == 5:
        other = chance.choice(bases)
        begin = chance.randrange(len(other))
        data[at:end] = other[begin : begin + chance.choice((1, 8, 64, 512))]
    elif kind == 6:
        data[at:at] = chance.choice(_PARTS)
    elif kind == 7:
        data[at:end] = chance.randbytes(end - at)
    elif chance.random() < 0.2:
        del data[at:]
