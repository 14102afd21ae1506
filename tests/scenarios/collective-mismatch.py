"""A rank calls another collective than its peers; all of them wait, and no stack stands out."""

from __future__ import annotations

from outrider_controller.core import records
from tests.core import recorded
from tests.core.world import World


def play(world: World) -> None:
    """Rank 2 sends another size at step 7; restarted once, then a person has to look at the code."""
    world.submit().train(7, save_every=4)
    for _ in range(2):
        for rank in range(4):
            world.hang(rank, "waits")
        world.recorded = recorded.verdict("size-mismatch", 2)
        world.suspect(10)
        assert world.job.state == "training", "past the first deadline ranks are only looked at"
        world.wait(15)
        if world.job.state != "held":
            world.hung.clear()
            world.train(8)
    assert [row.decision for row in world.of(records.Decided)] == ["restart", "hold-for-person"]
    assert not world.of(records.NodeMarked), "it is the code's fault, and no node's"


DECISION = "hold-for-person"
RANKS = (2,)
NODES = ()
ENDS = "held"
