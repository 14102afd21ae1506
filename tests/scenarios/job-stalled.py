"""A message is lost: every rank waits in the same collective, for ever."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """Nobody is elsewhere, so nobody is blamed."""
    world.submit().train(5, save_every=5)
    for rank in range(4):
        world.hang(rank, "waits")
    world.suspect(10).wait(15)
    world.train(6)


DECISION = "restart"
RANKS = ()
NODES = ()
ENDS = "training"
