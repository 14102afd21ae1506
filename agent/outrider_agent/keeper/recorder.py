"""torch's flight recorder as a rank is told of it: the settings of its environment, and where its records appear.

Flow: what the job asks for -> what is set beside that -> ``Place``. Releases read one name or the other, and some want
the old name of the ring's length before they open a pipe, so both are set, and always to the same: what the job says
under either name holds for both. torch reads the newer name first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from outrider_agent.keeper import command

ENTRIES: Final = "2000"
BUFFER: Final = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
DUMPS: Final = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
PIPES: Final = "TORCH_NCCL_DEBUG_INFO_PIPE_FILE"
LATER: Final = "OUTRIDER_RECORDER_PIPES"  # a Python rank is told so, and makes PIPES of it once it has torch
DYNAMIC: Final = "TORCH_FR_DUMP_DYNAMIC_FILE_NAME"
ALWAYS: Final = {"TORCH_NCCL_DUMP_ON_TIMEOUT": "1", "TORCH_NCCL_EXTRA_DUMP_ON_EXEC": "1"}
FOLDER: Final = "fr"
PREFIX: Final = "rank_"
PIPE_PREFIX: Final = "ask_"
# What torch takes where nothing is set: releases of today below the cache, those before late 2025 below /tmp.
DEFAULTS: Final = ("{cache}/torch/comm_lib_trace_rank_", "/tmp/nccl_trace_rank_")
# torch makes the pipe in a thread of its own, where an error ends the process: a rank that cannot make it dies. In a
# container our directory may not exist. torchrun runs its ranks where we start it, unless they are no Python, and
# Python sets the variable itself, late (``open_pipes``). What other programs do is not known, so they get no pipe.
_RUNS_HERE: Final = ("torchrun",)
_NO_PYTHON: Final = ("--no-python", "--no_python")
_YES: Final = ("1", "y", "yes", "t", "true")


@dataclass(frozen=True)
class Place:
    """Where the records of a process appear. A rank's file is a prefix of ``dumps`` and its number, its pipe is
    ``pipes``, its number and ``.pipe``; "" for no pipe. ``trouble``: why less than that is to be expected.
    """

    dumps: tuple[str, ...]
    pipes: str = ""
    trouble: str = ""


def settings(wanted: Mapping[str, str], words: tuple[str, ...], folder: str, pipes: str) -> dict[str, str]:
    """What is set for a rank of the command ``words`` beside ``wanted``, which holds whatever it says."""
    found = dict(ALWAYS)
    for names, value in ((BUFFER, ENTRIES), (DUMPS, os.path.join(folder, PREFIX))):
        of_job = next((wanted[name] for name in names if name in wanted), value)
        found |= dict.fromkeys(names, of_job)
    if PIPES not in wanted and not set(words) & set(_NO_PYTHON):
        if command.is_python(words[0]):
            found[LATER] = pipes
        elif os.path.basename(words[0]) in _RUNS_HERE:
            found[PIPES] = pipes
    return {name: value for name, value in found.items() if name not in wanted}


def open_pipes(environ: MutableMapping[str, str], pipes: str) -> str:
    """Let torch make a pipe in this process, and in those that it starts from now on, which has just loaded torch; what
    it started before, such as a container, knows of none. What is to be said where that cannot be, else "".
    """
    if not pipes or PIPES in environ:
        return ""
    above = os.path.dirname(pipes)
    if not os.access(above, os.W_OK | os.X_OK):
        return f"{above} cannot be written to, so this rank has no pipe for its flight record"
    environ[PIPES] = pipes
    return ""


def folder(log_dir: str, node: str, generation: int) -> str:
    """Where ranks of one generation on one node write; the log directory may be one for many nodes."""
    return os.path.join(log_dir, FOLDER, node, f"generation-{generation}")


def place(env: Mapping[str, str], cwd: str) -> Place:
    """Where a process with this environment, started in ``cwd``, has its records."""
    given = [env[name] for name in DUMPS if name in env]
    cache = env.get("XDG_CACHE_HOME") or os.path.join(env.get("HOME") or "/root", ".cache")
    dumps = given or [text.format(cache=cache) for text in DEFAULTS]
    pipes = env.get(PIPES, env.get(LATER, ""))
    trouble = ""
    if env.get(DYNAMIC, "").lower() in _YES:
        trouble = f"{DYNAMIC} is set, so torch may write elsewhere"
    if any(env.get(name) == "0" for name in BUFFER):
        trouble = f"the job has turned its flight recorder off ({' or '.join(BUFFER)} is 0)"
    return Place(
        tuple(dict.fromkeys(os.path.join(cwd, prefix) for prefix in dumps)),
        os.path.join(cwd, pipes) if pipes else "",
        trouble,
    )


def before(found: Place, ranks: Iterable[int]) -> dict[str, int]:
    """Files that lie already where these ranks may write, and when each was written (Unix ns): they are of others."""
    written: dict[str, int] = {}
    for path in (f"{prefix}{rank}" for prefix in found.dumps for rank in ranks):
        with contextlib.suppress(OSError):
            written[path] = os.stat(path, follow_symlinks=False).st_mtime_ns
    return written


def note(
    found: Place, ranks: Iterable[int], own: str, generation: int, at: float, env: Mapping[str, str]
) -> dict[str, Any]:
    """What the keeper leaves for the agent. ``own``: the folder that is this generation's alone; ``at``: Unix seconds,
    now, before the first of ``ranks`` has begun; ``env``: of any of them. What they are told of their world and run
    cannot be seen from outside in one that was forked, and tells them from ranks that they start themselves.
    """
    return {
        "ranks": list(ranks),
        "before": before(found, ranks),
        "generation": generation,
        "at": at,
        "own": own,
        "dumps": list(found.dumps),
        "pipes": found.pipes,
        "trouble": found.trouble,
        "world": env.get("WORLD_SIZE", ""),
        "run": env.get("TORCHELASTIC_RUN_ID", ""),
    }
