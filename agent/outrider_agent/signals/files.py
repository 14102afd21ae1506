"""Small files below /sys and /proc, read cheaply, and the sweep that is made of them.

In: paths as text. Out: for each a value, ``unsupported`` (the file is not there, the driver says that it has no such
thing, or the file says N/A) or ``unreadable`` (there is an answer, and it could not be had: no permission, an error of
the device, text that is no number). One file that fails costs one reading. A read is three system calls and at most
``bytes_max`` bytes; measured, about 4 us.
"""

from __future__ import annotations

import errno
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from outrider import clock as clocks
from outrider.records import Json
from outrider_agent import readings
from outrider_agent.signals import host

BYTES_MAX: Final = 4096  # a file of sysfs is at most a page
NAMES_MAX: Final = 100_000  # entries of one folder: the processes of the largest nodes stay far below
READINGS_MAX: Final = 20_000
_UNSUPPORTED: Final = frozenset(
    (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EINVAL,
        errno.EOPNOTSUPP,
        errno.ENOSYS,
        errno.ENXIO,
        errno.ENODATA,
        errno.ENOTTY,
    )
)
_NOTHING: Final = frozenset(("", "n/a", "na", "none", "unknown", "not supported", "<not supported>"))
_NUMBERED: Final = re.compile(r"(\d+)")


class Kind(NamedTuple):
    """What a reading of one name is. ``source``: the file, ioctl or call it comes from."""

    unit: str
    source: str
    counter: bool = False


Names = Mapping[str, Kind]


class Unknown(Exception):
    """There is no value; ``state`` says which kind of none it is, the message why."""

    def __init__(self, state: str, why: str) -> None:
        super().__init__(why)
        self.state = state


def read(path: str, bytes_max: int = BYTES_MAX) -> str:
    """The text of a small file without the white space around it. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(file, bytes_max).decode("utf-8", "replace").strip()
    finally:
        os.close(file)


def whole(path: str, bytes_max: int) -> str:
    """The text of a file of /proc that may need more than one read, up to ``bytes_max``. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    blocks: list[bytes] = []
    try:
        left = bytes_max
        while left > 0 and (block := os.read(file, min(left, 65_536))):
            blocks.append(block)
            left -= len(block)
    finally:
        os.close(file)
    return b"".join(blocks).decode("utf-8", "replace")


def text(path: str) -> str:
    """The text of a small file, "" where there is none."""
    try:
        return read(path)
    except OSError:
        return ""


def names(folder: str) -> list[str]:
    """What lies in ``folder``, sorted as people count (mlx5_2 before mlx5_10); nothing where it is not there."""
    try:
        return sorted(os.listdir(folder)[:NAMES_MAX], key=counted)
    except OSError:
        return []


def counted(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers within names by their value."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _NUMBERED.split(name)]


def state_of(error: OSError) -> str:
    """``unsupported`` where the answer is that there is no such thing, else ``unreadable``."""
    return "unsupported" if error.errno in _UNSUPPORTED else "unreadable"


def number(said: str, scale: float = 1.0) -> float:
    """What a file says as a number. Raises Unknown."""
    if said.lower() in _NOTHING:
        raise Unknown("unsupported", f"says {said!r}")
    try:
        value = float(said) * scale
    except ValueError:
        raise Unknown("unreadable", f"{said[:60]!r} is not a number") from None
    if not math.isfinite(value):
        raise Unknown("unreadable", f"{said[:60]!r} is not a number")
    return value


class Look:
    """The readings of one look of one signal. Units come from the signal's own table of names."""

    def __init__(self, signal: str, kinds: Names, procfs: Path, clock: clocks.Clock | None = None) -> None:
        self._signal = signal
        self._kinds = kinds
        self._procfs = procfs
        self._clock = clock or clocks.RealClock()
        self._begun = time.monotonic()
        self._readings: list[readings.Reading] = []
        self._unreadable = 0
        self._error = ""

    def add(self, device: str, name: str, value: float | str | bool, kind: Kind | None = None) -> None:
        """A value. ``kind``: for names that the table does not have."""
        kind = kind or self._kinds[name]
        self._keep(readings.Reading(device, name, value, kind.unit, counter=kind.counter))

    def lack(self, device: str, name: str, state: str, why: str, kind: Kind | None = None) -> None:
        """No value: ``unsupported`` or ``unreadable``."""
        kind = kind or self._kinds[name]
        if state == "unreadable":
            self._unreadable += 1
            self._error = self._error or f"{device} {name}: {why}".strip()
        self._keep(readings.Reading(device, name, None, kind.unit, state, kind.counter, why))

    @contextmanager
    def tried(self, device: str, *what: str) -> Iterator[None]:
        """Whatever keeps the block from a value becomes the state of the readings ``what``."""
        try:
            yield
        except Unknown as error:
            for name in what:
                self.lack(device, name, error.state, str(error))
        except OSError as error:
            for name in what:
                self.lack(device, name, state_of(error), _why(error))
        except (ValueError, IndexError, KeyError) as error:
            for name in what:
                self.lack(device, name, "unreadable", f"{type(error).__name__}: {error}"[:200])

    def number(self, device: str, name: str, path: str, scale: float = 1.0, kind: Kind | None = None) -> float | None:
        """The number in the file at ``path``; None where there is none."""
        try:
            value = number(read(path), scale)
        except Unknown as error:
            self.lack(device, name, error.state, str(error), kind)
        except OSError as error:
            self.lack(device, name, state_of(error), _why(error), kind)
        else:
            self.add(device, name, value, kind)
            return value
        return None

    def word(self, device: str, name: str, path: str) -> str | None:
        """The text in the file at ``path``; None where there is none."""
        try:
            said = read(path)
        except OSError as error:
            self.lack(device, name, state_of(error), _why(error))
            return None
        if said.lower() in _NOTHING:
            self.lack(device, name, "unsupported", f"says {said!r}")
            return None
        self.add(device, name, said)
        return said

    def sweep(self, absent: bool = False, context: Json | None = None, error: str = "") -> readings.Sweep:
        """What was found. ``absent``: there is nothing here to look at; ``error`` alone: the look itself failed."""
        state = "ok" if not self._unreadable else "partial"
        nothing = not self._readings and bool(error)
        if nothing or (self._readings and self._unreadable == len(self._readings)):
            state = "failed"
        elif error:
            state = "partial"
        return readings.Sweep(
            self._signal,
            self._clock.now(),
            time.monotonic() - self._begun,
            "absent" if absent else state,
            tuple(self._readings),
            error=error or self._error,
            context={"boot_id": host.boot_id(self._procfs), **(context or {})},
        )

    def _keep(self, reading: readings.Reading) -> None:
        if len(self._readings) < READINGS_MAX:
            self._readings.append(reading)


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def is_live_procfs(root: Path) -> bool:
    """Whether a kernel stands behind ``root``, wherever it is mounted; false for a tree that was made or recorded."""
    return root == Path("/proc") or (root / "self").is_symlink()


def is_live_sysfs(root: Path) -> bool:
    """The same for a root like /sys."""
    return root == Path("/sys") or (root / "kernel/uevent_seqnum").exists()
