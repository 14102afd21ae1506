"""A log directory for the user that a job's ranks run as, made by an agent that runs as root.

    a path and a user -> the directory is there and theirs, or an OSError that says why not

Wherever the user may write, a name may be a link to what is not theirs. So the directory is made with their rights, by
a process of its own; that also works on file systems that give root none. Only where they may make nothing does root
make it, below folders in which nobody else lays names, and root hands over nothing but the directory it has just made.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

WITHIN_S: Final = 30.0  # a busy file server; ranks could not begin there either
STEPS_MAX: Final = 256  # names and links on the way to a directory
MODE: Final = 0o700
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


async def make(path: Path, entry: pwd.struct_passwd, groups: Sequence[int]) -> None:
    """Make ``path`` (absolute) where it is not there; what is there already stays as it is. Raises OSError."""
    trouble = await _as_user(path, entry, groups)
    if not trouble:
        return
    if os.path.lexists(path):
        raise PermissionError(
            f"{path}: {trouble} for user {entry.pw_name}; let that user write there, or name another log_dir"
        )
    if foreign := _foreign(path, groups):
        raise PermissionError(
            f"{path}: {trouble} for user {entry.pw_name}, and root does not make it, because others than root may lay "
            f"names on the way ({foreign}); make it by hand and give it to that user, or name another log_dir"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=MODE)
    hand_over(path, entry.pw_uid, entry.pw_gid)


def hand_over(path: Path, user: int, group: int) -> None:
    """Give a directory to somebody, never what a link leads to. Raises OSError."""
    folder = os.open(path, _FOLDER)
    try:
        os.fchown(folder, user, group)
    finally:
        os.close(folder)


async def _as_user(path: Path, entry: pwd.struct_passwd, groups: Sequence[int]) -> str:
    """Make it with the user's rights; what was in the way, or nothing."""
    who = [str(entry.pw_uid), str(entry.pw_gid), ",".join(map(str, groups))]
    words = [sys.executable, "-P", "-B", "-m", "outrider_agent.log_folder", str(path), *who]
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*words, stdin=null, stdout=pipe, stderr=null)
    try:
        async with asyncio.timeout(WITHIN_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise TimeoutError(f"{path}: could not be looked at within {WITHIN_S:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    if process.returncode and not said:
        return f"the process that makes it ended with status {process.returncode}"
    return said.decode(errors="replace").strip()


def _foreign(path: Path, groups: Sequence[int]) -> str:
    """A name on the way to ``path``, through whatever links, that is not root's, or a folder where the user or all may
    change names; "" where there is none. What is not there yet root will make.
    """
    here, names = "/", list(reversed(path.parts[1:]))
    for _ in range(STEPS_MAX):
        if not names:
            return ""
        name = names.pop()
        if name == "..":
            here = os.path.dirname(here)
            continue
        step = os.path.join(here, name)
        try:
            found = os.lstat(step)
        except FileNotFoundError:
            return ""
        open_to = stat.S_IWOTH | (stat.S_IWGRP if found.st_gid in groups else 0)
        if stat.S_ISLNK(found.st_mode):
            open_to, target = 0, os.readlink(step)
            here = "/" if target.startswith("/") else here
            names += [part for part in reversed(target.split("/")) if part not in ("", ".")]
        else:
            here = step
        if found.st_uid or (found.st_mode & open_to and not found.st_mode & stat.S_ISVTX):
            return step
    return str(path)


def main() -> None:
    """Make the directory with the rights of whom the arguments name; print what is in the way."""
    path, user, group, groups = sys.argv[1:]
    trouble = ""
    try:
        os.setgroups([int(each) for each in groups.split(",") if each])
        os.setresgid(int(group), int(group), int(group))
        os.setresuid(int(user), int(user), int(user))
        os.makedirs(path, mode=MODE, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            trouble = "closed"
    except OSError as error:
        trouble = error.strerror or str(error)
    print(trouble, flush=True)


if __name__ == "__main__":
    main()
