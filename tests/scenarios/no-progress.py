"""Different failures one after the other, and never a newer checkpoint."""

from __future__ import annotations

from tests.core.world import World


def play(world: World) -> None:
    """Six deaths by turns of two kinds, all before the first checkpoint."""
    world.submit()
    for number in range(6):
        world.wait(60).train(world.step + 1 if world.step else 2)
        world.die(number % 4, **({"signal": "SIGKILL"} if number % 2 else {"signal": "SIGHUP"}))


DECISION = "hold-for-person"
RANKS = ()
NODES = ("n0", "n1")
ENDS = "held"
