"""Runs the checks of a node, one after the other, within a time for all of them.

In: Options and a look at the machine. Out: results; progress on the way. GPUs are multiplied on and written to side by
side, because each has memory and cores of its own; copies are made one at a time, because GPUs share the way.
"""

from __future__ import annotations

import concurrent.futures
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from outrider_agent.checks import (
    children,
    collectives,
    judge,
    judge_collectives,
    machine,
    pairing,
    results,
    sweeping,
)
from outrider_agent.checks.results import COULD_NOT_LOOK, FAIL, PASS, SKIPPED, Result
from outrider_agent.checks.work import file_system as file_work

NAMES: Final = (
    *("gpus", "matmul", "memory", "host-memory", "host-copies", "peer-copies", "collectives", "file-system", "sweep"),
)
OF_GPUS: Final = frozenset({"gpus", "memory", "host-copies", "peer-copies"})
BY_TORCH: Final = OF_GPUS | {"matmul", "collectives"}
TIMEOUT_S: Final = 120.0
TIMEOUT_DEEP_S: Final = 300.0
# Seconds that a child may take, importing torch on a busy machine included; --deep allows DEEP_TIMES as much.
CHILD_S: Final = {
    **dict.fromkeys(("gpus", "matmul", "memory", "host-copies", "peer-copies"), 60.0),
    "host-memory": 30.0,
    "file-system": 30.0,
    "sweep": 45.0,
}
DEEP_TIMES: Final = 3.0
REMOVE_S: Final = 10.0
CHILD_S_MIN: Final = 1.0
CPU_RANKS: Final = 4  # enough for two rounds of disjoint pairs
HOST_BYTES: Final = 256 << 20
HOST_DEEP_BYTES_MAX: Final = 8 << 30
FILE_BYTES: Final = 64 << 20
FILE_DEEP_BYTES: Final = 1 << 30

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is asked for. ``gpus`` None: all of them; ``sweep``: words for ``agent --once``."""

    deep: bool = False
    only: tuple[str, ...] = NAMES
    mounts: tuple[Path, ...] = ()
    gpus: tuple[int, ...] | None = None
    timeout_s: float = TIMEOUT_S
    python: str = sys.executable
    sweep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gpu:
    """One GPU. ``token``: what CUDA_VISIBLE_DEVICES calls it."""

    name: str
    token: str


class Checks:
    """One run of checks."""

    def __init__(self, options: Options, found: machine.Machine, tell: Tell = lambda text: None) -> None:
        self._options = options
        self._machine = found
        self._tell = tell
        self._until = time.monotonic() + options.timeout_s
        self._gpus: list[Gpu] = []
        self._no_gpu = ""  # why no check of a GPU is run
        self._nccl = False
        self.simulated = False

    def run(self) -> list[Result]:
        """All checks that were asked for, in the order of NAMES."""
        chosen = [name for name in NAMES if name in self._options.only]
        found: list[Result] = []
        why = self._no_torch()
        if set(chosen) & BY_TORCH:
            found += [one for one in self._count_gpus(why) if "gpus" in chosen or one.verdict == FAIL]
        for name in chosen:
            if name == "gpus":
                continue
            if name in OF_GPUS and self._no_gpu:
                found += judge.skipped([name], self._no_gpu)
            elif name in BY_TORCH and why:
                found += judge.skipped([name], why)
            elif self._left_s() < CHILD_S_MIN:
                found.append(Result(name, "", COULD_NOT_LOOK, f"no time is left of {self._options.timeout_s:g} s"))
            else:
                found += self._done(name)
        return judge.siblings(found)

    def _done(self, name: str) -> list[Result]:
        began = time.monotonic()
        work: dict[str, Callable[[], list[Result]]] = {
            "matmul": self._matmul,
            "memory": lambda: self._each_gpu("memory", "device_memory", judge.memory, self._memory_task()),
            "host-memory": self._host_memory,
            "host-copies": lambda: self._each_gpu("host-copies", "transfers", judge.host_copies, {}, at_once=1),
            "peer-copies": self._peer_copies,
            "collectives": self._collectives,
            "file-system": self._file_systems,
            "sweep": self._sweep,
        }
        found = work[name]()
        timed = any(one.seconds for one in found)
        return found if timed else results.took(found, time.monotonic() - began)

    # --- GPUs ---------------------------------------------------------------------------------------------------------

    def _no_torch(self) -> str:
        if self._options.python != sys.executable or machine.has_torch():
            return ""
        return f"torch is not installed for {sys.executable}; name an interpreter that has it with --python"

    def _count_gpus(self, no_torch: str) -> list[Result]:
        if self._options.gpus == ():
            self._no_gpu = "--gpus none"
        elif not self._machine.gpus:
            self._no_gpu = "this machine has no NVIDIA GPU"
        if self._no_gpu:
            return [Result("gpus", "", SKIPPED, self._no_gpu)]
        if no_torch:
            self._no_gpu = no_torch
            return [Result("gpus", "", COULD_NOT_LOOK, f"{self._machine.gpus} GPUs, and {no_torch}")]
        outcome = self._child("gpus", "", {"work": "gpus"})
        if outcome.state != children.DONE:
            self._no_gpu = f"torch cannot count the GPUs: {outcome.text}"
            return [judge.ended("gpus", "", outcome)]
        return [self._counted(outcome)]

    def _counted(self, outcome: children.Outcome) -> Result:
        found, files = outcome.value, self._machine.gpus
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        tokens = hidden.split(",") if hidden else [str(number) for number in range(found["count"])]
        wanted = self._options.gpus
        numbered = [(int(token) if token.isdigit() else at, token) for at, token in enumerate(tokens)]
        self._gpus = [Gpu(f"gpu{n}", token) for n, token in numbered if wanted is None or n in wanted]
        self._nccl = bool(found["nccl"])
        about = f"torch {found['torch']} sees {found['count']} of {files} GPUs"
        if not found["cuda"]:
            self._no_gpu = f"torch {found['torch']} is built without CUDA; name another interpreter with --python"
            return Result("gpus", "", COULD_NOT_LOOK, self._no_gpu, 0.0, "GPUs", float(files), outcome.seconds)
        if not self._gpus or not found["count"]:
            self._no_gpu = f"{about}, none of them asked for" if found["count"] else about
        lacks = found["count"] < files and not hidden
        missing = [f"gpu{n}" for n in wanted or () if n not in dict(numbered)]
        verdict = FAIL if lacks or missing else PASS
        text = f"{about}; {', '.join(missing)} not among them" if missing else about
        return Result("gpus", "", verdict, text, float(found["count"]), "GPUs", float(files), outcome.seconds)

    def _each_gpu(
        self,
        name: str,
        work: str,
        verdict: Callable[[str, dict[str, Any]], Result],
        task: dict[str, Any],
        at_once: int = 64,
    ) -> list[Result]:
        def one(gpu: Gpu) -> Result:
            # Hidden from each other: one that is lost would keep CUDA from beginning on all of them.
            env = {"CUDA_VISIBLE_DEVICES": gpu.token}
            outcome = self._child(name, gpu.name, {"work": work, "index": 0, **task}, env)
            if outcome.state != children.DONE:
                return judge.ended(name, gpu.name, outcome)
            return _with_seconds(verdict(gpu.name, outcome.value), outcome.seconds)

        with concurrent.futures.ThreadPoolExecutor(min(at_once, len(self._gpus)), "check") as pool:
            return list(pool.map(one, self._gpus))

    def _memory_task(self) -> dict[str, Any]:
        return {"share": 0.9, "rounds": 2} if self._options.deep else {"share": 0.1, "rounds": 1}

    def _matmul(self) -> list[Result]:
        deep = self._options.deep
        if not self._no_gpu:
            return self._each_gpu("matmul", "matmul", judge.matmul, {"repeats": 100 if deep else 10})
        # Products take milliseconds: a good half second a core, or as much less as there are more of them.
        repeats = max(3, min(200 if deep else 20, (6400 if deep else 640) // len(self._machine.cores)))
        task = {"work": "matmul", "index": None, "cores": list(self._machine.cores), "repeats": repeats}
        outcome = self._child("matmul", "cpu", task)
        if outcome.state != children.DONE:
            return [judge.ended("matmul", "cpu", outcome)]
        return [_with_seconds(judge.cores(outcome.value), outcome.seconds)]

    def _peer_copies(self) -> list[Result]:
        count, names = len(self._gpus), [gpu.name for gpu in self._gpus]
        if count < 2:
            return judge.skipped(["peer-copies"], "there is one GPU alone")
        pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
        task = {"work": "transfers", "index": 0, "indices": [*range(count)], "pairs": pairs, "names": names}
        outcome = self._child("peer-copies", "", task, {"CUDA_VISIBLE_DEVICES": self._tokens()})
        if outcome.state != children.DONE:
            return [judge.ended("peer-copies", "", outcome)]
        return results.took(judge.peer_copies(names, outcome.value), outcome.seconds)

    def _tokens(self) -> str:
        return ",".join(gpu.token for gpu in self._gpus)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _host_memory(self) -> list[Result]:
        free, deep = self._machine.memory_bytes, self._options.deep
        size = min(HOST_DEEP_BYTES_MAX, free // 2) if deep else min(HOST_BYTES, free // 10)
        task = {"work": "host_memory", "nodes": self._machine.nodes, "bytes": size}
        outcome = self._child("host-memory", "", task, python=sys.executable)
        if outcome.state != children.DONE:
            return [judge.ended("host-memory", "", outcome)]
        return [_with_seconds(judge.host_memory(outcome.value), outcome.seconds)]

    def _collectives(self) -> list[Result]:
        members, given = self._ranks()
        with collectives.Ranks(members, given) as ranks:
            return summed(ranks, self._options.deep, self._tell, self._left_s)

    def _ranks(self) -> tuple[list[collectives.Member], collectives.Given]:
        gpus, cores, left_s = self._gpus if not self._no_gpu else [], self._machine.cores, self._left_s()
        shared: dict[str, Any] = {
            "start_s": min(60.0, left_s),
            "turn_s": min(20.0, max(CHILD_S_MIN, left_s / 4)),
            "python": self._options.python,
        }
        if gpus and self._nccl:
            # All are visible to each, because a peer's memory can be opened by those alone that see its device.
            env = {"CUDA_VISIBLE_DEVICES": self._tokens(), "NCCL_SOCKET_IFNAME": "lo"}
            named = [collectives.Member(gpu.name, at) for at, gpu in enumerate(gpus)]
            return named, collectives.Given("nccl", 256 << 20, 50, env=env, **shared)
        env = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        plain = [collectives.Member(f"rank{n}", None, cores[n % len(cores)]) for n in range(CPU_RANKS)]
        return plain, collectives.Given("gloo", 4 << 20, 3, env=env, **shared)

    def _file_systems(self) -> list[Result]:
        mounts = self._options.mounts or (Path(tempfile.gettempdir()),)
        return [self._file_system(path) for path in mounts]

    def _file_system(self, path: Path) -> Result:
        deep = self._options.deep
        task = {"work": "file_system", "path": str(path), "bytes": FILE_DEEP_BYTES if deep else FILE_BYTES}
        task |= {"small": 100 if deep else 20}
        outcome = self._child("file-system", str(path), task, python=sys.executable)
        if outcome.state == children.DONE:
            return _with_seconds(judge.file_system(str(path), outcome.value), outcome.seconds)
        left = Path(outcome.at[outcome.at.find("/") :])
        if left.name.startswith(file_work.PREFIX):  # what it made is still there, and a dead disk would hold us as well
            children.run({"work": "file_system", "path": str(left), "remove": True}, REMOVE_S)
        return judge.ended("file-system", str(path), outcome)

    def _sweep(self) -> list[Result]:
        self._tell("sweep: every signal of this node once")
        outcome = sweeping.look(self._options.sweep, self._deadline_s("sweep"))
        if outcome.state != children.DONE:
            return [judge.ended("sweep", "", outcome)]
        self.simulated = bool(outcome.value.get("simulated"))
        return [_with_seconds(judge.sweep(outcome.value), outcome.seconds)]

    # --- children -----------------------------------------------------------------------------------------------------

    def _child(
        self, name: str, device: str, task: dict[str, Any], env: dict[str, str] | None = None, python: str = ""
    ) -> children.Outcome:
        said = f"{name}{f' of {device}' if device else ''}"
        self._tell(said)

        def tell(where: str) -> None:
            self._tell(f"{said}: {where}")

        return children.run(task, self._deadline_s(name), tell, python or self._options.python, env)

    def _deadline_s(self, name: str) -> float:
        wanted = CHILD_S[name] * (DEEP_TIMES if self._options.deep else 1.0)
        return max(CHILD_S_MIN, min(wanted, self._left_s()))

    def _left_s(self) -> float:
        return self._until - time.monotonic()


def summed(ranks: collectives.Ranks, deep: bool, tell: Tell, left_s: Callable[[], float]) -> list[Result]:
    """Each rank with itself, all together, two by two; ranks that cannot even begin are left out of the rest."""
    names = [member.name for member in ranks.members]
    tell(f"collectives: beginning {len(names)} ranks")
    lost = ranks.ready(range(len(names)))
    found = [Result(judge_collectives.ALONE, names[rank], *_unready(answer)) for rank, answer in lost.items()]
    sound = [rank for rank in range(len(names)) if rank not in lost]
    if not sound and all(one.verdict == SKIPPED for one in found):
        return judge.skipped(["collectives"], found[0].text)
    if not sound:
        return found
    tell("collectives: each with itself")
    alone = ranks.turn([[rank] for rank in sound])
    found += judge_collectives.alone(names, alone)
    if len(sound) < 2:
        return [*found, *judge.skipped([judge_collectives.ALL, judge_collectives.PAIRS], "there is one rank alone")]
    tell("collectives: all together")
    found.append(judge_collectives.together(names, ranks.model, ranks.turn([sound])))
    turns: list[tuple[Sequence[pairing.Pair], dict[int, collectives.Answer]]] = []
    made = pairing.rounds(len(sound), len(sound) if deep else 2)
    for number, places in enumerate(made):
        if left_s() < CHILD_S_MIN:
            why = f"no time was left after {number} of {len(made)} rounds"
            found.append(Result(judge_collectives.PAIRS, "", COULD_NOT_LOOK, why))
            break
        tell(f"collectives: pairs, round {number + 1} of {len(made)}")
        pairs = [(sound[a], sound[b]) for a, b in places]
        turns.append((pairs, ranks.turn(pairs)))
    return found + (judge_collectives.pairs(names, turns) if turns else [])


def _unready(answer: collectives.Answer) -> tuple[str, str]:
    skipped = answer.state == collectives.ENDED and "ModuleNotFoundError" in answer.text
    return (SKIPPED if skipped else FAIL), f"could not begin: {answer.text}"


def _with_seconds(result: Result, seconds: float) -> Result:
    return results.took([result], seconds)[0]
