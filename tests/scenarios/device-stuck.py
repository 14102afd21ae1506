"""A device has not finished a collective that its peers have; all hosts wait, and no stack stands out."""

from __future__ import annotations

from tests.core import recorded
from tests.core.world import World


def play(world: World) -> None:
    """The device of rank 2 stands still at step 7; the job goes on without its node."""
    world.submit().train(7, save_every=4)
    for rank in range(4):
        world.hang(rank, "waits")
    world.recorded = recorded.verdict("device-stuck", 2)
    world.suspect(10).wait(15)
    assert world.job.attempt is not None
    assert "n1" not in world.job.attempt.placement
    assert world.state.nodes["n1"].mark == "cordoned"
    world.hung.clear()
    world.train(8)


DECISION = "restart-without-suspect"
RANKS = (2,)
NODES = ("n1",)
ENDS = "training"
