"""What is known of ranks beside their flight records: process states and stacks, as they bear upon blame.

Gloo records no send and no recv, and no record tells a stopped process from a busy one; a stack and a process state do.
Hints come from a look at the ranks (``from_groups``), or as JSON. They never replace what a record shows: where the two
contradict each other, the record speaks and the confidence falls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from outrider_analysis import stalls

STATES: Final = ("waiting", "elsewhere", "stopped", "gone", "unknown")
STANDS: Final = ("", "collective", "send", "recv", "p2p")  # p2p: a send or a recv, which of them is not told
FRAMES_MAX: Final = 40
TEXT_CHARS_MAX: Final = 400
RANKS_MAX: Final = 2**20


class HintError(ValueError):
    """What came is no set of hints; the message says what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Hint:
    """One rank. ``state``: of STATES; ``elsewhere`` is a living process outside of every collective, send and recv.

    ``stands`` (of STANDS) and ``op`` say what a waiting rank's stack stands in, where that is told; ``p2p_peer`` is the
    partner (rank in the job) of its send or recv. ``certain`` is False where the state may be another one: a process
    that sleeps in a function of its own may sleep in the wait for a recv, of which no frame is left. ``moved``: did its
    stack change between two looks? None with fewer. ``stack``: innermost frame first, ``file.py:12 in f``. ``text``:
    for people.
    """

    state: str = "unknown"
    stands: str = ""
    op: str = ""
    p2p_peer: int | None = None
    stack: tuple[str, ...] = ()
    certain: bool = True
    moved: bool | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Hints:
    """Hints by rank; of a rank that is not in it nothing is known."""

    ranks: Mapping[int, Hint] = field(default_factory=dict)

    def of(self, rank: int) -> Hint:
        """The rank's hint; of state ``unknown`` where there is none."""
        return self.ranks.get(rank, _NOTHING)

    def before_the_end(self, world: int) -> Hints:
        """Without what a look after the end saw: where most processes are gone, that tells nothing of one of them."""
        gone = sum(hint.state == "gone" for hint in self.ranks.values())
        if 2 * gone <= world:
            return self
        return Hints({rank: hint for rank, hint in self.ranks.items() if hint.state != "gone"})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: rank as text -> the fields that say something."""
        return {str(rank): _row(hint) for rank, hint in sorted(self.ranks.items())}


_NOTHING: Final = Hint()


def from_json(given: object) -> Hints:
    """What ``to_json`` wrote; unknown fields are passed over. Raises HintError."""
    if not isinstance(given, Mapping):
        raise HintError(f"hints are an object of ranks, not {type(given).__name__}")
    return Hints({_rank(rank): _hint(rank, value) for rank, value in given.items()})


def from_groups(groups: Iterable[stalls.Group]) -> Hints:
    """Hints from what agents saw of the ranks, as ``stalls.group`` and ``stalls.from_plain`` give it."""
    return Hints({rank: hint for group in groups for hint in (_seen(group),) for rank in group.ranks})


def _seen(group: stalls.Group) -> Hint:
    """The stack and the process alone: what the rank's own record says is not evidence beside it."""
    evidence = dataclasses.replace(group.evidence, pending=None, collective=None)
    found = stalls.read(evidence)
    state = _STATE_OF[found.kind]
    awaiting = found.kind == "waiting" or (found.kind == "moving" and bool(stalls.awaited(evidence.frames)))
    stands, op = stalls.stands_in(evidence.frames) if awaiting else ("", "")
    if found.kind == "moving" and awaiting:
        state = "unknown"
    return Hint(
        state=state,
        stands=stands,
        op=op,
        stack=evidence.frames[:FRAMES_MAX],
        certain=found.kind != "blocked" or stalls.outside(evidence),
        moved=evidence.moved,
        text=found.text[:TEXT_CHARS_MAX],
    )


_STATE_OF: Final = {
    "stopped": "stopped",
    "traced": "stopped",
    "gone": "gone",
    "unseen": "unknown",
    "waiting": "waiting",
    "moving": "elsewhere",
    "spinning": "elsewhere",
    "blocked": "elsewhere",
}


def _row(hint: Hint) -> dict[str, Any]:
    row = {name: getattr(hint, name) for name in _FIELDS if getattr(hint, name) != getattr(_NOTHING, name)}
    return {"state": hint.state} | {key: list(value) if key == "stack" else value for key, value in row.items()}


_FIELDS: Final = tuple(item.name for item in dataclasses.fields(Hint))


def _rank(given: object) -> int:
    text = str(given)
    if isinstance(given, bool) or not text.isascii() or not text.isdigit() or len(text) > 7 or int(text) >= RANKS_MAX:
        raise HintError(f"hints: {text[:40]!r} is no rank; a whole number below {RANKS_MAX} was expected")
    return int(text)


def _hint(rank: object, given: object) -> Hint:
    """One hint, each field of the form that it should have."""
    if not isinstance(given, Mapping):
        raise HintError(f"hint of rank {str(rank)[:8]}: an object was expected, not {type(given).__name__}")
    state, stands, peer = given.get("state", "unknown"), given.get("stands", ""), given.get("p2p_peer")
    for value, words in ((state, STATES), (stands, STANDS)):
        if value not in words:
            raise HintError(f"hint of rank {str(rank)[:8]}: {str(value)[:40]!r} is not one of {', '.join(words)}")
    stack = given.get("stack", ())
    if not isinstance(stack, list | tuple) or not all(isinstance(frame, str) for frame in stack):
        raise HintError(f"hint of rank {str(rank)[:8]}: its stack is no list of texts")
    return Hint(
        state=state,
        stands=stands,
        op=str(given.get("op", ""))[:TEXT_CHARS_MAX],
        p2p_peer=None if peer is None else _rank(peer),
        stack=tuple(frame[:TEXT_CHARS_MAX] for frame in stack[:FRAMES_MAX]),
        certain=given.get("certain", True) is not False,
        moved=moved if isinstance(moved := given.get("moved"), bool) else None,
        text=str(given.get("text", ""))[:TEXT_CHARS_MAX],
    )
