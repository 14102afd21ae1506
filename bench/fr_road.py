"""How long from the last node's digest to the verdict that stands in the ledger? The controller's part of a hang.

A simulated job hangs; its ranks' dumps are digested node by node as agents do, cut to what agents send, and written as
frames of the wire, with what a look at each rank tells. Then the time is taken that the controller needs: from the
frames to answers (on the event loop), and from the last answer to the bounded verdict (in a thread). The longest time
for which the event loop did not answer meanwhile is printed beside it, and whether the right rank was named.

    python bench/fr_road.py [--nodes 256] [--ranks-per-node 8] [--fault stuck-tp] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import time
from typing import Any, Final

import msgspec

from outrider_analysis.flight_recorder import digest, fitting, model, reading
from outrider_controller import flight_records
from outrider_simulator import flight_recorder
from outrider_simulator.flight_recorder import cases, execute

RANK_BYTES: Final = 12 * 1024  # what an agent sends of a rank at most
PULSE_S: Final = 0.005
WAITING: Final = ("/v/torch/cuda/__init__.py:1083 in synchronize", "/job/train.py:40 in main")
CULPRIT: Final = ("/job/data.py:12 in shuffle", "/job/train.py:40 in main")


def main() -> int:
    """Measure once; exit status 1 when an innocent rank is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=256)
    parser.add_argument("--ranks-per-node", type=int, default=8)
    parser.add_argument("--fault", default="stuck-tp", choices=flight_recorder.NAMES)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    world, each = options.nodes * options.ranks_per_node, options.ranks_per_node
    case = flight_recorder.make(options.seed, name=options.fault, mesh=_mesh(world))
    began = time.monotonic()
    with execute.no_collector():
        frames = _frames(case, each)
    size = sum(len(frame) for frame in frames.values())
    print(
        f"{world} ranks ({case.mesh}) on {options.nodes} nodes, fault {options.fault}: digests of {size / 1e6:.1f} MB, "
        f"the largest {max(map(len, frames.values())) / 1e3:.0f} kB (made in {time.monotonic() - began:.0f} s)",
        flush=True,
    )
    mesh, truth = case.mesh, case.truth
    del case  # millions of objects that no controller has, and that the collector would walk over
    gc.collect()
    gc.freeze()
    return asyncio.run(_measure(mesh, truth, frames, each))


def _mesh(world: int) -> str:
    """tp=8, pp=4 and the rest data parallel, as far as the ranks go."""
    tp = min(8, world)
    pp = min(4, world // tp)
    return f"dp={world // tp // pp},pp={pp},cp=1,tp={tp}"


def _frames(case: flight_recorder.Case, each: int) -> dict[str, bytes]:
    """Each node's answer as it comes over the wire."""
    late = max(rank.time for rank in case.run.ranks) + 600.0
    digesters: dict[int, tuple[digest.Digester, list[model.RankDigest]]] = {}
    for rank, written in case.dumps():
        digester, ranks = digesters.setdefault(rank // each, (digest.Digester(), []))
        dump = reading.read(written)
        assert not isinstance(dump, reading.Unreadable)
        ranks.append(digester.rank(rank, dump, cases.START_NS + int(min(case.at[rank], late) * 1e9)))
    frames = {}
    for place, (digester, ranks) in digesters.items():
        node, notes = fitting.fit(digester.node(ranks), RANK_BYTES * each)
        told = {"digest": model.to_json(node), "files": {}, "notes": list(notes)}
        seen = [_seen(rank, rank in case.truth.culprits) for rank in range(place * each, (place + 1) * each)]
        frames[f"n{place}"] = json.dumps({"ranks": seen, "flight_recorder": told}).encode()
    return frames


def _seen(rank: int, culprit: bool) -> dict[str, Any]:
    """What a look at the rank brings: it waits for its GPU, and the culprit spins in its own code."""
    seen = {"rank": rank, "pid": rank + 1, "answered": "control", "moved": False}
    if culprit:
        return {**seen, "state": "running", "cpu": 0.99, "frames": CULPRIT}
    return {**seen, "state": "sleeping", "cpu": 0.0, "frames": WAITING}


async def _measure(mesh: str, truth: flight_recorder.Truth, frames: dict[str, bytes], each: int) -> int:
    longest = [0.0]
    pulse = asyncio.create_task(_pulse(longest))
    ranks = {node: range(place * each, (place + 1) * each) for place, node in enumerate(frames)}
    gathering = flight_records.Gathering("bench", ranks, mesh, len(frames) * each)
    read_s, began = 0.0, time.monotonic()
    for node, frame in frames.items():
        before = time.monotonic()
        answer: dict[str, Any] = msgspec.json.decode(frame)
        read_s += time.monotonic() - before
        gathering.take(node, answer)
        await asyncio.sleep(0)
    last, used = time.monotonic(), time.process_time()
    found = await gathering.judged()
    verdict_s, used_s = time.monotonic() - last, time.process_time() - used
    pulse.cancel()
    assert found is not None
    size = len(msgspec.json.encode(found))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    innocent = set(found["culprits"]) - set(truth.allowed)
    print(f"frames decoded in {read_s:.2f} s, taken within {last - began:.2f} s")
    print(
        f"verdict {verdict_s:.2f} s after the last digest ({used_s:.2f} s of processor): {found['verdict']} "
        f"{found['culprits'][:8]}, confidence "
        f"{found['confidence']} (true: {list(truth.culprits)[:8]}), {size / 1e3:.0f} kB for the ledger"
    )
    print(
        f"the event loop was held up for {longest[0] * 1e3:.0f} ms at most; {peak:.0f} MB in this process, which made "
        f"the dumps too; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    return int(bool(innocent))


async def _pulse(longest: list[float]) -> None:
    """How late a timer of the event loop comes."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(PULSE_S)
        longest[0] = max(longest[0], time.monotonic() - before - PULSE_S)


if __name__ == "__main__":
    raise SystemExit(main())
