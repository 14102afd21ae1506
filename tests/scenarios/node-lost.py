"""A whole host vanishes: its agent is silent, its peers die of the loss, the spare takes its place."""

from __future__ import annotations

from outrider_controller.core import records
from tests.core.world import World


def play(world: World) -> None:
    """Node n0 goes at step 6; n2 is the spare."""
    world.submit().train(6, save_every=3).vanish("n0")
    assert not world.of(records.Diagnosed), "silence alone, however short, blames nobody"
    world.wait(10)
    assert world.job.attempt is not None
    assert world.job.attempt.placement == ("n2", "n1")
    world.train(7)


DECISION = "restart-without-suspect"
RANKS = (0, 1)
NODES = ("n0",)
ENDS = "training"
