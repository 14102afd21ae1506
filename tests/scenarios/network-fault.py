"""A port goes down: every rank gives up on a lost peer, and none of its own."""

from __future__ import annotations

from tests.core.world import LOST_PEER, World


def play(world: World) -> None:
    """Port 1 of mlx5_0 of n1 is down from step 6 on; the other node only saw the loss."""
    world.submit().train(6, save_every=3)
    world.find("n0", "transport-gave-up", "mlx5_0/1", recovery="restart_app")
    world.wait(1).find("n1", "port-down", "mlx5_0/1", recovery="drain")
    world.die(0, code=1, log_tail=LOST_PEER)
    world.train(7)


DECISION = "restart-without-suspect"
RANKS = ()
NODES = ("n1",)
ENDS = "training"
