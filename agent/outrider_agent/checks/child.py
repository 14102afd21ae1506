"""The process of one check: reads its task, does the work, says what came of it line by line, and ends.

Started by ``children`` as ``python -c``, with the interpreter that has torch. In: a task as JSON in argv and the number
of an open pipe. Out on the pipe: {"at": where it is} as often as it likes, then {"done": measurements} or {"error"}.
Nothing is promised to arrive: whoever started it holds the deadline.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any, Final

WORK: Final = ("device_memory", "file_system", "gpus", "host_memory", "matmul", "transfers")
ERROR_CHARS_MAX: Final = 1000


def main(argv: list[str]) -> int:
    """Do the task ``argv[0]``, tell on the pipe ``argv[1]``."""
    task: dict[str, Any] = json.loads(argv[0])
    pipe = int(argv[1])

    def say(line: dict[str, Any]) -> None:
        os.write(pipe, json.dumps(line).encode() + b"\n")

    try:
        done = do(task, lambda where: say({"at": where}))
    except Exception as error:  # noqa: BLE001 - whatever failed is what the check found
        say({"error": f"{error}"[:ERROR_CHARS_MAX], "type": type(error).__name__})
        return 1
    say({"done": done})
    sys.stdout.flush()
    os._exit(0)  # what a driver does at the interpreter's end (and may hang in) is nobody's concern


def do(task: dict[str, Any], tell: Any) -> dict[str, Any]:
    """The measurements of one task. ``tell`` is called with where it is."""
    if task["work"] not in WORK:
        raise ValueError(f"{task['work']!r} is no work; there are {', '.join(WORK)}")
    module = importlib.import_module(f"outrider_agent.checks.work.{task['work']}")
    found: dict[str, Any] = module.run(task, tell)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
