"""Small jobs made by hand, one for each verdict: who is named, and who is not."""

import json
import pathlib
import random
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from outrider import mesh as meshes
from outrider_analysis.flight_recorder import digest, merge, model, reading, verdict

RECORDED = pathlib.Path(__file__).resolve().parents[1] / "recorded/flight_recorder"
START_NS = 1_700_000_000_000_000_000
LATER_NS = START_NS + 600 * 10**9  # the dumps are taken ten minutes later


class Rank:
    """One rank's recorder. ``groups``: name -> (description, members)."""

    def __init__(self, number: int, groups: Mapping[str, tuple[str, list[int]]]) -> None:
        self.number = number
        self.groups = {name: found for name, found in groups.items() if number in found[1]}
        self.entries: list[dict[str, Any]] = []
        self.counts: dict[tuple[str, bool], int] = {}
        self.at = START_NS + number * 1000

    def call(self, group: str, op: str = "all_reduce", done: bool = True, **values: Any) -> "Rank":
        description, members = self.groups[group]
        p2p = op in ("send", "recv")
        self.counts[group, p2p] = self.counts.get((group, p2p), 0) + 1
        if p2p:
            me, peer = members.index(self.number), members.index(values.pop("peer"))
            op = f"send {me}->{peer}" if op == "send" else f"recv {me}<-{peer}"
        self.at += 10_000_000
        size = values.pop("size", 1024)
        dtype = values.pop("dtype", "Float")
        self.entries.append(
            {
                "record_id": len(self.entries),
                "pg_id": sorted(self.groups).index(group),
                "process_group": (group, description),
                "collective_seq_id": self.counts.get((group, False), 0),
                "p2p_seq_id": self.counts.get((group, True), 0),
                "op_id": len(self.entries),
                "profiling_name": f"nccl:{op}",
                "input_sizes": [[size]],
                "output_sizes": [[size]],
                "input_dtypes": [dtype],
                "output_dtypes": [dtype],
                "state": "completed" if done else "scheduled",
                "time_created_ns": self.at,
                "time_discovered_started_ns": None,
                "time_discovered_completed_ns": self.at + 1_000_000 if done else None,
                "retired": done,
                "timeout_ms": 600_000,
                "is_p2p": p2p,
                **values,
            }
        )
        return self

    def dump(self, ring: int = 0, active_only: bool = False) -> dict[str, Any]:
        entries = self.entries[-ring:] if ring else self.entries
        if active_only:
            entries = [entry for entry in entries if entry["state"] != "completed"]
        status = {}
        for at, group in enumerate(sorted(self.groups)):
            own = [entry for entry in self.entries if entry["process_group"][0] == group]
            done = [entry["collective_seq_id"] for entry in own if entry["state"] == "completed"]
            status[str(at)] = {
                "last_enqueued_collective": max((entry["collective_seq_id"] for entry in own), default=-1),
                "last_started_collective": -1,
                "last_completed_collective": max(done, default=-1),
            }
        config = {name: {"name": name, "desc": d, "ranks": str(ranks)} for name, (d, ranks) in self.groups.items()}
        return {"version": "2.10", "pg_config": config, "pg_status": status, "entries": entries}


def job(groups: Mapping[str, tuple[str, list[int]]], world: int) -> dict[int, Rank]:
    return {number: Rank(number, groups) for number in range(world)}


def judged(
    ranks: Iterable[Rank], taken_ns: int = LATER_NS, mesh: str = "", world: int | None = None, **form: Any
) -> verdict.Verdict:
    shared = digest.Digester()
    found = []
    for rank in ranks:
        dump = reading.read(json.dumps(rank.dump(**form)).encode())
        assert isinstance(dump, reading.Dump)
        found.append(shared.rank(rank.number, dump, taken_ns))
    node = model.from_json(json.loads(json.dumps(model.to_json(shared.node(found)))))
    return verdict.judge(merge.merge([node], mesh=meshes.parse(mesh) if mesh else None, world=world))


WORLD4 = {"0": ("default_pg", [0, 1, 2, 3])}


def mesh_2x2() -> dict[int, Rank]:
    """tp: (0, 1) and (2, 3); dp: (0, 2) and (1, 3)."""
    groups = {
        "1": ("mesh_tp", [0, 1]),
        "2": ("mesh_tp", [2, 3]),
        "3": ("mesh_dp", [0, 2]),
        "4": ("mesh_dp", [1, 3]),
    }
    return job(groups, 4)


def tp(rank: int) -> str:
    return "1" if rank < 2 else "2"


def dp(rank: int) -> str:
    return "3" if rank % 2 == 0 else "4"


def test_a_rank_that_never_came_is_named_and_the_others_are_victims() -> None:
    ranks = job(WORLD4, 4)
    for rank in ranks.values():
        rank.call("0").call("0")
    for number in (0, 1, 3):
        ranks[number].call("0", done=False)
    found = judged(ranks.values())
    assert (found.kind, found.culprits, found.victims) == ("rank-missing", (2,), (0, 1, 3))
    document = found.to_json()
    assert document["where"] == {
        "group": "0",
        "description": "default_pg",
        "ranks": [0, 1, 2, 3],
        "collective_seq_id": 3,
        "op": "all_reduce",
    }
    assert {"rank": 0, "on_group": "0", "for_ranks": [2]} in document["victims"]["waits"]
    assert found.confidence > 0.9
    assert "Rank 2 never called all_reduce number 3" in found.sentence


def stuck_in_tensor_group() -> dict[int, Rank]:
    """Rank 3 never enters its tensor group's second call; the replica (0, 1) gets as far as the data groups."""
    ranks = mesh_2x2()
    for number, rank in ranks.items():
        rank.call(tp(number)).call(dp(number)).call(tp(number))
    for number in (0, 1):
        ranks[number].call(tp(number)).call(dp(number), done=False)
    ranks[2].call(tp(2), done=False)
    return ranks


def test_a_wait_is_followed_over_groups_to_the_first_that_was_blocked() -> None:
    found = judged(stuck_in_tensor_group().values(), mesh="dp=2,tp=2")
    assert (found.kind, found.culprits) == ("rank-missing", (3,))
    assert found.victims == (0, 1, 2)
    assert found.findings[0].where is not None
    assert (found.findings[0].where.group, found.findings[0].where.seq) == ("2", 3)
    assert "dp=1, tp=1" in found.sentence


@pytest.mark.parametrize("form", [{"ring": 2}, {"active_only": True}, {}])
def test_a_wrapped_ring_and_unfinished_entries_alone_tell_the_same(form: dict[str, Any]) -> None:
    found = judged(stuck_in_tensor_group().values(), **form)
    assert (found.kind, found.culprits) == ("rank-missing", (3,))


def test_names_of_ranks_and_the_order_of_files_change_nothing() -> None:
    chance = random.Random(4)
    for _ in range(20):
        names = chance.sample(range(4), 4)
        ranks = list(stuck_in_tensor_group().values())
        for rank in ranks:
            rank.number = names[rank.number]
            rank.groups = {name: (d, [names[r] for r in members]) for name, (d, members) in rank.groups.items()}
        chance.shuffle(ranks)
        assert judged(ranks).culprits == (names[3],)


def test_a_rank_without_a_dump_is_named_where_all_waits_lead_to_it() -> None:
    ranks = stuck_in_tensor_group()
    del ranks[3]
    found = judged(ranks.values(), world=4)
    assert (found.kind, found.culprits) == ("rank-missing", (3,))
    assert found.to_json()["absent"] == [3]
    assert found.to_json()["findings"][0]["dump"] == "absent"


def test_a_victim_without_a_dump_is_not_named() -> None:
    ranks = stuck_in_tensor_group()
    del ranks[2]
    found = judged(ranks.values(), world=4)
    assert 2 not in found.culprits
    assert found.confidence <= verdict.DOUBT


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"op": "all_gather"}, "collective-mismatch"),
        ({"size": 2048}, "size-mismatch"),
        ({"dtype": "BFloat16"}, "dtype-mismatch"),
    ],
)
def test_who_called_another_thing_than_most_is_named(values: dict[str, Any], kind: str) -> None:
    ranks = job(WORLD4, 4)
    for number, rank in ranks.items():
        rank.call("0").call("0", done=False, **(values if number == 1 else {}))
    found = judged(ranks.values())
    assert (found.kind, found.culprits) == (kind, (1,))


def test_of_two_that_differ_the_groups_of_the_same_kind_tell_who_is_wrong() -> None:
    ranks = mesh_2x2()
    for number, rank in ranks.items():
        rank.call(tp(number))
        rank.call(tp(number), done=number < 2, size=512 if number == 2 else 1024)
        if number < 2:
            rank.call(dp(number), done=False)
    assert judged(ranks.values()).culprits == (2,)


def test_of_two_alone_that_differ_nobody_is_named_unless_the_past_tells() -> None:
    alone = {"0": ("default_pg", [0, 1])}
    fresh, seasoned = job(alone, 2), job(alone, 2)
    for number in range(2):
        fresh[number].call("0", done=False, size=512 * (number + 1))
        for _ in range(4):
            seasoned[number].call("0", size=512).call("0", size=1024)
        seasoned[number].call("0", done=False, size=512 * (number + 1))
    found = judged(fresh.values())
    assert (found.kind, found.culprits, found.findings[0].candidates) == ("unknown", (), (0, 1))
    assert judged(seasoned.values()).culprits == (1,)


def test_uneven_parts_of_an_all_to_all_are_no_mismatch() -> None:
    ranks = job(WORLD4, 4)
    for number, rank in ranks.items():
        rank.call("0", "all_to_all", done=False, size=100 + number)
    found = judged(ranks.values())
    assert (found.kind, found.culprits) == ("all-joined-stuck", ())


def test_all_joined_and_none_done_blames_nobody_and_names_the_group() -> None:
    ranks = mesh_2x2()
    for number, rank in ranks.items():
        rank.call(tp(number), done=False)
    found = judged([ranks[0], ranks[1]], world=2)
    assert (found.kind, found.culprits) == ("all-joined-stuck", ())
    assert found.findings[0].where is not None
    assert found.findings[0].where.ranks == (0, 1)


def test_two_independent_faults_are_two_findings() -> None:
    groups = {"1": ("mesh_tp", [0, 1, 2]), "2": ("mesh_tp", [3, 4, 5])}
    ranks = job(groups, 6)
    for number, rank in ranks.items():
        rank.call("1" if number < 3 else "2")
        if number not in (1, 5):
            rank.call("1" if number < 3 else "2", done=False)
    found = judged(ranks.values())
    assert (found.culprits, len(found.findings)) == ((1, 5), 2)


def test_a_skipped_call_is_told_by_the_order_of_the_others() -> None:
    groups = {"1": ("mesh_tp", [0, 1]), "2": ("mesh_tp", [2, 3]), "3": ("mesh_dp", [0, 1, 2, 3])}
    ranks = job(groups, 4)
    for number, rank in ranks.items():
        for _ in range(3):
            rank.call(tp(number)).call("3")
        if number == 2:
            rank.call("3", done=False)
        else:
            rank.call(tp(number), done=number < 2)
            if number < 2:
                rank.call("3", done=False)
    found = judged(ranks.values())
    assert (found.kind, found.culprits) == ("order-mismatch", (2,))
    assert "skipped" in found.sentence


def pipelines() -> dict[int, Rank]:
    """Three pipelines of two stages: (0, 3), (1, 4), (2, 5)."""
    groups = {str(number): ("mesh_pp", [number, number + 3]) for number in range(3)}
    return job({**groups, "9": ("default_pg", list(range(6)))}, 6)


def test_a_send_that_is_never_made_is_named_with_its_sender() -> None:
    ranks = pipelines()
    for number in range(3):
        for _ in range(2):
            ranks[number].call(str(number), "send", peer=number + 3)
            ranks[number + 3].call(str(number), "recv", peer=number)
        if number != 1:
            ranks[number].call(str(number), "send", peer=number + 3).call("9", done=False)
            ranks[number + 3].call(str(number), "recv", peer=number).call("9", done=False)
    ranks[4].call("1", "recv", peer=1, done=False)
    found = judged(ranks.values())
    assert (found.kind, found.culprits) == ("p2p-missing", (1,))


def test_of_two_that_both_receive_the_other_pipelines_tell_who_is_wrong() -> None:
    ranks = pipelines()
    for number in range(3):
        ranks[number].call("9")
        ranks[number + 3].call("9")
        wrong = number == 1
        ranks[number].call(str(number), "recv" if wrong else "send", peer=number + 3, done=not wrong)
        ranks[number + 3].call(str(number), "recv", peer=number, done=not wrong)
        if not wrong:
            ranks[number].call("9", done=False)
            ranks[number + 3].call("9", done=False)
    found = judged(ranks.values())
    assert (found.kind, found.culprits) == ("p2p-deadlock", (1,))


def test_of_two_that_both_receive_alone_both_are_candidates() -> None:
    ranks = job({"1": ("mesh_pp", [0, 1])}, 2)
    ranks[0].call("1", "recv", peer=1, done=False)
    ranks[1].call("1", "recv", peer=0, done=False)
    found = judged(ranks.values())
    assert (found.kind, found.culprits, found.findings[0].candidates) == ("unknown", (), (0, 1))


def test_a_device_that_did_not_finish_what_its_peers_did_is_named() -> None:
    ranks = job(WORLD4, 4)
    for number, rank in ranks.items():
        rank.call("0").call("0", done=number != 3).call("0", done=False)
    found = judged(ranks.values())
    assert (found.kind, found.culprits) == ("device-stuck", (3,))


def test_a_job_at_work_blames_nobody() -> None:
    # Replicas at different places, all moments old: waits lead to ranks that compute in several places at once.
    ranks = mesh_2x2()
    for number, rank in ranks.items():
        for _ in range(5):
            rank.call(tp(number)).call(dp(number))
    ranks[0].call("1", done=False)
    ranks[3].call("2", done=False)
    found = judged(ranks.values(), taken_ns=0)
    assert (found.kind, found.culprits) == ("none", ())
    assert found.to_json()["where"] is None


def test_everything_done_is_none() -> None:
    ranks = pipelines()
    for number in range(3):
        ranks[number].call(str(number), "send", peer=number + 3).call("9").call("9")
        ranks[number + 3].call("9").call(str(number), "recv", peer=number).call("9")
    assert judged(ranks.values()).kind == "none"


def test_one_moment_of_a_job_names_with_doubt_what_a_later_dump_names_surely() -> None:
    now = max(rank.at for rank in stuck_in_tensor_group().values())
    moment = judged(stuck_in_tensor_group().values(), taken_ns=now)
    assert moment.culprits == (3,)
    assert moment.confidence < judged(stuck_in_tensor_group().values()).confidence


def test_two_groups_of_one_name_are_two_groups() -> None:
    groups = {"1": ("mesh_tp", [0, 1]), "2": ("mesh_tp", [2, 3])}
    ranks = job(groups, 4)
    for number, rank in ranks.items():
        rank.groups = {"7": rank.groups[tp(number)]}
        rank.call("7")
        if number != 2:
            rank.call("7", done=number < 2)
    found = judged(ranks.values())
    assert (found.kind, found.culprits, found.victims) == ("rank-missing", (2,), (3,))


def gloo(names: Mapping[int, str], groups: Mapping[str, Any], hints: verdict.Hints | None = None) -> verdict.Verdict:
    shared, found = digest.Digester(), []
    for rank, name in names.items():
        dump = reading.read((RECORDED / f"{name}.json").read_bytes())
        assert isinstance(dump, reading.Dump)
        found.append(shared.rank(rank, dump, LATER_NS * 2))
    return verdict.judge(merge.merge([shared.node(found)], groups=groups), hints)


def test_recorded_gloo_ranks_wait_for_the_one_that_sleeps() -> None:
    # torch 2.13.0, gloo: rank 1 in an all-reduce that rank 0, asleep in Python, never entered.
    # The numbers tell of a send before it, so by the records alone it may as well be in another, which rank 1 left out.
    ranks, groups = {0: "nothing-pending", 1: "blocked-in-all-reduce"}, {"0": {"desc": "default_pg", "ranks": [0, 1]}}
    found = gloo(ranks, groups)
    assert (found.kind, found.culprits, found.findings[0].candidates) == ("unknown", (), (0, 1))
    found = gloo(ranks, groups, verdict.Hints({0: verdict.Hint("elsewhere", text="sleeps in data.py:12 in load")}))
    assert (found.kind, found.culprits) == ("rank-missing", (0,))
    assert "it sleeps in data.py:12 in load, and 1 rank waits for it" in found.sentence


def test_a_straggler_is_named_only_where_it_is_late_by_much() -> None:
    for late_ns, kind in ((60_000_000, "straggler"), (1_000_000, "none")):
        ranks = job(WORLD4, 4)
        for rank in ranks.values():
            rank.at = START_NS
            for _ in range(8):
                rank.at += 90_000_000
                rank.call("0")
                entry = rank.entries[-1]
                entry["time_discovered_completed_ns"] = entry["time_created_ns"] + late_ns + 1_000_000
                entry["time_created_ns"] += late_ns if rank.number == 2 else 0
        found = judged(ranks.values(), taken_ns=0)
        assert (found.kind, found.culprits) == (kind, (2,) if kind == "straggler" else ())


def test_nothing_read_is_no_verdict() -> None:
    found = verdict.judge(merge.merge([]))
    assert (found.kind, found.confidence) == ("unknown", 0.0)
