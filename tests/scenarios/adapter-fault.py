"""A network adapter does not answer its driver, and the collectives through it fail."""

from __future__ import annotations

from tests.core.world import LOST_PEER, World


def play(world: World) -> None:
    """mlx5_0 of n1 hangs at step 6."""
    world.submit().train(6, save_every=3).find("n1", "adapter-command-timeout", "mlx5_0", recovery="drain")
    world.die(0, code=1, log_tail=LOST_PEER)
    world.train(7)


DECISION = "restart-without-suspect"
RANKS = ()
NODES = ("n1",)
ENDS = "training"
