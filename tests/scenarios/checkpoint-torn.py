"""A file of the newest checkpoint goes missing while the job trains: people are told once, and the job goes on."""

from __future__ import annotations

from outrider_controller.core import records
from tests.core.world import World


def play(world: World) -> None:
    """The look of ten minutes later finds it; the older checkpoint is the one to go back to."""
    world.submit().train(9, save_every=4)
    world.damage(8, "missing", "is missing")
    world.wait(601)
    assert not [row for row in world.of(records.EffectRequested) if row.name == "stop-attempt"]
    world.train(10)


DECISION = "watch"
RANKS = ()
NODES = ()
ENDS = "training"
