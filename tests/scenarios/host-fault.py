"""The kernel panics: its last words came through before the host fell silent."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """n1 panics at step 6."""
    world.submit().train(6, save_every=3).find("n1", "kernel-panic", "").vanish("n1").wait(10)
    world.train(7)


DECISION = "restart-without-suspect"
RANKS = ()
NODES = ("n1",)
ENDS = "training"
