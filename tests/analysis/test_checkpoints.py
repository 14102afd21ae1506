"""What a checkpoint says of itself: parts that tile, archives of which every bit counts, a pickle that gets nothing."""

import io
import itertools
import os
import pickle
import random
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_analysis import checkpoints
from outrider_analysis.checkpoints import archives, claims, metadata, pickled, tiling
from tests import saves

# ---------------------------------------------------------------- tiling


def grid(cuts: list[list[int]]) -> list[tiling.Box]:
    """Boxes between the cuts of each dimension."""
    spans = [list(itertools.pairwise(sorted(set(axis)))) for axis in cuts]
    return [
        (tuple(begin for begin, _ in box), tuple(end - begin for begin, end in box))
        for box in itertools.product(*spans)
    ]


def covered(boxes: list[tiling.Box], shape: tuple[int, ...]) -> bool:
    """By counting every cell."""
    counts = dict.fromkeys(itertools.product(*(range(length) for length in shape)), 0)
    for offsets, sizes in boxes:
        for cell in itertools.product(*(range(o, o + s) for o, s in zip(offsets, sizes, strict=True))):
            if cell not in counts:
                return False
            counts[cell] += 1
    return all(count == 1 for count in counts.values())


AXIS = st.lists(st.integers(0, 6), min_size=0, max_size=4).map(lambda cuts: [0, 6, *cuts])


@given(st.lists(AXIS, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_a_grid_in_any_order_tiles_and_without_one_of_its_chunks_it_does_not(
    cuts: list[list[int]], chance: random.Random
) -> None:
    boxes = grid(cuts)
    chance.shuffle(boxes)
    shape = (6,) * len(cuts)
    assert tiling.of_shape(boxes, shape) is None
    assert (tiling.of_shape(boxes[1:], shape) or ("",))[0] == "chunk-gap"
    assert (tiling.of_shape([*boxes, boxes[0]], shape) or ("",))[0] == "chunk-overlap"


BOX = st.tuples(st.tuples(*[st.integers(0, 3)] * 2), st.tuples(*[st.integers(0, 3)] * 2))


@given(st.lists(BOX, max_size=6))
def test_whatever_the_chunks_the_answer_is_that_of_counting_cells(boxes: list[tiling.Box]) -> None:
    assert (tiling.of_shape(boxes, (3, 3)) is None) == (
        covered(boxes, (3, 3)) and all(o + s <= 3 for box in boxes for o, s in zip(*box, strict=True))
    )


def test_a_pinwheel_that_no_straight_cut_divides_is_told_from_one_with_a_hole_and_a_double() -> None:
    wheel = [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((2, 1), (1, 2)), ((1, 0), (2, 1)), ((1, 1), (1, 1))]
    assert tiling.of_shape(wheel, (3, 3)) is None
    shifted = [*wheel[:4], ((0, 0), (1, 1))]
    assert (tiling.of_shape(shifted, (3, 3)) or ("",))[0] == "chunk-overlap"


@pytest.mark.parametrize(
    ("boxes", "shape", "kind"),
    [
        ([((), ())], (), None),
        ([], (), "chunk-gap"),
        ([((), ()), ((), ())], (), "chunk-overlap"),
        ([((0, 0), (0, 3))], (0, 3), None),
        ([], (0, 3), None),
        ([((0,), (4,)), ((4,), (0,))], (4,), None),
        ([((0,), (5,))], (4,), "chunk-outside"),
        ([((5,), (0,))], (4,), "chunk-outside"),
    ],
)
def test_scalars_and_empty_tensors(boxes: list[tiling.Box], shape: tuple[int, ...], kind: str | None) -> None:
    found = tiling.of_shape(boxes, shape)
    assert (found[0] if found else None) == kind


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.data())
def test_spans_of_a_file_tile_it_or_the_first_fault_is_named(lengths: list[int], data: st.DataObject) -> None:
    ends = list(itertools.accumulate(lengths))
    spans = [(end - length, length) for end, length in zip(ends, lengths, strict=True)]
    assert tiling.of_file(spans, ends[-1]) is None
    assert (tiling.of_file(spans, ends[-1] + 1) or ("",))[0] == "size"
    place = data.draw(st.integers(0, len(spans) - 1))
    moved = [(at + (number >= place), length) for number, (at, length) in enumerate(spans)]
    assert (tiling.of_file(moved, ends[-1] + 1) or ("",))[0] == "gap"
    longer = [(at, length + (number == place)) for number, (at, length) in enumerate(spans)]
    assert (tiling.of_file(longer, ends[-1]) or ("",))[0] == ("size" if place == len(spans) - 1 else "overlap")


# ---------------------------------------------------------------- archives


def look(data: bytes, start: int = 0, length: int | None = None) -> bytes:
    """Check an archive; what it passed on."""
    seen: list[bytes] = []
    end = len(data) - start if length is None else length
    archives.check(lambda at, size: data[at : at + size], start, end, seen.append)
    return b"".join(seen)


def test_a_sound_archive_is_passed_on_whole_and_in_order_wherever_it_lies() -> None:
    data = saves.entry(bytes(1000))
    assert look(data) == data
    assert look(b"before" + data + b"after", 6, len(data)) == data


def test_no_bit_of_an_archive_can_turn_unnoticed() -> None:
    data = saves.entry(b"some content")
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(archives.ArchiveError):
            look(bytes(damaged))


def test_an_archive_that_is_cut_or_zeroed_anywhere_is_found() -> None:
    data = saves.entry(bytes(range(1, 200)))
    for at in range(0, len(data) - 7, 5):
        with pytest.raises(archives.ArchiveError):
            look(data[:at])
        zeroed = data[:at] + bytes(7) + data[at + 7 :]
        if zeroed != data:
            with pytest.raises(archives.ArchiveError):
                look(zeroed)


def test_a_member_that_is_compressed_is_refused_before_it_is_unpacked() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("archive/data/0", bytes(100_000_000))
    data = file.getvalue()
    assert len(data) < 200_000
    with pytest.raises(archives.ArchiveError):
        look(data)


def test_what_is_no_archive_is_told_from_a_damaged_one() -> None:
    with pytest.raises(archives.NoArchiveError):
        look(b"plain bytes that were never an archive, of some length")
    with pytest.raises(archives.NoArchiveError):
        look(b"")


def test_an_archive_without_checksums_says_so() -> None:
    contents = {"archive/data.pkl": b"N.", "archive/data/0": b"", "archive/version": b"3\n"}
    data = saves.archive(contents)
    for content in contents.values():
        data = data.replace(zlib.crc32(content).to_bytes(4, "little"), bytes(4))
    with pytest.raises(archives.NoChecksumError):
        look(data)
    with pytest.raises(archives.ArchiveError, match="padding"):
        look(data.replace(b"ZZZ", b"ZXZ", 1))


# ---------------------------------------------------------------- the pickle


class Evil:
    """Pickles as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def test_the_metadata_of_a_whole_checkpoint_is_read_and_its_files_are_tiled() -> None:
    files = saves.content(7, ranks=3)
    found = metadata.read(files[".metadata"])
    assert (found.tensors, found.objects, found.entries, found.problems) == (2, 1, 5, ())
    sizes = {name: len(data) for name, data in files.items()}
    assert metadata.sizes(found, sizes) == []
    assert [p.kind for p in metadata.sizes(found, {**sizes, "__1_0.distcp": 7})] == ["size"]
    assert [p.kind for p in metadata.sizes(found, {k: v for k, v in sizes.items() if k != "__2_0.distcp"})] == [
        "missing"
    ]


GETATTR = saves.Name("builtins", "getattr")
HOSTILE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "os.system": (lambda p: pickle.dumps(Evil(os.system, (f"touch {p}",))), "posix.system"),
    "eval": (lambda p: pickle.dumps(Evil(eval, (f"open({str(p)!r}, 'w')",))), "builtins.eval"),
    "open": (lambda p: pickle.dumps(Evil(open, (str(p), "w"))), "io.open"),
    "getattr of a module": (
        lambda p: saves.pickled(
            saves.Called(saves.Name("builtins", "getattr"), saves.Name("torch", "Size"), "__init__")
        ),
        "builtins.getattr",
    ),
    "a dotted name": (lambda p: saves.pickled(saves.Name("torch.serialization", "os.system")), "torch.serialization"),
    "another name of torch": (lambda p: saves.pickled(saves.Name("torch.hub", "load")), "torch.hub.load"),
    "an old name": (lambda p: b"cos\nsystem\n(S'true'\ntR.", "os.system"),
    "an instance": (lambda p: b"(S'true'\nios\nsystem\n.", "os.system"),
    "a persistent id": (lambda p: b"\x80\x04\x8c\x01aQ.", "persistent id"),
    "an old persistent id": (lambda p: b"Pabc\n.", "persistent id"),
    "an extension": (lambda p: b"\x80\x02\x82\x01.", "pickle"),
    "a buffer from outside": (lambda p: b"\x80\x05\x97.", "pickle"),
    "a class that is changed": (
        lambda p: saves.pickled(saves.Name("torch.serialization", "_get_layout"))[:-1] + b"N}\x8c\x01aK\x01s\x86b.",
        "on a class",
    ),
    "nothing": (lambda p: b"", "pickle"),
    "text": (lambda p: b"meta", "pickle"),
    "more after its end": (lambda p: pickle.dumps(1) + b"x", "after its end"),
    "a long number that is not there": (lambda p: b"\x80\x04\x8b\xff\xff\xff\x7f.", "pickle"),
    "a text that is not there": (lambda p: b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b".", "pickle"),
    "another object": (lambda p: pickle.dumps({"a": 1}), "no Metadata"),
    "an object without values": (
        lambda p: saves.pickled(saves.Name(f"{saves.DCP}.metadata", "Metadata"))[:-1] + b")\x81.",
        "without its values",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_or_broken_pickle_is_refused_by_name_and_does_nothing(tmp_path: Path, kind: str) -> None:
    make, words = HOSTILE[kind]
    mark = tmp_path / "mark"
    with pytest.raises(pickled.RefusedError, match=words):
        metadata.read(make(mark))
    assert not mark.exists()


def test_an_enum_that_an_older_python_pickled_by_its_name_is_read() -> None:
    memory = saves.Name(f"{saves.DCP}.metadata", "_MEM_FORMAT_ENCODING")
    call = saves.Called(GETATTR, memory, "TORCH_CONTIGUOUS_FORMAT")
    assert isinstance(pickled.load(saves.pickled(call)), pickled.MemoryFormat)


def broken(**changes: Any) -> list[str]:
    """Kinds of the problems of a metadata that says something else than it stores."""
    tensors: dict[str, Any] = {"w": ((4, 3), [((0, 0), (2, 3)), ((2, 0), (2, 3))]), "o": None}
    stored: dict[str, tuple[str, Any, str, int, int]] = {
        "w0": ("w", (0, 0), "f", 0, 500),
        "w2": ("w", (2, 0), "f", 500, 500),
        "o": ("o", None, "f", 1000, 100),
    }
    tensors.update({k: v for k, v in changes.items() if k in tensors})
    stored.update({k.removeprefix("at_"): v for k, v in changes.items() if k.startswith("at_")})
    stored = {k: v for k, v in stored.items() if v}
    found = metadata.read(saves.metadata(tensors, list(stored.values())))
    return [p.kind for p in [*found.problems, *metadata.sizes(found, {"f": 1100})]]


def test_metadata_that_contradicts_itself_is_found() -> None:
    assert broken() == []
    assert broken(w=((4, 3), [((0, 0), (2, 3))])) == ["chunk-gap", "entry-extra"]
    assert broken(w=((4, 4), [((0, 0), (2, 3)), ((2, 0), (2, 3))])) == ["chunk-gap"]
    assert broken(w=((4, 3), [((0, 0), (2, 3)), ((0, 0), (2, 3))])) == ["chunk-overlap", "entry-missing", "entry-extra"]
    assert broken(at_w2=None) == ["entry-missing", "gap"]
    assert broken(at_o=None) == ["entry-missing", "size"]
    assert broken(at_o=("p", None, "f", 1000, 100)) == ["entry-missing", "entry-extra"]
    assert broken(at_w2=("w", (2, 0), "f", 500, 20), at_o=("o", None, "f", 520, 580)) == ["entry-short"]
    assert broken(at_w2=("w", (2, 0), "f", 400, 600)) == ["overlap"]
    assert broken(at_w2=("w", (2, 0), "g", 0, 500)) == ["gap", "missing"]


@pytest.mark.parametrize(
    "name", ["../f", "/etc/passwd", "a/../f", "", "a\0b", "a//b", ".", pytest.param(10**6000, id="huge"), ["f"], None]
)
def test_an_entry_outside_of_the_checkpoint_is_refused(name: Any) -> None:
    with pytest.raises(pickled.RefusedError, match="no plain path"):
        metadata.read(saves.metadata({"o": None}, [("o", None, name, 0, 1)]))


@pytest.mark.parametrize("number", [-1, 2**80, pytest.param(10**6000, id="huge"), "1", 1.0, True, None, (), [1]])
def test_a_place_that_is_no_number_is_refused(number: Any) -> None:
    with pytest.raises(pickled.RefusedError):
        metadata.read(saves.metadata({"o": None}, [("o", None, "f", 0, number)]))


# ---------------------------------------------------------------- claims


def test_files_are_compared_with_what_is_claimed_of_them() -> None:
    claimed = {"a": (1, "0" * 64), "b": (2, "1" * 64), "../c": (1, ""), "d": (-1, "")}
    found = {"a": (1, "2" * 64), "x": (1, ""), "m": (1, "")}
    kinds = [(p.file, p.kind) for p in claims.differences(claimed, found, "m", ["m"])]
    assert kinds == [("a", "sha256"), ("b", "missing"), ("../c", "path"), ("d", "size"), ("x", "extra")]
    assert claims.unhashed(claimed) == ["../c", "d"]


def test_trees_and_fingerprints_differ_where_a_file_does() -> None:
    assert claims.tree({"a": "1", "b": "2"}) == claims.tree({"b": "2", "a": "1"})
    assert claims.tree({"a": "1", "b": "2"}) != claims.tree({"a": "2", "b": "1"})
    assert claims.fingerprint([("a", 1, 2, 3, 4)]) != claims.fingerprint([("a", 1, 2, 3, 5)])


def test_many_problems_are_one_finding_with_a_count() -> None:
    found = claims.differences({f"f{number}": (1, "") for number in range(500)}, {}, "m", [])
    assert len(found) == checkpoints.PROBLEMS_MAX + 1
    assert "480 more" in found[-1].text
