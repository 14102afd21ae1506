"""Starting the ranks of one attempt, forked or afresh, each with its log open and its first troubles told back.

Flow: a start order -> one process a rank -> pids by rank, or LaunchError naming the rank and why (the caller stops
those that run already). In a forked rank ``launch`` never returns: ``child.Forked`` leaves through it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from typing import Final

from outrider_agent.keeper import child, cold, command, environment, orders, ranks, recorder
from outrider_agent.keeper import home as homes

SETUP_S: Final = 120.0  # a fresh interpreter on a machine under heavy load
REPORT_BYTES_MAX: Final = 64 * 1024


class LaunchError(Exception):
    """A rank could not be started; ``rank`` is its number."""

    def __init__(self, rank: int, text: str) -> None:
        super().__init__(f"rank {rank} could not be started: {text}")
        self.rank = rank
        self.text = text


@dataclass(frozen=True)
class Site:
    """What every rank of this keeper has in common. ``files``: what a forked rank closes, beside the pidfds."""

    job: str
    node: str
    home: homes.Home
    base_env: dict[str, str]
    files: tuple[int | child.Closing, ...]


def launch(order: orders.Start, program: command.Program, warm: bool, site: Site, live: ranks.Ranks) -> dict[int, int]:
    """Start every rank of ``order``; returns once each runs the job's program."""
    first = order.ranks[0]
    try:
        os.makedirs(site.home.path / "ctl", mode=0o700, exist_ok=True)
        _note_recorder(order, site)
    except OSError as error:
        raise LaunchError(first, f"{error.filename}: {error.strerror}") from None
    if trouble := _missing(order, program):
        raise LaunchError(first, trouble)
    reports: dict[int, int] = {}
    try:
        pids = {rank: _start(order, rank, program, warm, site, live, reports) for rank in order.ranks}
        _all_begun(reports)
    except LaunchError:
        for report in reports:
            os.close(report)
        raise
    return pids


def _note_recorder(order: orders.Start, site: Site) -> None:
    """Make the folder for flight records, and tell the agent where they will appear. Raises OSError."""
    own = recorder.folder(order.log_dir, site.node, order.generation)
    os.makedirs(own, exist_ok=True)
    with contextlib.suppress(OSError):  # without it the attempt is never removed, which is better than not to start
        mark = environment.mark_file(order, site.job)
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
    env = environment.of_rank(order, order.ranks[0], site.job, site.node, site.home, site.base_env)
    place = recorder.place(env, order.cwd or os.getcwd())
    note = recorder.note(place, order.ranks, own, order.generation, time.time(), env)
    homes.write_whole(site.home.recorder, note)


def _start(
    order: orders.Start,
    rank: int,
    program: command.Program,
    warm: bool,
    site: Site,
    live: ranks.Ranks,
    reports: dict[int, int],
) -> int:
    """One process for ``rank``, watched from its first moment; its report's reading end goes into ``reports``."""
    env = environment.of_rank(order, rank, site.job, site.node, site.home, site.base_env)
    log_path, error_path = environment.log_file(order, rank), environment.error_file(order, rank)
    try:
        if os.path.exists(error_path):
            os.unlink(error_path)  # of another generation: it would be taken for this one's
        log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        reports[reading] = rank
        try:
            if warm:
                files = (*site.files, *live.pidfds, *reports)
                pid = _fork(order, rank, program, env, log_fd, writing, files)
            else:
                pid = _spawn(order, program, env, log_fd, writing)
        except OSError:
            _close(log_fd, writing)
            raise
        _close(log_fd, writing)
        pidfd = _watchable(pid)
    except OSError as error:
        raise LaunchError(rank, f"{error.filename or program.command[0]}: {error.strerror}") from None
    index = order.ranks.index(rank)
    live.add(ranks.Rank(rank, index, pid, pidfd, order.generation, program.is_python, log_path, error_path))
    return pid


def _fork(
    order: orders.Start,
    rank: int,
    program: command.Program,
    env: dict[str, str],
    log_fd: int,
    report_fd: int,
    files: tuple[int | child.Closing, ...],
) -> int:
    keeper_pid = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal that comes before the rank has reset its handlers waits until it has.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    index = order.ranks.index(rank)
    limits = order.memory_bytes, order.open_files
    raise child.Forked(child.Plan(rank, index, program, env, order.cwd, log_fd, report_fd, keeper_pid, files, *limits))


def _spawn(order: orders.Start, program: command.Program, env: dict[str, str], log_fd: int, report_fd: int) -> int:
    found = command.find(program.command[0], env.get("PATH"), order.cwd) if program.is_python else None
    if program.is_python and found is None:
        raise FileNotFoundError(2, "no such program", program.command[0])
    setup: dict[str, object] = {
        "keeper_pid": os.getpid(),
        "cwd": order.cwd,
        "memory_bytes": order.memory_bytes,
        "open_files": order.open_files,
    }
    return cold.spawn(program, found or "", env, log_fd, report_fd, setup)


def _watchable(pid: int) -> int:
    """A pidfd of a new process; one that cannot be watched must not run."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _missing(order: orders.Start, program: command.Program) -> str | None:
    """What a person has most likely mistyped, in words better than errno's."""
    if order.cwd and not os.path.isdir(order.cwd):
        return f"the working directory {order.cwd} does not exist"
    if program.kind != "script":
        return None
    script = os.path.join(order.cwd, program.target)
    if not os.path.exists(script):
        return f"there is no script {script}"
    return None if os.access(script, os.R_OK) else f"the script {script} may not be read by uid {os.geteuid()}"


def _all_begun(reports: dict[int, int]) -> None:
    """Wait until every rank has closed its report, which it does without a word once it runs the job's program."""
    deadline = time.monotonic() + SETUP_S
    poll = select.poll()
    said: dict[int, bytes] = dict.fromkeys(reports, b"")
    for reading in reports:
        poll.register(reading, select.POLLIN)
    while reports:
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            raise LaunchError(min(reports.values()), f"did not begin within {SETUP_S:.0f} s")
        for reading, _ in ready:
            text = os.read(reading, REPORT_BYTES_MAX)
            said[reading] += text
            if text:
                continue
            rank = reports[reading]
            if said[reading]:
                raise LaunchError(rank, json.loads(said[reading])["error"])
            poll.unregister(reading)
            os.close(reading)
            del reports[reading]
