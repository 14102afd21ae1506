"""Build a world and change it while it is in use.

In: what is to happen, in words (`lose_gpu`, `xid`, `ramp`). Out: the world file, written whole and at once after each
change (inside `together()` once for all), which every process that loaded the library reads at its next call.
A world that could not exist is refused before it is written.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from outrider_simulator.fake_nvml import compile as building
from outrider_simulator.fake_nvml import kernel_text, symbols
from outrider_simulator.fake_nvml.expressions import Expression, steady
from outrider_simulator.fake_nvml.library import Door, ImpossibleWorldError
from outrider_simulator.fake_nvml.values import BY_NAME, LINK_BY_NAME, VALUES

EVERY: Final = "*"
WORLD_FILE: Final = "world"
NOT_SUPPORTED: Final = 3
EVENTS_KEPT: Final = 1000


@dataclass(frozen=True)
class Fault:
    """One fault of a world: there until it is cleared, by leaving its `with` or by `World.clear`."""

    gpu: str
    what: str
    world: World = field(repr=False, compare=False)

    @property
    def line(self) -> str:
        return f"fault {self.gpu} {self.what}"

    def clear(self) -> None:
        self.world.clear(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.clear()


class World:
    """The GPUs of one simulated node. One owner; any number of processes look at it.

    `folder` receives the library (`library`) and the world file beside it, which is where the library looks.
    `scale` lets world time run that many times faster than the clock, `stopped` lets it stand until `advance`.
    `kernel_log` is a file that receives the driver's lines, as /dev/kmsg would give them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        board: str = "h100-sxm",
        count: int = 8,
        driver: str = symbols.DEFAULT_DRIVER,
        absent: tuple[str, ...] = (),
        seed: int = 0,
        scale: float = 1.0,
        stopped: bool = False,
        kernel_log: Path | None = None,
        cache: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        built = building.build(cache, driver, absent)
        self._door = Door(built)
        self._clock = clock
        self.folder = folder
        self.library = folder / building.LIBRARY
        self.path = folder / WORLD_FILE
        self.board, self.count, self.seed, self.scale = board, count, seed, scale
        self.kernel_log = kernel_log
        self.kernel_driver = ""
        self._origin = clock()
        self._stopped_at = 0.0 if stopped else None
        self._values: dict[tuple[str, str], Expression] = {}
        self._links: dict[tuple[str, str, str], Expression] = {}
        self._identities: dict[tuple[int, str], str] = {}
        self._processes: dict[int, list[tuple[int, float]]] = {}
        self._p2p: dict[tuple[int, int], int] = {}
        self._history: dict[int, tuple[float, float, float]] = {}
        self._faults: list[Fault] = []
        self._events: list[str] = []
        self._event_number = 0
        self._written: str | None = None
        self._held = 0
        self._kept = self._state()
        shutil.copyfile(built, self.library)
        self.write()

    # ---------------------------------------------------------------- time

    def now(self) -> float:
        """World time: seconds since the world began."""
        return self._stopped_at if self._stopped_at is not None else (self._clock() - self._origin) * self.scale

    def advance(self, seconds: float) -> None:
        """Let a stopped world's time go on."""
        if self._stopped_at is None or seconds < 0:
            raise ValueError(f"advance({seconds}) is for a world made with stopped=True, and goes forward")
        self._stopped_at += seconds
        self.write()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find this library and this world."""
        return {"LD_LIBRARY_PATH": str(self.folder), "OUTRIDER_NVML_WORLD": str(self.path)}

    # ---------------------------------------------------------------- values

    def set(self, gpu: int | None, name: str, value: float | Expression) -> None:
        """Give a value of one GPU, or of all with None. docs/fake-nvml.md lists the names."""
        _known(name, BY_NAME)
        which = _which(gpu)
        if which == EVERY:
            self._values = {key: held for key, held in self._values.items() if key[1] != name}
        self._values[which, name] = value if isinstance(value, Expression) else steady(value)
        self.write()

    def unset(self, gpu: int | None, name: str) -> None:
        """Let a value follow from the load again."""
        self._values.pop((_which(gpu), name), None)
        self.write()

    def reading(self, gpu: int, name: str) -> float:
        """What the value is now."""
        return self._door.reading(self.text(), gpu, _known(name, BY_NAME), self._clock())

    def ramp(self, gpu: int, name: str, to: float, seconds: float) -> None:
        """From what it is now to `to`, linearly."""
        was = self.reading(gpu, name)
        self.set(gpu, name, steady(was).ramp(to - was, self.now(), seconds))

    def count_up(self, gpu: int, name: str, by: float = 1) -> None:
        """Raise a counter once, from what it is now."""
        self.set(gpu, name, math.floor(self.reading(gpu, name)) + by)

    def count_on(self, gpu: int, name: str, per_s: float) -> None:
        """Let a counter rise from now on."""
        self.set(gpu, name, steady(math.floor(self.reading(gpu, name))).rate(per_s, self.now()))

    def link(self, gpu: int | None, link: int | None, name: str, value: float | Expression) -> None:
        """Give `state`, `replay`, `recovery` or `crc` of one NVLink, or of all with None."""
        _known(name, LINK_BY_NAME)
        self._links[_which(gpu), _which(link), name] = value if isinstance(value, Expression) else steady(value)
        self.write()

    def identity(self, gpu: int, name: str, text: str) -> None:
        """Give a GPU another `uuid`, `serial`, `pci`, `vbios`, `inforom` or `part`."""
        self._identities[gpu, name] = text
        self.write()

    def processes(self, gpu: int, memory_mib: dict[int, float]) -> None:
        """Say who computes on a GPU: process id -> MiB."""
        self._processes[gpu] = list(memory_mib.items())
        self.write()

    def p2p(self, one: int, other: int, status: int) -> None:
        """Give the peer-to-peer status between two GPUs (0 is OK)."""
        self._p2p[one, other] = status
        self.write()

    # ---------------------------------------------------------------- faults

    def lose_gpu(self, gpu: int | None, *, after: int = 0, chance: float = 1.0) -> Fault:
        """Every call on it answers that it is lost."""
        return self._add(gpu, "lost", after, chance)

    def require_reset(self, gpu: int | None) -> Fault:
        """Every call that needs the GPU answers that it has to be reset."""
        return self._add(gpu, "reset-required")

    def remove_gpu(self, gpu: int) -> Fault:
        """It is not counted any more, and those behind it move up."""
        return self._add(gpu, "absent")

    def hang(self, gpu: int | None, function: str = EVERY, seconds: float = math.inf, *, after: int = 0) -> Fault:
        """Calls block that long, or for ever. A name may end in `*`; gpu None means every call, also of the system."""
        how_long = "forever" if math.isinf(seconds) else repr(float(seconds))
        return self._add(gpu, f"hang {function} {how_long}", after)

    def slow(self, gpu: int | None, function: str, seconds: float) -> Fault:
        """Calls answer that much later."""
        return self._add(gpu, f"slow {function} {float(seconds)!r}")

    def fail(
        self,
        gpu: int | None,
        function: str,
        code: int,
        *,
        after: int = 0,
        chance: float = 1.0,
        passing: bool = False,
        system: bool = False,
    ) -> Fault:
        """Calls answer `code`. `field:82` names one field of nvmlDeviceGetFieldValues, `nvmlInit` all its forms.

        With `after` it strikes from the call after so many on (each process counts its own), with `chance` at a seeded
        call; once it has struck it stays, for every process, unless it is `passing`.
        """
        what = f"return {function} {code}"
        return self._add(gpu, what, after, chance, passing, system)

    def unsupported(self, gpu: int | None, function: str) -> Fault:
        """The board does not have it."""
        return self.fail(gpu, function, NOT_SUPPORTED)

    def clear(self, fault: Fault | None = None) -> None:
        """Take one fault away, or all."""
        self._faults = [held for held in self._faults if fault is not None and held is not fault]
        self.write()

    def _add(
        self,
        gpu: int | None,
        what: str,
        after: int = 0,
        chance: float = 1.0,
        passing: bool = False,
        system: bool = False,
    ) -> Fault:
        what += f" after {after}" if after else ""
        what += f" chance {chance!r}" if chance < 1 else ""
        what += " passing" if passing else ""
        fault = Fault("system" if system else _which(gpu), what, self)
        self._faults.append(fault)
        self.write()
        return fault

    # ---------------------------------------------------------------- events

    def xid(self, gpu: int, number: int, text: str | None = None, at_s: float | None = None) -> None:
        """An Xid: to the event sets, and as a line of the kernel log. `text` is what follows the number there."""
        self.event(gpu, "xid", number, kernel_text.of_xid(number) if text is None else text, at_s)

    def sxid(self, switch: int, number: int, text: str = "", at_s: float | None = None) -> None:
        """An NVSwitch's SXid, which only the kernel log tells: `Fatal, Link 30 LTSSM Fault Up`."""
        self.event(None, "sxid", number, f"{switch} {text or kernel_text.of_sxid(number)}", at_s)

    def kernel_line(self, text: str, level: int = 4, at_s: float | None = None) -> None:
        """Any line of the kernel log, with facility 0."""
        self.event(None, "line", level, text, at_s)

    def event(self, gpu: int | None, kind: str, data: int, text: str = "", at_s: float | None = None) -> None:
        """Any event, now or at a world time. docs/fake-nvml.md lists the kinds."""
        self._event_number += 1
        at = self.now() if at_s is None else at_s
        which = "system" if gpu is None else str(gpu)
        line = f"event {self._event_number} {at!r} {which} {kind} {data} {text}".rstrip()
        self._events = [*self._events, line][-EVENTS_KEPT:]
        self.write()

    # ---------------------------------------------------------------- repair

    def reset_gpu(self, gpu: int) -> None:
        """As a reset leaves it: counters at 0, volatile errors in the aggregate, no process, no pending repair."""
        with self.together():
            for value in VALUES:
                if value.name.startswith("ecc_volatile_"):
                    aggregate = value.name.replace("volatile", "aggregate")
                    self.set(gpu, aggregate, self.reading(gpu, aggregate) + math.floor(self.reading(gpu, value.name)))
            for value in VALUES:
                pending = value.name.endswith("_pending") and value.name != "ecc_pending"
                if value.kind == "counter" or pending or value.name in ("recovery_action", "drain_and_reset"):
                    self.set(gpu, value.name, 0)
            self.set(gpu, "ecc_mode", self.reading(gpu, "ecc_pending"))
            self.set(gpu, "resets", self.reading(gpu, "resets") + 1)
            self._links = {key: held for key, held in self._links.items() if key[0] != str(gpu)}
            self._processes.pop(gpu, None)
            cured = ("lost", "reset-required")
            self._faults = [f for f in self._faults if not (f.gpu == str(gpu) and f.what.startswith(cured))]

    def reboot(self) -> None:
        """Reset every GPU."""
        with self.together():
            for gpu in range(self.count):
                self.reset_gpu(gpu)

    # ---------------------------------------------------------------- the file

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Write once at the end of the block, so that no process sees a change half done."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self.write()

    def check(self) -> None:
        """ImpossibleWorldError, with thing, value and way out, where this world could not be."""
        self._door.check(self.text(), self._written, self._clock())

    def write(self) -> None:
        """Check, and put the file in place at once. A refused change is taken back, and the file stays as it was."""
        if self._held:
            return
        self._carry_on()
        try:
            self.check()
        except ImpossibleWorldError:
            self._take_back()
            raise
        self._kept = self._state()
        text = self.text()
        scratch = self.path.with_name(f".{WORLD_FILE}.{os.getpid()}")
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, self.path)
        self._written = text
        self._forget_cleared()
        if self.kernel_log is not None:
            self._door.write_log(text)

    def text(self) -> str:
        """The world file."""
        stopped = f" {self._stopped_at!r}" if self._stopped_at is not None else ""
        lines = ["outrider-nvml-world 1", f"clock {self._origin!r} {float(self.scale)!r}{stopped}", f"seed {self.seed}"]
        lines += [f"boards {self.board} {self.count}"]
        lines += [f"kernel-log {self.kernel_log}"] if self.kernel_log is not None else []
        lines += [f"kernel-driver {self.kernel_driver}"] if self.kernel_driver else []
        lines += [f"identity {gpu} {name} {text}" for (gpu, name), text in self._identities.items()]
        lines += [f"gpu {which} {name} {value}" for (which, name), value in sorted(self._values.items())]
        lines += [f"link {' '.join(key)} {value}" for key, value in self._links.items()]
        lines += [f"process {gpu} {pid} {mib!r}" for gpu, held in self._processes.items() for pid, mib in held]
        lines += [f"p2p {one} {other} {status}" for (one, other), status in self._p2p.items()]
        lines += [f"history {gpu} {at!r} {j!r} {load!r}" for gpu, (at, j, load) in self._history.items()]
        lines += [fault.line for fault in self._faults]
        return "\n".join([*lines, *self._events, ""])

    def _carry_on(self) -> None:
        """Energy and traffic go on from where the written world has them, whatever changes now."""
        if self._written is not None:
            wall = self._clock() if self._stopped_at is None else self._origin + self._stopped_at
            self._history = dict(enumerate(self._door.history(self._written, self.count, wall)))

    def _state(self) -> tuple[Any, ...]:
        held = (self._values, self._links, self._identities, self._processes, self._p2p, self._faults, self._events)
        return tuple(copy.copy(part) for part in held)

    def _take_back(self) -> None:
        held = tuple(copy.copy(part) for part in self._kept)
        self._values, self._links, self._identities, self._processes, self._p2p, self._faults, self._events = held

    def _forget_cleared(self) -> None:
        """A fault that is cleared and set again has not struck yet."""
        struck = self.path.with_name(f"{WORLD_FILE}.struck")
        if struck.exists():
            held = {kernel_text.line_key(fault.line) for fault in self._faults}
            kept = [line for line in struck.read_text(encoding="utf-8").split() if line in held]
            struck.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _which(number: int | None) -> str:
    return EVERY if number is None else str(number)


def _known(name: str, names: Mapping[str, object]) -> str:
    if name not in names:
        raise ValueError(f"there is no value {name!r}; the values are {', '.join(sorted(names))}")
    return name
