"""Running the job's program as ``__main__`` in this interpreter, so that it cannot tell that it was not started alone.

Flow: a Program -> sys.argv, sys.path[0], a fresh ``__main__`` -> the code. Its end is Python's own: SystemExit goes
up to the interpreter, atexit runs; an exception is printed as Python prints it, noted in the error file, and gives
exit code 1.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import io
import os
import runpy
import sys
import types

from outrider_agent import rank_hook
from outrider_agent.keeper import command


def run(program: command.Program) -> None:
    """Run it; raises SystemExit as the program does, and SystemExit(1) after an exception."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    sys.orig_argv[:] = program.command
    importlib.invalidate_caches()
    try:
        if program.kind == "module":
            _run_module(program)
        else:
            _run_script(program, main)
    except Exception as error:  # noqa: BLE001 - the job's code may raise anything
        _report(error)
        sys.exit(1)


def _run_module(program: command.Program) -> None:
    sys.argv[:] = ["-m", *program.arguments]
    _first_on_path(os.getcwd())
    runpy._run_module_as_main(program.target)  # type: ignore[attr-defined]


def _run_script(program: command.Program, main: types.ModuleType) -> None:
    path = program.target
    sys.argv[:] = [path, *program.arguments]
    _first_on_path(os.path.dirname(os.path.realpath(path)))
    main.__file__ = os.path.abspath(path)
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    main.__dict__["__cached__"] = None
    with io.open_code(main.__file__) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, main.__dict__)  # noqa: S102 - to run the job's script is what this is for


def _first_on_path(folder: str) -> None:
    if not sys.flags.safe_path:
        sys.path.insert(0, folder)


def _report(error: Exception) -> None:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next  # what called the job's code is none of the reader's business
    error.__traceback__ = trace
    rank_hook.record(error, os.environ)
    sys.excepthook(type(error), error, trace)
