"""An Xid that no other runbook speaks for; the driver asks for a reset."""

from __future__ import annotations

from tests.core.world import CUDA_ERROR, World


def play(world: World) -> None:
    """GPU 0 of n1 reports Xid 999."""
    world.submit().train(6, save_every=3)
    world.find("n1", "xid", xid=999, severity="error", recovery="contact_support")
    world.find("n1", "recovery-action", recovery="reset_gpu").die(2, **CUDA_ERROR)
    world.train(7)


DECISION = "restart-without-suspect"
RANKS = (2,)
NODES = ("n1",)
ENDS = "training"
