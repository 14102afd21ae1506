"""What a Python rank does before and after the job's script, so that it can be asked while it hangs and read once dead.

Before: stacks on SIGUSR2 and on a crash into the rank's log; stacks on STACKS_SIGNAL into a file of their own, for the
agent; and torch's worker server on the rank's control socket as soon as the job has torch (a C++ thread answers there
while the main thread is blocked), and beside it the members of its process groups. After an exception: the
error file in torchelastic's format. Nothing in here may fail a rank: what does not work is said once in the log.
"""

from __future__ import annotations

import atexit
import faulthandler
import fcntl
import importlib.abc
import importlib.machinery
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, Final

from outrider_agent.keeper import rank_groups, recorder

CONTROL_SOCKET: Final = "TORCH_WORKER_SERVER_SOCKET"
ERROR_FILE: Final = "TORCHELASTIC_ERROR_FILE"
STACKS_FILE: Final = "OUTRIDER_STACKS"
GROUPS_FILE: Final = "OUTRIDER_GROUPS"
# SIGUSR2 may be the script's own (submitit and others save a checkpoint on it), and from outside nobody can see whose
# handler is in place. No script uses this one, and where a process catches it, this hook made it.
STACKS_SIGNAL: Final = signal.SIGRTMAX - 6
STACKS_FD_MIN: Final = 100  # out of the way of a script that counts on low numbers
TRACE_FRAMES_MAX: Final = 100
_STDERR: Final = 2


def prepare(environ: MutableMapping[str, str]) -> None:
    """Make this rank answerable. Call once, in the rank, before the script."""
    try:
        faulthandler.enable(_STDERR)
        faulthandler.register(signal.SIGUSR2, _STDERR, all_threads=True)
    except (OSError, RuntimeError, ValueError) as error:
        _say(f"stacks cannot be asked for: {error}")
    _answer_the_agent(environ.get(STACKS_FILE, ""))
    path, groups = environ.get(CONTROL_SOCKET, ""), environ.get(GROUPS_FILE, "")
    rank_groups.forget(groups)
    pipes = environ.pop(recorder.LATER, "")

    def begin() -> None:
        if trouble := recorder.open_pipes(environ, pipes):
            _say(trouble)
        if path:
            # Taken out so that a script which uses torch's worker_main itself does not find its socket taken.
            environ.pop(CONTROL_SOCKET, None)
            _serve(path)
        if groups:
            _tell_groups(groups)

    if "torch.distributed" in sys.modules:
        begin()
    elif path or groups or pipes:
        sys.meta_path.insert(0, _AfterImport("torch.distributed", begin))


def record(error: BaseException, environ: MutableMapping[str, str]) -> None:
    """Leave the exception that ends this rank in its error file."""
    path = environ.get(ERROR_FILE, "")
    if not path:
        return
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    extra = {
        "py_callstack": "".join(traceback.format_exception(error, limit=TRACE_FRAMES_MAX)),
        "timestamp": str(int(time.time())),
        "error_type": type(error).__name__,
        "where": f"{last.filename}:{last.lineno} in {last.name}" if last else None,
    }
    document = {"message": {"message": f"{type(error).__name__}: {error}", "extraInfo": extra}}
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(document, file)
    except OSError as problem:
        _say(f"the error file {path} cannot be written: {problem}")


def _answer_the_agent(path: str) -> None:
    """Stacks of all threads into ``path`` on STACKS_SIGNAL. Its first line tells the agent how to make sure of us: pid,
    descriptor, and the main thread as the stacks call it.
    """
    if not path:
        return
    try:
        # Appending, so that the agent may cut off what it has read.
        how = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        low = os.open(path, how, 0o600)
        files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        least = STACKS_FD_MIN if files_max == resource.RLIM_INFINITY else min(STACKS_FD_MIN, files_max // 2)
        fd = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, least)
        os.close(low)
        faulthandler.register(STACKS_SIGNAL, fd, all_threads=True)
        os.write(fd, f"{os.getpid()} {fd} {threading.main_thread().ident or 0:#018x}\n".encode())
    except (OSError, RuntimeError, ValueError) as error:
        _say(f"the agent cannot ask this rank for stacks: {error}")


def _serve(path: str) -> None:
    try:
        from torch._C._distributed_c10d import _WorkerServer

        if os.path.exists(path):
            os.unlink(path)  # of the attempt before; the server refuses a path that exists
        server: Any = _WorkerServer(path)
        # Its thread must be gone before the interpreter is; registered first, this runs last.
        atexit.register(server.shutdown)
    except Exception as error:  # noqa: BLE001 - a torch without it, or a full disk: the rank goes on
        _say(f"this rank has no control socket: {type(error).__name__}: {error}")


def _tell_groups(path: str) -> None:
    try:
        rank_groups.watch(path)
    except (RuntimeError, OSError) as error:
        _say(f"this rank does not tell the members of its groups: {error}")


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls back once, when a module has been imported; until then it only passes the search on."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Calling(spec.loader, self._then)
        return spec


class _Calling(importlib.abc.Loader):
    """A loader that does what another does, and then one thing more."""

    def __init__(self, loader: importlib.abc.Loader, then: Callable[[], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._then()


def _say(text: str) -> None:
    try:
        print(f"outrider: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # a rank without a log is still a rank
