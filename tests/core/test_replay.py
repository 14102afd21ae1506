"""A ledger replayed: equal under its own policy, and the differences named under another."""

from __future__ import annotations

import copy

from outrider_controller import runbook_files
from outrider_controller.core import policy, replay
from tests.core.world import World


def test_replay_under_the_same_policy_finds_no_difference_and_an_equal_state() -> None:
    world = World().submit().train(4, save_every=2).die(0, signal="SIGKILL").train(6).vanish("n1").wait(20)
    found = replay.replay(world.rows, world.policy)
    assert (found.decisions, found.different, found.state_equal) == (2, (), True)


def test_replay_under_another_policy_names_each_decision_that_would_differ() -> None:
    world = World().submit().train(4, save_every=2).die(0, signal="SIGKILL").train(6)
    documents = copy.deepcopy(runbook_files.read().documents)
    documents["rank-killed.md"]["action"] = "hold-for-person"
    found = replay.replay(world.rows, policy.load(documents))
    assert [(d.incident, d.was, d.would_be, d.runbook) for d in found.different] == [
        ("job-1", "restart", "hold-for-person", "rank-killed")
    ]
    assert not found.state_equal
