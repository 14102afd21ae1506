"""A rank that is started afresh, from its first line to the job's: either another program, or Python with our hook.

Flow: ``__main__`` -> one JSON text with what to confine this process to -> ``exec`` of the program, or the script
itself run in this very interpreter. Trouble before that reaches the keeper through the pipe ``report_fd``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import NoReturn

from outrider_agent.keeper import child, command


def main(words: list[str], at_start: frozenset[str]) -> None:
    """``words``: the JSON text, then the job's command. ``at_start``: modules the interpreter began with."""
    setup = json.loads(words[0])
    program = command.read(tuple(words[1:]))
    report_fd = int(setup["report_fd"])
    os.set_inheritable(report_fd, False)
    try:
        child.confine(setup["keeper_pid"], setup["cwd"], setup["memory_bytes"], setup["open_files"])
        if setup["exec"]:
            _run_other(program.command)
    except OSError as error:
        child.give_up(report_fd, error)
    os.close(report_fd)
    _run_here(program, at_start)


def _run_other(words: tuple[str, ...]) -> NoReturn:
    try:
        os.execvp(words[0], words)
    except OSError as error:
        # execvp names no file; whoever reads the error needs it.
        raise OSError(error.errno, error.strerror, words[0]) from None


def _run_here(program: command.Program, at_start: frozenset[str]) -> None:
    # Loaded only now: the other path runs without site-packages and should stay as light as it is.
    from outrider_agent import rank_hook
    from outrider_agent.keeper import gate, user_code

    rank_hook.prepare(os.environ)
    # What we have imported before the script must not keep it from a module of its own with that name.
    for name in gate.hidden_modules(command.folder(program, os.getcwd())).keys() - at_start:
        del sys.modules[name]
    user_code.run(program)
