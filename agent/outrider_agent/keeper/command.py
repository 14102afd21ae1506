"""A job's command, read: a Python script or module that can be forked, or any other program.

Flow: the command's words -> ``Program``. Only the plain forms ``python [-u] script.py ...`` and ``python [-u] -m mod
...`` are run inside the keeper's interpreter; other flags change the interpreter itself and need a fresh one.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from typing import Final

_PYTHON: Final = re.compile(r"python(\d+(\.\d+)?t?)?\Z")
_FLAGS_WITH_VALUE: Final = ("-W", "-X")


@dataclass(frozen=True)
class Program:
    """``kind``: script, module or other. For a Python program ``target`` is the script's path or the module's name."""

    kind: str
    command: tuple[str, ...]
    target: str = ""
    arguments: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()  # of the interpreter, without -u
    unbuffered: bool = False

    @property
    def is_python(self) -> bool:
        """Runs in a Python that we can prepare: forked, or afresh with our hook."""
        return self.kind != "other"


def read(command: tuple[str, ...]) -> Program:
    """Tell what ``command`` (at least one word) runs."""
    other = Program("other", command)
    if not is_python(command[0]):
        return other
    flags: list[str] = []
    unbuffered = False
    words = list(command[1:])
    while words:
        word = words.pop(0)
        if word == "-m":
            return Program("module", command, words[0], tuple(words[1:]), tuple(flags), unbuffered) if words else other
        if word == "-u":
            unbuffered = True
        elif word in _FLAGS_WITH_VALUE and words:
            flags += [word, words.pop(0)]
        elif word in ("-", "-c") or word.startswith("--"):
            return other
        elif word.startswith("-"):
            flags.append(word)
        else:
            return Program("script", command, word, tuple(words), tuple(flags), unbuffered)
    return other


def is_python(program: str) -> bool:
    """Whether a program is a Python interpreter, by its name."""
    return _PYTHON.match(os.path.basename(program)) is not None


def find(program: str, search_path: str | None, cwd: str) -> str | None:
    """The file that running ``program`` would run, or None. ``search_path``: the job's PATH."""
    if "/" in program:
        path = os.path.join(cwd or os.getcwd(), program)
        return path if os.access(path, os.X_OK) and os.path.isfile(path) else None
    return shutil.which(program, path=search_path)


def folder(program: Program, cwd: str) -> str:
    """What the interpreter puts first on ``sys.path``: the script's folder, or for a module the working directory."""
    if program.kind == "module":
        return cwd
    return os.path.dirname(os.path.realpath(os.path.join(cwd, program.target)))
