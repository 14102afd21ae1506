"""The environment of one rank: torchrun's names, ours, and the defaults that make a later diagnosis possible.

Flow: the keeper's own environment < defaults < what the job asks for < who this rank is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from outrider_agent.keeper import home as homes
from outrider_agent.keeper import orders, recorder

# Read when libraries are loaded, so a forked rank keeps the keeper's value of them.
READ_AT_IMPORT: Final = (
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "PYTHONHASHSEED",
    "PYTHONHOME",
    "PYTHONPATH",
)
# The keeper alone: numpy's OpenBLAS starts threads while it is imported otherwise, and a process with threads cannot
# be forked safely. Ranks do not inherit the variable.
KEEPER_ALONE: Final = {"OPENBLAS_NUM_THREADS": "1", "OUTRIDER_KEEPER_ALONE": "1"}
# In the first environment of the keeper and so of all that it starts: by it strays are found when it has died.
MARK: Final = "OUTRIDER_KEEPER"
JOB_MARK: Final = ".outrider-job-"


def of_rank(
    order: orders.Start, rank: int, job: str, node: str, home: homes.Home, base: Mapping[str, str]
) -> dict[str, str]:
    """The whole environment of ``rank``. ``base``: the keeper's own, already cleared of what is the keeper's alone."""
    wanted = {**base, **order.env}
    told = recorder.settings(wanted, order.command, recorder.folder(order.log_dir, node, order.generation), pipes(home))
    ours = _ours(order, rank, job, node, home)
    return {**_defaults(order, rank, home), **told, **wanted, **_identity(order, rank), **ours}


def pipes(home: homes.Home) -> str:
    """Prefix of the ranks' pipes: on a local disk, whatever the job's logs lie on."""
    return str(home.path / "ctl" / recorder.PIPE_PREFIX)


def of_keeper(env: Mapping[str, str], home: homes.Home, ranks: int) -> dict[str, str]:
    """``env`` with what a keeper needs, so that libraries it loads ahead see what the ranks will see.

    ``ranks``: how many will run here; 0 where that is not known, which is taken for more than one.
    """
    alone = {} if "OPENBLAS_NUM_THREADS" in env else KEEPER_ALONE
    threads = {} if ranks == 1 else {"OMP_NUM_THREADS": "1"}
    return {**alone, **threads, **env, MARK: str(home.path)}


def base(env: Mapping[str, str]) -> dict[str, str]:
    """What ranks inherit of the keeper's environment."""
    alone = KEEPER_ALONE if KEEPER_ALONE.items() <= env.items() else {}
    return {key: value for key, value in env.items() if key not in alone}


def changed_since_import(rank_env: Mapping[str, str], keeper_env: Mapping[str, str]) -> str | None:
    """The first variable that only a fresh interpreter would take up, or None."""
    return next((key for key in READ_AT_IMPORT if rank_env.get(key) != keeper_env.get(key)), None)


def _defaults(order: orders.Start, rank: int, home: homes.Home) -> dict[str, str]:
    values = {
        "PYTHONUNBUFFERED": "1",
        "TORCH_WORKER_SERVER_SOCKET": str(home.control_socket(rank)),
    }
    return values | ({"OMP_NUM_THREADS": "1"} if len(order.ranks) > 1 else {})


def _identity(order: orders.Start, rank: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(order.world_size),
        "LOCAL_RANK": str(order.ranks.index(rank)),
        "LOCAL_WORLD_SIZE": str(len(order.ranks)),
        "GROUP_RANK": str(order.node_rank),
        "GROUP_WORLD_SIZE": str(order.nnodes),
        "ROLE_RANK": str(rank),
        "ROLE_WORLD_SIZE": str(order.world_size),
        "ROLE_NAME": "default",
        "MASTER_ADDR": order.master_addr,
        "MASTER_PORT": str(order.master_port),
        "TORCHELASTIC_RESTART_COUNT": str(order.attempt),
        "TORCHELASTIC_MAX_RESTARTS": str(order.max_restarts),
        "TORCHELASTIC_ERROR_FILE": error_file(order, rank),
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }


def _ours(order: orders.Start, rank: int, job: str, node: str, home: homes.Home) -> dict[str, str]:
    marks = {"OUTRIDER_MARKS": order.marks} if order.marks else {}
    return marks | {
        "TORCHELASTIC_RUN_ID": job,
        "OUTRIDER_JOB": job,
        "OUTRIDER_NODE": node,
        "OUTRIDER_ATTEMPT": str(order.attempt),
        "OUTRIDER_GENERATION": str(order.generation),
        "OUTRIDER_RESUME_FROM": order.resume_path,
        "OUTRIDER_STACKS": str(home.stacks(rank)),
        "OUTRIDER_GROUPS": str(home.groups(rank)),
        "OUTRIDER_FENCE": os.pathsep.join([str(home.fence), *order.fence]),
    }


def mark_file(order: orders.Start, job: str) -> str:
    """Says that ranks of this job wrote into the attempt's folder: jobs may share a log directory."""
    return os.path.join(order.log_dir, f"{JOB_MARK}{job}")


def log_file(order: orders.Start, rank: int) -> str:
    """Where ``rank`` writes its standard output and error."""
    return os.path.join(order.log_dir, log_name(rank))


def log_name(rank: int) -> str:
    """The file's name, in the folder of an attempt's logs."""
    return f"rank_{rank}.log"


def error_file(order: orders.Start, rank: int) -> str:
    """Where ``rank`` leaves the exception that ended it, in torchelastic's format."""
    return os.path.join(order.log_dir, f"rank_{rank}.error.json")
