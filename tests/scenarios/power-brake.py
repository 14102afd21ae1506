"""The power brake halves the clocks of a node: the job leaves it at its next checkpoint."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """GPU 0 of n0 is slowed down by the power supply at step 4."""
    world.submit().train(4, save_every=3).find("n0", "power-brake", severity="error", recovery="drain")
    world.train(6, save_every=3).train(8)


DECISION = "drain-at-checkpoint"
RANKS = (0,)
NODES = ("n0",)
ENDS = "training"
