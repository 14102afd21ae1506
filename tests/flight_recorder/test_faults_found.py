"""Faults that the verdict once had, each with the smallest job that shows it; jobs as in tests/analysis."""

import pathlib
import typing

import pytest

from bench import _fr_ours
from outrider_analysis.flight_recorder import verdict
from outrider_analysis.flight_recorder.verdict import order
from outrider_simulator import flight_recorder
from tests.analysis.test_flight_recorder_verdict import Rank, job, judged

WORLD = list(range(8))
GROUPS = {
    "0": ("default_pg", WORLD),
    **{str(at + 1): ("mesh_tp", [2 * at, 2 * at + 1]) for at in range(4)},
    **{str(at + 5): ("mesh_dp", [at, at + 2, at + 4, at + 6]) for at in range(2)},
}


def tp(rank: int) -> str:
    return str(rank // 2 + 1)


def dp(rank: int) -> str:
    return str(rank % 2 + 5)


def mesh() -> dict[int, Rank]:
    """tp: pairs; dp: four ranks each; everybody has made two rounds."""
    ranks = job(GROUPS, 8)
    for number, rank in ranks.items():
        for _ in range(2):
            rank.call(tp(number)).call(dp(number)).call("0")
    return ranks


def told(found: verdict.Verdict) -> tuple[str, tuple[int, ...]]:
    return found.kind, found.culprits


def batch(rank: Rank, group: str, done: bool) -> None:
    """Two collectives under one number, and the entry that ends their batch: it alone ever changes its state."""
    rank.call(group, "_all_gather_base", done=False)
    number = rank.counts[group, False]
    for op, ended in (("_all_gather_base", False), ("coalesced", done)):
        rank.counts[group, False] = number - 1
        rank.call(group, op, done=ended)


@pytest.mark.parametrize("form", [{}, {"active_only": True}])
def test_members_of_an_old_batch_of_collectives_are_over(form: dict[str, typing.Any]) -> None:
    ranks = mesh()
    for number, rank in ranks.items():
        batch(rank, dp(number), done=True)
        if number != 5:
            rank.call(tp(number), done=number != 4)
    for number in (0, 1, 2, 3, 6, 7):
        ranks[number].call("0", done=False)
    assert told(judged(ranks.values(), **form)) == ("rank-missing", (5,))
    everybody = mesh()
    for number, rank in everybody.items():
        batch(rank, dp(number), done=True)
    assert told(judged(everybody.values())) == ("none", ())


def test_a_send_that_nobody_takes_is_unfinished_though_a_later_recv_is_counted_as_over() -> None:
    groups = {"0": ("default_pg", [0, 1, 2]), "1": ("mesh_pp", [0, 1, 2])}
    ranks = job(groups, 3)
    for rank in ranks.values():
        rank.call("0")
    ranks[0].call("1", "send", peer=1).call("1", "recv", peer=1, done=False)
    ranks[1].call("1", "recv", peer=0).call("1", "send", peer=2, done=False).call("1", "recv", peer=0)
    ranks[0].call("1", "send", peer=1)
    dump = ranks[1].dump()
    dump["pg_status"]["1"] |= {"last_enqueued_collective": 3, "last_completed_collective": 3}
    ranks[1].dump = lambda ring=0, active_only=False: dump  # type: ignore[method-assign]
    assert judged(ranks.values()).culprits == (2,)


def test_a_second_host_that_stopped_behind_the_first_fault_is_named_too() -> None:
    ranks = mesh()
    for number, rank in ranks.items():
        if number != 1:
            rank.call(dp(number), done=number % 2 == 0)
            rank.call("0", done=False)
            if number != 6:
                rank.call(tp(number), done=False)
    found = judged(ranks.values())
    assert found.culprits == (1, 6)
    assert [finding.kind for finding in found.findings] == ["rank-missing", "rank-missing"]


def test_a_rank_without_a_dump_that_may_stand_with_its_mates_is_not_blamed() -> None:
    ranks = mesh()
    for number, rank in ranks.items():
        if number != 1:
            rank.call(dp(number), done=number % 2 == 0)
            rank.call(tp(number), done=False)
    heard = [rank for number, rank in ranks.items() if number != 5]
    assert judged(heard, world=8).culprits == (1,)


def test_one_call_too_many_is_not_the_fault_of_those_who_did_not_make_it() -> None:
    ranks = mesh()
    for number, rank in ranks.items():
        if number == 3:
            rank.call(tp(number), done=False)
        rank.call(dp(number), done=number % 2 == 0)
        rank.call("0", done=False)
    assert judged(ranks.values()).culprits in ((), (3,))


def test_many_devices_that_seem_stuck_are_not_named() -> None:
    ranks = mesh()
    for number, rank in ranks.items():
        rank.call(tp(number), done=number % 2 == 0)
    found = judged(ranks.values(), taken_ns=0)
    assert found.culprits == ()
    assert found.kind in ("none", "unknown")


def test_the_first_call_that_is_owed_is_where_it_began() -> None:
    ranks = mesh()
    for number, rank in ranks.items():
        if number != 4:
            rank.call(tp(number), done=number != 5)
            rank.call(dp(number), done=False)
            rank.call("0", done=False)
    found = judged(ranks.values(), active_only=True)
    assert found.culprits == (4,)
    assert found.findings[0].where is not None
    assert found.findings[0].where.ranks == (4, 5)


def test_clocks_that_differ_make_no_straggler() -> None:
    ranks = mesh()
    for number, rank in ranks.items():
        for _ in range(20):
            rank.call(tp(number)).call(dp(number))
        for entry in rank.entries:  # this host's clock is 30 ms ahead
            entry["time_created_ns"] += 30_000_000 * (number == 3)
            entry["time_discovered_completed_ns"] += 30_000_000 * (number == 3)
    assert told(judged(ranks.values(), taken_ns=0)) == ("none", ())


def test_groups_without_a_description_are_compared_with_those_of_their_own_stage() -> None:
    """Three stages of two pairs each; the later stages call something else under the same number."""
    pairs = [[2 * at, 2 * at + 1] for at in range(6)]
    lines = [[at, at + 4, at + 8] for at in range(4)]
    ranks = job({str(at): ("undefined", members) for at, members in enumerate([*pairs, *lines])}, 12)
    for number, rank in ranks.items():
        stage, pair, line = number // 4, str(number // 2), str(6 + number % 4)
        rank.call(pair, "_all_gather_base")
        if stage > 0:
            rank.call(line, "recv", peer=number - 4)
        if stage < 2:
            rank.call(line, "send", peer=number + 4)
        op = "_all_gather_base" if stage > 0 or number == 1 else "_reduce_scatter_base"
        rank.call(pair, op, done=pair != "0")
    assert told(judged(ranks.values())) == ("collective-mismatch", (1,))


def test_half_a_pair_that_is_through_is_neither_blamed_nor_said_to_be_there_in_full() -> None:
    ranks = job({"0": ("default_pg", [0, 1]), "1": ("mesh_pp", [0, 1])}, 2)
    for rank in ranks.values():
        rank.call("0")
    ranks[0].call("1", "send", peer=1)
    ranks[1].call("1", "recv", peer=0, done=False)
    assert told(judged(ranks.values())) == ("unknown", ())


def test_a_job_with_many_devices_in_flight_is_at_work_though_its_files_were_copied_late() -> None:
    ranks = mesh()
    for number, rank in ranks.items():
        rank.call(tp(number), done=number % 2 == 0)
    found = judged(ranks.values())
    assert told(found) == ("none", ())
    assert found.confidence < 0.7


def test_one_device_is_told_in_the_singular() -> None:
    ranks = mesh()
    for number, rank in ranks.items():
        rank.call(tp(number), done=number != 5)
    found = judged(ranks.values())
    assert told(found) == ("device-stuck", (5,))
    assert "though 1 other member did" in found.sentence
    assert "finished by rank 4" in found.findings[0].evidence[0]


def test_groups_that_share_a_name_and_tell_no_members_name_no_crowd() -> None:
    """Two groups called 2, whose members the dumps do not tell, look like one of which half is stuck."""
    ranks = mesh()
    for number, rank in ranks.items():
        rank.call(tp(number)).call(dp(number), done=number % 2 == 0)
        if number != 5:
            rank.call("0", done=False)
    for rank in ranks.values():
        whole = rank.dump()
        for entry in whole["entries"]:
            name, description = entry["process_group"]
            entry["process_group"] = ({"mesh_tp": "1", "mesh_dp": "2"}.get(description, name), description)
        made = whole | {"pg_config": {}}
        rank.dump = lambda ring=0, active_only=False, made=made: made  # type: ignore[method-assign, misc]
    found = judged(ranks.values())
    assert told(found) == ("unknown", ())
    assert 5 in found.findings[0].candidates


def test_a_ring_that_begins_within_a_batch_of_like_calls_is_no_other_order() -> None:
    member: order.Call = ("dp", False, 70, "all_gather", -1)
    end: order.Call = ("dp", False, 70, "coalesced", -1)
    after: order.Call = ("dp", False, 71, "all_reduce", -1)
    whole, cut = [member, member, member, end, after], [member, end]
    assert order.compare(cut, whole) == (2, 4, "behind")
    assert order.compare(whole, cut) == (4, 2, "ahead")
    assert order.compare([member, member, after], whole)[2] == "differ"


def test_groups_without_a_description_are_not_mistaken_where_a_ring_has_forgotten_one(tmp_path: pathlib.Path) -> None:
    case = flight_recorder.make(91183, 64)
    assert (case.truth.fault, case.truth.culprits) == ("killed", (28,))
    flight_recorder.write(case, tmp_path)
    answer, _ = _fr_ours.analyze(tmp_path / "dumps", times=True)
    assert answer["culprits"] == [28]


@pytest.mark.parametrize("form", [{}, {"active_only": True}])
def test_a_host_that_stopped_where_nobody_waits_for_it_yet_is_named_with_doubt(form: dict[str, typing.Any]) -> None:
    """Rank 0 holds up all. Rank 6 stopped where its mates called on, in a group where they wait for an earlier call."""
    ranks = mesh()
    for number, rank in ranks.items():
        for group in ("0", tp(number), dp(number), tp(number))[: {0: 0, 6: 3}.get(number, 4)]:
            rank.call(group, done=False)
    found = judged(ranks.values(), **form)
    assert [(each.culprits, each.confidence) for each in found.findings] == [((0,), 0.95), ((6,), 0.6)]
    assert "nobody waits for it yet" in found.findings[1].evidence


def test_a_host_with_as_many_calls_unfinished_as_its_mates_may_only_have_a_full_queue() -> None:
    """The queues of all hold four calls; for the mates of rank 6 one more is over."""
    ranks = mesh()
    for number, rank in ranks.items():
        first = number // 2 != 3  # of the pairs only that of rank 6 is held up before the world's call
        for at, group in enumerate((tp(number), "0", dp(number), tp(number), dp(number))[: 5 if first else 4]):
            if number not in (0, 7):
                rank.call(group, done=at == 0 and first)
    assert 6 not in judged(ranks.values()).culprits


def test_counts_of_sends_are_not_taken_for_those_of_collectives_where_finished_calls_are_left_out(
    tmp_path: pathlib.Path,
) -> None:
    """Unfinished entries alone: two innocent ranks seemed to have made two calls the other way round, with 0.9."""
    case = flight_recorder.make(71244, 64)
    flight_recorder.write(case, tmp_path)
    answer, _ = _fr_ours.analyze(tmp_path / "dumps", times=True)
    assert set(answer["culprits"]) <= set(case.truth.culprits)


def test_a_batch_of_collectives_is_told_from_one_of_them_alone(tmp_path: pathlib.Path) -> None:
    """All have joined, and the first call of the batch is the one that the culprit made alone."""
    case = flight_recorder.make(60301, 64)
    flight_recorder.write(case, tmp_path)
    answer, _ = _fr_ours.analyze(tmp_path / "dumps", times=True)
    assert (answer["verdict"], tuple(answer["culprits"])) == ("collective-mismatch", case.truth.culprits)
    assert "called reduce_scatter where the others called a batch of 3 collectives" in answer["sentence"]


@pytest.mark.parametrize("within", [(4,), (2, 4, 6)])
@pytest.mark.parametrize("rounds", [0, 3, 20])
def test_a_rank_whose_dump_was_taken_within_its_batch_called_nothing_else(within: tuple[int, ...], rounds: int) -> None:
    """It has made the first call of the batch, and the others that end it a moment later."""
    ranks = mesh()
    for number, rank in ranks.items():
        for _ in range(rounds):
            rank.call(tp(number)).call(dp(number)).call("0")
        if number in within:
            rank.call(dp(number), "_all_gather_base", done=False)
        else:
            batch(rank, dp(number), done=dp(number) not in {dp(other) for other in within})
    newest = max(rank.at for rank in ranks.values()) + 1_000_000
    found = judged(list(ranks.values()), taken_ns=newest)
    assert told(found) == ("none", ())


def test_what_rings_have_forgotten_adds_no_findings_that_blame_nobody(tmp_path: pathlib.Path) -> None:
    case = flight_recorder.make(60400, 64)
    flight_recorder.write(case, tmp_path)
    answer, _ = _fr_ours.analyze(tmp_path / "dumps", times=True)
    assert [finding["verdict"] for finding in answer["findings"]] == ["all-joined-stuck"]
    assert set(answer["where"]["ranks"]) == set((case.truth.where or {})["ranks"])


def without_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dumps without ``pg_config``, as where another library wrote them."""
    whole = Rank.dump
    monkeypatch.setattr(Rank, "dump", lambda rank, **form: whole(rank, **form) | {"pg_config": {}})


def test_where_members_are_not_told_a_rank_that_waits_in_a_send_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    without_members(monkeypatch)
    groups = {"1": ("a", [0, 1]), "2": ("b", [1, 2])}
    for places_fit in (True, False):
        ranks = job(groups, 3)
        ranks[0].call("1")
        ranks[2].call("2", "send", peer=1)
        ranks[1].call("1").call("2", "recv", peer=2).call("2", "recv", peer=2, done=False)
        ranks[0].call("1", done=False)
        if not places_fit:
            ranks[1].entries[-1]["profiling_name"] = "nccl:recv 3<-1"
        found = judged(ranks.values())
        assert told(found) == (("p2p-missing", (2,)) if places_fit else ("unknown", ()))


def test_where_members_are_not_told_and_no_time_tells_nothing_is_said_to_be_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_members(monkeypatch)
    ranks = mesh()
    for number, rank in ranks.items():
        if number % 2:
            rank.call(tp(number), done=False)
        else:
            rank.call(dp(number), done=number in (0, 2))
    assert told(judged(ranks.values(), taken_ns=0)) == ("unknown", ())


def test_a_group_without_a_description_is_told_by_its_name_and_members() -> None:
    groups = {name: ("undefined", members) for name, (_, members) in GROUPS.items()}
    ranks = job(groups, 8)
    for number, rank in ranks.items():
        rank.call(tp(number)).call(dp(number), done=False, op="all_reduce" if number != 4 else "broadcast")
    text = str(judged(ranks.values()).to_json())
    assert "undefined" not in text.replace("'description': 'undefined'", "")
    assert "group 5 (ranks 0, 2, 4, 6)" in text
