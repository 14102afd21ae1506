"""A segmentation fault in one rank: native code, no traceback."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """Rank 0 dies by SIGSEGV after a checkpoint."""
    world.submit().train(5, save_every=5).die(0, signal="SIGSEGV")
    world.train(6)


DECISION = "restart"
RANKS = (0,)
NODES = ("n0",)
ENDS = "training"
