"""The script raises the same exception at every start: one more try, then a person."""

from __future__ import annotations

from tests.core.world import World

END = {
    "code": 1,
    "error_type": "KeyError",
    "error_message": "'learning_rate'",
    "error_where": "train.py:12 in main",
    "log_tail": "Traceback (most recent call last):\n"
    '  File "train.py", line 12, in main\n'
    "KeyError: 'learning_rate'\n",
}


def play(world: World) -> None:
    """Rank 2 raises, is started once more, raises again."""
    world.submit().die(2, **END)
    assert world.decision == "restart"
    world.wait(3).die(2, **END)


DECISION = "hold-for-person"
RANKS = (2,)
NODES = ("n1",)
ENDS = "held"
