"""What a rank knows of its process groups, left in a file for the agent: which ranks are in each, and in what order.

Dumps of torch's gloo groups do not tell it, torch's own tables do. A thread looks at them once a second, in the rank,
as soon as the job itself has imported torch.distributed, and writes them anew when they have changed: so they are there
when the rank hangs with the interpreter lock held, is stopped, or is dead. The step waits for it only when groups have
changed, and then for the interpreter lock, which is let go of after every ``AT_ONCE`` members. Tables and names are
those of torch 2.4 and later (tried with 2.13); where one has others, no file is written and all else goes on.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

LOOK_S: Final = 1.0
GROUPS_MAX: Final = 1_024
MEMBERS_MAX: Final = 2**19  # of all groups together, 3.5 MB of text
AT_ONCE: Final = 4_096  # members, or a whole group where it has more
WORD_CHARS_MAX: Final = 256
TABLES: Final = "torch.distributed.distributed_c10d"
END_S: Final = 1.0


class Groups:
    """The groups that one process is in. ``look`` is for one thread."""

    def __init__(self, tables: Any, path: str) -> None:
        self._tables = tables
        self._path = path
        self._seen: Any = None

    def look(self) -> bool:
        """Write the file where there is something new; whether it did. Raises whatever another torch's tables do."""
        world = self._tables._world
        names, tables = world.pg_names, world.pg_group_ranks
        # Made in C and so in one go, whatever the job does meanwhile; a group that was made anew is another object, and
        # one that is being made has no members yet.
        now = (tuple(names.values()), tuple(map(id, names)), tuple(map(tables.__contains__, names)))
        if now == self._seen or not now[0]:  # torch that is taken down leaves what was known last
            return False
        draft = f"{self._path}.part"
        how = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(draft, how, 0o600), "w", encoding="ascii") as file:
            file.writelines(_pieces(world))
        os.replace(draft, self._path)
        self._seen = now
        return True


def _pieces(world: Any) -> Iterator[str]:
    """The groups in torch's tables as JSON, in the order in which they were made, one at a time."""
    left, at_once = MEMBERS_MAX, 0
    between = "{"
    for group, name in list(world.pg_names.items())[-GROUPS_MAX:]:
        table = world.pg_group_ranks.get(group)
        if table is None or len(table) > left or len(str(name)) > WORD_CHARS_MAX:
            continue
        left -= len(table)
        at_once += len(table)
        if at_once > AT_ONCE:
            time.sleep(0)
            at_once = len(table)
        known = {"desc": _description(group), "ranks": sorted(table, key=table.__getitem__)}
        yield f"{between}{json.dumps(str(name))}:{json.dumps(known, separators=(',', ':'))}"
        between = ","
    yield "{}" if between == "{" else "}"


def _description(group: Any) -> str:
    try:
        return str(group.group_desc)[:WORD_CHARS_MAX]
    except Exception:  # noqa: BLE001 - a group without a backend refuses, and not every release has descriptions
        return ""


def forget(path: str) -> None:
    """Take away what a process before this one left at ``path``."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def watch(path: str) -> None:
    """Keep ``path`` true from now on, in a thread. Torch must have been imported. Raises RuntimeError, OSError."""
    tables = sys.modules.get(TABLES)
    if tables is None:
        return  # a torch without distributed
    found = Groups(tables, path)
    ends = threading.Event()

    def run() -> None:
        while not ends.wait(LOOK_S):
            try:
                found.look()
            except (RuntimeError, OSError):
                continue  # a table changed while it was looked at; a full disk
            except Exception:  # noqa: BLE001 - another torch: the rank goes on, and its dumps say less
                return

    thread = threading.Thread(target=run, name="outrider-groups", daemon=True)
    thread.start()

    def end() -> None:
        ends.set()
        thread.join(END_S)

    # It must not be inside torch while the interpreter is taken down.
    atexit.register(end)
