"""A link of a GPU is down: the ranks of the node die of a failed NCCL call."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """Link 7 of GPU 0 of n1 goes down at step 6."""
    world.submit().train(6, save_every=3)
    world.find("n1", "nvlink-down", "gpu0/link7", recovery="reset_gpu")
    world.die(2, code=1, error_type="DistBackendError", error_message="ncclUnhandledCudaError")
    world.train(7)


DECISION = "restart-without-suspect"
RANKS = (2,)
NODES = ("n1",)
ENDS = "training"
