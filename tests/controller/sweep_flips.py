"""Turns one bit at a time in the files of a checkpoint and looks at it as the verifying process does, in one process.

Arguments: folder, how many flips, seed, ``manifest`` (any file of it) or ``bare`` (its data files). Prints JSON.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from outrider_controller.verification import examine
from outrider_controller.verification.request import Request


def main(folder: Path, count: int, seed: int, bare: bool) -> dict[str, Any]:
    chance = random.Random(seed)
    request = Request(str(folder), manifest=not bare)
    assert examine.examine(request, lambda what: None)["trust"] in ("loadable", "complete")
    files = sorted(path for path in folder.iterdir() if not bare or path.suffix == ".distcp")
    missed = []
    for number in range(count):
        file = files[number % len(files)]
        data = file.read_bytes()
        bit = chance.randrange(len(data) * 8)
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(damaged)
        if examine.examine(request, lambda what: None)["trust"] != "rejected":
            missed.append([file.name, bit])
        file.write_bytes(data)
    return {"flips": count, "missed": missed, "files": [file.name for file in files]}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "bare")))
