"""Children and ranks that break, each in its own way: what the tests of the checks run in place of sound ones.

``python check_breakers.py WAY TASK PIPE``; ranks of the collectives break in the turn that their way names.
"""

import json
import os
import signal
import sys
import time
from typing import Any


def main(way: str, task: str, pipe: str) -> int:
    if way.startswith("rank-"):
        return _rank(way, task, pipe)
    os.write(int(pipe), json.dumps({"at": "core 3"}).encode() + b"\n")
    if way == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    elif way == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif way == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif way == "status":
        print("cannot open libcuda.so.1", file=sys.stderr)
        return 7
    elif way == "garbage":
        os.write(int(pipe), b"\xff\xfe not json\n[1]\n")
    return 0


def _rank(way: str, task: str, pipe: str) -> int:
    from outrider_agent.checks.work import ranks

    whole = ranks.contribution
    real = ranks.summed

    def wrong(torch: Any, rank: int, size: int) -> Any:
        found = whole(torch, rank, size)
        if sys._getframe(1).f_code.co_name == "summed":  # what it brings, and not what it compares with
            found[7] += 1.0
        return found

    def breaking(torch: Any, device: Any, about: dict[str, Any], turn: dict[str, Any]) -> dict[str, Any]:
        if turn["world"] > 1 and way == "rank-crash":
            torch.distributed.all_reduce = lambda tensor: os.kill(os.getpid(), signal.SIGSEGV)
        if turn["world"] > 1 and way == "rank-hang":
            time.sleep(600)
        return real(torch, device, about, turn)

    if way == "rank-wrong":
        ranks.contribution = wrong
    else:
        ranks.summed = breaking
    return ranks.main([task, pipe])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
