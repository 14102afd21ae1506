"""The GSP times out: no rank dies, the job stands still, and the two together are enough."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """GPU 0 of n1 stops answering its driver at step 6."""
    world.submit().train(6, save_every=3)
    world.find("n1", "xid", xid=119, recovery="reset_gpu", origin="driver").wait(10)
    world.train(7)


DECISION = "restart-without-suspect"
RANKS = (2,)
NODES = ("n1",)
ENDS = "training"
