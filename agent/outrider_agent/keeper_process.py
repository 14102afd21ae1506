"""A keeper's process as the agent handles it: brought up in a session of its own, and swept up after once it is dead.

Flow: Settings -> a detached process that listens, or why it does not. Speaking to it is ``keeper_client``.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pwd
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from outrider_agent import log_folder
from outrider_agent.keeper import cold, command, environment, sessions
from outrider_agent.keeper import home as homes

READY_S: Final = 60.0  # a new keeper's interpreter on a machine under heavy load
LOG_TAIL_BYTES: Final = 2000
LOCK_TRIES_MAX: Final = 20  # a dying keeper's socket closes a moment before its lock
LOCK_PAUSE_S: Final = 0.01


class KeeperError(Exception):
    """Something with a keeper went wrong; the message names the job and the way out."""


@dataclass(frozen=True)
class Settings:
    """What a new keeper is started with. ``env`` goes above the agent's own, before anything is imported."""

    job: str
    node: str
    runtime: Path  # the node's runtime directory
    command: tuple[str, ...] = ()  # of the job: its interpreter, when it has one, runs the keeper
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = ""  # of the job, to find its interpreter by a relative path
    ranks: int = 0  # that will run here; with more than one, OMP_NUM_THREADS is 1 unless set
    user: str = ""  # run the keeper and its ranks as this user; needs root
    allow_root: bool = False  # ranks may run as root
    own: tuple[Path, ...] = ()  # directories to make for ``user``, such as the one for the logs
    linger_s: float = 300.0  # an idle keeper without a client leaves after this


def interpreters(settings: Settings) -> tuple[str, ...]:
    """Those to try, in order: the job's own, so that ranks can be forked, then the agent's, so that they can run."""
    search_path = settings.env.get("PATH", os.environ.get("PATH"))
    word = settings.command[0] if settings.command else ""
    of_job = command.find(word, search_path, settings.cwd) if command.is_python(word) else None
    return tuple(dict.fromkeys(path for path in (of_job, sys.executable) if path))


async def spawn(interpreter: str, settings: Settings) -> str:
    """Start a keeper process and wait until it listens; what went wrong, or nothing."""
    home = homes.of(settings.runtime, settings.job)
    env = environment.of_keeper({**os.environ, **settings.env}, home, settings.ranks)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        homes.socket_path(home)
        who = await _user(settings, home, env)
        with os.fdopen(_log(home, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as keeper_log:
            process = subprocess.Popen(
                _command(interpreter, settings, home, writing),
                stdin=subprocess.DEVNULL,
                stdout=keeper_log,
                stderr=keeper_log,
                env=env,
                pass_fds=(writing,),
                start_new_session=True,
                **who,
            )
    except (OSError, KeyError) as error:
        os.close(reading)
        return str(error)
    finally:
        os.close(writing)
    said = await _read_all(reading)
    if said != b"ready\n":
        process.kill()
    process.wait()  # it leaves at once: the keeper is its child, in a session of its own
    if said == b"ready\n":
        return ""
    return said.decode(errors="replace") or _log_tail(home)


def _command(interpreter: str, settings: Settings, home: homes.Home, ready_fd: int) -> list[str]:
    words = [interpreter, cold.entry(), cold.client_folder(), "keeper", "--home", str(home.path)]
    words += ["--job", settings.job, "--node", settings.node]
    words += ["--linger-s", str(settings.linger_s), "--ready-fd", str(ready_fd)]
    return [*words, "--allow-root"] if settings.allow_root else words


async def _user(settings: Settings, home: homes.Home, env: dict[str, str]) -> dict[str, Any]:
    """Make the keeper's directories, and what Popen needs to run it as the job's user. Raises OSError, KeyError."""
    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        entry = pwd.getpwnam(settings.user) if settings.user else None
    except KeyError:
        raise KeyError(f"there is no user {settings.user} on this node") from None
    if entry is None or entry.pw_uid == os.geteuid():
        for path in settings.own:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return {}
    if os.geteuid() != 0:
        raise PermissionError(f"running ranks as {settings.user} needs an agent that runs as root")
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    for path in settings.own:
        await log_folder.make(path, entry, groups)
    log_folder.hand_over(home.path, entry.pw_uid, entry.pw_gid)  # what lies above is the agent's own
    for path in (settings.runtime, home.path.parent):
        path.chmod(path.stat().st_mode | 0o011)  # the user may pass through, and list nothing
    env.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}


async def _read_all(fd: int) -> bytes:
    """Everything a pipe says until it is closed, or what came within READY_S."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb"))
    try:
        async with asyncio.timeout(READY_S):
            return await reader.read()
    except TimeoutError:
        return f"it was not ready within {READY_S:.0f} s".encode()
    finally:
        transport.close()


def _log(home: homes.Home, flags: int) -> int:
    """The keeper's log, opened; never what its user has made of that name, for the folder is theirs. Raises OSError."""
    file = os.open(home.log, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    found = os.fstat(file)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return file
    os.close(file)
    raise PermissionError(f"{home.log}: is no plain file of one name; remove it")


def _log_tail(home: homes.Home) -> str:
    try:
        with os.fdopen(_log(home, os.O_RDONLY), "rb") as file:
            return file.read()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError:
        return "it ended without a word"


def kill_strays(runtime: Path, job: str) -> tuple[int, ...]:
    """After a keeper died: SIGKILL what its ranks left behind (data loaders, shells' children), and return the pids.

    Raises KeeperError while a keeper of this job lives: what it holds is no stray.
    """
    home = homes.of(runtime, job)
    for _ in range(LOCK_TRIES_MAX):
        if not is_held(home):
            break
        time.sleep(LOCK_PAUSE_S)
    else:
        raise KeeperError(f"job {job}: its keeper lives; stop its ranks with an order")
    mark = f"{environment.MARK}={home.path}".encode()
    strays = tuple(pid for pid in _processes() if mark in _environ(pid))
    for pid in strays:
        sessions.send(pid, signal.SIGKILL)
    return strays


def is_held(home: homes.Home) -> bool:
    """Whether a keeper lives in this directory."""
    try:
        fd = os.open(home.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def _environ(pid: int) -> frozenset[bytes]:
    try:
        return frozenset(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return frozenset()  # gone, or not ours to look at
