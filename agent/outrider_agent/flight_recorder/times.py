"""When dumps were taken: their files say it, unless they were copied or unpacked since.

Nothing in a dump says it, and without it a job at work and one that stands still can look alike. Files that were
written in place are a little newer than the newest stamp in them; a copy that lost its time is known by being much
newer, or older. One that was made within the hour is not, so people can say that files are copies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from outrider_analysis.flight_recorder import model

LATER_NS_MAX: Final = 3600 * 10**9  # torch's longest timeout that is a default, of gloo, is half of this
EARLIER_NS_MAX: Final = 10**9  # a file server's clock may be so much behind


def checked(nodes: Sequence[model.NodeDigest], copied: bool = False) -> list[model.NodeDigest]:
    """The digests with the times of their files where those can be the dumps'; else without, all of them."""
    ranks = [rank for node in nodes for rank in node.ranks]
    newest = max((rank.newest_ns for rank in ranks), default=0)
    taken = [rank.taken_ns for rank in ranks if rank.newest_ns]
    sound = newest > 0 and all(rank.taken_ns >= rank.newest_ns - EARLIER_NS_MAX for rank in ranks)
    if not copied and sound and max(taken) - newest <= LATER_NS_MAX:
        return list(nodes)
    return [
        dataclasses.replace(node, ranks=tuple(dataclasses.replace(rank, taken_ns=0) for rank in node.ranks))
        for node in nodes
    ]
