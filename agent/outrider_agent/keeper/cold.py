"""Starting a rank afresh: a new process that never shares this one's memory, threads or devices.

``posix_spawn`` is safe whatever threads a preload has left in the keeper. What it cannot do (limits, working directory,
dying with the keeper) the new process does to itself in ``rank_main``, before the job's program takes its place.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence

import outrider
from outrider_agent.keeper import command

REPORT_FD = 3


def spawn(
    program: command.Program,
    interpreter: str,
    env: dict[str, str],
    log_fd: int,
    report_fd: int,
    setup: dict[str, object],
) -> int:
    """Start ``program`` and return its pid; raises OSError. ``setup``: cwd, keeper_pid, memory_bytes, open_files."""
    here = program.is_python
    text = json.dumps({**setup, "report_fd": REPORT_FD, "exec": not here})
    unbuffered = ["-u"] if program.unbuffered else []
    # Any other program needs our few lines only until it takes over: no site-packages, nothing of the environment.
    python = [interpreter, *unbuffered, *program.flags] if here else [sys.executable, "-I", "-S"]
    words = [*python, entry(), client_folder(), "rank", text, *program.command]
    actions: Sequence[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, log_fd, 1),
        (os.POSIX_SPAWN_DUP2, log_fd, 2),
        (os.POSIX_SPAWN_DUP2, report_fd, REPORT_FD),
    ]
    ours = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
    return os.posix_spawn(python[0], words, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=ours)


def entry() -> str:
    """The file that starts keepers and fresh ranks alike."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")


def client_folder() -> str:
    """Where the ``outrider`` package lies that goes with this keeper."""
    return os.path.dirname(os.path.abspath(outrider.__file__))
