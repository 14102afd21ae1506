"""What a rule is made of. A rule is data: which reading, which test, how long, what it means, when it is over.

A rule judges readings of one name, each device by itself. ``test`` says of one sample whether it is bad, good or not
to be judged (a bound that is not known, a condition of ``needs`` that does not hold, a reading that is not a value).
``hold_s``, ``polls`` and ``share`` say how much of it makes a finding, ``clear`` when it is over. Rules with the same
observation kind and device make one finding, as grave as the gravest of them that holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class Bound:
    """A level: a number, another reading of the same device or of the node, or what the settings expect.

    The first of ``expected``, ``reading`` and ``level`` that is known counts; ``times`` and ``plus`` apply to the first
    two. Where none is known nothing is judged.
    """

    level: float | None = None
    reading: str = ""
    expected: str = ""
    times: float = 1.0
    plus: float = 0.0


@dataclass(frozen=True)
class Above:
    """Bad above the bound; good again at or below the bound less ``easing``, between the two as before."""

    bound: Bound
    easing: float = 0.0


@dataclass(frozen=True)
class Below:
    """Bad below the bound; good again at or above the bound plus ``easing``."""

    bound: Bound
    easing: float = 0.0


@dataclass(frozen=True)
class OneOf:
    """Bad while the value is one of these; True for a flag."""

    values: tuple[float | str | bool, ...]


@dataclass(frozen=True)
class NoneOf:
    """Bad while the value is none of these. ``once``: only after the device has been good once."""

    values: tuple[float | str | bool, ...]
    once: bool = False


@dataclass(frozen=True)
class Bits:
    """Bad while one of the bits of ``mask`` is set and none of ``unless``."""

    mask: int
    unless: int = 0


@dataclass(frozen=True)
class Differs:
    """Bad while the value is another than one of these readings of the same device or of the node."""

    readings: tuple[str, ...]


@dataclass(frozen=True)
class Rises:
    """Bad when a counter rose by at least ``by`` within ``within_s``; 0: since the sample before."""

    by: float = 1.0
    within_s: float = 0.0


@dataclass(frozen=True)
class Faster:
    """Bad while a counter rises by more than this each second. Multiplied by ``times_reading`` of the same device."""

    per_s: float
    times_reading: str = ""


@dataclass(frozen=True)
class Sibling:
    """Bad while a device is off the median of the others of its kind by more than ``by``, all under equal load.

    ``above``: off upwards. ``relative``: ``by`` is a share of the median. ``any_load``: for settings, which load does
    not change.
    """

    by: float
    above: bool = True
    relative: bool = False
    any_load: bool = False


@dataclass(frozen=True)
class Unlike:
    """Bad while a device has another value than most of its siblings."""


@dataclass(frozen=True)
class Fell:
    """Bad while the value is below the best that this device ever showed."""


@dataclass(frozen=True)
class Changed:
    """Bad when the value is another than the one before, over restarts and reboots as well."""


@dataclass(frozen=True)
class Flaps:
    """Bad when the value left ``good`` for at least ``down_s`` and came back, ``times`` times within ``within_s``."""

    good: tuple[str, ...]
    down_s: float
    times: int
    within_s: float


@dataclass(frozen=True)
class Vanished:
    """Bad while a device that had this reading is gone from a look that worked."""


Test = (
    Above
    | Below
    | OneOf
    | NoneOf
    | Bits
    | Differs
    | Rises
    | Faster
    | Sibling
    | Unlike
    | Fell
    | Changed
    | Flaps
    | Vanished
)
# Tests of what happened and not of what is: a reboot ends them by itself.
HAPPENED: Final = (Rises, Faster, Flaps, Changed)
# Tests of one device among all that a look shows.
GROUPED: Final = (Sibling, Unlike, Vanished)


@dataclass(frozen=True)
class Share:
    """A finding when ``bad`` of the last ``of`` samples are bad, one sample each ``every_s``."""

    bad: int
    of: int
    every_s: float


@dataclass(frozen=True)
class Clear:
    """When a finding is over: after ``after_s`` of good samples (None: never by itself), at a reset of the GPU.

    A reboot ends what happened before it at once, and what still is once a sample after it is good.
    """

    after_s: float | None = 60.0
    reset: bool = False

    @property
    def sentence(self) -> str:
        """For people."""
        ways = []
        if self.after_s is not None:
            ways.append("at the next good sample" if self.after_s == 0 else f"good for {span(self.after_s)}")
        if self.reset:
            ways.append("reset of the GPU")
        return ", ".join([*ways, "reboot"])


@dataclass(frozen=True)
class Rule:
    """One rule. ``name`` is its own, ``row`` the row of ``rows.ROWS`` that it answers, ``kind`` an observation kind.

    ``text``: a sentence with {device}, {place}, {value}, {bound}, {unit} and {hold}. ``devices``: the beginning of the
    names that it judges. ``whole``: findings are of the whole device (gpu3), not of its part (gpu3/link7). ``answers``:
    the recovery by the value, where the device says itself what it needs. ``stops``: what it keeps from working when
    that is not the running job. ``step``: a later stage of the same severity, which is told as well. ``rank``: 0 for
    what is a cause by itself, higher for what tends to follow another fault.
    """

    name: str
    row: str
    signal: str
    reading: str
    test: Test
    kind: str
    severity: str
    recovery: str
    text: str
    source: str
    clear: Clear = field(default_factory=Clear)
    devices: str = ""
    hold_s: float = 0.0
    polls: int = 1
    share: Share | None = None
    needs: tuple[str, ...] = ()
    whole: bool = False
    answers: tuple[tuple[float, str], ...] = ()
    unreadable_is_bad: bool = False
    absent_is_good: bool = False
    stops: str = ""
    step: int = 0
    rank: int = 0


@dataclass(frozen=True)
class Expectations:
    """What this node should have, from the settings; None where nobody said. Rules name these fields."""

    gpus: int | None = None
    ports: int | None = None
    port_rate: float | None = None  # Gb/s
    nvlinks: int | None = None  # of each GPU
    power_limit: float | None = None  # W, a cap that somebody declared
    cores: int | None = None
    checkpoint_mounts: tuple[str, ...] = ()

    def of(self, name: str) -> float | None:
        """The number expected under this name."""
        found = getattr(self, name, None)
        return float(found) if isinstance(found, int | float) else None


def span(seconds: float) -> str:
    """``90 s``, ``5 min``, ``2 h``."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:g} s"
