"""Checkpoints as torch and the example job write them, made without torch: small, whole, and quick to make.

``tests/examples/test_llama4d_verified.py`` holds the verifier to checkpoints that torch itself wrote.
"""

import hashlib
import io
import json
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any, ClassVar

DCP = "torch.distributed.checkpoint"


class Name:
    """A global of the pickle."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Made:
    """An object of a class that is named, with its state."""

    def __init__(self, cls: Name, state: Any) -> None:
        self.cls, self.state = cls, state


class Called:
    """What a named function returns."""

    def __init__(self, function: Name, *args: Any) -> None:
        self.function, self.args = function, args


class Writer(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes names without importing what they name."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_name(self, value: Name) -> None:
        self.save(value.module)
        self.save(value.name)
        self.write(pickle.STACK_GLOBAL)

    def save_made(self, value: Made) -> None:
        self.save(value.cls)
        self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        self.memoize(value)
        self.save(value.state)
        self.write(pickle.BUILD)

    def save_called(self, value: Called) -> None:
        self.save(value.function)
        self.save(value.args)
        self.write(pickle.REDUCE)

    dispatch[Name] = save_name
    dispatch[Made] = save_made
    dispatch[Called] = save_called


def pickled(value: Any) -> bytes:
    """The pickle of a value."""
    file = io.BytesIO()
    Writer(file, 4).dump(value)
    return file.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    """A zip as the writer within torch makes it: stored members, aligned by padding, sizes behind the content."""
    data, directory = b"", b""
    for name, content in members.items():
        header, crc, text = len(data), zlib.crc32(content), name.encode()
        pad = -(header + 30 + len(text) + 4) % 64
        extra = b"FB" + struct.pack("<H", pad) + b"Z" * pad
        data += struct.pack("<4s5H3L2H", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, len(text), len(extra)) + text + extra
        data += content + struct.pack("<4s3L", b"PK\7\x08", crc, len(content), len(content))
        fields = (b"PK\1\2", 0, 0, 0x808, 0, 0, 0, crc, len(content), len(content), len(text), 0, 0, 0, 0, 0, header)
        directory += struct.pack("<4s6H3L5H2L", *fields) + text
    at, size, count = len(data), len(directory), len(members)
    data += directory
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0x031E, 0x2D, 0, 0, count, count, size, at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(data), 1)
    return data + end64 + locator + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, at, 0)


def entry(content: bytes) -> bytes:
    """What one torch.save writes: enough of it for a verifier."""
    version = {"archive/byteorder": b"little", "archive/version": b"3\n"}
    return archive({"archive/data.pkl": b"\x80\x02}q\x00.", "archive/data/0": content, **version})


def size(*numbers: int) -> Called:
    """torch.Size."""
    return Called(Name("torch", "Size"), numbers)


def metadata(tensors: dict[str, Any], stored: list[tuple[str, tuple[int, ...] | None, str, int, int]]) -> bytes:
    """``.metadata``. ``tensors``: shape and chunks by name, None for an object; ``stored``: whose, and where."""

    def of(name: str) -> Name:
        return Name(f"{DCP}.metadata", name)

    layout = Called(Name("torch.serialization", "_get_layout"), "torch.strided")
    memory = Called(of("_MEM_FORMAT_ENCODING"), 0)
    properties = Made(of("TensorProperties"), (Name("torch", "float32"), layout, False, memory, False))
    described: dict[str, Any] = {}
    for name, about in tensors.items():
        if about is None:
            described[name] = Made(of("BytesStorageMetadata"), {})
            continue
        shape, boxes = about
        chunks = [Made(of("ChunkStorageMetadata"), {"offsets": size(*o), "sizes": size(*s)}) for o, s in boxes]
        state = {"properties": properties, "size": size(*shape), "chunks": chunks}
        described[name] = Made(of("TensorStorageMetadata"), state)
    places = {}
    for name, offset, file, at, length in stored:
        index = {"fqn": name, "index": None, **({} if offset is None else {"offset": size(*offset)})}
        place = {"relative_path": file, "offset": at, "length": length}
        places[Made(of("MetadataIndex"), index)] = Made(Name(f"{DCP}.filesystem", "_StorageInfo"), place)
    about = {"checkpoint_id": Called(Name("pathlib", "PosixPath"), "/", "x"), "save_id": "s", "modules": []}
    whole = {"state_dict_metadata": described, "planner_data": {"w": ("w",)}, "storage_data": places}
    return pickled(Made(of("Metadata"), {**whole, "storage_meta": Made(of("StorageMeta"), about), "version": "1.0.0"}))


def content(step: int, ranks: int = 2) -> dict[str, bytes]:
    """Files of one save: a tensor sharded over the ranks, a scalar and an object of rank 0. All tell the step."""
    files = {f"__{rank}_0.distcp": b"" for rank in range(ranks)}
    stored: list[tuple[str, tuple[int, ...] | None, str, int, int]] = []

    def store(rank: int, name: str, offset: tuple[int, ...] | None, data: bytes) -> None:
        file, saved = f"__{rank}_0.distcp", entry(data)
        stored.append((name, offset, file, len(files[file]), len(saved)))
        files[file] += saved

    store(0, "progress", None, json.dumps({"step": step}).encode())
    store(0, "lr", (), struct.pack("<f", step))
    for rank in range(ranks):
        store(rank, "w", (rank * 2, 0), bytes((step + place) % 251 for place in range(24)))
    chunks = [((rank * 2, 0), (2, 3)) for rank in range(ranks)]
    tensors = {"progress": None, "lr": ((), [((), ())]), "w": ((ranks * 2, 3), chunks)}
    return {**files, ".metadata": metadata(tensors, stored)}


def write(path: Path, files: dict[str, bytes]) -> None:
    """The files, and the folder if need be."""
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / name).write_bytes(data)


def describe(path: Path, step: int, attempt: int = 0, **changes: Any) -> None:
    """The manifest of what lies there."""
    names = [file.name for file in sorted(path.iterdir()) if file.is_file() and file.name != "manifest.json"]
    files = {n: {"bytes": (path / n).stat().st_size, "sha256": sha256((path / n).read_bytes())} for n in names}
    about = {"run": "demo", "attempt": attempt, "generation": attempt + 1, "mesh": "dp=2", "world_size": 2}
    saved_at = f"2026-01-31T03:{attempt:02d}:{step % 60:02d}+00:00"
    whole = {"format": 1, "step": step, **about, "saved_at": saved_at, "files": files, **changes}
    _write_manifest(path, whole)


def _write_manifest(path: Path, whole: dict[str, Any]) -> None:
    """With its digest, where it has one."""
    if "digest" in whole:
        text = json.dumps({**whole, "digest": "0" * 64})
        whole = {**whole, "digest": sha256(text.encode())}
    (path / "manifest.json").write_text(json.dumps(whole))


def saved(folder: Path, step: int, attempt: int = 0, name: str = "", **changes: Any) -> Path:
    """A committed checkpoint; ``changes`` go into its manifest."""
    path = folder / (name or f"step-{step:08d}-attempt-{attempt:03d}")
    write(path, content(step))
    describe(path, step, attempt, **changes)
    return path


def foreign(folder: Path, step: int, name: str = "") -> Path:
    """A checkpoint of a job that writes no manifest."""
    path = folder / (name or f"step-{step}")
    write(path, content(step))
    return path


def change(path: Path, **changes: Any) -> None:
    """Give the manifest other values."""
    whole = json.loads((path / "manifest.json").read_text())
    _write_manifest(path, {**whole, **changes})


def flip(file: Path, bit: int) -> None:
    """Turn one bit of a file around; twice is not at all."""
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    file.write_bytes(data)


def sha256(data: bytes) -> str:
    """In hex."""
    return hashlib.sha256(data).hexdigest()
