"""From the bytes of ``.metadata`` to what can be checked: which entry lies where, and whether the tensors are whole.

In: the bytes. Out: a ``Summary`` with the entries of each file in plain tuples, and the problems found on the way. An
entry is what one ``torch.save`` wrote: a chunk of a tensor or an object that is none.

    RefusedError   (pickled) it cannot be read, or is not the metadata of a checkpoint
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

from outrider_analysis.checkpoints import pickled, tiling
from outrider_analysis.checkpoints.pickled import RefusedError
from outrider_analysis.checkpoints.problems import Problem, Problems, shown

NAME: Final = ".metadata"
NUMBER_MAX: Final = 2**62
DIMENSIONS_MAX: Final = 64

Entry = tuple[int, int, bool, bool]  # offset, length, whether it belongs to a tensor, whether it was transformed
_Offsets = tuple[int, ...]
_Key = tuple[str, _Offsets | None]


@dataclass
class Summary:
    """What a checkpoint consists of. ``files``: entries of each data file, in the order of their offsets."""

    files: dict[str, list[Entry]] = field(default_factory=dict)
    tensors: int = 0
    objects: int = 0
    entries: int = 0
    problems: tuple[Problem, ...] = ()


def read(data: bytes) -> Summary:
    """Everything that ``.metadata`` says, checked against itself. Raises RefusedError."""
    whole = pickled.load(data)
    try:
        return _summary(whole)
    except RefusedError:
        raise
    except AttributeError as error:  # a Record that was made and given no state
        raise RefusedError("holds an object without its values") from error
    except (TypeError, ValueError) as error:
        raise RefusedError(f"holds values that no checkpoint has: {error}") from error


def _summary(whole: object) -> Summary:
    if type(whole) is not pickled.Metadata:
        raise RefusedError("holds no Metadata")
    described = _dict(_part(whole, "state_dict_metadata"), "state_dict_metadata")
    stored = _dict(_part(whole, "storage_data"), "storage_data")
    summary, problems = Summary(), Problems()
    where = _entries(stored, summary, problems)
    for name, item in described.items():
        if type(name) is not str:
            raise RefusedError(f"names something by {type(name).__name__} instead of a text")
        _item(name, item, where, summary, problems)
    for name, _ in where:  # whatever is left belongs to nobody
        problems.add(NAME, "entry-extra", f"stores a part of {shown(name)} that it does not describe")
    for entries in summary.files.values():
        entries.sort()
    summary.problems = problems.listed(NAME)
    return summary


def sizes(summary: Summary, found: dict[str, int]) -> list[Problem]:
    """Whether the entries tile each file exactly: no gap, no overlap, the last end at the file's size.

    ``found``: bytes of each plain file that lies there.
    """
    problems = Problems()
    for name, entries in summary.files.items():
        if name not in found:
            problems.add(name, "missing", f"is missing; {len(entries)} entries lie in it")
            continue
        trouble = tiling.of_file([(entry[0], entry[1]) for entry in entries], found[name])
        if trouble is not None:
            problems.add(name, *trouble)
    return list(problems.listed(NAME))


def _entries(stored: dict[Any, Any], summary: Summary, problems: Problems) -> dict[_Key, tuple[int, bool]]:
    """Fills ``summary.files``; the length of each entry and whether it was transformed, by whom it belongs to.

    Whether it belongs to a tensor is told by its offset within one, which an object has none of.
    """
    where: dict[_Key, tuple[int, bool]] = {}
    files = summary.files
    for index, info in stored.items():
        if type(index) is not pickled.Index or type(info) is not pickled.Storage:
            raise RefusedError("storage_data holds something else than indices and places")
        owner, place = index.state, info.state
        if type(owner) is not dict or type(place) is not dict:
            raise RefusedError("an index or a place is no mapping")
        key = _key(owner)
        name: Any = place.get("relative_path")
        offset: Any = place.get("offset")
        length: Any = place.get("length")
        if type(offset) is not int or type(length) is not int or not 0 <= offset <= offset + length <= NUMBER_MAX:
            raise RefusedError("the place of an entry is no range of bytes")
        transformed = "transform_descriptors" in place
        inside = files.get(name) if type(name) is str else None
        if inside is None:
            inside = files[_path(name)] = []
        if key in where:
            problems.add(name, "entry-twice", f"holds an entry of {shown(key[0])} that is stored twice")
        where[key] = (length, transformed)
        inside.append((offset, length, key[1] is not None, transformed))
    summary.entries = len(stored)
    return where


def _key(state: dict[Any, Any]) -> _Key:
    name, offset = state.get("fqn"), state.get("offset")
    if type(name) is not str:
        raise RefusedError("an entry has no name")
    return name, None if offset is None else _numbers(offset, "an offset")


def _path(name: object) -> str:
    if type(name) is not str or not plain_path(name):
        text = repr(shown(name)) if type(name) is str else type(name).__name__
        raise RefusedError(f"an entry lies in {text}, which is no plain path within the checkpoint")
    return name


def _item(name: str, item: object, where: dict[_Key, tuple[int, bool]], summary: Summary, problems: Problems) -> None:
    if type(item) is pickled.BytesMetadata:
        summary.objects += 1
        if where.pop((name, None), None) is None:
            problems.add(NAME, "entry-missing", f"{shown(name)} is described and stored nowhere")
        return
    if type(item) is not pickled.TensorMetadata:
        raise RefusedError(f"{shown(name)} is neither a tensor nor an object")
    summary.tensors += 1
    state = _dict(item.state, "a tensor")
    size = _numbers(state.get("size"), "size")
    chunks = state.get("chunks")
    if type(chunks) is not list:
        raise RefusedError(f"{shown(name)} has no list of chunks")
    boxes = [_box(chunk, name) for chunk in chunks]
    if any(len(offsets) != len(size) or len(lengths) != len(size) for offsets, lengths in boxes):
        raise RefusedError(f"{shown(name)} has {len(size)} dimensions and a chunk with another number of them")
    trouble = tiling.of_shape(boxes, size)
    if trouble is not None:
        problems.add(NAME, trouble[0], f"{shown(name)}: {trouble[1]}")
    bytes_each = _item_bytes(state.get("properties"))
    for offsets, lengths in boxes:
        found = where.pop((name, offsets), None)
        if found is None:
            problems.add(NAME, "entry-missing", f"{shown(name)} at {offsets} is described and stored nowhere")
        elif found[0] < math.prod(lengths) * bytes_each and not found[1]:
            text = f"{shown(name)} at {offsets} needs {math.prod(lengths) * bytes_each} bytes and has {found[0]}"
            problems.add(NAME, "entry-short", text)


def _box(chunk: object, name: str) -> tiling.Box:
    if type(chunk) is not pickled.Chunk or type(chunk.state) is not dict:
        raise RefusedError(f"{shown(name)} has a chunk that is none")
    return _numbers(chunk.state.get("offsets"), "offsets"), _numbers(chunk.state.get("sizes"), "sizes")


def _item_bytes(properties: object) -> int:
    """Bytes of an element; 0 where the data type is not stored one by one."""
    state = properties.state if type(properties) is pickled.Properties else None
    dtype = state[0] if type(state) is tuple and state else None
    return pickled.ITEM_BYTES.get(dtype, 0) if type(dtype) is pickled.Dtype else 0


def plain_path(name: str) -> bool:
    """Whether ``name`` is a relative path that stays within its folder."""
    return bool(name) and "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))


def _part(record: pickled.Record, name: str) -> Any:
    return _dict(record.state, type(record).__name__).get(name)


def _dict(value: object, what: str) -> dict[Any, Any]:
    if type(value) is not dict:
        raise RefusedError(f"{what} is no mapping")
    return value


def _numbers(value: object, what: str) -> _Offsets:
    if type(value) is not tuple or len(value) > DIMENSIONS_MAX:
        raise RefusedError(f"{what} is no tuple of at most {DIMENSIONS_MAX} numbers")
    for number in value:
        if type(number) is not int or number < 0 or number > NUMBER_MAX:
            raise RefusedError(f"{what} holds something that is no size")
    return value
