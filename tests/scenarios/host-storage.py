"""The drive of a node dies; the job that trains on leaves the node at its next checkpoint."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """nvme0 of n1 is disabled at step 4."""
    world.submit().train(4, save_every=3).find("n1", "nvme-disabled", "nvme0", severity="error", recovery="replace")
    world.train(6, save_every=3).train(8)


DECISION = "drain-at-checkpoint"
RANKS = ()
NODES = ("n1",)
ENDS = "training"
