"""Who started this process, and whom it tells how far it is.

torchrun and Outrider describe a launch in the environment; started by hand there is none, and one process is all
ranks. Outrider's client is optional: without it the job says the same things to nobody.
"""

import contextlib
import dataclasses
import os
from typing import Protocol, cast


@dataclasses.dataclass(frozen=True)
class Launch:
    """This process among the others, and this attempt among those before it."""

    rank: int
    world_size: int
    local_rank: int
    attempt: int  # 0 for the first start
    generation: int  # whose right to commit a checkpoint is asked for; 0 without a supervisor
    run: str
    supervised: bool
    resume_from: str | None  # what the supervisor trusts, empty for nothing; None when there is none to ask


def launch() -> Launch:
    """Reads the environment that torchrun and Outrider set."""
    get = os.environ.get
    return Launch(
        rank=int(get("RANK", "0")),
        world_size=int(get("WORLD_SIZE", "1")),
        local_rank=int(get("LOCAL_RANK", "0")),
        attempt=int(get("OUTRIDER_ATTEMPT") or get("TORCHELASTIC_RESTART_COUNT") or "0"),
        generation=int(get("OUTRIDER_GENERATION") or "0"),
        run=get("TORCHELASTIC_RUN_ID", "none"),
        supervised="OUTRIDER_GENERATION" in os.environ,
        resume_from=get("OUTRIDER_RESUME_FROM"),
    )


class Run(Protocol):
    """What the job says to its supervisor, and the one thing it asks."""

    def step(self, step: int, *, tokens: int, loss: float, grad_norm: float) -> None:
        """A step is done; tokens are those of the whole job."""

    def phase(self, name: str) -> contextlib.AbstractContextManager[object]:
        """What the time inside is spent on."""

    def checkpoint_saved(self, path: str, step: int) -> None:
        """A checkpoint is committed."""

    def may_commit(self) -> bool:
        """Whether this generation may still commit; false once the job was restarted elsewhere."""


class Unsupervised:
    """Nobody listens, and nobody else could be committing."""

    def step(self, step: int, *, tokens: int, loss: float, grad_norm: float) -> None:
        """Goes nowhere."""

    def phase(self, name: str) -> contextlib.AbstractContextManager[object]:
        """Marks nothing."""
        return contextlib.nullcontext()

    def checkpoint_saved(self, path: str, step: int) -> None:
        """Goes nowhere."""

    def may_commit(self) -> bool:
        """Always."""
        return True


def attach(mesh: str, flops_per_token: float) -> Run:
    """The supervisor's client, or a stand-in where it is not installed."""
    try:
        from outrider import attach as attach_client
    except ImportError:
        return Unsupervised()
    return cast(Run, attach_client(mesh=mesh, flops_per_token=flops_per_token))
