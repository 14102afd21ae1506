"""One rank of the collectives: a process that joins groups as it is told, sums with their members, and compares.

Started by ``collectives`` once for each device. In, on standard input, one JSON line a turn: {"turn", "store", "rank",
"world", "bytes", "repeats"}. Out on its pipe, for each: {"turn", "seconds", "wrong", "bytes"} or {"turn", "error",
"type", "joined"}. Each turn has a store of its own, so a turn in which somebody broke leaves nothing behind.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from typing import Any, Final

from outrider_agent.checks.work import torch_device

ERROR_CHARS_MAX: Final = 500
PERIOD: Final = 1009  # contributions are whole numbers below this times the rank: sums of 32 ranks are exact in float32


def main(argv: list[str]) -> int:
    """Arguments: a task as JSON ({"index", "backend", "timeout_s", "core"}) and the number of the pipe."""
    task, pipe = json.loads(argv[0]), int(argv[1])

    def say(line: dict[str, Any]) -> None:
        os.write(pipe, json.dumps(line).encode() + b"\n")

    if task.get("core") is not None:
        os.sched_setaffinity(0, {task["core"]})
    torch, device = torch_device.of(task)
    if device.index is None:
        torch.set_num_threads(1)
    say({"ready": True, "model": device.model})
    for text in sys.stdin:
        turn = json.loads(text)
        try:
            say({"turn": turn["turn"], **summed(torch, device, task, turn)})
        except Exception as error:  # noqa: BLE001 - whatever failed is what the check found
            about = {"type": type(error).__name__, "joined": bool(turn.get("joined"))}
            say({"turn": turn["turn"], "error": f"{error}"[:ERROR_CHARS_MAX], **about})
    os._exit(0)


def summed(torch: Any, device: torch_device.Device, task: dict[str, Any], turn: dict[str, Any]) -> dict[str, Any]:
    """Join the turn's group, sum over it, leave; {"seconds" for one, "wrong": elements that are not the sum}."""
    distributed = torch.distributed
    distributed.init_process_group(
        task["backend"],
        init_method=f"file://{turn['store']}",
        rank=turn["rank"],
        world_size=turn["world"],
        timeout=datetime.timedelta(seconds=task["timeout_s"]),
    )
    turn["joined"] = True
    try:
        size = max(1, turn["bytes"] // 4)
        given, total = device.put(contribution(torch, turn["rank"], size)), device.empty(size, torch.float32)
        expected = device.put(sum(contribution(torch, rank, size) for rank in range(turn["world"])))
        wrong = 0

        def once() -> None:
            total.copy_(given)
            distributed.all_reduce(total)

        once()
        wrong = int((total != expected).sum())
        seconds = device.timed(once, turn["repeats"])
        wrong = max(wrong, int((total != expected).sum()))
        return {"seconds": seconds, "wrong": wrong, "bytes": size * 4}
    finally:
        distributed.destroy_process_group()


def contribution(torch: Any, rank: int, size: int) -> Any:
    """What a rank brings: whole numbers by place and rank, whose sums are exact in float32 in any order."""
    return (torch.arange(size, dtype=torch.int64) * 31 % PERIOD).to(torch.float32) * (rank + 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
