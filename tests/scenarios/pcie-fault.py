"""PCIe cuts a device off: no rank says why, all died of lost peers."""

from __future__ import annotations

from tests.core.world import LOST_PEER, World


def play(world: World) -> None:
    """A device of n1 is gone at step 6."""
    world.submit().train(6, save_every=3).find("n1", "pcie-lost", "0000:3b:00.0")
    world.die(2, code=1, log_tail=LOST_PEER)
    world.train(7)


DECISION = "restart-without-suspect"
RANKS = ()
NODES = ("n1",)
ENDS = "training"
