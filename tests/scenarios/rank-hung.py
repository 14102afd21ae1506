"""A rank spins in its own code before a collective, and all others wait for it."""

from __future__ import annotations

from outrider_controller.core import records
from tests.core.world import World


def play(world: World) -> None:
    """Rank 2 hangs at step 7; nobody is ended before two looks agree and the time is over."""
    world.submit().train(7, save_every=4).hang(2, "spins").suspect(10)
    assert not world.of(records.IncidentOpened), "past the first deadline ranks are only looked at"
    world.wait(15)
    world.train(8)


DECISION = "restart"
RANKS = (2,)
NODES = ("n1",)
ENDS = "training"
