"""The demo's faults, as they happen: signals, flipped bytes and files that tell the job, none of them announced.

In: the plan, and the job's status several times a second. Out: faults in the real processes and files, one after the
other, each once the job has come back from the one before; and what was done to whom, for the report. Supervision
learns of them as it would of any other.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outrider_cli import demo_faults, demo_worlds, processes

if TYPE_CHECKING:
    from outrider_cli import supervision

FLIPPED_BYTES: Final = 256
VERIFIED_S_MAX: Final = 10.0  # a checkpoint that was not verified by then is damaged all the same
LOOKED_AT: Final = ("hashed", "loadable", "survived")

Json = dict[str, Any]


@dataclass
class Injector:
    """Injects each planned fault once, when its moment has come and the job is well.

    ``checkpoints``: the job's own; ``told``: the directory where files tell the job of faults.
    """

    faults: list[demo_faults.Fault]
    checkpoints: Path
    told: Path
    worlds: demo_worlds.Worlds | None = None
    injected: list[Json] = field(default_factory=list)
    _due_at: float | None = None
    _attempt: int = -1  # the one that the last fault struck
    _newest: Path | None = None  # when the present fault became due
    _noted: set[int] = field(default_factory=set)  # injected faults whose time is put right
    _broken: str = ""  # node whose simulated hardware is to be mended once the job has left it

    async def __call__(self, under: supervision.Supervision, status: Json) -> None:
        """Called with every status."""
        if not self.faults or status["state"] != "training" or status["open_incident"]:
            return
        if not self._sound(under, status):
            return
        fault = self.faults[0]
        if status["attempt"] == self._attempt or status["step"] is None or status["step"] < fault.step:
            return
        now = time.monotonic()
        if self._due_at is None:
            self._due_at = now + fault.delay_s
            self._newest = newest(self.checkpoints)
        if now >= self._due_at:
            target = status["ranks"][fault.rank]
            if target["pid"] is not None and processes.alive(target["pid"]):  # else its first mark is on its way
                self._inject(under, fault, status, target)

    def _sound(self, under: supervision.Supervision, status: Json) -> bool:
        """Whether all simulated hardware is well; what the job has left is mended first."""
        if self.worlds is None:
            return True
        states = {node["node"]: node["state"] for node in status["nodes"]}
        if self._broken and status["attempt"] != self._attempt:
            under.say(f"{self._broken} is mended and booted anew (simulated)")
            self.worlds.repair(self._broken)
            under.cluster.boot(self._broken)
            self._broken = ""
            return False
        return not self._broken and not {"suspect", "cordoned"} & set(states.values())

    def _inject(self, under: supervision.Supervision, fault: demo_faults.Fault, status: Json, target: Json) -> None:
        self._note_taken()  # two faults may be told of by one file, one after the other
        done: Json | None = {}
        at = time.time()
        if fault.kind == "corrupt":
            done = self._corrupt(under, fault)
        elif fault.kind in ("spin", "nan"):
            tell(self.told, f"spin.{fault.rank}" if fault.kind == "spin" else "nan", "step")
        elif self.worlds is not None and fault.kind in demo_worlds.FAULTS:
            self._break(self.worlds, fault, target)
        if done is None:
            return  # the checkpoint that it wants is not there yet
        if fault.kind == "node":
            under.cluster.vanish(target["node"])
        elif fault.kind in ("kill", "corrupt"):
            processes.send(target["pid"], signal.SIGKILL)
        elif fault.kind == "stop":
            processes.send(target["pid"], signal.SIGSTOP)
        self.faults.pop(0)
        self._due_at, self._attempt = None, status["attempt"]
        words = done.pop("words", fault.words)
        under.say(f"FAULT {fault.kind} after step {status['step']}: {words} ({target['node']}, pid {target['pid']})")
        found = {"fault": fault.kind, "at": at, "step": status["step"], "attempt": status["attempt"], **done}
        self.injected.append(found | {key: target[key] for key in ("rank", "node", "pid")})

    def _break(self, worlds: demo_worlds.Worlds, fault: demo_faults.Fault, target: Json) -> None:
        """Break the rank's GPU, and let the rank fail as a CUDA program does where it would."""
        worlds.strike(fault.kind, target["node"], target["local_rank"])
        self._broken = target["node"]
        if fault.kind in demo_worlds.BREAKING:
            tell(self.told, f"cuda.{fault.rank}", "step")

    def _corrupt(self, under: supervision.Supervision, fault: demo_faults.Fault) -> Json | None:
        """Damage the newest checkpoint: one that was verified before or, where the plan says so, one that is new."""
        path = newest(self.checkpoints)
        if path is None or len(committed(self.checkpoints)) < 2:
            return None
        trust = under.trust_in(path)
        waited = time.monotonic() - (self._due_at or 0.0) > VERIFIED_S_MAX
        if fault.early and path == self._newest and not waited:
            return None
        if not fault.early and trust not in LOOKED_AT and not waited:
            return None
        file, offset = flip(path, fault.where)
        known = f"trusted as {trust}" if trust in LOOKED_AT else "not verified yet"
        words = f"{FLIPPED_BYTES} bytes of {path.name}/{file} flipped ({known}), then {demo_faults.WORDS['kill']}"
        about = {"path": str(path), "file": file, "offset": offset, "trust_before": trust}
        return {"words": words.format(rank=fault.rank), "checkpoint": about}

    def when_taken(self) -> None:
        """Faults that the job was told of struck when it took them; their times are put right, once it is over."""
        self._note_taken()
        for place, fault in enumerate(self.injected):
            if _file(fault) and place not in self._noted:
                fault["taken"] = False

    def _note_taken(self) -> None:
        for place, fault in enumerate(self.injected):
            if place in self._noted or not (name := _file(fault)):
                continue
            try:
                about = json.loads((self.told / f"{name}.taken").read_text())
            except (OSError, ValueError):
                continue
            if about.get("at", 0.0) < fault["at"]:
                continue  # the file's fault before this one
            fault["at"], fault["step"] = about["at"], about.get("step", fault["step"])
            self._noted.add(place)


def _file(fault: Json) -> str:
    """The file that tells the job of a fault, empty where nothing does."""
    if fault["fault"] in demo_worlds.BREAKING:
        return f"cuda.{fault['rank']}"
    return {"spin": f"spin.{fault['rank']}", "nan": "nan"}.get(fault["fault"], "")


def tell(folder: Path, name: str, point: str) -> None:
    """Put a file where the job looks, whole from the first moment on."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f".{name}"
    draft.write_text(point)
    draft.replace(folder / name)


def committed(folder: Path) -> list[Path]:
    """The job's checkpoints that are whole by their manifest's presence, newest last."""
    found = [path.parent for path in folder.glob("step-*/manifest.json")]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def newest(folder: Path) -> Path | None:
    """The checkpoint that was committed last."""
    found = committed(folder)
    return found[-1] if found else None


def flip(checkpoint: Path, where: float) -> tuple[str, int]:
    """Turn over every bit of FLIPPED_BYTES in one data file, at this part of the whole; the file and the offset."""
    files = sorted(checkpoint.glob("*.distcp"))
    file = files[int(where * len(files))]
    room = max(1, file.stat().st_size - FLIPPED_BYTES)
    offset = int((where * len(files)) % 1.0 * room)
    with file.open("r+b") as opened:
        opened.seek(offset)
        old = opened.read(FLIPPED_BYTES)
        opened.seek(offset)
        opened.write(bytes(byte ^ 0xFF for byte in old))
        opened.flush()
        os.fsync(opened.fileno())
    return file.name, offset
