"""SIGKILL of one rank: its peers follow with lost connections, the job comes back from its checkpoint."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """Train, save, lose rank 3 to SIGKILL, regain the lost step."""
    world.submit().train(7, save_every=4).die(3, signal="SIGKILL")
    assert world.job.attempt is not None
    assert world.job.attempt.resume_step == 4
    world.train(8)


DECISION = "restart"
RANKS = (3,)
NODES = ("n1",)
ENDS = "training"
