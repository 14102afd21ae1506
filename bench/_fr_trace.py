"""Torch's own flight recorder analyzer, asked about folder after folder, for the measurement beside this file.

One order a line on standard input, `{"folder", "limit_s"}`; one answer a line, `{"text", "seconds", "end"}`, where
`end` is "done", "failed" or "late". The analyzer is imported once, and each folder is read in a forked child, as it may
run for hours or end its process.

It prints for people. `read` below takes from that: the ranks of every "missing ranks" line (rank-missing) and of every
"Culprit rank" (a mismatch, by the error's type), and as its answer the first of these messages, which is the
earliest operation it found at fault; blaming everybody of all messages would name many more. "We cannot decide" counts
as unknown, silence as none, an exception as failed. It gets `--allow-incomplete-ranks`, without which any absent dump
ends it, and a stand-in for `tabulate`, without which it ends at the first coalesced batch.
"""

from __future__ import annotations

import json
import os
import re
import select
import sys
import tempfile
import time
import types
from typing import Any, Final

KINDS: Final = {
    "SIZE_OR_SYNTAX_MISMATCH": "size-mismatch",
    "COLLECTIVE_TYPE_MISMATCH": "collective-mismatch",
    "COLLECTIVE_DTYPE_MISMATCH": "dtype-mismatch",
    "COLLECTIVE_STATE_MISMATCH": "device-stuck",
}
_MESSAGE: Final = re.compile(r"missing ranks: \{([^}]*)\}|error msg: (.*)")
_CULPRIT: Final = re.compile(r"Culprit rank (\d+); Error type: (\w+)")


def read(text: str, end: str) -> tuple[dict[str, Any], list[int]]:
    """Its answer by the first message as a verdict, and everybody named in any."""
    answers: list[tuple[str, list[int]]] = []
    for missing, errors in _MESSAGE.findall(text):
        if missing:
            answers.append(("rank-missing", [int(rank) for rank in missing.split(",")]))
        elif found := _CULPRIT.findall(errors):
            answers.append((KINDS.get(found[0][1], "unknown"), [int(rank) for rank, _ in found]))
    everybody = sorted({rank for _, ranks in answers for rank in ranks})
    if answers:
        kind, ranks = answers[0]
        return {"verdict": kind, "culprits": sorted(set(ranks)), "confidence": 1.0}, everybody
    if end != "done":
        return {"verdict": end, "culprits": [], "confidence": 0.0}, []
    unknown = "We cannot decide" in text
    return {"verdict": "unknown" if unknown else "none", "culprits": [], "confidence": 1.0}, []


def main() -> None:
    """Answer orders until there are no more."""
    stand_in = types.ModuleType("tabulate")
    stand_in.tabulate = lambda table, headers=None: f"table of {len(table)} rows"  # type: ignore[attr-defined]
    sys.modules.setdefault("tabulate", stand_in)
    from torch.distributed.flight_recorder import fr_trace

    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(_ask(fr_trace.main, order["folder"], order["limit_s"])), flush=True)


def _ask(analyze: Any, folder: str, limit_s: float) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out:
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
            code = 1
            try:
                analyze([folder, "--allow-incomplete-ranks"])
                code = 0
            except BaseException as error:  # noqa: BLE001 - whatever ends it is its answer
                print(f"{type(error).__name__}: {error}"[:500], file=sys.stderr, flush=True)
            finally:
                os._exit(code)
        watch = os.pidfd_open(pid)
        ready, _, _ = select.select([watch], [], [], limit_s)
        if not ready:
            os.kill(pid, 9)
        _, status = os.waitpid(pid, 0)
        os.close(watch)
        end = "late" if not ready else "done" if status == 0 else "failed"
        out.seek(0)
        return {"text": out.read(4_000_000).decode(errors="replace"), "seconds": time.monotonic() - began, "end": end}


if __name__ == "__main__":
    main()
