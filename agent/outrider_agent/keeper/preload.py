"""Importing ahead what the ranks will import, so that a forked rank begins where a fresh one arrives seconds later.

Flow: ``auto`` -> the script and the modules beside it are read (never run) for imports of torch and numpy; other
names are taken as given. The names are imported one by one, and the first that fails or starts a thread ends it with
a reason.
"""

from __future__ import annotations

import ast
import gc
import importlib
import os
import sys
from collections.abc import Iterable
from typing import Final

from outrider_agent.keeper import command, gate

AUTO: Final = "auto"
ROOTS: Final = frozenset({"numpy", "torch"})
DEPTH_MAX: Final = 3  # from the script to a sibling's sibling
FILES_MAX: Final = 200
FILE_BYTES_MAX: Final = 2 * 1024 * 1024

Wanted = tuple[str, str]  # module, and the name taken from it ("" for the module alone)


def load(names: tuple[str, ...], program: command.Program, cwd: str) -> str | None:
    """Import ahead for ``program``; the reason why ranks must start afresh, or None."""
    folder = command.folder(program, cwd)
    reason = None
    if AUTO in names:
        script = program_file(program, cwd)
        reason = _load_found(scan(script, folder) if script else ())
    sys.path.insert(0, folder)  # a named preload may be a module of the job's own
    try:
        reason = reason or _load_named(name for name in names if name != AUTO)
    finally:
        sys.path.remove(folder)
    gc.collect()
    gc.freeze()  # what is shared with the ranks stays shared: a collection would write to every page
    return reason


def scan(script: str, folder: str) -> tuple[Wanted, ...]:
    """What the script, and the modules of ``folder`` that it imports, take from torch and numpy, in order."""
    found: dict[Wanted, None] = {}
    seen: set[str] = set()
    level = [script]
    for _ in range(DEPTH_MAX):
        following: list[str] = []
        for path in level:
            if path in seen or len(seen) >= FILES_MAX:
                continue
            seen.add(path)
            wanted, siblings = _imports(path, folder)
            found.update(dict.fromkeys(wanted))
            following += siblings
        level = following
    return tuple(found)


def program_file(program: command.Program, cwd: str) -> str | None:
    """The file a Python program begins with; None where it is found only by importing."""
    if program.kind == "script":
        path = os.path.join(cwd, program.target)
        return path if os.path.isfile(path) else None
    parts = program.target.replace(".", "/")
    for base in (cwd, *sys.path):
        for path in (os.path.join(base, f"{parts}.py"), os.path.join(base, parts, "__main__.py")):
            if os.path.isfile(path):
                return path
    return None


def _imports(path: str, folder: str) -> tuple[list[Wanted], list[str]]:
    wanted: list[Wanted] = []
    siblings: list[str] = []
    for node in ast.walk(_syntax(path)):
        if isinstance(node, ast.Import):
            pairs, base = [(alias.name, "") for alias in node.names], folder
        elif isinstance(node, ast.ImportFrom):
            pairs, base = [(node.module or "", alias.name) for alias in node.names], _base(path, folder, node.level)
        else:
            continue
        for pair in pairs:
            if base == folder and pair[0].split(".")[0] in ROOTS:
                wanted.append(pair)
            else:
                siblings += _files(base, pair)
    return wanted, siblings


def _base(path: str, folder: str, level: int) -> str:
    base = folder if level == 0 else os.path.dirname(path)
    for _ in range(level - 1):
        base = os.path.dirname(base)
    return base


def _files(base: str, pair: Wanted) -> list[str]:
    module, name = pair
    stem = os.path.join(base, *module.split(".")) if module else base
    choices = (f"{stem}.py", f"{stem}/__init__.py", f"{stem}/{name}.py", f"{stem}/{name}/__init__.py")
    return [path for path in choices if os.path.isfile(path)]


def _syntax(path: str) -> ast.AST:
    try:
        with open(path, "rb") as file:
            return ast.parse(file.read(FILE_BYTES_MAX))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ast.Module([], [])  # the rank itself will say what is wrong with it


def _load_found(wanted: tuple[Wanted, ...]) -> str | None:
    for module, name in wanted:
        try:
            loaded = importlib.import_module(module)
            if name not in ("", "*") and not hasattr(loaded, name):
                importlib.import_module(f"{module}.{name}")
        except ImportError:
            continue  # optional, or absent: the script knows what to do about it
        except Exception as error:  # noqa: BLE001 - a library may raise anything while it is imported
            return f"importing {module} ahead failed: {type(error).__name__}: {error}"
        if reason := gate.why_not_fork():
            return f"after importing {module} ahead, {reason}"
    return None


def _load_named(names: Iterable[str]) -> str | None:
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a preload is the job's code
            return f"preload {name} failed: {type(error).__name__}: {error}"
        if reason := gate.why_not_fork():
            return f"after preload {name}, {reason}"
    return None
