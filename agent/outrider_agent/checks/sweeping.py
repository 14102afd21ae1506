"""One look through the agent's signals, in a process of its own: ``outrider agent --once --json``.

In: words for it. Out: an Outcome whose value is its document. Signals have deadlines of their own; this one is for all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Final

from outrider_agent.checks import children

COMMAND: Final = (sys.executable, "-m", "outrider_cli", "agent", "--once", "--json")
NEEDS: Final = "needs the package"  # how the command says that an extra is not installed


def look(words: Sequence[str], deadline_s: float, command: Sequence[str] = COMMAND) -> children.Outcome:
    """Look once; blocks at most ``deadline_s`` and a little."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [*command, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True
            )
        except OSError as error:
            return children.Outcome(children.UNSTARTED, 0.0, text=f"{command[0]}: {error.strerror or error}")
        try:
            process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            children.end(process)
            text = f"hung: no answer within {deadline_s:.0f} s"
            return children.Outcome(children.HUNG, time.monotonic() - began, text=text)
        children.end(process)  # helpers that it may have left behind
        out.seek(0)
        return _read(
            out.read(children.LINE_BYTES_MAX), process.returncode, children.tail(errors), time.monotonic() - began
        )


def _read(text: bytes, code: int, said: str, seconds: float) -> children.Outcome:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if (
        isinstance(found, dict)
        and isinstance(found.get("observations"), list)
        and isinstance(found.get("signals"), list)
    ):
        return children.Outcome(children.DONE, seconds, found)
    error = "ModuleNotFoundError" if NEEDS in said else ""
    state = children.CRASHED if code < 0 else children.ENDED
    return children.Outcome(state, seconds, text=children.ending(code, said), error=error)
