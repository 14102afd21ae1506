"""Host memory lost data: the kernel ends the rank that touched it."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """Rank 3 on n1 is ended by SIGBUS at step 6."""
    world.submit().train(6, save_every=3).find("n1", "memory-uncorrected", "mc0", recovery="drain")
    world.die(3, signal="SIGBUS")
    world.train(7)


DECISION = "restart-without-suspect"
RANKS = (3,)
NODES = ("n1",)
ENDS = "training"
