"""Every cause has one scenario, one runbook and one word, and the core does in it what its runbook says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from outrider import vocabulary
from outrider_controller import runbook_files
from outrider_controller.core import records
from tests.core.world import World

HERE = Path(__file__).parent


def scenario(cause: str) -> ModuleType:
    """The scenario's module; its file name holds hyphens, so it is loaded by path."""
    spec = importlib.util.spec_from_file_location(f"scenario_{cause.replace('-', '_')}", HERE / f"{cause}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_causes_runbooks_and_scenarios_are_the_same_set() -> None:
    scenarios = {p.stem for p in HERE.glob("*.py") if not p.stem.startswith(("test_", "__"))}
    runbooks = {Path(name).stem for name in runbook_files.read().documents}
    assert scenarios == set(vocabulary.CAUSES)
    assert runbooks == set(vocabulary.CAUSES)


@pytest.mark.parametrize("cause", vocabulary.CAUSES)
def test_scenario_of_each_cause_ends_as_its_runbook_says(cause: str) -> None:
    world, play = World(), scenario(cause)
    play.play(world)
    found = world.of(records.Diagnosed)[-1]
    assert (found.cause, found.ranks, found.nodes) == (cause, play.RANKS, play.NODES)
    assert found.evidence
    assert {row["for"] for row in found.evidence} == {cause}
    decided = world.of(records.Decided)[-1]
    assert (decided.decision, decided.runbook, decided.policy_hash) == (play.DECISION, cause, world.policy.hash)
    assert world.job.state == play.ENDS


@pytest.mark.parametrize("cause", vocabulary.CAUSES)
def test_every_decision_is_priced_and_names_what_was_turned_down(cause: str) -> None:
    world = World()
    scenario(cause).play(world)
    for decided in world.of(records.Decided):
        assert decided.decision in vocabulary.DECISIONS
        assert decided.price_gpu_h is not None
        assert decided.alternatives
        assert all(a["action"] != decided.decision and a["why_not"] for a in decided.alternatives)
