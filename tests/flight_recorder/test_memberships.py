"""Members of groups that ranks tell beside their dumps: taken as far as they hold, and never more than that."""

import dataclasses
import json
import pathlib
import random
import typing

import pytest

from outrider_agent.flight_recorder import groups
from outrider_analysis.flight_recorder import memberships, merge, model, verdict
from outrider_analysis.flight_recorder.verdict import order
from outrider_simulator.flight_recorder import score as scores
from tests.flight_recorder import test_hints

Group = memberships.Group


def told(*groups: tuple[str, str, tuple[int, ...]]) -> memberships.Told:
    return memberships.told(Group(*group) for group in groups)


def of_gloo(rank: int, *names: tuple[str, str]) -> model.RankDigest:
    groups = tuple(model.GroupDigest(name, description, "", 3, 2) for name, description in names)
    return model.RankDigest(rank, groups, (), 0, b"", 0, 0, 0, gloo=True)


def filled(node: model.NodeDigest, known: memberships.Told) -> model.NodeDigest:
    members = dict(node.memberships)
    ranks = tuple(memberships.fill(rank, known, members) for rank in node.ranks)
    return model.NodeDigest(ranks, members, node.signatures, node.unreadable)


def test_a_digest_gets_the_members_that_its_dump_does_not_tell_and_the_groups_that_it_never_shows() -> None:
    known = told(("1", "undefined", (4, 0, 2)), ("7", "mesh_pp", (0, 1)), ("9", "", (1, 2)))
    members: dict[str, tuple[int, ...]] = {}
    found = memberships.fill(of_gloo(0, ("1", "undefined"), ("8", "mesh_tp")), known, members)
    one, other, unshown = found.groups
    assert (one.name, members[one.members], one.enqueued, one.hidden_p2p) == ("1", (4, 0, 2), 3, False)
    assert (other.name, other.members) == ("8", "")
    assert (unshown.name, unshown.description, members[unshown.members]) == ("7", "mesh_pp", (0, 1))
    assert (unshown.enqueued, unshown.completed, unshown.hidden_p2p) == (None, None, True)
    assert set(members.values()) == {(4, 0, 2), (0, 1)}
    again = model.from_json(json.loads(json.dumps(model.to_json(model.NodeDigest((found,), members)))))
    assert again.ranks == (found,)


def test_a_description_is_taken_where_the_dump_has_none() -> None:
    known = told(("1", "experts", (0, 1)), ("2", "other", (0, 1)))
    found = memberships.fill(of_gloo(0, ("1", "undefined"), ("2", "mesh_tp")), known, {})
    assert [group.description for group in found.groups] == ["experts", "mesh_tp"]


def test_dumps_that_tell_members_themselves_are_left_alone() -> None:
    known = told(("1", "", (0, 1)), ("2", "", (0, 5)))
    of_nccl = model.RankDigest(0, (model.GroupDigest("1", "", "abc", 3, 2),), (), 0, b"", 0, 0, 0)
    assert memberships.fill(of_nccl, known, {}) is of_nccl
    of_another = of_gloo(9, ("1", ""))
    assert memberships.fill(of_another, known, {}) is of_another
    both = model.RankDigest(0, (model.GroupDigest("1", "", "abc", 3, 2),), (), 0, b"", 0, 0, 0, gloo=True)
    assert memberships.fill(both, known, {}).groups[0].members == "abc"


def test_one_name_may_stand_for_several_groups_and_a_rank_in_two_of_them_is_told_of_neither() -> None:
    text = memberships.text(
        [Group("5", "", (0, 1)), Group("5", "", (2, 3)), Group("6", "", (0, 1)), Group("6", "", (1, 2))]
    )
    known = memberships.told(memberships.groups(text.encode()))
    assert [known.of[rank]["5"].ranks for rank in range(4)] == [(0, 1), (0, 1), (2, 3), (2, 3)]
    assert known.of[0]["6"].ranks == (0, 1)
    assert "6" not in known.of[1]
    assert known.of[2]["6"].ranks == (1, 2)
    merged = merge.merge([model.NodeDigest((of_gloo(0, ("5", "")), of_gloo(3, ("5", ""))))], json.loads(text))
    assert sorted(group.ranks for group in merged.groups if group.slots) == [(0, 1), (2, 3)]


@pytest.mark.parametrize(
    "value",
    [
        {"desc": "a", "ranks": "[0, 1]"},
        {"desc": "a", "ranks": []},
        {"desc": "a", "ranks": [0, 0]},
        {"desc": "a", "ranks": [0, True]},
        {"desc": "a", "ranks": [-1, 0]},
        {"desc": "a", "ranks": [0, 2**40]},
        {"desc": "a", "ranks": [0, 1.0]},
        {"desc": "a", "ranks": {"0": 1}},
        {"desc": "a"},
        [[0, 1]],
        "0-1",
        None,
    ],
)
def test_what_is_no_group_costs_itself_alone(value: object) -> None:
    text = json.dumps({"bad": value, "": {"desc": "", "ranks": [0]}, "x" * 300: {"ranks": [0]}, "1": {"ranks": [0, 1]}})
    assert memberships.groups(text.encode()) == (Group("1", "", (0, 1)),)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"5", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN'])
def test_what_tells_of_no_groups_is_said(data: bytes) -> None:
    with pytest.raises(memberships.NoGroups):
        memberships.groups(data)
    with pytest.raises(memberships.NoGroups, match="at most"):
        memberships.groups(b"{}" + b" " * 100, 50)


def test_texts_and_numbers_of_groups_are_bounded() -> None:
    many = {str(name): {"desc": "d" * 1000, "ranks": [name]} for name in range(memberships.GROUPS_MAX + 10)}
    found = memberships.groups(json.dumps(many).encode())
    assert len(found) == memberships.GROUPS_MAX
    assert {len(group.description) for group in found} == {256}
    large = {str(name): {"ranks": list(range(name, name + 2**18))} for name in range(12)}
    held = memberships.groups(json.dumps(large).encode(), 1 << 30)
    assert sum(len(group.ranks) for group in held) == model.MEMBERS_MAX
    unshown = memberships.told(Group(str(name), "", (0, 1)) for name in range(1000))
    assert len(memberships.fill(of_gloo(0), unshown, {}).groups) == memberships.UNSHOWN_MAX


def mutated(groups: dict[str, typing.Any], chance: random.Random) -> bytes:
    """What is told, with some of it otherwise: members, names, forms; and seldom with bytes changed."""
    made = {name: {"desc": told["desc"], "ranks": list(told["ranks"])} for name, told in groups.items()}
    for _ in range(chance.randrange(1, 4)):
        name = chance.choice(sorted(made))
        ranks = made[name]["ranks"]
        how = chance.randrange(5)
        if how == 0:
            ranks[chance.randrange(len(ranks))] = chance.choice([chance.randrange(20), -1, 2**40, "1", None])
        elif how == 1:
            chance.shuffle(ranks)
        elif how == 2:
            ranks += chance.sample(range(20), 2)
        elif how == 3 and len(ranks) > 1:
            ranks.pop()
        else:
            made[str(chance.randrange(40))] = made.pop(name)
    data = bytearray(json.dumps(made).encode())
    if chance.random() < 0.3:
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def test_groups_that_are_made_up_harm_nothing_and_no_innocent_rank_is_named_with_confidence() -> None:
    case = test_hints.load("campaign", "wrong-op")
    node, chance, read = test_hints.digested(case), random.Random(7), 0
    for _ in range(120):
        try:
            known = memberships.told(memberships.groups(mutated(case["groups"], chance)))
        except memberships.NoGroups:
            continue
        read += 1
        again = model.from_json(json.loads(json.dumps(model.to_json(filled(node, known)))))
        answer = verdict.judge(merge.merge([again]))
        assert not answer.culprits or answer.culprits == (7,) or answer.confidence < 0.7, answer.sentence
    assert read > 60


@pytest.mark.parametrize("name", test_hints.CAMPAIGN)
def test_what_ranks_tell_gives_the_verdict_that_a_file_of_groups_gives(name: str) -> None:
    case = test_hints.load("campaign", name)
    node = test_hints.digested(case)
    beside = filled(node, memberships.told(memberships.groups(json.dumps(case["groups"]).encode())))
    for hints in (None, test_hints.seen(case)):
        by_file = verdict.judge(merge.merge([node], case["groups"], None, 16), hints).to_json()
        by_ranks = verdict.judge(merge.merge([beside], None, None, 16), hints).to_json()
        same: tuple[str, ...] = ("verdict", "culprits", "confidence", "where", "sentence")
        assert {key: by_ranks[key] for key in same} == {key: by_file[key] for key in same}


def test_a_rank_that_told_nothing_has_the_members_that_its_peers_tell() -> None:
    case = test_hints.load("campaign", "wrong-op")
    node = test_hints.digested(case)
    known = memberships.told(memberships.groups(json.dumps(case["groups"]).encode()))
    silent: typing.Collection[int] = (7, 3)
    beside = filled(node, memberships.Told({rank: of for rank, of in known.of.items() if rank not in silent}))
    answer = verdict.judge(merge.merge([beside], None, None, 16))
    assert answer.culprits == (7,)
    assert answer.confidence >= 0.7


def test_a_call_left_out_among_calls_that_come_again_is_not_told_as_two_that_were_swapped() -> None:
    def calls(text: str) -> list[order.Call]:
        numbers: dict[str, int] = {}
        found = []
        for kind in text:
            numbers[kind] = numbers.get(kind, 0) + 1
            found.append((kind, False, numbers[kind], "all_reduce", -1))
        return found

    def how(mine: str, theirs: str) -> str:
        i, j, told = order.compare(calls(mine), calls(theirs))
        assert told == "differ"
        return order._how(calls(mine), i, calls(theirs), j)

    assert how("tqpqwtpqw", "tqpqwtqpqw") == "skipped"
    assert how("tqpqwtpqw", "tqpqwtqpq") == "skipped", "as far as the others have come"
    assert how("tqpqwtqqpqw", "tqpqwtqpqw") == "extra"
    assert how("tqpqwtpqqw", "tqpqwtqpqw") == "swapped"
    assert how("tqpqwtpq", "tqpqwtqp") == "swapped", "nothing follows that could tell"
    assert how("abcabb", "abcabc") == "extra", "as c has always followed b, and never b it"
    assert how("tqpqwtqq", "tqpqwtqp") == "open", "q has followed p as well as p q"
    assert how("abcac", "abcab") == "skipped", "as c has always followed b"
    assert how("tqpqwtx", "tqpqwtq") == "open"


UNDESCRIBED = sorted(path.name.removesuffix(".json.gz") for path in (test_hints.RECORDED / "undescribed").glob("*.gz"))


@pytest.mark.parametrize("name", UNDESCRIBED)
def test_real_groups_without_a_description_are_judged_by_what_their_ranks_told(name: str) -> None:
    case = test_hints.load("undescribed", name)
    node, hints = test_hints.digested(case), test_hints.seen(case)
    texts = [json.dumps(text).encode() for text in case["told"].values()]
    known = memberships.told(group for text in texts for group in memberships.groups(text, memberships.RANK_BYTES_MAX))
    assert {group.description for of in known.of.values() for group in of.values()} == {"default_pg", "undefined"}
    answer = verdict.judge(merge.merge([filled(node, known)], None, None, 16), hints).to_json()
    guessed = verdict.judge(merge.merge([node], None, None, 16), hints).to_json()
    if name in test_hints.OPEN_EVEN_SO:
        assert set(case["truth"]["culprits"]) <= set(answer["findings"][0]["candidates"])
        return
    assert scores.score(case["truth"], answer).outcome == "exact", answer["sentence"]
    assert answer["confidence"] > guessed["confidence"] or guessed["confidence"] >= 0.9
    assert scores.score(case["truth"], guessed).outcome in ("exact", "unknown"), guessed["sentence"]


@pytest.mark.parametrize("groups_told", [1, 48])
def test_groups_that_no_dump_shows_cost_no_look_at_each_pair_of_their_ranks(
    groups_told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = test_hints.digested(test_hints.load("undescribed", "skipped"))
    wide = told(*((f"w{at}", "all", tuple(range(64))) for at in range(groups_told)))
    ranks = [
        dataclasses.replace(
            rank,
            rank=rank.rank + 16 * copy,
            groups=tuple(dataclasses.replace(group, name=f"{group.name}_{copy}") for group in rank.groups),
        )
        for copy in range(4)
        for rank in node.ranks
    ]
    looks = 0
    mates = order.Orders.mates

    def counted(*given: typing.Any) -> list[int]:
        nonlocal looks
        looks += 1
        return mates(*given)

    monkeypatch.setattr(order.Orders, "mates", counted)
    whole = filled(model.NodeDigest(tuple(ranks), node.memberships, node.signatures), wide)
    assert verdict.judge(merge.merge([whole])).culprits == ()
    assert looks < 4 * len(ranks)


def test_what_ranks_tell_is_kept_once_bounded_and_of_their_own_groups_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(rank: int, *found: Group) -> None:
        (tmp_path / f"{rank}.groups").write_text(memberships.text(found))

    def kept() -> tuple[tuple[Group, ...], list[str]]:
        notes: list[str] = []
        (tmp_path / memberships.FILE).unlink(missing_ok=True)
        groups.keep(f"{tmp_path}/", range(4), notes.append)
        written = tmp_path / memberships.FILE
        return memberships.groups(written.read_bytes()) if written.exists() else (), notes

    monkeypatch.chdir(tmp_path)
    assert kept() == ((), [])
    put(0, Group("0", "", (0, 1, 2)), Group("9", "", (1, 2)))
    put(1, Group("0", "", (0, 1, 2)), Group("1", "", (1, 2)))
    assert kept() == ((Group("0", "", (0, 1, 2)), Group("1", "", (1, 2))), [])
    (tmp_path / "2.groups").symlink_to(tmp_path / "1.groups")
    (tmp_path / "3.groups").write_bytes(b" " * (memberships.RANK_BYTES_MAX + 1))
    found, notes = kept()
    assert len(found) == 2
    assert notes[0].startswith("what 2 ranks tell of their groups is left out; rank 2: ")
    monkeypatch.setattr(groups, "MEMBERS_MAX", 4)
    found, notes = kept()
    assert found == (Group("0", "", (0, 1, 2)),)
    assert "kept at most" in notes[0]
