"""An uncorrectable ECC error of HBM: Xid 48, then the rank's own CUDA error."""

from __future__ import annotations

from tests.core.world import CUDA_ERROR, World


def play(world: World) -> None:
    """GPU 1 of n1 loses data at step 6."""
    world.submit().train(6, save_every=3)
    world.find("n1", "xid", "gpu1", xid=48, recovery="reset_gpu", origin="memory")
    world.die(3, **CUDA_ERROR)
    world.train(7)


DECISION = "restart-without-suspect"
RANKS = (3,)
NODES = ("n1",)
ENDS = "training"
