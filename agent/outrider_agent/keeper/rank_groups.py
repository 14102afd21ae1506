"""What a rank knows of its process groups, left in a file for the agent: which ranks are in each, and in what order.

Dumps of torch's gloo groups do not tell it, torch's own tables do. A thread looks at them once a second, in the rank,
as soon as the job itself has imported torch.distributed, and writes them anew when they have changed: so they are there
when the rank hangs with the interpreter lock held, is stopped, or is dead. The step never waits for it. Tables and
names are those of torch 2.4 and later (tried with 2.13); where one has others, no file is written and all else goes on.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
from operator import itemgetter
from typing import Any, Final

LOOK_S: Final = 1.0
GROUPS_MAX: Final = 1_024
MEMBERS_MAX: Final = 2**19  # of all groups together, 3.5 MB of text
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
        # Made in C and so in one go, whatever the job does meanwhile; a group that was made anew is another object.
        now = (tuple(world.pg_names.values()), tuple(map(id, world.pg_names)))
        if now == self._seen or not now[0]:  # torch that is taken down leaves what was known last
            return False
        known, whole = _known(world)
        draft = f"{self._path}.part"
        how = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(draft, how, 0o600), "w", encoding="ascii") as file:
            file.write(json.dumps(known, separators=(",", ":")))
        os.replace(draft, self._path)
        self._seen = now if whole else None
        return True


def _known(world: Any) -> tuple[dict[str, dict[str, Any]], bool]:
    """The groups in torch's tables, in the order in which they were made; False where one is being made just now."""
    whole = True
    left = MEMBERS_MAX
    known: dict[str, dict[str, Any]] = {}
    for group, name in list(world.pg_names.items())[-GROUPS_MAX:]:
        table = world.pg_group_ranks.get(group)
        if table is None:
            whole = False
            continue
        if len(table) > left or len(str(name)) > WORD_CHARS_MAX:
            continue
        left -= len(table)
        ranks = [rank for rank, _ in sorted(table.items(), key=itemgetter(1))]
        known[str(name)] = {"desc": _description(group), "ranks": ranks}
    return known, whole


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
