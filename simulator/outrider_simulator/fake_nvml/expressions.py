"""Values over time: a base and a sum of terms, so that every process reads the same at the same moment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Expression:
    """A base and its terms as the world file writes them. Times are world time, in seconds since its origin."""

    base: float
    terms: tuple[str, ...] = ()

    def sine(self, amplitude: float, period_s: float, phase_s: float = 0.0) -> Expression:
        """Swing by `amplitude` to both sides."""
        return self._with("sine", amplitude, period_s, phase_s)

    def noise(self, amplitude: float, step_s: float = 1.0) -> Expression:
        """A seeded draw within `amplitude` to both sides, a new one each `step_s`."""
        return self._with("noise", amplitude, step_s)

    def ramp(self, more: float, at_s: float, within_s: float) -> Expression:
        """`more`, reached linearly from `at_s` on within `within_s`."""
        return self._with("ramp", more, at_s, within_s)

    def rate(self, per_s: float, from_s: float, until_s: float | None = None) -> Expression:
        """Rise by `per_s` each second from `from_s` on, for ever or until `until_s`."""
        text = f"rate {_text(per_s)} {_text(from_s)} {'forever' if until_s is None else _text(until_s)}"
        return dataclasses.replace(self, terms=(*self.terms, text))

    def square(self, more: float, period_s: float, share: float, phase_s: float = 0.0) -> Expression:
        """`more` during the first `share` of each period, as a job that computes and then waits."""
        return self._with("square", more, period_s, share, phase_s)

    def __str__(self) -> str:
        return " ".join((_text(self.base), *self.terms))

    def _with(self, kind: str, *numbers: float) -> Expression:
        return dataclasses.replace(self, terms=(*self.terms, " ".join((kind, *map(_text, numbers)))))


def steady(base: float) -> Expression:
    """A value that stays as it is, to which terms can be added."""
    return Expression(float(base))


def _text(number: float) -> str:
    return repr(float(number))
