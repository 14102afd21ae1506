"""SIGSTOP of one rank: its agent sees it, the job stands still, and it is back before any deadline."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """Rank 3 is stopped at step 6."""
    world.submit().train(6, save_every=3).hang(3, "stopped")
    world.wait(12)
    world.train(7)


DECISION = "restart"
RANKS = (3,)
NODES = ("n1",)
ENDS = "training"
