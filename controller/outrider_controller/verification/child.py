"""The verifying process: one request on standard input, lines of progress and one verdict on standard output.

Whatever happens in here happens to this process alone. Its parent reads the lines, keeps the time, and tells from the
stage that was reached what an end without a verdict means.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from typing import Any, Final

from outrider_controller.verification import limits

TELL_S_MIN: Final = 0.2


class Teller:
    """Says how it goes, at most every TELL_S_MIN but for stages."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, what: dict[str, Any]) -> None:
        now = time.monotonic()
        if "bytes" in what and now < self._next:
            return
        self._next = now + TELL_S_MIN
        say(what)


def say(what: dict[str, Any]) -> None:
    """One line."""
    os.write(1, json.dumps(what).encode("ascii") + b"\n")


def main() -> None:
    """Look and say; the process ends without tidying up, which for a large metadata takes longer than reading it."""
    parent, urgent = int(sys.argv[1]), sys.argv[2] == "urgent"
    limits.confine(parent, urgent)
    gc.disable()  # an unpickled metadata has no cycles, and looking for them takes three quarters of the time
    from outrider_controller.verification import examine

    request = examine.as_request(sys.stdin.readline())
    try:
        found = examine.examine(request, Teller())
    except examine.GoneError:
        say({"gone": True})
    except examine.ChangedError:
        say({"changed": True})
    except MemoryError:
        say({"error": "MemoryError: the verifier's own bound of memory was reached while files were read"})
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say({"error": f"{where}{error.strerror or error}"})
    else:
        say({"verdict": found})
    os._exit(0)


if __name__ == "__main__":
    main()
