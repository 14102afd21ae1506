"""No file makes its reader run code, crash, hang or take the machine's memory, and each is answered for."""

from __future__ import annotations

import copy
import copyreg
import json
import os
import pathlib
import pickle
import sys
import typing

import pytest

from outrider_agent.flight_recorder import files, pool
from outrider_analysis.flight_recorder import digest, merge, model, reading, verdict
from outrider_simulator import flight_recorder
from tests.flight_recorder import hostile

LIMITS = pool.Limits(memory_bytes=384 << 20, file_s=60.0, workers=2)


def _folder(tmp_path: pathlib.Path, dumps: typing.Iterable[bytes]) -> list[files.Source]:
    for rank, data in enumerate(dumps):
        (tmp_path / f"rank_{rank}").write_bytes(data)
    return files.find([str(tmp_path)]).files


def _judged(nodes: typing.Iterable[model.NodeDigest], *beside: model.NodeDigest) -> None:
    """The whole road behind the reader: over JSON, since that is how digests travel; ``beside``: sound ones."""
    travelled = [model.from_json(json.loads(json.dumps(model.to_json(node)))) for node in nodes]
    document = verdict.judge(merge.merge([*beside, *travelled])).to_json()
    assert document["verdict"] in verdict.VERDICTS
    json.dumps(document)


def test_a_pickle_that_runs_code_runs_it_with_pickle_and_not_here(tmp_path: pathlib.Path) -> None:
    marker = tmp_path / "ran"
    for name, data in hostile.executing(f"touch {marker}").items():
        pickle.loads(data)
        assert marker.exists(), f"{name}: is no danger, so the test shows nothing"
        marker.unlink()
        found = reading.read(data)
        assert isinstance(found, reading.Unreadable), name
        assert found.kind == "refused", name
        assert not marker.exists(), name


def test_classes_codes_and_objects_by_other_roads_are_not_given(tmp_path: pathlib.Path) -> None:
    marker = tmp_path / "ran"
    copyreg.add_extension("posix", "system", 1)
    copyreg.add_extension("posix", "uname", 257)
    try:
        for name, data in hostile.forbidden(f"touch {marker}").items():
            found = reading.read(data)
            assert isinstance(found, reading.Unreadable), name
            assert found.kind in ("refused", "damaged"), name
            assert not marker.exists(), name
    finally:
        copyreg.remove_extension("posix", "system", 1)
        copyreg.remove_extension("posix", "uname", 257)


def test_hostile_files_among_sound_ones_cost_themselves_alone(tmp_path: pathlib.Path) -> None:
    marker = tmp_path / "ran"
    command = f"touch {marker}"
    sound = hostile.sound(3)
    evil = {**hostile.executing(command), **hostile.forbidden(command), **hostile.bombs(), **hostile.cyclic()}
    evil |= hostile.broken(sound[0])
    dumps = [data for pair in zip(evil.values(), sound * 20, strict=False) for data in pair]
    dumped = tmp_path / "dumps"
    dumped.mkdir()
    sources = _folder(dumped, dumps)
    found = pool.read(sources, LIMITS)
    read = {rank.rank: rank for node in found.nodes for rank in node.ranks}
    unreadable = {int(file.rpartition("_")[2]): why for file, why in found.unreadable}
    assert sorted([*read, *unreadable]) == list(range(len(dumps)))
    assert all(2 * at + 1 in read for at in range(len(evil))), "a sound dump was lost"
    # What bombs and cycles hold may be legal plain data; then it is read, says what is wrong, and stays small.
    for at, name in enumerate(evil):
        if name in hostile.executing(command) or name in hostile.forbidden(command) or name in hostile.broken(b"xx"):
            assert 2 * at in unreadable, name
            assert unreadable[2 * at], name
        elif 2 * at in read:
            assert len(json.dumps(model.to_json(model.NodeDigest((read[2 * at],))))) < 4096, name
    assert not marker.exists()
    _judged(found.nodes)


def test_a_file_that_takes_memory_or_time_is_said_to(tmp_path: pathlib.Path) -> None:
    sound = hostile.sound(1)[0]
    dumps = [sound, hostile.bombs()["memo at 2 ** 28"], sound, hostile.endless(), sound]
    found = pool.read(_folder(tmp_path, dumps), pool.Limits(memory_bytes=384 << 20, file_s=1.5, workers=1))
    why = {os.path.basename(file): text for file, text in found.unreadable}
    assert why == {
        "rank_1": "takes more than 384 MiB of memory to be read",
        "rank_3": "was not read within 1.5 s",
    }
    assert sorted(rank.rank for node in found.nodes for rank in node.ranks) == [0, 2, 4]


def test_what_is_no_file_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "rank_0")
    (tmp_path / "rank_1").symlink_to(tmp_path / "gone")
    (tmp_path / "rank_2").symlink_to("/dev/zero")
    (tmp_path / "rank_3").write_bytes(hostile.sound(1)[0])
    with open(tmp_path / "rank_4", "wb") as file:
        file.truncate(reading.DUMP_BYTES_MAX + 1)
    found = pool.read(files.find([str(tmp_path), str(tmp_path / "rank_9")]).files, LIMITS)
    why = {os.path.basename(file): text.partition(":")[0] for file, text in found.unreadable}
    assert why == {
        "rank_0": "is no regular file",
        "rank_1": "No such file or directory",
        "rank_2": "is no regular file",
        "rank_4": "too-large",
    }
    assert files.find([str(tmp_path / "rank_9")]).unreadable[0][1] == "there is no such file"


def test_processes_that_cannot_start_are_said_not_to(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = _folder(tmp_path, hostile.sound(1))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(pool.PoolError, match="does not start: exit status 1"):
        pool.read(sources, LIMITS)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(pool.PoolError, match="No such file"):
        pool.read(sources, LIMITS)


def _places(value: typing.Any, path: tuple[typing.Any, ...] = ()) -> typing.Iterator[tuple[typing.Any, ...]]:
    """The path of every key, and of the first and the last item of every list."""
    keys: typing.Iterable[typing.Any] = ()
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = sorted({0, len(value) - 1}) if value else ()
    for key in keys:
        yield (*path, key)
        yield from _places(value[key], (*path, key))


def _put(value: typing.Any, path: tuple[typing.Any, ...], strange: typing.Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = strange


@pytest.mark.parametrize(
    ("name", "every"),
    [
        ("stuck-tp", 4),
        pytest.param("stuck-tp", 1, marks=pytest.mark.slow),
        pytest.param("no-send", 1, marks=pytest.mark.slow),
    ],
)
def test_any_value_anywhere_costs_a_field_or_an_entry_or_the_file_and_no_more(name: str, every: int) -> None:
    """Each place of a dump holds, one after another, everything that it should not."""
    settings = flight_recorder.Settings(stacks=True, timing=True, version="2.10", ring=300)
    case = flight_recorder.make(5, mesh="dp=2,pp=2,tp=2", name=name, settings=settings)
    dumps = dict(case.dumps())
    digester = digest.Digester()
    others = {rank: digester.rank(rank, typing.cast(reading.Dump, reading.read(data))) for rank, data in dumps.items()}
    victim = min(set(others) - set(case.truth.culprits))
    beside = digester.node(other for rank, other in others.items() if rank != victim)
    whole = pickle.loads(dumps[victim])
    whole["entries"] = whole["entries"][:1] + whole["entries"][-6:]
    places = [(path, strange) for path in _places(whole) for strange in hostile.STRANGE]
    assert len(places) > 2000
    for path, strange in places[::every]:
        changed = copy.deepcopy(whole)
        _put(changed, path, strange)
        found = reading.read(pickle.dumps(changed, 2))
        if isinstance(found, reading.Dump):
            own = digest.Digester()
            _judged([own.node([own.rank(victim, found)])], beside)


@pytest.mark.parametrize("count", [-5, 2**31, 2**63, "9" * 18, True, 1.5])
def test_a_count_that_no_digest_holds_is_taken_for_none(count: typing.Any) -> None:
    """A digest with it would be refused where it arrives, and with it every other rank of the node."""
    whole = pickle.loads(hostile.sound(1)[0])
    for status in whole["pg_status"].values():
        status["last_enqueued_collective"] = count
    found = reading.read(pickle.dumps(whole, 2))
    assert isinstance(found, reading.Dump)
    digester = digest.Digester()
    node = digester.node([digester.rank(0, found)])
    assert model.from_json(json.loads(json.dumps(model.to_json(node)))) == node


def _mutations(tmp_path: pathlib.Path, seed: int, count: int) -> tuple[int, int]:
    bases = hostile.sound(12)
    digester = digest.Digester()
    healthy = [digester.rank(rank, typing.cast(reading.Dump, reading.read(bases[rank]))) for rank in range(4)]
    beside = digester.node(healthy)
    sources = _folder(tmp_path, hostile.mutated(seed, count, bases))
    found = pool.read(sources, LIMITS)
    read = [rank for node in found.nodes for rank in node.ranks]
    told = {os.path.basename(file) for file, why in found.unreadable if why}
    assert told | {f"rank_{rank.rank}" for rank in read} == {f"rank_{rank}" for rank in range(count)}
    assert len(told) + len(read) == count
    for node in found.nodes:
        assert len(json.dumps(model.to_json(node))) < 4_000_000
        for rank in node.ranks:
            alone = model.NodeDigest((rank,), node.memberships, node.signatures)
            _judged([alone], beside)
    return len(read), len(told)


def test_mutated_dumps_are_read_or_reported(tmp_path: pathlib.Path) -> None:
    read, reported = _mutations(tmp_path, 1, 300)
    assert min(read, reported) > 30  # some are still dumps, some are none: both sides were tried


@pytest.mark.slow
def test_ten_thousand_mutated_dumps_are_read_or_reported(tmp_path: pathlib.Path) -> None:
    for seed in range(10):
        folder = tmp_path / str(seed)
        folder.mkdir()
        _mutations(folder, 100 + seed, 1000)
