"""The live ranks of a keeper: each held by a pidfd, told to stop, killed when it does not, reaped in the order of
death.

Invariant: a pid in here belongs to a process that this keeper has not reaped, so a signal never reaches a stranger.
The order of death is the order of epoll's ready list, in which the kernel puts each pidfd the moment its process ends.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from outrider import records
from outrider_agent.keeper import exits, sessions

READY_MAX: Final = 4096


@dataclass
class Rank:
    """One rank's process. ``kill_at``: monotonic time of the SIGKILL, once it has been told to stop."""

    rank: int
    local_rank: int
    pid: int
    pidfd: int
    generation: int
    is_python: bool
    log_path: str
    error_path: str
    asked: bool = False
    kill_at: float | None = None


class Ranks:
    """Ranks that are not reaped yet, by their pidfd."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._live: dict[int, Rank] = {}
        self._deaths = 0
        self._oom_kills = 0

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, pidfd: int) -> bool:
        return pidfd in self._live

    @property
    def pidfds(self) -> tuple[int, ...]:
        """Open descriptors, which a forked rank closes."""
        return tuple(self._live)

    @property
    def live(self) -> tuple[Rank, ...]:
        """Every rank that is not reaped."""
        return tuple(self._live.values())

    def new_attempt(self) -> None:
        """Count deaths from 0 again."""
        self._deaths = 0
        self._oom_kills = exits.oom_kills()

    def add(self, rank: Rank) -> None:
        """Watch a new process."""
        self._live[rank.pidfd] = rank
        self._epoll.register(rank.pidfd, select.EPOLLIN)

    def describe(self, pidfd: int, at: float) -> records.RankExit:
        """How this rank ended; it stays unreaped until ``reap``."""
        rank = self._live[pidfd]
        how = exits.end(_wait(pidfd, os.WNOWAIT))
        order, self._deaths = self._deaths, self._deaths + 1
        return records.RankExit(
            rank=rank.rank,
            local_rank=rank.local_rank,
            pid=rank.pid,
            order=order,
            code=how.code,
            signal=how.signal,
            asked=rank.asked,
            at=at,
            log_path=rank.log_path,
            log_tail=exits.log_tail(rank.log_path),
            oom_kills=max(0, exits.oom_kills() - self._oom_kills),
            **exits.error(rank.error_path),  # type: ignore[arg-type]
        )

    def reap(self, pidfds: Iterable[int]) -> None:
        """Let dead ranks go, and kill what an unclean or unwanted end has left in their sessions.

        A rank that ended with 0 by itself may have left a helper on purpose, such as an upload; that goes on.
        """
        gone = {pidfd: self._live.pop(pidfd) for pidfd in pidfds}
        ends = {pidfd: exits.end(_wait(pidfd, os.WNOWAIT)) for pidfd in gone}
        sessions.kill([rank.pid for pidfd, rank in gone.items() if rank.asked or not ends[pidfd].clean])
        for pidfd in gone:
            _wait(pidfd, 0)
            self._epoll.unregister(pidfd)
            os.close(pidfd)

    def ask(self, generation: int, kill_at: float) -> list[int]:
        """SIGTERM to every live rank of ``generation`` and older, SIGKILL at ``kill_at``; the ranks it reached."""
        chosen = [rank for rank in self.live if rank.generation <= generation]
        for rank in chosen:
            if not rank.asked:
                rank.asked = True
                # A Python rank stops its own helpers; a shell has to be stopped together with what it runs.
                sessions.send(rank.pid if rank.is_python else -rank.pid, signal.SIGTERM)
                sessions.send(-rank.pid, signal.SIGCONT)  # a stopped process can act on nothing but SIGKILL
            rank.kill_at = kill_at if rank.kill_at is None else min(rank.kill_at, kill_at)
        return [rank.rank for rank in chosen]

    def next_kill_at(self) -> float | None:
        """When the next rank's grace ends, or None."""
        return min((rank.kill_at for rank in self.live if rank.kill_at is not None), default=None)

    def kill_due(self, now: float) -> list[int]:
        """SIGKILL whose grace is over, with their whole sessions; the ranks it reached."""
        due = [rank for rank in self.live if rank.kill_at is not None and rank.kill_at <= now]
        for rank in due:
            rank.kill_at = None
            sessions.send(rank.pid, signal.SIGKILL)
            sessions.send(-rank.pid, signal.SIGKILL)
        sessions.kill([rank.pid for rank in due])
        return [rank.rank for rank in due]


def _wait(pidfd: int, more: int) -> os.waitid_result:
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | more)
    assert result is not None  # only WNOHANG gives None
    return result
