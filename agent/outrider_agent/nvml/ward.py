"""What must not be called for now: GPUs and functions that did not come back, and when they are tried again.

Pure: times are monotonic seconds that the caller gives. A GPU is ``blocked`` from the moment a call on it is late until
somebody has read it well without that call; then only the function is held back. Held functions are tried again, alone,
in growing intervals, by a helper that nobody depends on. A GPU with several of them is blocked as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

HELD_MAX: Final = 2  # functions of a GPU beyond which the GPU is at fault


@dataclass
class Held:
    """A function that did not come back, or came back late (``hung`` False), after that many seconds."""

    seconds: float
    hung: bool
    since: float
    tries: int = 0


@dataclass
class _Gpu:
    held: dict[str, Held] = field(default_factory=dict)
    blocked: bool = False
    try_at: float = 0.0
    tries: int = 0


@dataclass(frozen=True)
class Trial:
    """Read this GPU, all but ``leave``."""

    gpu: int
    leave: tuple[str, ...]


class Ward:
    """All GPUs of a node. ``retry_s`` doubles with each try up to ``retry_s_max``."""

    def __init__(self, retry_s: float, retry_s_max: float) -> None:
        self._retry_s, self._retry_s_max = retry_s, retry_s_max
        self._gpus: dict[int, _Gpu] = {}

    @property
    def blocked(self) -> frozenset[int]:
        """GPUs on which nothing is called. May be asked from another thread."""
        return frozenset(number for number, one in list(self._gpus.items()) if one.blocked)

    def leave(self, gpu: int) -> tuple[str, ...]:
        """Functions that are not called on this GPU."""
        one = self._gpus.get(gpu)
        return tuple(one.held) if one else ()

    def left(self) -> dict[int, tuple[str, ...]]:
        """The same for all GPUs that have any."""
        return {number: tuple(one.held) for number, one in self._gpus.items() if one.held}

    def suspect(self, gpu: int) -> None:
        """A call on it is late: leave it alone until that is over."""
        one = self._gpus.setdefault(gpu, _Gpu())
        one.blocked, one.try_at = True, float("inf")

    def late(self, gpu: int, function: str, seconds: float, now: float) -> None:
        """The call came back after all. Its function is held back, the GPU is not."""
        one = self._hold(gpu, function, seconds, False, now)
        one.blocked = len(one.held) > HELD_MAX
        one.try_at = now + self._pause(one.tries)

    def hung(self, gpu: int, function: str, seconds: float, now: float) -> None:
        """The call did not come back. Somebody has to read the GPU without it before it is read again."""
        known = self._gpus.get(gpu)
        again = known is not None and function in known.held and not known.blocked
        one = self._hold(gpu, function, seconds, True, now)
        if again:
            return  # a try of a held function alone, and the rest of the GPU is read all the while
        one.blocked = True
        whole = len(one.held) > HELD_MAX
        one.tries += whole
        one.try_at = now + self._pause(one.tries - 1) if whole else now

    def trial(self, now: float, not_now: frozenset[int]) -> Trial | None:
        """What to try next, if anything is due; ``not_now``: GPUs that still hold somebody."""
        for number, one in self._gpus.items():
            if number in not_now:
                continue
            if one.blocked and now >= one.try_at:
                return Trial(number, tuple(one.held) if len(one.held) <= HELD_MAX else ())
            if one.blocked:
                continue
            for function, held in one.held.items():
                if now >= held.since + self._pause(held.tries):
                    return Trial(number, tuple(other for other in one.held if other != function))
        return None

    def tried(self, trial: Trial, now: float) -> None:
        """A trial begins: the next is not due before its pause is over."""
        one = self._gpus.setdefault(trial.gpu, _Gpu())
        if one.blocked:
            one.try_at = now + self._pause(one.tries)
        for function in one.held.keys() - set(trial.leave):
            held = one.held[function]
            held.since, held.tries = now, held.tries + 1

    def well(self, trial: Trial) -> None:
        """The GPU answered everything but what was left alone."""
        one = self._gpus.get(trial.gpu)
        if one is None:
            return
        one.held = {function: held for function, held in one.held.items() if function in trial.leave}
        one.blocked, one.tries = False, 0
        if not one.held:
            del self._gpus[trial.gpu]

    def worst(self) -> dict[int, tuple[float, str]]:
        """For each GPU: the most seconds of a function that hangs, or was late again when it was tried."""
        found = {}
        for number, one in self._gpus.items():
            bad = [(function, held) for function, held in one.held.items() if held.hung or held.tries]
            worst = max(bad, key=lambda item: item[1].seconds, default=None)
            if worst is not None:
                found[number] = (worst[1].seconds, worst[0])
        return found

    def _hold(self, gpu: int, function: str, seconds: float, hung: bool, now: float) -> _Gpu:
        one = self._gpus.setdefault(gpu, _Gpu())
        before = one.held.get(function)
        one.held[function] = Held(seconds, hung, now, before.tries if before else 0)
        return one

    def _pause(self, tries: int) -> float:
        return float(min(self._retry_s * 2 ** min(max(0, tries), 16), self._retry_s_max))
