"""A node that was taken out is checked before it returns, where the controller was told to."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from outrider_controller import runbook_files
from outrider_controller.core import node_checks, records
from tests.core.world import ImpossibleWorld, World

PASSED = (True, {"verdict": "pass", "sentence": "n1 passed: 6 of 6 checks passed"}, None)
FAILED = (True, {"verdict": "fail", "sentence": "n1 failed memory of gpu3 (8 words read back wrong)"}, None)
NO_ANSWER = (False, {}, "node n1 is away since 10.1 s and was not reached for check")


@dataclass
class Checked(World):
    """A world whose nodes answer checks with ``answer``, or later where it is None."""

    answer: tuple[bool, dict[str, Any], str | None] | None = PASSED
    waiting: list[records.EffectRequested] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def perform(self, effect: records.EffectRequested) -> None:
        if effect.name != node_checks.EFFECT:
            super().perform(effect)
            return
        if effect.effect in self.asked:
            raise ImpossibleWorld(f"{effect.effect} was asked for twice")
        self.asked.append(effect.effect)
        assert effect.args["node"] not in self.alive.values(), "no node is checked beside ranks"
        self.waiting.append(effect)
        if self.answer is not None:
            self.answered()

    def answered(self) -> "Checked":
        self.now += 12.0
        ok, result, error = self.answer or PASSED
        self.feed(records.EffectDone(self.now, "", self.waiting.pop().effect, ok, result, error))
        return self

    def mark(self, node: str) -> tuple[str, str]:
        return self.state.nodes[node].mark, self.state.nodes[node].check


def world(before: str = node_checks.RETURN, **given: Any) -> Checked:
    policy = dataclasses.replace(runbook_files.load(), check_before=before)
    made = Checked(policy=policy, **given)
    made.submit().train(3)
    return made


def test_a_node_that_passes_is_used_again_and_what_waits_for_it_goes_on() -> None:
    cluster = world(spares=0, answer=None)
    cluster.ask("cordon", "n1").die(2, signal="SIGKILL").wait(30)
    assert cluster.job.state != "training", "the job waits for the node"
    cluster.ask("uncordon", "n1")
    assert cluster.mark("n1") == ("cordoned", "wanted")
    assert "it is checked before it returns (ada asked for uncordon)" in cluster.state.nodes["n1"].why
    before = cluster.job.attempts
    cluster.answered()
    assert cluster.mark("n1") == ("clear", "")
    assert cluster.job.attempts == before + 1


def test_a_node_that_fails_stays_out_with_its_evidence_until_a_person_insists() -> None:
    cluster = world(answer=FAILED)
    cluster.ask("cordon", "n2").ask("uncordon", "n2")
    assert cluster.mark("n2") == ("cordoned", "failed")
    assert cluster.state.nodes["n2"].why == f"check-failed: {FAILED[1]['sentence']}"
    assert not cluster.state.nodes["n2"].usable
    cluster.join("n2")
    assert cluster.mark("n2") == ("cordoned", "failed"), "coming back proves nothing"
    cluster.ask("uncordon", "n2")
    assert cluster.mark("n2") == ("clear", "")
    assert cluster.asked == ["n2-c1"]


def test_a_node_that_could_not_be_checked_stays_out_and_is_asked_again_when_it_returns() -> None:
    cluster = world(answer=NO_ANSWER)
    cluster.ask("cordon", "n2").ask("uncordon", "n2")
    assert cluster.mark("n2") == ("cordoned", "unanswered")
    assert "was not reached for check; uncordon it to use it all the same" in cluster.state.nodes["n2"].why
    cluster.answer = PASSED
    cluster.join("n2")
    assert cluster.mark("n2") == ("clear", "")
    assert cluster.asked == ["n2-c1", "n2-c2"]


def test_a_verdict_that_is_no_answer_is_no_pass() -> None:
    cluster = world(answer=(True, {"verdict": "could-not-look", "sentence": "n2 could not be checked"}, None))
    cluster.ask("cordon", "n2").ask("uncordon", "n2")
    assert cluster.mark("n2") == ("cordoned", "unanswered")


def test_a_lost_node_is_checked_when_it_comes_back() -> None:
    cluster = world()
    cluster.vanish("n1").wait(20)
    assert cluster.state.nodes["n1"].mark == "lost"
    cluster.answer = None
    cluster.join("n1", boot="b2")
    assert cluster.mark("n1") == ("cordoned", "wanted")
    cluster.answered()
    assert cluster.mark("n1") == ("clear", "")


def test_a_cordon_by_a_person_outlives_a_check_that_passes() -> None:
    cluster = world(answer=None)
    cluster.ask("cordon", "n2").ask("uncordon", "n2").ask("cordon", "n2")
    cluster.answered()
    assert cluster.mark("n2") == ("cordoned", "")


def test_a_person_who_insists_during_a_check_is_not_overruled_by_it() -> None:
    cluster = world(answer=None)
    cluster.ask("cordon", "n2").ask("uncordon", "n2").ask("uncordon", "n2")
    assert cluster.mark("n2") == ("clear", "")
    cluster.answer = FAILED
    cluster.answered()
    assert cluster.mark("n2") == ("clear", "")


def test_nodes_are_checked_before_they_first_join_only_where_that_is_asked_for() -> None:
    assert world().asked == []
    joining = world(before=node_checks.JOIN)
    assert joining.asked == ["n0-c1", "n1-c1", "n2-c1"]
    assert joining.job.state == "training"
    never = world(before=node_checks.NEVER)
    never.ask("cordon", "n2").ask("uncordon", "n2").vanish("n1").wait(20)
    never.join("n1", boot="b2")
    assert never.asked == []
    assert never.mark("n1") == never.mark("n2") == ("clear", "")


def test_a_check_that_was_under_way_is_known_after_a_restart_and_its_number_is_used_once() -> None:
    cluster = world(answer=None)
    cluster.ask("cordon", "n2").ask("uncordon", "n2")
    checking = cluster.state.nodes["n2"].checking
    assert checking is not None
    assert checking.effect == "n2-c1"
    cluster.join("n2")
    assert cluster.state.nodes["n2"].checking == checking, "the agent is sent the same order again"
    cluster.feed(records.LedgerCut(cluster.now, 5, 3, "torn"))
    cluster.answered().ask("cordon", "n2").ask("uncordon", "n2")
    assert cluster.asked == ["n2-c1", "n2-c5"]
