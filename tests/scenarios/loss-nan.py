"""The loss turns NaN once: back to the checkpoint from before that step, and what was saved after it is not trusted."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """Checkpoints of steps 4 and 8; step 8 itself ended without a number."""
    world.submit().train(8, save_every=4).nan(8)
    assert world.job.attempt is not None
    assert world.job.attempt.resume_step == 4
    world.train(9)


DECISION = "restart"
RANKS = ()
NODES = ()
ENDS = "training"
