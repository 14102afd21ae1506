"""Reads the pickle that torch.distributed.checkpoint writes, without torch and without doing what it asks for.

A pickle is a program. The names that ``.metadata`` needs are known, so those alone are given to it, and each stands
for a class that holds values and does nothing. Any other name ends the reading with that name in the message. What a
pickle can still do is use up memory, time or the stack, so whoever calls this does it in a process that is bounded.

    RefusedError   the pickle is damaged, or asks for what it may not have
"""

from __future__ import annotations

import io
import pickle
from typing import Any, Final

from outrider_analysis.checkpoints import problems


class RefusedError(ValueError):
    """The pickle cannot be read; the message says what it asked for or where it breaks."""


class _Fixed(type):
    """Classes that a pickle cannot change: BUILD may set attributes on whatever it is given, a class too."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise RefusedError(f"sets {name!r} on a class")

    def __delattr__(cls, name: str) -> None:
        raise RefusedError(f"deletes {name!r} of a class")


class Record(metaclass=_Fixed):
    """An object of the pickle: its state as it was given, and no behaviour.

    The state is kept and not copied into an instance dictionary: at 393,216 entries that is half of the memory.
    """

    __slots__ = ("state",)

    def __init__(self, *args: object) -> None:
        self.state: Any = args

    def __setstate__(self, state: object) -> None:
        self.state = state


class Metadata(Record):
    """The whole: state_dict_metadata, planner_data, storage_data, storage_meta."""

    __slots__ = ()


class TensorMetadata(Record):
    """A tensor: properties, size, chunks."""

    __slots__ = ()


class BytesMetadata(Record):
    """An object that is no tensor."""

    __slots__ = ()


class Properties(Record):
    """A tensor's dtype, layout and the like; a tuple of five."""

    __slots__ = ()


class Chunk(Record):
    """A part of a tensor: offsets, sizes."""

    __slots__ = ()


class Index(Record):
    """Whom an entry belongs to: fqn, offset, index."""

    __slots__ = ()


class Storage(Record):
    """Where an entry lies: relative_path, offset, length."""

    __slots__ = ()


class Dtype(str):
    """A data type: its name, and nothing that could be set on it."""

    __slots__ = ()


class MemoryFormat(Record):
    """The enum of memory formats."""

    __slots__ = ()


class _Member(metaclass=_Fixed):
    """What ``getattr`` may be asked for: Python 3.11.0 to 3.11.3 pickle a member of an enum by its name."""

    def __new__(cls, *args: object) -> Any:
        known = ("TORCH_CONTIGUOUS_FORMAT", "TORCH_CHANNELS_LAST", "TORCH_PRESERVE_FORMAT")
        if len(args) != 2 or args[0] is not MemoryFormat or args[1] not in known:
            raise RefusedError("asks for builtins.getattr, which may do anything")
        return MemoryFormat(args[1])


class _Layout(metaclass=_Fixed):
    """A tensor's layout, such as torch.strided, by its name."""

    def __new__(cls, *args: object) -> Any:
        if len(args) != 1 or type(args[0]) is not str:
            raise RefusedError("asks for a layout in an unknown way")
        return args[0]


ITEM_BYTES: Final = {
    **dict.fromkeys(("complex128",), 16),
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    **dict.fromkeys(("float32", "int32", "uint32", "complex32", "qint32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("int8", "uint8", "bool", "qint8", "quint8"), 1),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
}
"""Bytes of one element of each data type that is stored one by one. Of others no size is computed."""

_PACKED: Final = ("quint4x2", "quint2x4", "float4_e2m1fn_x2", "bits8", "bits16", "bits1x8", "bits2x4", "bits4x2")
_DTYPES: Final = {
    *ITEM_BYTES,
    *_PACKED,
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
}
_DCP: Final = "torch.distributed.checkpoint"
_SHARDED: Final = "torch.distributed._shard.sharded_tensor.metadata"  # where torch 2.2 and older had two of them
_NAMES: Final[dict[tuple[str, str], Any]] = {
    (f"{_DCP}.metadata", "Metadata"): Metadata,
    (f"{_DCP}.metadata", "MetadataIndex"): Index,
    (f"{_DCP}.metadata", "TensorStorageMetadata"): TensorMetadata,
    (f"{_DCP}.metadata", "BytesStorageMetadata"): BytesMetadata,
    (f"{_DCP}.metadata", "ChunkStorageMetadata"): Chunk,
    (f"{_DCP}.metadata", "TensorProperties"): Properties,
    (f"{_DCP}.metadata", "_MEM_FORMAT_ENCODING"): MemoryFormat,
    (f"{_DCP}.metadata", "StorageMeta"): Record,
    (f"{_DCP}.filesystem", "_StorageInfo"): Storage,
    (_SHARDED, "TensorProperties"): Properties,
    (_SHARDED, "MEM_FORMAT_ENCODING"): MemoryFormat,
    ("torch.serialization", "_get_layout"): _Layout,
    ("torch", "Size"): tuple,
    ("builtins", "getattr"): _Member,
    ("collections", "OrderedDict"): dict,
    **{(module, name): Record for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "PurePosixPath")},
    **{("torch", name): Dtype(name) for name in _DTYPES},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _NAMES.get((module, name))
        if found is None:
            asked = problems.shown(f"{module}.{name}")
            raise RefusedError(f"asks for {asked}, which no checkpoint of torch.distributed.checkpoint needs")
        return found

    def persistent_load(self, pid: object) -> Any:
        raise RefusedError("asks for an object by a persistent id, which .metadata never does")


def load(data: bytes) -> Any:
    """The object that the pickle describes, made of Record, plain values and containers. Raises RefusedError.

    MemoryError and RecursionError go through: they say something about the caller's bounds too.
    """
    stream = io.BytesIO(data)
    try:
        # Every name goes through find_class above; nothing else of what a pickle can do reaches outside.
        found = _Reader(stream, encoding="utf-8").load()
    except (RefusedError, MemoryError, RecursionError):
        raise
    except Exception as error:
        raise RefusedError(f"is no pickle that can be read: {type(error).__name__}: {error}") from error
    if stream.tell() != len(data):
        raise RefusedError(f"goes on for {len(data) - stream.tell()} bytes after its end")
    return found
