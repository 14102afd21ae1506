"""The fork gate: whether this process can be copied safely right now, and if not, why.

A fork copies one thread and no device context: locks held by other threads stay locked for ever, and a CUDA context is
broken in the child. So the keeper looks before every start, and starts ranks afresh when the answer is no.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Final

DEVICE_FILES: Final = ("/dev/nvidia", "/dev/kfd", "/dev/dri/", "/dev/infiniband/")
ENTRIES_MAX: Final = 10_000  # files of the script's folder that are looked at


def why_not_fork() -> str | None:
    """The reason why forking would be unsafe, or None. ``PR_SET_PDEATHSIG`` too counts on the one thread."""
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        named = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        who = f" ({', '.join(named[:4])})" if named else ""
        return f"the keeper has {threads} threads{who} and a fork copies only one"
    cuda = sys.modules.get("torch.cuda")
    if cuda is not None and cuda.is_initialized():
        return "CUDA is initialised in the keeper, and a forked rank could not use it"
    opened = _open_device()
    return f"the keeper has {opened} open, which a fork would share" if opened else None


def hidden_modules(folder: str) -> dict[str, str]:
    """Modules held here, by name, where a fresh interpreter would import this file of the script's folder instead."""
    found: dict[str, str] = {}
    for name, path in _modules_in(folder):
        loaded = sys.modules.get(name)
        if loaded is None or name in sys.builtin_module_names or name in ("outrider", "__main__", "__init__"):
            continue
        origin = getattr(loaded, "__file__", None)
        if origin is None or os.path.realpath(origin) != os.path.realpath(path):
            found[name] = os.path.relpath(path, folder)
    return found


def _modules_in(folder: str) -> list[tuple[str, str]]:
    try:
        names = os.listdir(folder)[:ENTRIES_MAX]
    except OSError:
        return []
    files = [(name[:-3], os.path.join(folder, name)) for name in names if name.endswith(".py")]
    packages = [(name, os.path.join(folder, name, "__init__.py")) for name in names if name in sys.modules]
    return files + [(name, path) for name, path in packages if os.path.isfile(path)]


def _open_device() -> str | None:
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the descriptor of the listing itself is gone by now
        if target.startswith(DEVICE_FILES):
            return target
    return None
