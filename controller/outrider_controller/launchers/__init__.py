"""Launchers start and stop the ranks of a job somewhere. Each engine is one module that keeps this protocol.

In: one attempt, with its placement and generation. Out: what came of it, or a LaunchError in words for a person.
Every call carries the id of the effect it belongs to and may be repeated with it after a crash: what was done is not
done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from outrider import records as spoken
from outrider_controller.core import jobs


class LaunchError(Exception):
    """An attempt could not be started; the message names the node and its reason. Nothing of it is left running."""


@dataclass(frozen=True)
class Plan:
    """One attempt to start. ``load`` is what a resuming rank is told to load, empty for the beginning."""

    effect: str
    spec: jobs.JobSpec
    attempt: int
    generation: int
    placement: tuple[str, ...]
    load: str = ""
    fence: tuple[str, ...] = ()  # files that say which generation may commit checkpoints
    keep_from: int | None = None  # the first attempt whose logs an open incident may need; None for this one

    def ranks(self, place: int) -> list[int]:
        """Ranks of the node at ``place`` in the placement."""
        each = self.spec.ranks_per_node
        return list(range(place * each, (place + 1) * each))


@dataclass(frozen=True)
class Started:
    """Every rank of an attempt runs. ``why_cold`` is empty for a warm start. ``gpus``: the GPU of each rank whose node
    numbers GPUs anew for them, "" where that is not known.
    """

    warm: bool
    pids: dict[int, int]
    why_cold: str | None
    gpus: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stopped:
    """Nodes on which nothing of the generation is left, and nodes that could not be asked."""

    stopped: tuple[str, ...]
    unreached: tuple[str, ...]


Told = Callable[[str, spoken.Json], None]  # a node, and what it answered


@dataclass(frozen=True)
class Captured:
    """What ranks were doing, each a records.RankEvidence as a mapping, and the nodes that did not say in time."""

    ranks: tuple[spoken.Json, ...]
    unanswered: tuple[str, ...]


@dataclass(frozen=True)
class Node:
    """A node as the engine sees it. ``seen_s``: seconds since it was last heard."""

    node: str
    connected: bool
    seen_s: float | None
    slots: int
    keepers: tuple[spoken.KeeperState, ...] = ()


class Launcher(Protocol):
    """What the controller asks of an engine."""

    def nodes(self) -> Mapping[str, Node]:
        """Every node that the engine has."""
        ...

    async def start(self, plan: Plan) -> Started:
        """Start all ranks; raises LaunchError after stopping what had begun."""
        ...

    async def stop(self, effect: str, job: str, generation: int, placement: tuple[str, ...], grace_s: float) -> Stopped:
        """End all ranks of this generation and older ones: asked politely, killed after ``grace_s``."""
        ...

    async def capture(
        self,
        effect: str,
        job: str,
        generation: int,
        asked: Mapping[str, tuple[int, ...]],
        deadline_s: float,
        told: Told | None = None,
    ) -> Captured:
        """What ranks are doing now, by node (empty for all of a node's); nothing is done to them. Never raises.

        ``told`` is called with each node's answer as it comes.
        """
        ...

    async def check(self, effect: str, node: str, deep: bool, within_s: float) -> spoken.Json:
        """The document of a node's check; raises LaunchError where there is none. Never beside ranks."""
        ...

    async def release(self, effect: str, job: str, placement: tuple[str, ...]) -> None:
        """The job is over: what was kept warm for it goes."""
        ...

    def status(self, job: str) -> Mapping[str, Any]:
        """What the engine knows of a job's processes, by node."""
        ...

    async def cordon(self, node: str) -> None:
        """Tell the engine that a node takes no new ranks."""
        ...

    async def uncordon(self, node: str) -> None:
        """Tell the engine that a node takes ranks again."""
        ...
