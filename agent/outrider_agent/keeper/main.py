"""From the command line to a keeper that listens, and from a fork to the job's program.

Flow: options -> the directory's lock -> the open door -> ``ready`` on the pipe of whoever started us -> the loop. The
same function goes on as the rank when the loop's stack was left by ``child.Forked``.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

from outrider import places
from outrider_agent import rank_hook
from outrider_agent.keeper import child, loop, user_code
from outrider_agent.keeper import home as homes

LOG_BYTES_MAX: Final = 4 * 1024 * 1024
LOCK_TRIES_MAX: Final = 20
LOCK_PAUSE_S: Final = 0.02
READY: Final = b"ready\n"


def main(words: list[str]) -> int:
    """Run the keeper; the exit code of the process. Comes back as the rank, too, when the loop has forked one."""
    plan = None
    try:
        return _keep(_options(words))
    except child.Forked as forked:
        plan = forked.plan
    # The keeper's stack is gone from here on; what follows is the rank's.
    child.become(plan)
    rank_hook.prepare(os.environ)
    user_code.run(plan.program)
    return 0


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="outrider keeper", description="Holds the ranks of one job on one node.")
    parser.add_argument("--home", required=True, type=Path, help="directory of this keeper's socket and journal")
    parser.add_argument("--job", required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--linger-s", type=float, default=300.0, help="leave when idle and alone for this many seconds")
    parser.add_argument("--allow-root", action="store_true", help="run ranks as root when that is who we are")
    parser.add_argument("--ready-fd", type=int, default=-1, help="pipe to say ready, or what is wrong, on")
    return parser.parse_args(words)


def _keep(options: argparse.Namespace) -> int:
    # A grandchild of whoever started us is nobody's zombie and in nobody's session.
    if os.fork():
        os._exit(0)
    os.setsid()
    _default_signals()
    try:
        keeper = _open(options)
    except OSError as error:
        _say(options.ready_fd, str(error).encode())
        return 2
    _say(options.ready_fd, READY)
    return keeper.run()


def _default_signals() -> None:
    """An agent that a shell started in the background ignores both of these, and its ranks would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def _open(options: argparse.Namespace) -> loop.Keeper:
    home = homes.Home(options.home)
    lock_fd = _lock(home)
    if lock_fd is None:
        raise places.PlaceError(f"{home.path}: another keeper of job {options.job} lives here")
    _bound_log(home)
    settings = loop.Settings(options.job, options.node, home, options.linger_s, options.allow_root)
    keeper = loop.Keeper(settings, lock_fd)
    ticks = homes.start_ticks(os.getpid())
    homes.write_whole(home.info, {"pid": os.getpid(), "job": options.job, "started_at": ticks})
    return keeper


def _lock(home: homes.Home) -> int | None:
    """The directory's lock, or None while a keeper holds it; whoever only looks has it for a moment."""
    lock_fd = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(LOCK_TRIES_MAX):
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        else:
            return lock_fd
    os.close(lock_fd)
    return None


def _bound_log(home: homes.Home) -> None:
    """Standard output and error go to ``keeper.log`` already; one that has grown long begins anew."""
    try:
        if home.log.stat().st_size > LOG_BYTES_MAX:
            os.truncate(home.log, 0)
    except OSError:
        pass  # started by hand, with the terminal for a log


def _say(fd: int, text: bytes) -> None:
    if fd < 0:
        sys.stderr.buffer.write(text)
        return
    os.write(fd, text)
    os.close(fd)
