"""A rank cannot write its checkpoint: one more try, then a person."""

from __future__ import annotations

from tests.core.world import World

END = {
    "code": 1,
    "phase": "checkpoint",
    "error_type": "OSError",
    "error_message": "[Errno 28] No space left on device: '/ckpt/.tmp-step-8'",
    "error_where": "llama4d_checkpoint.py:90 in save",
}


def play(world: World) -> None:
    """Rank 2 dies at step 7 for want of room, and again."""
    world.submit().train(7, save_every=4).die(2, **END)
    assert world.decision == "restart"
    world.train(7).die(2, **END)


DECISION = "hold-for-person"
RANKS = (2,)
NODES = ()
ENDS = "held"
