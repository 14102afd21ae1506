"""A rank asks for more GPU memory than there is."""

from __future__ import annotations

from tests.core.world import World

TAIL = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB\n"
)


def play(world: World) -> None:
    """Rank 1 runs out of memory; one more try is made."""
    world.submit().train(4, save_every=2).die(1, code=1, log_tail=TAIL)
    world.train(5)


DECISION = "restart"
RANKS = (1,)
NODES = ("n0",)
ENDS = "training"
