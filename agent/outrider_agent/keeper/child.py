"""What a new rank does to itself before the job's code begins: its own session, its death tied to the keeper's, its
limits, its log, its environment.

Flow: ``Plan`` -> (fork) -> ``Forked`` unwinds the keeper's stack -> ``become`` -> the job's program. A rank that is
started afresh goes through ``confine`` instead, in ``rank_main``. Trouble is told to the keeper through a pipe, which
closes without a word when all is well.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from outrider_agent.keeper import command

PR_SET_PDEATHSIG: Final = 1
PR_SET_NAME: Final = 15
NAME_BYTES_MAX: Final = 15
EXIT_NOT_STARTED: Final = 127
# Loaded in the keeper: after a fork every page this touches would be copied once a rank.
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Closing(Protocol):
    """A socket or an epoll object: it must be closed through itself, or it closes its number again when it is freed."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Plan:
    """Everything one forked rank needs. ``keeper_files``: descriptors that are the keeper's and not the rank's."""

    rank: int
    local_rank: int
    program: command.Program
    env: dict[str, str]
    cwd: str
    log_fd: int
    report_fd: int
    keeper_pid: int
    keeper_files: tuple[int | Closing, ...]
    memory_bytes: int
    open_files: int


class Forked(BaseException):
    """Raised in a new rank to leave the keeper's stack; only the keeper's ``main`` catches it."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(f"rank {plan.rank}")
        self.plan = plan


def become(plan: Plan) -> None:
    """Turn this fresh copy of the keeper into the rank; on trouble tell the keeper and end."""
    try:
        os.setsid()
        _own_files(plan)
        default_signals()
        confine(plan.keeper_pid, plan.cwd, plan.memory_bytes, plan.open_files)
        _own_environment(plan.env)
        _libc.prctl(PR_SET_NAME, f"rank{plan.rank}".encode()[:NAME_BYTES_MAX], 0, 0, 0)
    except OSError as error:
        give_up(plan.report_fd, error)
    os.close(plan.report_fd)
    _own_randomness()
    sys.stdout.reconfigure(line_buffering=True, write_through=plan.program.unbuffered)  # type: ignore[union-attr]


def confine(keeper_pid: int, cwd: str, memory_bytes: int, open_files: int) -> None:
    """Die with the keeper, live within the limits, stand in the working directory. Raises OSError."""
    die_with(keeper_pid)
    if open_files:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = open_files if hard == resource.RLIM_INFINITY else min(open_files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if cwd:
        os.chdir(cwd)
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def die_with(keeper_pid: int) -> None:
    """Have the kernel kill this process when the keeper dies, so that a rank never runs unwatched."""
    if _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != keeper_pid:
        os._exit(EXIT_NOT_STARTED)  # it died before the kernel was told


def default_signals() -> None:
    """Every signal as Python finds it at its start, whatever the keeper and its preloads had set."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def give_up(report_fd: int, error: Exception) -> NoReturn:
    """Tell the keeper why this rank cannot begin, and end without running anything of the job's."""
    name = getattr(error, "filename", None)
    why = getattr(error, "strerror", None) or str(error)
    os.write(report_fd, json.dumps({"error": f"{name}: {why}" if name else why}).encode())
    os._exit(EXIT_NOT_STARTED)


def _own_files(plan: Plan) -> None:
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(plan.log_fd, 1)
    os.dup2(plan.log_fd, 2)
    for file in (null, plan.log_fd, *plan.keeper_files):
        if isinstance(file, int):
            os.close(file)
        else:
            file.close()


def _own_environment(env: dict[str, str]) -> None:
    for key in [key for key in os.environ if key not in env]:
        del os.environ[key]
    os.environ.update(env)


def _own_randomness() -> None:
    """Forked ranks would draw the same numbers: ``random`` reseeds itself at a fork, numpy does not."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
