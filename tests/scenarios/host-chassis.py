"""A fan fails and no spare is free: the job trains on, and people are told once."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """A fan of n1 stands; both other nodes are needed or away."""
    world.spares = 0
    world.submit().train(4, save_every=3).find("n1", "fan-failed", "hwmon0/fan2", severity="error", recovery="drain")
    world.train(8, save_every=3)


DECISION = "watch"
RANKS = ()
NODES = ("n1",)
ENDS = "training"
