"""Records a campaign of faults on real process groups: 16 ranks on a 4D mesh, gloo on this machine's loopback.

    python tests/flight_recorder/record_campaign.py [FAULT ...] [--out FOLDER] [--undescribed]

Every rank is a process of its own, forked from one that has imported torch. It makes a process group for each axis and
goes through the same steps, until its own fault, if it has one, keeps it from a call or changes it. Once nothing has
moved for a while the agent's own look is taken at each rank (its process state, and its stack with this machine's paths
replaced), and each is asked for its flight record, which a thread of it writes while its main thread is blocked: even
ranks as a pickle (without stacks, as those hold paths of this machine), odd ranks as JSON. Each rank also keeps a log
of its calls with begin and end, since gloo records no send and no recv; from_log.py makes of it what NCCL's recorder
would have held, and it leaves the members of its groups as every rank under an agent does. With --undescribed groups
are made without a description. The parent, which chose the fault, writes the truth beside them. Nothing here knows how
dumps are judged.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import dataclasses
import datetime
import gzip
import json
import multiprocessing
import os
import pathlib
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from outrider import clock
from outrider_agent import bounded, rank_hook, rank_look
from outrider_agent.signals import processes

AXES = (("dp", 2), ("pp", 2), ("cp", 2), ("tp", 2))
MESH = ",".join(f"{name}={size}" for name, size in AXES)
WORLD = 16
STEPS = 3
AT_STEP = 1
QUIET_S = 4.0
STARTED_S_MAX = 240.0
LOOK_S = 20.0
ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = pathlib.Path(__file__).resolve().parents[1] / "recorded" / "flight_recorder" / "campaign"


@dataclass(frozen=True)
class Fault:
    """What one rank does otherwise at one of its calls, counted within the step."""

    name: str
    action: str  # stuck, kill, stop, op, size, dtype, skip, extra, recv
    rank: int
    call: str  # word of the call, see `Rank.step`
    kinds: tuple[str, ...]


CAMPAIGN: dict[str, tuple[Fault, ...]] = {
    "idle": (),
    "stuck-tp": (Fault("stuck-tp", "stuck", 5, "tp-scatter", ("rank-missing",)),),
    "stuck-cp": (Fault("stuck-cp", "stuck", 10, "cp-gather", ("rank-missing",)),),
    "stuck-pp": (Fault("stuck-pp", "stuck", 3, "pp-send", ("rank-missing", "p2p-missing")),),
    "stuck-dp": (Fault("stuck-dp", "stuck", 9, "dp-reduce", ("rank-missing",)),),
    "stuck-world": (Fault("stuck-world", "stuck", 14, "world-norm", ("rank-missing",)),),
    "killed": (Fault("killed", "kill", 6, "cp-gather", ("rank-missing",)),),
    "stopped": (Fault("stopped", "stop", 12, "tp-reduce", ("rank-missing",)),),
    "wrong-op": (Fault("wrong-op", "op", 7, "dp-reduce", ("collective-mismatch", "order-mismatch")),),
    "wrong-size": (Fault("wrong-size", "size", 2, "dp-reduce", ("size-mismatch",)),),
    "wrong-dtype": (Fault("wrong-dtype", "dtype", 13, "dp-reduce", ("dtype-mismatch",)),),
    "skipped": (Fault("skipped", "skip", 8, "tp-scatter", ("order-mismatch", "collective-mismatch", "rank-missing")),),
    "extra": (Fault("extra", "extra", 1, "cp-gather", ("order-mismatch", "collective-mismatch")),),
    "sender-missing": (Fault("sender-missing", "skip", 4, "pp-grad-send", ("p2p-missing", "order-mismatch")),),
    "both-receive": (Fault("both-receive", "recv", 2, "pp-send", ("p2p-deadlock", "p2p-missing", "order-mismatch")),),
    "two": (
        Fault("stuck-tp", "stuck", 0, "tp-gather", ("rank-missing",)),
        Fault("stuck-cp", "stuck", 15, "cp-gather", ("rank-missing",)),
    ),
}


def groups_of(rank: int, axes: Sequence[str]) -> list[int]:
    """The ranks that differ from this one in these axes alone."""
    return [
        other for other in range(WORLD) if all(coords(other)[a] == coords(rank)[a] for a, _ in AXES if a not in axes)
    ]


def coords(rank: int) -> dict[str, int]:
    """Index of a rank on each axis."""
    found: dict[str, int] = {}
    for name, size in reversed(AXES):
        rank, found[name] = divmod(rank, size)
    return found


class Rank:
    """One rank's process."""

    def __init__(
        self, rank: int, faults: Sequence[Fault], folder: pathlib.Path, moved: Any, described: bool = True
    ) -> None:
        import torch
        from torch import distributed

        self._torch, self._dist = torch, distributed
        self.rank, self._folder, self._moved, self._described = rank, folder, moved, described
        self._faults = {fault.call: fault for fault in faults if fault.rank == rank}
        self._groups: dict[str, Any] = {}
        self._at = -1
        self._log: list[list[Any]] = []  # axis, operation, peer, shape, dtype, begin and end in ns

    def run(self) -> None:
        """Join, train, and stand wherever it ends; the parent ends the process."""
        threading.Thread(target=self._dump_when_asked, daemon=True).start()
        with contextlib.suppress(Exception):
            self._join()
            for step in range(STEPS):
                self._at = step
                self.step()
        threading.Event().wait()

    def _join(self) -> None:
        """Each axis' groups, as a launcher would make them; every rank makes all of them in one order."""
        dist, long = self._dist, datetime.timedelta(seconds=900)
        store = dist.FileStore(str(self._folder / "store"), WORLD)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=WORLD, timeout=long)
        self._groups["world"] = dist.group.WORLD
        for axes in (("tp",), ("cp",), ("pp",), ("dp", "cp")):
            for ranks in sorted({tuple(groups_of(rank, axes)) for rank in range(WORLD)}):
                described = "mesh_" + "_".join(axes) if self._described else None
                made = dist.new_group(list(ranks), timeout=long, group_desc=described)
                if self.rank in ranks:
                    self._groups["_".join(axes)] = made
        known = {
            group.group_name: {"desc": group.group_desc, "ranks": dist.get_process_group_ranks(group)}
            for group in self._groups.values()
        }
        (self._folder / f"groups_{self.rank}").write_text(json.dumps(known))

    def step(self) -> None:
        """One step of training as its communication alone."""
        stage = coords(self.rank)["pp"]
        peer = next(rank for rank in groups_of(self.rank, ("pp",)) if rank != self.rank)
        whole, half = (8, 6), (4, 6)
        if stage == 1:
            self._call("pp-recv", lambda: self._p2p("recv", peer))
        self._call("tp-gather", lambda: self._gather("tp", half))
        self._call("cp-gather", lambda: self._gather("cp", whole))
        self._call("tp-scatter", lambda: self._reduce("tp", half))
        if stage == 0:
            self._call("pp-send", lambda: self._p2p("send", peer))
            self._call("pp-grad-recv", lambda: self._p2p("recv", peer))
        self._call("tp-back", lambda: self._gather("tp", half))
        self._call("tp-reduce", lambda: self._reduce("tp", whole))
        if stage == 1:
            self._call("pp-grad-send", lambda: self._p2p("send", peer))
        self._call("dp-reduce", lambda: self._reduce("dp_cp", (10, 16)))
        self._call("world-norm", lambda: self._reduce("world", (1,)))

    def _call(self, word: str, call: Callable[[], None]) -> None:
        fault = self._faults.get(word) if self._at == AT_STEP else None
        self._moved[self.rank] += 1
        if fault is None:
            call()
        elif fault.action == "stuck":
            threading.Event().wait()
        elif fault.action in ("kill", "stop"):
            time.sleep(1.0)
            os.kill(os.getpid(), signal.SIGKILL if fault.action == "kill" else signal.SIGSTOP)
        elif fault.action == "extra":
            call()
            call()
        elif fault.action == "recv":
            self._p2p("recv", next(rank for rank in groups_of(self.rank, ("pp",)) if rank != self.rank))
        elif fault.action != "skip":
            self._wrong(fault.action)

    def _wrong(self, what: str) -> None:
        if what == "op":
            self._gather("dp_cp", (10, 16))
        else:
            self._reduce("dp_cp", (10, 17) if what == "size" else (10, 16), double=what == "dtype")

    def _gather(self, axis: str, shape: tuple[int, ...]) -> None:
        group = self._groups[axis]
        parts = [self._torch.empty(shape) for _ in range(group.size())]
        value = self._torch.ones(shape)
        self._logged(axis, "all_gather", None, value, lambda: self._dist.all_gather(parts, value, group=group))

    def _reduce(self, axis: str, shape: tuple[int, ...], double: bool = False) -> None:
        value = self._torch.ones(shape, dtype=self._torch.float64 if double else self._torch.float32)
        group = self._groups[axis]
        self._logged(axis, "all_reduce", None, value, lambda: self._dist.all_reduce(value, group=group))

    def _p2p(self, direction: str, peer: int) -> None:
        value, group = self._torch.ones(8, 6), self._groups["pp"]
        call = self._dist.send if direction == "send" else self._dist.recv
        self._logged("pp", direction, peer, value, lambda: call(value, peer, group=group))

    def _logged(self, axis: str, op: str, peer: int | None, value: Any, call: Callable[[], object]) -> None:
        dtype = "Double" if value.dtype == self._torch.float64 else "Float"
        line = [axis, op, peer, list(value.shape), dtype, time.time_ns(), None]
        self._log.append(line)
        call()
        line[-1] = time.time_ns()

    def _dump_when_asked(self) -> None:
        from torch._C import _distributed_c10d as c10d

        while not (self._folder / "dump").exists():
            time.sleep(0.05)
        if self.rank % 2:
            written = c10d._dump_fr_trace_json()
        else:
            written = c10d._dump_fr_trace(includeStackTraces=False)
        (self._folder / f"log_{self.rank}").write_text(json.dumps(self._log))
        draft = self._folder / f".{self.rank}"
        draft.write_bytes(written.encode() if isinstance(written, str) else written)
        draft.rename(self._folder / f"rank_{self.rank}")


def _settle(moved: Any) -> None:
    """Wait until no rank has made a call for a while, each having made some."""
    until, last, since = time.monotonic() + STARTED_S_MAX, list(moved), time.monotonic()
    while time.monotonic() < until:
        time.sleep(0.1)
        now = list(moved)
        if now != last:
            last, since = now, time.monotonic()
        if min(now) > 0 and time.monotonic() - since > QUIET_S:
            return
    raise SystemExit(f"still moving after {STARTED_S_MAX:.0f} s: calls made {list(moved)}")


def record(name: str, faults: Sequence[Fault], described: bool = True) -> dict[str, Any]:
    """Run one case and gather what its ranks wrote."""
    context = multiprocessing.get_context("fork")
    moved = context.Array("i", WORLD, lock=False)
    with tempfile.TemporaryDirectory(prefix="campaign-") as place:
        folder = pathlib.Path(place)

        def begin(rank: int) -> None:
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), 2)
            os.environ[rank_hook.CONTROL_SOCKET] = str(folder / f"control_{rank}")
            os.environ[rank_hook.STACKS_FILE] = str(folder / f"stacks_{rank}")
            os.environ[rank_hook.GROUPS_FILE] = str(folder / f"{rank}.groups")
            rank_hook.prepare(os.environ)
            Rank(rank, faults, folder, moved, described).run()

        ranks = [context.Process(target=begin, args=(rank,)) for rank in range(WORLD)]
        for process in ranks:
            process.start()
        try:
            _settle(moved)
            seen = asyncio.run(look(dict(enumerate(process.pid or 0 for process in ranks)), folder))
            (folder / "dump").touch()
            until = time.monotonic() + 30
            alive = [rank for rank, process in enumerate(ranks) if process.is_alive()]
            stopped = {fault.rank for fault in faults if fault.action == "stop"}
            while time.monotonic() < until and not all(
                (folder / f"rank_{rank}").exists() for rank in alive if rank not in stopped
            ):
                time.sleep(0.05)
            died = {rank: process.exitcode for rank, process in enumerate(ranks) if not process.is_alive()}
        finally:
            for process in ranks:
                process.kill()
                process.join()
        return _gathered(name, faults, folder, died) | {"looks": seen}


async def look(pids: dict[int, int], folder: pathlib.Path) -> list[dict[str, Any]]:
    """What the agent sees of each rank: its RankEvidence without pids and with the paths of this machine replaced."""
    tools = rank_look.Tools(bounded.Threads(), clock.RealClock(), None)
    targets = {
        rank: rank_look.Target(
            processes.Process("campaign", 1, rank, pid, os.getpid()),
            folder / f"control_{rank}",
            folder / f"stacks_{rank}",
        )
        for rank, pid in pids.items()
    }
    looks = {rank: rank_look.RankLook(target, tools, 1) for rank, target in targets.items()}
    await asyncio.gather(*(one.run(LOOK_S) for one in looks.values()))
    found = []
    for one in looks.values():
        evidence = one.evidence(40, "")
        frames = [re.sub(r"^.*/(?=lib/python3)", "/venv/", frame) for frame in evidence.frames]
        frames = [frame.replace(str(ROOT), "/job") for frame in frames]
        error = "" if str(folder) in evidence.error else evidence.error
        found.append(dataclasses.asdict(evidence) | {"frames": frames, "pid": 0, "error": error})
    return found


def _gathered(name: str, faults: Sequence[Fault], folder: pathlib.Path, died: dict[int, int | None]) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    told = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.groups")}
    dumps: dict[str, str] = {}
    logs: dict[str, Any] = {}
    taken: dict[str, int] = {}
    for rank in range(WORLD):
        groups |= json.loads((folder / f"groups_{rank}").read_text())
        path = folder / f"rank_{rank}"
        if path.exists():
            dumps[str(rank)] = base64.b64encode(path.read_bytes()).decode()
            taken[str(rank)] = path.stat().st_mtime_ns
            logs[str(rank)] = json.loads((folder / f"log_{rank}").read_text())
    culprits = sorted(fault.rank for fault in faults)
    unseen = any(fault.action not in ("kill", "stop") and str(fault.rank) not in dumps for fault in faults)
    truth = {
        "fault": name,
        "kinds": list(dict.fromkeys(kind for fault in faults for kind in fault.kinds)) or ["none"],
        "culprits": culprits,
        "allowed": culprits,
        "identifiable": "maybe" if unseen else "yes",
        "findings": [{"fault": f.name, "kind": f.kinds[0], "culprits": [f.rank], "call": f.call} for f in faults],
        "lost": sorted(set(range(WORLD)) - set(map(int, dumps))),
        "exit_codes": {str(rank): code for rank, code in died.items()},
        "mesh": MESH,
    }
    return {"truth": truth, "groups": groups, "dumps": dumps, "logs": logs, "taken_ns": taken, "told": told}


def main() -> None:
    """Record the named faults, or all of them."""
    options = argparse.ArgumentParser(description="record a campaign of faults on real gloo groups")
    options.add_argument("faults", nargs="*", default=sorted(CAMPAIGN), help="names of CAMPAIGN; all by default")
    options.add_argument("--out", type=pathlib.Path, default=OUT, help="folder for the records")
    options.add_argument("--undescribed", action="store_true", help="make groups without a description")
    chosen = options.parse_args()
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch.distributed  # the children inherit it

    assert torch.distributed.is_available()
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in chosen.faults:
        found = record(name, CAMPAIGN[name], not chosen.undescribed)
        written = gzip.compress(json.dumps(found, sort_keys=True).encode(), 9, mtime=0)
        (chosen.out / f"{name}.json.gz").write_bytes(written)
        truth = found["truth"]
        print(
            f"{name}: {len(found['dumps'])} dumps, {len(written)} bytes, exit codes {truth['exit_codes']}", flush=True
        )


if __name__ == "__main__":
    main()
