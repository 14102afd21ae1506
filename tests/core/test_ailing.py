"""What becomes of a node's findings: a cause, a drain, a watch, or nothing; and the way back of a node."""

from __future__ import annotations

import pytest

from outrider import records as spoken
from outrider_controller.core import health, records
from outrider_controller.core.diagnosis import hardware
from tests.core.world import CUDA_ERROR, LOST_PEER, World


def training(**more: object) -> World:
    return World(**more).submit().train(6, save_every=3)  # type: ignore[arg-type]


def lost(world: World, node: str = "n1") -> World:
    return world.find(node, "xid", xid=79, recovery="reboot_node", origin="hardware")


def placement(world: World) -> tuple[str, ...]:
    assert world.job.attempt is not None
    return world.job.attempt.placement


def opened(world: World) -> list[records.IncidentOpened]:
    return world.of(records.IncidentOpened)


# --- which finding is the cause


def test_finding_before_the_death_names_rank_gpu_and_recovery_and_the_node_is_kept_out() -> None:
    world = lost(training()).die(2, **CUDA_ERROR)
    found, decided = world.of(records.Diagnosed)[-1], world.of(records.Decided)[-1]
    assert (found.cause, found.ranks, found.nodes, found.gpus) == ("gpu-lost", (2,), ("n1",), ("n1/gpu0",))
    assert (found.recovery, found.confidence, found.cause_group) == ("reboot_node", 0.95, "Faulty GPU")
    assert decided.decision == "restart-without-suspect"
    assert "n1 is kept out until what was found is over, and needs: reboot the node" in decided.reason
    assert placement(world) == ("n0", "n2")
    assert world.state.nodes["n1"].mark == "cordoned"


def test_the_rank_of_a_gpu_is_the_one_that_uses_it_where_gpus_are_numbered_anew() -> None:
    world = lost(training(gpus={"2": "gpu3", "3": "gpu0"})).die(3, **CUDA_ERROR)
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.ranks, found.nodes, found.gpus) == ("gpu-lost", (3,), ("n1",), ("n1/gpu0",))
    world = lost(training(gpus={"2": "gpu0", "3": "gpu0"})).die(3, **CUDA_ERROR)
    assert world.of(records.Diagnosed)[-1].ranks == (2, 3)  # both use it


def test_words_of_the_device_wait_a_moment_for_news_and_not_longer() -> None:
    world = training().die(2, **CUDA_ERROR)
    assert not world.of(records.Diagnosed)
    world.wait(4)
    assert world.cause == "user-error"


def test_a_lost_peer_elsewhere_and_echoes_are_never_blamed() -> None:
    world = training().find("n0", "xid", xid=74, recovery="check_nvlink").wait(0.5)
    lost(world).die(0, code=1, log_tail=LOST_PEER)
    assert (world.cause, world.of(records.Diagnosed)[-1].nodes) == ("gpu-lost", ("n1",))


@pytest.mark.parametrize("number", [13, 31, 43, 45])
def test_xids_of_the_program_stand_beside_its_crash_and_blame_no_node(number: int) -> None:
    world = training().find("n1", "xid", xid=number, severity="error", recovery="restart_app")
    world.die(2, **CUDA_ERROR).wait(4)
    found = world.of(records.Diagnosed)[-1]
    assert found.cause == "user-error"
    assert any(row["kind"] == "xid" for row in found.evidence)
    assert placement(world) == ("n0", "n1")
    assert health.tier(world.state.nodes["n1"]) == 0


def test_an_xid_of_the_program_that_the_kernel_log_calls_hardware_takes_the_node_out() -> None:
    world = training().find("n1", "xid", xid=13, severity="error", recovery="drain", origin="app")
    assert world.die(2, **CUDA_ERROR).cause == "gpu-fault"
    assert placement(world) == ("n0", "n2")


def test_the_drivers_recovery_action_beats_the_finding() -> None:
    world = lost(training()).find("n1", "recovery-action", recovery="reset_gpu").die(2, **CUDA_ERROR)
    assert world.of(records.Diagnosed)[-1].recovery == "reset_gpu"


def test_a_contained_error_takes_a_new_start_on_the_same_nodes() -> None:
    world = training().find("n1", "xid", xid=94, severity="error", recovery="restart_app", origin="memory")
    world.die(2, **CUDA_ERROR)
    assert (world.cause, world.decision, placement(world)) == ("gpu-memory", "restart", ("n0", "n1"))


def test_a_killed_rank_and_an_error_of_the_code_elsewhere_are_not_the_gpus() -> None:
    assert lost(training()).die(2, signal="SIGKILL").cause == "rank-killed"
    world = lost(training()).die(0, code=1, error_type="ValueError", error_message="bad shape")
    assert world.cause == "user-error"
    assert any(row["kind"] == "xid" for row in world.of(records.Diagnosed)[-1].evidence)


def test_what_most_nodes_find_at_once_blames_none_of_them() -> None:
    world = World(nodes=3, ranks_per_node=1).submit().train(6, save_every=3)
    for node in ("n0", "n1", "n2"):
        world.find(node, "port-down", "mlx5_0/1", recovery="drain")
    world.die(0, code=1, log_tail=LOST_PEER)
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.nodes) == ("network-fault", ())


def test_what_is_over_before_the_end_may_have_been_its_cause() -> None:
    world = training().find("n1", "port-down", "mlx5_0/1", recovery="drain").cleared("n1")
    world.die(0, code=1, log_tail=LOST_PEER)
    assert world.cause == "network-fault"


# --- while the job still runs


def test_a_fatal_finding_and_no_step_end_the_attempt_without_any_deadline() -> None:
    world = lost(training()).wait(5)
    [incident] = opened(world)
    assert (incident.opened_by, incident.interrupted) == ("node-finding", True)
    assert incident.at - incident.fault_at <= 5
    assert placement(world) == ("n0", "n2")


def test_the_watch_over_silence_is_the_second_sign_even_before_the_first_step() -> None:
    world = lost(World().submit()).wait(30)
    assert not opened(world), "a start shows no steps"
    world.suspect(1)
    assert world.cause == "gpu-lost"


def test_a_job_that_trains_on_is_not_interrupted_but_leaves_at_its_checkpoint() -> None:
    world = lost(training())
    for _ in range(4):
        world.wait(0.5).train(world.step + 1)
    assert world.job.drain is not None
    assert not opened(world)
    world.train(12, save_every=12).train(13)
    [incident] = opened(world)
    assert (incident.planned, world.decision) == (True, "drain-at-checkpoint")
    assert placement(world) == ("n0", "n2")
    assert world.of(records.IncidentClosed)[-1].lost_steps == 0


def hot(world: World, node: str = "n1") -> World:
    return world.find(node, "thermal-throttle", severity="error", recovery="drain")


def test_without_a_spare_people_are_told_once_and_a_new_spare_lets_it_leave() -> None:
    world = hot(training(spares=0))
    for _ in range(3):
        world.train(world.step + 2, save_every=2)
    [incident] = opened(world)
    assert (incident.interrupted, world.decision) == (False, "watch")
    assert "no sound spare" in world.of(records.Decided)[-1].reason


def test_a_drain_is_dropped_when_the_fault_is_over_or_the_spare_is_gone() -> None:
    world = hot(training())
    assert world.job.drain is not None
    world.cleared("n1").train(9, save_every=3)
    assert (world.job.drain, opened(world)) == (None, [])
    world = hot(training())
    world.silence("n2").train(9, save_every=3)
    assert [row.interrupted for row in opened(world)] == [False]
    assert placement(world) == ("n0", "n1")


def test_a_drain_waits_no_longer_than_the_runbook_says_and_never_goes_back_to_the_beginning() -> None:
    world = hot(training())
    for _ in range(10):
        world.wait(200).train(world.step + 1)
    assert (world.decision, placement(world)) == ("drain-at-checkpoint", ("n0", "n2"))
    world = hot(World().submit().train(6))
    for _ in range(10):
        world.wait(200).train(world.step + 1)
    assert (world.decision, placement(world)) == ("watch", ("n0", "n1"))


def test_a_rank_that_dies_while_a_drain_waits_leaves_the_node_at_that_occasion() -> None:
    world = hot(training()).die(0, signal="SIGKILL")
    assert (world.cause, world.decision, placement(world)) == (
        "rank-killed",
        "restart-without-suspect",
        ("n0", "n2"),
    )
    assert world.job.drain is None


def test_no_more_nodes_are_drained_than_the_runbook_lets_out() -> None:
    world = World(nodes=1, ranks_per_node=1, spares=12).submit().train(1, save_every=1)
    for _ in range(10):
        hot(world, placement(world)[0]).train(world.step + 2, save_every=1)
        world.train(world.step + 1)
    drains = [row for row in world.of(records.Decided) if row.decision == "drain-at-checkpoint"]
    assert len(drains) == 8
    assert world.decision == "watch"


@pytest.mark.parametrize(
    ("kind", "severity"),
    [("user-space-lookalike", "info"), ("could-not-look", "error"), ("xid", "info"), ("pcie-replays", "warning")],
)
def test_nothing_is_done_for_what_tells_nothing(kind: str, severity: str) -> None:
    world = training().find("n1", kind, severity=severity).wait(30)
    assert not opened(world)
    assert world.job.drain is None
    assert health.tier(world.state.nodes["n1"]) == 0


def test_what_keeps_new_jobs_from_starting_leaves_the_running_one_alone() -> None:
    world = training().find("n1", "driver-not-loaded", "", severity="error", stops="new jobs").wait(60)
    assert not opened(world)
    world.die(0, signal="SIGKILL")
    assert placement(world) == ("n0", "n2")


# --- placement and the way back


def test_without_a_spare_the_job_waits_and_says_why_until_the_finding_is_over() -> None:
    world = lost(training(spares=0)).die(2, **CUDA_ERROR)
    assert "the job waits for a node" in world.of(records.Decided)[-1].reason
    assert "n1 is kept out: xid 79 on gpu0 (needs: reboot the node)" in world.of(records.Noted)[-1].text
    world.wait(100)
    assert len(world.of(records.AttemptPlanned)) == 1
    world.cleared("n1")
    assert placement(world) == ("n0", "n1")
    world.train(8)
    assert world.job.incident is None


def test_a_node_comes_back_as_a_spare_when_its_agent_finds_nothing_more() -> None:
    world = lost(training()).die(2, **CUDA_ERROR).train(7)
    world.silence("n1").join("n1", boot="b2")
    assert world.state.nodes["n1"].mark == "cordoned", "booted anew, and its agent still tells of it"
    world.silence("n1")
    world.found.clear()
    world.join("n1", boot="b3")
    assert world.state.nodes["n1"].mark == "clear"
    world.die(2, signal="SIGKILL")
    world.vanish("n0") if world.alive else None
    assert world.state.nodes["n1"].usable


def test_a_persons_cordon_is_not_lifted_by_a_clear_finding() -> None:
    world = lost(training()).ask("cordon", "n1").cleared("n1")
    assert world.state.nodes["n1"].mark == "cordoned"


def test_a_person_who_lets_a_node_be_used_has_seen_what_was_found() -> None:
    world = lost(training(spares=0)).die(2, **CUDA_ERROR).wait(1).ask("uncordon", "n1")
    assert placement(world) == ("n0", "n1")
    world.wait(1).train(8)
    assert world.job.state == "training"


def test_no_job_begins_on_a_broken_node() -> None:
    world = World(nodes=1, spares=1)
    for node in ("n0", "n1"):
        world.join(node)
    lost(world, "n0").submit_only()
    assert placement(world) == ("n1",)


def test_a_broken_node_that_the_job_trained_on_is_better_than_none() -> None:
    world = training(spares=0)
    lost(world)
    for _ in range(4):
        world.wait(0.5).train(world.step + 1)
    world.die(0, signal="SIGKILL")
    assert placement(world) == ("n0", "n1")
    assert any("in spite of xid 79 on gpu0" in row.text for row in world.of(records.Noted))


def test_findings_of_a_node_are_bounded_and_the_gravest_stay() -> None:
    world = lost(training())
    for number in range(2 * health.KEPT_MAX):
        world.find("n1", "nvme-health", f"nvme{number}", severity="error", recovery="none")
    kept = world.state.nodes["n1"].findings
    assert len(kept) == health.KEPT_MAX
    assert "xid" in {item.seen.kind for item in kept}


def test_simulated_findings_say_so() -> None:
    seen = spoken.Observation(1, "xid", "fatal", 1.0, "n0", "gpu3 fell off the bus", evidence={"simulated": True})
    assert hardware.sentence(seen) == "gpu3 fell off the bus, on n0 (simulated)"
