"""The demo's plan and its comparison, without running it."""

import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from outrider import mesh, vocabulary
from outrider_cli import demo_faults, demo_findings, demo_injector, demo_job, demo_worlds, errors


def test_the_same_seed_plans_the_same_faults() -> None:
    plans = [demo_faults.plan(("kill", "node"), seed, 40, 5, 8) for seed in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


@pytest.mark.parametrize("seed", range(50))
def test_faults_come_one_after_the_other_between_the_first_checkpoint_and_the_end(seed: int) -> None:
    first, second = demo_faults.plan(("kill", "node"), seed, 40, 5, 8)
    assert 5 < first.step < second.step < 38
    assert all(0 <= fault.rank < 8 for fault in (first, second))


def test_none_means_no_faults() -> None:
    assert demo_faults.parse("none") == ()
    assert demo_faults.plan((), 0, 1, 1, 8) == []


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_finds_room_in_the_steps_that_are_the_default(seed: int) -> None:
    faults = demo_faults.plan(vocabulary.DEMO_FAULTS_PLAIN, seed, 60, 5, 8)
    assert [fault.kind for fault in faults] == list(vocabulary.DEMO_FAULTS_PLAIN)
    assert [fault.step for fault in faults] == sorted(fault.step for fault in faults)
    assert next(fault for fault in faults if fault.kind == "corrupt").step >= 10  # two checkpoints are there


def test_some_seeds_damage_a_checkpoint_before_it_was_verified_and_most_do_not() -> None:
    early = sum(demo_faults.plan(("corrupt",), seed, 60, 5, 8)[0].early for seed in range(100))
    assert 10 < early < 50


@pytest.mark.parametrize(
    ("text", "words"),
    [("kil", "'kil' is not known; did you mean kill?"), ("kill,kill", "name each once")],
)
def test_a_wrong_fault_is_named_with_what_is_ready(text: str, words: str) -> None:
    with pytest.raises(errors.CommandError, match="--faults") as caught:
        demo_faults.parse(text)
    assert words in str(caught.value)


def test_too_few_steps_for_the_faults_are_refused_with_enough() -> None:
    with pytest.raises(errors.CommandError, match="give at least 14"):
        demo_faults.plan(("kill", "node"), 0, 10, 5, 8)
    assert len(demo_faults.plan(("kill", "node"), 0, 14, 5, 8)) == 2


def write(path: Path, *lines: tuple[int, float]) -> Path:
    rows = [{"step": step, "loss_hex": loss.hex(), "grad_norm_hex": (1.0).hex()} for step, loss in lines]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_repeated_steps_must_have_the_bits_of_the_reference_too(tmp_path: Path) -> None:
    reference = write(tmp_path / "a", (1, 0.1), (2, 0.2), (3, 0.3))
    same = write(tmp_path / "b", (1, 0.1), (2, 0.2), (2, 0.2), (3, 0.3))
    compared = demo_job.compare(same, reference, 3)
    assert compared.equal
    assert compared.lines == 4
    repeated = write(tmp_path / "c", (1, 0.1), (2, 0.2000001), (2, 0.2), (3, 0.3))
    assert demo_job.compare(repeated, reference, 3).different == (2,)


def test_a_missing_step_is_no_equality(tmp_path: Path) -> None:
    reference = write(tmp_path / "a", (1, 0.1), (2, 0.2))
    short = write(tmp_path / "b", (1, 0.1))
    compared = demo_job.compare(short, reference, 2)
    assert not compared.equal
    assert compared.missing == (2,)
    assert not demo_job.compare(tmp_path / "absent", reference, 2).equal


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    reference = write(tmp_path / "a", (1, 0.1), (2, 0.2))
    cut = tmp_path / "b"
    cut.write_text('{"step": 2, "loss_h\n' + reference.read_text())
    assert demo_job.compare(cut, reference, 2).equal


def test_poisoned_lines_are_left_out_only_where_a_loss_was_poisoned_and_their_steps_are_still_wanted(
    tmp_path: Path,
) -> None:
    reference = write(tmp_path / "a", (1, 0.1), (2, 0.2), (3, 0.3))
    healed = write(tmp_path / "b", (1, 0.1), (2, math.nan), (3, math.nan), (2, 0.2), (3, 0.3))
    assert demo_job.compare(healed, reference, 3).different == (2, 3)
    compared = demo_job.compare(healed, reference, 3, poisoned=True)
    assert (compared.equal, compared.lines, compared.not_finite) == (True, 3, 2)
    unhealed = write(tmp_path / "c", (1, 0.1), (2, math.nan), (3, math.inf))
    assert demo_job.compare(unhealed, reference, 3, poisoned=True).missing == (2, 3)
    wrong = write(tmp_path / "d", (1, 0.1), (2, math.nan), (2, 0.25), (3, 0.3))
    assert demo_job.compare(wrong, reference, 3, poisoned=True).different == (2,)


def test_the_newest_checkpoint_is_damaged_in_a_stretch_of_one_file_and_nothing_else(tmp_path: Path) -> None:
    for place, name in enumerate(("step-00000010-attempt-000", "step-00000005-attempt-001")):
        folder = tmp_path / name
        folder.mkdir()
        for rank in range(4):
            (folder / f"__{rank}_0.distcp").write_bytes(bytes(1000))
        (folder / "manifest.json").touch()
        os.utime(folder / "manifest.json", (place, place))
        os.utime(folder, (place, place))
    (tmp_path / "step-00000020-attempt-001").mkdir()  # not committed
    path = demo_injector.newest(tmp_path)
    assert path is not None
    assert path.name == "step-00000005-attempt-001"
    file, offset = demo_injector.flip(path, 0.6)
    for other in sorted(tmp_path.glob("step-*/*.distcp")):
        wanted = bytes(1000)
        if other == path / file:
            wanted = bytes(offset) + b"\xff" * 256 + bytes(1000 - 256 - offset)
        assert other.read_bytes() == wanted


def incident(name: str, begin: int, cause: str, ranks: list[int], **more: Any) -> dict[str, Any]:
    """As the controller tells it: struck at ``begin``, next step 5 s later, regained 10 s later."""
    stamp = "2026-01-01T00:00:{:02d}+00:00".format
    phases = {"detection_s": 2.0, "diagnosis_s": 1.0, "restart_s": 2.0, "redo_s": 5.0, "planned_s": 0.0, "held_s": 0.0}
    return {
        "id": name,
        "opened_at": stamp(begin),
        "closed_at": stamp(begin + 10),
        "cause": cause,
        "suspects": {"ranks": ranks, "nodes": []},
        "action": "restart",
        "planned": False,
        "attempt_before": 0,
        "attempt_after": 1,
        "phases": phases,
        "from_checkpoint": {"path": "/c/step-5", "rejected": [{"path": "/c/step-10", "why": "digest"}]},
    } | more


START = 1767225600.0  # 2026-01-01T00:00:00Z


def injected(kind: str, at: float, rank: int, attempt: int = 0, **more: Any) -> dict[str, Any]:
    return {"fault": kind, "at": START + at, "rank": rank, "node": "n0", "attempt": attempt, "step": 7} | more


def test_each_fault_is_set_beside_its_own_incident_and_a_wrong_name_is_a_wrong_name() -> None:
    faults = [injected("kill", 1, 3), injected("stop", 21, 2, attempt=1)]
    incidents = [
        incident("a", 0, "checkpoint-corrupt", [], action="watch"),
        incident("b", 1, "rank-killed", [3]),
        incident("c", 20, "rank-stopped", [5], attempt_before=1),
    ]
    first, second = demo_findings.judge(faults, incidents)
    assert (first["incident"], first["cause_right"], first["named"], first["back_s"]) == ("b", True, True, 5.0)
    assert (second["incident"], second["cause_right"], second["named"], second["back_s"]) == ("c", True, False, 4.0)
    assert not demo_findings.all_right([first, second])
    assert "WRONG" in demo_findings.table([first, second])


def test_what_the_flight_records_said_stands_beside_the_fault() -> None:
    told = {
        "verdict": "rank-missing",
        "culprits": [2],
        "confidence": 0.95,
        "sentence": "Rank 2 never came.",
        "graph": {},
    }
    faults = [injected("spin", 1, 2), injected("kill", 21, 3, attempt=1)]
    incidents = [
        incident("a", 1, "rank-hung", [2], flight_recorder=told),
        incident("b", 20, "rank-killed", [3], attempt_before=1),
    ]
    found = demo_findings.judge(faults, incidents)
    assert [fault["flight_recorder"] and fault["flight_recorder"]["culprits"] for fault in found] == [[2], None]
    assert demo_findings.recorded(found) == ["spin, by the flight records (95% sure): Rank 2 never came."]


def test_a_fault_that_nobody_noticed_is_not_right() -> None:
    [alone] = demo_findings.judge([injected("spin", 50, 1)], [incident("a", 0, "rank-hung", [1])])
    assert alone["incident"] is None
    assert not demo_findings.all_right([alone])


@pytest.mark.parametrize(("damaged", "right"), [("/c/step-10", True), ("/c/step-5", False), ("/c/step-7", False)])
def test_a_damaged_checkpoint_has_to_be_refused_with_its_reason(damaged: str, right: bool) -> None:
    fault = injected("corrupt", 1, 3, checkpoint={"path": damaged})
    [judged] = demo_findings.judge([fault], [incident("a", 1, "rank-killed", [3])])
    assert demo_findings.all_right([judged]) is right
    assert ("damage refused" in demo_findings.table([judged])) is right


@pytest.mark.parametrize("text", ["dp=2,pp=2,cp=1,tp=2", "dp=2,pp=2,cp=2,tp=2", "dp=3", "pp=6", "tp=3,cp=3", "tp=8"])
def test_the_demos_model_is_divided_by_any_mesh(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(demo_job.TRAIN.parent))
    import llama4d_options

    wanted = mesh.parse(text)
    command = demo_job.DemoJob(wanted, 40, 0, 5).command(tmp_path, 0.0)
    parsed = llama4d_options.parse(command[2:], wanted.world_size)
    assert llama4d_options.problems(parsed, wanted.world_size) == []


def test_without_a_compiler_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(
        errors.CommandError, match=r"none was found as \$CC, cc or gcc; install one.*; or leave them out"
    ):
        demo_worlds.Worlds(tmp_path / "worlds", ["n0"], 1)


def test_faults_of_simulated_hardware_have_time_to_be_found_and_the_others_keep_theirs() -> None:
    faults = demo_faults.plan(vocabulary.DEMO_FAULTS_SIMULATED, 3, 140, 5, 8)
    steps = [fault.step for fault in faults]
    assert [fault.kind for fault in faults] == list(vocabulary.DEMO_FAULTS_SIMULATED)
    assert all(later - earlier >= 16 for earlier, later in itertools.pairwise([*steps, 140]))
    assert demo_faults.fitting(("kill", "gpu-lost"), 20, 5) == ("kill",)


def test_a_node_that_was_left_at_a_checkpoint_is_a_planned_incident_and_a_crash_is_none() -> None:
    fault = {**injected("thermal", 40, 1), "node": "n0"}
    one = incident("a", 45, "gpu-overheating", [1]) | {"planned": True, "action": "drain-at-checkpoint"}
    one["suspects"] = {"ranks": [1], "nodes": ["n0"]}
    assert demo_findings.all_right(demo_findings.judge([fault], [one]))
    assert not demo_findings.all_right(demo_findings.judge([fault], [one | {"planned": False}]))
    assert not demo_findings.all_right(demo_findings.judge([fault], [one | {"cause": "power-brake"}]))
