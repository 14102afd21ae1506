"""A call to the driver never returns, and the ranks wait in CUDA for ever."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """A call for GPU 0 of n1 hangs at step 6; the watch over silence is the second sign."""
    world.submit().train(6, save_every=3)
    world.hang(2, "unseen").find("n1", "nvml-hang", recovery="drain").suspect(2)
    world.train(7)


DECISION = "restart-without-suspect"
RANKS = (2,)
NODES = ("n1",)
ENDS = "training"
