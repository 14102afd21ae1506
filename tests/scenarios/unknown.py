"""Every rank dies of a lost peer and nobody died first: nobody is blamed."""

from __future__ import annotations

from tests.core.world import LOST_PEER, World


def play(world: World) -> None:
    """A network fault between nodes as the ranks see it."""
    world.submit().train(4, save_every=2).die(0, code=1, log_tail=LOST_PEER)
    world.train(5)


DECISION = "restart"
RANKS = ()
NODES = ()
ENDS = "training"
