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
    """Reads the environment that torchrun and Outrider set; raises ValueError where it makes no sense."""
    get = os.environ.get
    found = Launch(
        rank=_number("RANK", 0),
        world_size=_number("WORLD_SIZE", 1),
        local_rank=_number("LOCAL_RANK", 0),
        attempt=_number("OUTRIDER_ATTEMPT", _number("TORCHELASTIC_RESTART_COUNT", 0)),
        generation=_number("OUTRIDER_GENERATION", 0),
        run=get("TORCHELASTIC_RUN_ID", "none"),
        supervised="OUTRIDER_GENERATION" in os.environ,
        resume_from=get("OUTRIDER_RESUME_FROM"),
    )
    if found.rank >= found.world_size:
        raise ValueError(f"RANK={found.rank} must be less than WORLD_SIZE={found.world_size}")
    if found.world_size > 1 and not (get("MASTER_ADDR") and _number("MASTER_PORT", 0)):
        raise ValueError(
            f"WORLD_SIZE={found.world_size} needs MASTER_ADDR and MASTER_PORT, where the ranks meet; start them with "
            "torchrun or outrider run, or unset WORLD_SIZE for one process"
        )
    return found


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"environment variable {name}={text!r} must be a whole number, zero or more")
    return int(text)


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
