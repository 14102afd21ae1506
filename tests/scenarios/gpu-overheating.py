"""A GPU too hot slows the job down: it leaves the node at its next checkpoint."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """GPU 1 of n1 is held down by heat at step 4."""
    world.submit().train(4, save_every=3).find("n1", "thermal-throttle", "gpu1", severity="error", recovery="drain")
    assert world.job.state == "training"
    world.train(6, save_every=3).train(8)


DECISION = "drain-at-checkpoint"
RANKS = (3,)
NODES = ("n1",)
ENDS = "training"
