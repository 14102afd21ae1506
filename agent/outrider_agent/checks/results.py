"""What a check came to, and what all of them together come to. Pure.

In: verdicts. Out: the document of ``outrider check --json``. What was not run is ``skipped`` and never counts as
passed; what was tried and gave no answer is ``could-not-look``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

PASS, WARN, FAIL, SKIPPED, COULD_NOT_LOOK = "pass", "warn", "fail", "skipped", "could-not-look"
VERDICTS: Final = (PASS, WARN, FAIL, SKIPPED, COULD_NOT_LOOK)
TEXT_CHARS_MAX: Final = 500
NAMED_MAX: Final = 4  # failed checks that the sentence names


@dataclass(frozen=True)
class Result:
    """One check of one device. ``value`` in ``unit`` is held against ``bound``; either is None where there is none.

    ``device``: gpu0, gpu0-gpu1 (from, to), cpu, a mount point, or empty for the node.
    """

    name: str
    device: str
    verdict: str
    text: str
    value: float | None = None
    unit: str = ""
    bound: float | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        assert self.verdict in VERDICTS, self.verdict

    def document(self) -> dict[str, Any]:
        """The check as the document has it."""
        return {
            "name": self.name,
            "device": self.device,
            "verdict": self.verdict,
            "value": _rounded(self.value),
            "unit": self.unit,
            "bound": _rounded(self.bound),
            "seconds": round(self.seconds, 3),
            "text": self.text[:TEXT_CHARS_MAX],
        }


def took(results: Sequence[Result], seconds: float) -> list[Result]:
    """The same with the time that they took together; it is told once, of the first."""
    return [dataclasses.replace(one, seconds=seconds if at == 0 else 0.0) for at, one in enumerate(results)]


def overall(results: Sequence[Result]) -> str:
    """One verdict for the node: the worst there is. Where nothing was run, nobody has looked."""
    words = {one.verdict for one in results}
    for word in (FAIL, COULD_NOT_LOOK, WARN, PASS):
        if word in words:
            return word
    return COULD_NOT_LOOK


def document(node: str, simulated: bool, results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """The document of ``outrider check --json``."""
    return {
        "node": node,
        "simulated": simulated,
        "checks": [one.document() for one in results],
        "verdict": overall(results),
        "seconds": round(seconds, 3),
        "sentence": sentence(node, results),
    }


def sentence(node: str, results: Sequence[Result]) -> str:
    """The node in one sentence, what is wrong first."""
    verdict = overall(results)
    counts = {word: sum(one.verdict == word for one in results) for word in VERDICTS}
    if not counts[PASS] and not counts[WARN] and not counts[FAIL]:
        why = _named(results, COULD_NOT_LOOK) or _named(results, SKIPPED) or "nothing was run"
        return f"{node} could not be checked: {why}"
    rest = [f"{counts[PASS]} of {len(results)} checks passed"]
    rest += [f"{counts[word]} {words}" for word, words in _COUNTED if counts[word] and word != verdict]
    if verdict == FAIL:
        return f"{node} failed {_named(results, FAIL)}; {', '.join(rest)}"
    if verdict == COULD_NOT_LOOK:
        return f"{node} could not be checked for {_named(results, COULD_NOT_LOOK)}; {', '.join(rest)}"
    if verdict == WARN:
        return f"{node} passed with a warning: {_named(results, WARN)}; {', '.join(rest)}"
    return f"{node} passed: {', '.join(rest)}"


_COUNTED: Final = ((WARN, "with a warning"), (COULD_NOT_LOOK, "could not be looked at"), (SKIPPED, "skipped"))


def _named(results: Sequence[Result], verdict: str) -> str:
    found = [
        f"{one.name}{f' of {one.device}' if one.device else ''} ({one.text})"
        for one in results
        if one.verdict == verdict
    ]
    more = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
    return "; ".join(found[:NAMED_MAX]) + more


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
