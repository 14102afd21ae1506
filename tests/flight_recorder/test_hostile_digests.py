"""A digest that is damaged, made up or newer costs itself, says which value is wrong, and the others are judged."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import pathlib
import pickle
import random
import typing

import pytest

from outrider_analysis.flight_recorder import digest, fitting, merge, model, outline, reading, verdict
from outrider_cli import main
from outrider_simulator import flight_recorder
from tests.flight_recorder import hostile

MESH = "dp=2,pp=2,tp=4"
SETTINGS = flight_recorder.Settings(ring=120)


def _nodes(name: str = "stuck-tp", each: int = 4) -> list[model.NodeDigest]:
    """The digests of the nodes of one job of 16 ranks."""
    dumps = sorted(flight_recorder.make(5, name=name, mesh=MESH, settings=SETTINGS).dumps())
    nodes = []
    for first in range(0, len(dumps), each):
        digester = digest.Digester()
        found = dumps[first : first + each]
        nodes.append(digester.node([digester.rank(rank, _dump(data), 17) for rank, data in found]))
    return nodes


def _dump(data: bytes) -> reading.Dump:
    found = reading.read(data)
    assert isinstance(found, reading.Dump)
    return found


def _json(node: model.NodeDigest) -> typing.Any:
    return json.loads(json.dumps(model.to_json(node)))


def _verdict(nodes: typing.Iterable[model.NodeDigest]) -> str:
    return json.dumps(verdict.judge(merge.merge(nodes)).to_json())


def _places(value: typing.Any, path: tuple[typing.Any, ...] = ()) -> typing.Iterator[tuple[typing.Any, ...]]:
    keys: typing.Iterable[typing.Any] = ()
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = range(len(value))
    for key in keys:
        yield (*path, key)
        yield from _places(value[key], (*path, key))


def _put(value: typing.Any, path: tuple[typing.Any, ...], strange: typing.Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = strange


def _mutations(seed: int, count: int) -> tuple[int, int]:
    """Digests with one to four strange values in them: refused with words, or judged without a crash."""
    chance = random.Random(seed)
    nodes = _nodes()
    whole = _json(nodes[1])
    places = list(_places(whole))
    refused, words = 0, []
    for _ in range(count):
        changed = copy.deepcopy(whole)
        for path in chance.sample(places, chance.choice((1, 1, 2, 4))):
            try:
                _put(changed, path, chance.choice(hostile.STRANGE))
            except (TypeError, KeyError, IndexError):
                continue  # what held it has gone with an earlier one
        try:
            read = model.from_json(changed)
        except model.DigestError as error:
            refused += 1
            words.append(str(error))
            continue
        json.loads(_verdict([*nodes[:1], read, *nodes[2:]]))
        assert model.from_json(_json(read)) == read
    assert all(10 < len(text) < 400 for text in words)
    return refused, count - refused


def test_strange_values_are_refused_or_do_no_harm() -> None:
    refused, taken = _mutations(1, 400)
    assert refused > 300
    assert taken > 0


@pytest.mark.slow
def test_ten_thousand_strange_digests_are_refused_or_do_no_harm() -> None:
    for seed in range(10):
        _mutations(100 + seed, 1000)


@pytest.mark.parametrize(
    ("path", "strange", "words"),
    [
        (("ranks", 0, 0), "x", "rank 'x', rank: 'x' instead of a whole number"),
        (("ranks", 0, 1, 0, 3), [1], "rank 4, groups, enqueued: a list of 1 instead of a whole number or null"),
        (("ranks", 0, 4), "!!!!", "rank 4, calls: '!!!!' is no text in base 64"),
        (("ranks", 0, 4), "QUJD", "rank 4, calls: has 3 bytes, which is no multiple of 12"),
        (("ranks", 0, 5), 2**63, "rank 4, newest_ns: 9223372036854775808 is not from 0"),
        (("ranks", 0), None, "ranks: None instead of a list of"),
        (("memberships",), {"0": "0-1048575"}, "memberships, '0': '0-1048575' is not what this key stands for"),
        (("signatures",), {"-1": []}, "signatures: the key '-1' instead of a number of 32 bits"),
        (("outrider_flight_record",), 3, "made by a newer Outrider; this one reads format 2"),
        (("outrider_flight_record",), 1, "made by an older Outrider; this one reads format 2"),
        (("outrider_flight_record",), "2", "outrider_flight_record: '2' instead of 2"),
    ],
)
def test_a_refusal_names_the_place_the_value_and_what_was_expected(
    path: tuple[typing.Any, ...], strange: typing.Any, words: str
) -> None:
    changed = _json(_nodes()[1])
    _put(changed, path, strange)
    with pytest.raises(model.DigestError) as refused:
        model.from_json(changed)
    assert words in str(refused.value)


def test_keys_that_are_not_known_are_passed_over_and_those_that_are_missing_are_named() -> None:
    node = _nodes()[0]
    assert model.from_json({**_json(node), "later": [1]}) == node
    without = _json(node)
    del without["signatures"]
    with pytest.raises(model.DigestError, match="'signatures' is missing"):
        model.from_json(without)


def test_short_texts_that_stand_for_millions_of_ranks_are_bounded() -> None:
    many = {}
    for first in range(8):
        text = f"{first}-{2**20 - 1}"
        many[model.members_key(text)] = text
    with pytest.raises(model.DigestError, match="at most"):
        model.from_json({**_json(_nodes()[0]), "memberships": many})


def test_broken_files_among_digests_are_listed_and_the_rest_is_judged(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = _nodes()
    for at, node in enumerate(nodes):
        (tmp_path / f"node-{at}.json").write_text(json.dumps(model.to_json(node)))
    sound = json.loads(_verdict(nodes))
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    (tmp_path / "b.json").write_text("[" * 100_000)
    (tmp_path / "c.json").write_text(json.dumps({**_json(nodes[0]), "outrider_flight_record": 9}))
    (tmp_path / "d.json").write_bytes(b"[" + b"[],[[]]," * 3_000_000 + b"0]")
    assert main.main(["fr", "merge", str(tmp_path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [pathlib.Path(item["file"]).name for item in document["unreadable"]] == [f"{name}.json" for name in "abcd"]
    assert "newer" in document["unreadable"][2]["error"]
    assert "memory" in document["unreadable"][3]["error"]
    assert (document["verdict"], document["culprits"]) == (sound["verdict"], sound["culprits"])


@pytest.mark.parametrize("name", ["stuck-tp", "wrong-size", "no-send", "idle"])
def test_one_two_and_three_levels_in_any_order_and_bit_by_bit_give_the_same_answer(name: str) -> None:
    nodes = _nodes(name, each=2)
    expected = _verdict(nodes)
    for order in itertools.islice(itertools.permutations(nodes), 0, 40320, 8000):
        assert _verdict(order) == expected
        racks = [merge.combine(order[at : at + 3]) for at in range(0, len(order), 3)]
        assert _verdict(racks) == expected
        rows = [merge.combine(racks[:2]), racks[2]]
        assert _verdict([model.from_json(_json(row)) for row in reversed(rows)]) == expected
        first = merge.combine(order[:4])  # judged while the rest is on its way
        json.loads(_verdict([first]))
        assert _verdict([merge.combine([first, *order])]) == expected


def test_of_a_rank_that_is_given_twice_the_newest_counts_at_every_level() -> None:
    old, new = _nodes("idle"), _nodes("stuck-tp")
    stale = [
        model.NodeDigest(tuple(_aged(rank) for rank in node.ranks), node.memberships, node.signatures) for node in old
    ]
    expected = _verdict(new)
    assert _verdict([merge.combine([*stale, *new])]) == expected
    assert _verdict([merge.combine([*new, *stale])]) == expected
    assert _verdict([merge.combine(stale), merge.combine(new)]) == expected


def _aged(rank: model.RankDigest) -> model.RankDigest:
    return dataclasses.replace(rank, taken_ns=1)


def test_merged_digests_are_written_as_one_that_merges_again(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for at, node in enumerate(_nodes()):
        files.append(str(tmp_path / f"node-{at}.json"))
        pathlib.Path(files[-1]).write_text(json.dumps(model.to_json(node)))
    assert main.main(["fr", "merge", *files, "--json"]) == 1
    expected = json.loads(capsys.readouterr().out)
    racks = [str(tmp_path / "rack-0.json"), str(tmp_path / "rack-1.json")]
    assert main.main(["fr", "merge", *files[:2], "-o", racks[0]]) == 0
    assert main.main(["fr", "merge", *files[2:], "-o", racks[1]]) == 0
    assert main.main(["fr", "merge", *racks, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    for document in (expected, found):
        del document["seconds"]
    assert found == expected
    assert main.main(["fr", "merge", str(tmp_path / "gone"), "-o", str(tmp_path / "out")]) == 2


def test_a_digest_is_cut_to_the_bytes_that_there_are_and_never_looks_surer() -> None:
    node = merge.combine(_nodes())
    whole = verdict.judge(merge.merge([node]))
    for bytes_max in (200_000, 30_000, 12_000, 6_000, 2_000, fitting.BYTES_MIN):
        cut, notes = fitting.fit(node, bytes_max)
        text = json.dumps(model.to_json(cut), separators=(",", ":"))
        assert len(text) <= bytes_max
        assert bool(notes) == (cut != node)
        judged = verdict.judge(merge.merge([model.from_json(json.loads(text))]))
        if len(cut.ranks) == len(node.ranks):
            assert judged.culprits == whole.culprits
            assert judged.confidence <= whole.confidence
        else:
            assert any("too large to be sent" in note for note in notes)
    with pytest.raises(ValueError, match="at least 1024"):
        fitting.fit(node, 100)


def test_columns_and_single_entries_give_the_same_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    dumps = hostile.sound(12)
    dumps += [data for data in hostile.mutated(3, 200, dumps) if len(data) < 10**6]
    for seed in range(12):
        dumps += [data for _, data in itertools.islice(flight_recorder.make(seed, 16).dumps(), 4)]
    taken = [0, 0]
    whole = digest._Rank._whole

    def counted(rank: digest._Rank) -> outline.Outline | None:
        found = whole(rank)
        taken[found is None] += 1
        return found

    read = [found for data in dumps if isinstance(found := _read(data), reading.Dump)]
    monkeypatch.setattr(digest._Rank, "_whole", counted)
    fast = [digest.Digester().rank(0, dump) for dump in read]
    monkeypatch.setattr(digest._Rank, "_whole", lambda rank: None)
    assert fast == [digest.Digester().rank(0, dump) for dump in read]
    assert min(taken) > 4  # both ways were gone


def test_ranks_that_made_the_same_calls_share_an_outline_and_have_digests_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = alone = 0
    find = outline.Outlines.find

    def counted(*given: typing.Any) -> outline.Outline | None:
        nonlocal shared, alone
        found = find(*given)
        shared, alone = shared + (found is not None), alone + (found is None)
        return found

    monkeypatch.setattr(outline.Outlines, "find", counted)
    for seed in range(24):
        together = digest.Digester()
        for rank, data in itertools.islice(flight_recorder.make(seed, 32).dumps(), 12):
            dump = _read(data)
            assert isinstance(dump, reading.Dump)
            assert together.rank(rank, dump) == digest.Digester().rank(rank, dump)
    assert shared > 20
    assert alone > 20


def test_an_entry_without_a_number_costs_itself_alone() -> None:
    whole = pickle.loads(hostile.sound(1)[0])
    sound = digest.Digester().rank(0, _sound(whole))
    plain = next(entry for entry in whole["entries"] if entry["state"] == "completed" and not entry["is_p2p"])
    plain["collective_seq_id"] = None
    found = digest.Digester().rank(0, _sound(whole))
    assert found.problems == ("entries: 1 are not in the form of an entry; passed over",)
    assert found.unfinished_count == sound.unfinished_count


def _sound(whole: dict[str, typing.Any]) -> reading.Dump:
    found = reading.read(pickle.dumps(whole, 2))
    assert isinstance(found, reading.Dump)
    return found


def _read(data: bytes) -> reading.Dump | reading.Unreadable | None:
    try:
        return reading.read(data)
    except MemoryError:
        return None


def test_a_list_without_a_mapping_is_no_flight_record() -> None:
    for data in (b"[1, 2]", b'["a"]', b"[[]]"):
        found = reading.read(data)
        assert isinstance(found, reading.Unreadable)
        assert found.kind == "foreign"
    assert isinstance(reading.read(b"[]"), reading.Dump)


def test_where_no_rank_was_heard_nothing_is_known() -> None:
    found = verdict.judge(merge.merge([]))
    assert (found.kind, found.confidence) == ("unknown", 0.0)
