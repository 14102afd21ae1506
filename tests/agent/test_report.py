"""The order in which news leave the node."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from outrider import clock, records, wire
from outrider_agent import report, settings, spool
from outrider_agent.signals import ranks
from tests.agent import world
from tests.agent.test_marks import mark


class Connection:
    """The sending half of a connection; what has left, in order."""

    def __init__(self) -> None:
        self.left: list[Any] = []

    async def send(self, frame: bytes, text: bool) -> None:
        assert text
        self.left.append(msgspec.json.decode(frame, type=wire.MESSAGES[msgspec.json.decode(frame)["type"]]))


def test_what_ranks_said_goes_before_what_was_seen_of_them_afterwards(tmp_path: Path) -> None:
    async def scenario() -> None:
        board, kept, connection = ranks.Board(), spool.Spool(tmp_path / "spool.db"), Connection()
        board.expect("j", 1, [0])
        nothing: Any = None
        told = report.Reporter(settings.Settings("n0", tmp_path), clock.RealClock(), kept, board, nothing, nothing)
        anything: Any = connection
        writing = asyncio.create_task(told._write(anything, 60.0))
        board.take(mark("step", step=4), 1000.0)
        told.wake()
        await world.until(lambda: len(connection.left) >= 2, "the first marks, and with them the pause until the next")
        board.take(mark("checkpoint", step=5, path="/c/5"), 1000.0)
        kept.add(records.Observation(0, "rank-exited", "info", 5.0, "n0", "it ended", "j", 1, 0))
        told.wake()
        await world.until(lambda: len(connection.left) >= 4, "both")
        writing.cancel()
        kept.close()
        kinds = [type(each) for each in connection.left[-2:]]
        assert kinds == [wire.Marks, wire.Observations]
        assert [each.step for each in connection.left[-2].checkpoints] == [5]

    asyncio.run(scenario())
