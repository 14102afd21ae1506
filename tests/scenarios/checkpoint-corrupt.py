"""A rank dies while it loads what no look at the files had shown to be damaged: the checkpoint before it is taken."""

from __future__ import annotations

from tests.core.world import World

END = {
    "code": 1,
    "phase": "load",
    "error_type": "UnpicklingError",
    "error_message": "Weights only load failed",
    "error_where": "serialization.py:1633 in load",
}


def play(world: World) -> None:
    """Rank 3 is killed; the attempt that follows cannot load step 8 and the next one begins from step 4."""
    world.submit().train(9, save_every=4).die(3, signal="SIGKILL")
    assert world.job.resume_step == 8
    world.die(1, **END)
    assert world.job.attempt is not None
    assert world.job.attempt.resume_step == 4
    world.train(10)


DECISION = "restart"
RANKS = ()
NODES = ()
ENDS = "training"
