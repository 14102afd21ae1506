"""A GPU falls off the bus: its rank dies of a CUDA error, and the finding comes a second later."""

from __future__ import annotations

from tests.core.world import CUDA_ERROR, World


def play(world: World) -> None:
    """GPU 0 of n1 goes at step 6."""
    world.submit().train(6, save_every=3).die(2, **CUDA_ERROR)
    world.wait(1).find("n1", "xid", xid=79, recovery="reboot_node", origin="hardware")
    world.find("n1", "gpu-lost", echo_of="xid 79 on gpu0")
    world.train(7)


DECISION = "restart-without-suspect"
RANKS = (2,)
NODES = ("n1",)
ENDS = "training"
