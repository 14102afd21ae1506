"""The checkpoint that a restart loads: the newest that is trusted, by what is known already or by a look at it now.

In: a directory, what earlier verdicts say (``known``) and what speaks against some (``distrusted``). Out: the answer of
effect find-checkpoint. A checkpoint of which no file was touched since it was verified is trusted without reading it;
others are verified now, newest first, within a bound of time. Once that is over an older one that is known is taken,
else the newest that is complete, and the answer says so. "Could not look" never leads to "begin at step 0".
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from outrider import vocabulary
from outrider_controller import bounded, checkpoints, verifier

LOOK_S_MAX: Final = 60.0  # names, manifests and fingerprints of a whole directory
QUICK_S_MAX: Final = 60.0  # completeness of one checkpoint, once the time for more is over

Json = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What the core asks for. ``run``: the job's name, which its own manifests carry."""

    directory: Path
    layout: str = "dcp"
    run: str = ""
    known: dict[str, Json] = field(default_factory=dict)
    distrusted: dict[str, str] = field(default_factory=dict)
    before_step: int | None = None
    within_s: float = 120.0


class _Search:
    """One search; what it turns down and judges is kept as it goes."""

    def __init__(self, wanted: Wanted, seen: checkpoints.Survey, untouched: frozenset[str]) -> None:
        self._wanted = wanted
        self._seen = seen
        self._untouched = untouched
        self._until = time.monotonic() + wanted.within_s
        self._rejected: list[Json] = []
        self._passed: list[Json] = []
        self._judged: list[Json] = []

    async def run(self) -> Json:
        late: list[checkpoints.Candidate] = []
        for candidate in self._seen.candidates:
            found = None if self._refused(candidate) else await self._trusted(candidate, late)
            if found is not None:
                return self._answer(candidate, found)
        for candidate in late:
            found = await self._complete(candidate)
            if found is not None:
                return self._answer(candidate, found)
        if self._passed:
            first = self._passed[0]
            raise checkpoints.CheckpointError(
                f"{self._wanted.directory}: no checkpoint could be trusted, and of {first['path']} nothing is known: "
                f"it {first['why']}"
            )
        return self._answer(None, "")

    def _refused(self, candidate: checkpoints.Candidate) -> bool:
        """Whether it is turned down before anybody looks."""
        path, before = candidate.path, self._wanted.before_step
        if path in self._wanted.distrusted:
            self._rejected.append({"path": path, "why": self._wanted.distrusted[path]})
            return True
        if before is not None and candidate.step is not None and candidate.step >= before:
            self._rejected.append({"path": path, "why": f"is not from before step {before}"})
            return True
        return False

    async def _trusted(self, candidate: checkpoints.Candidate, late: list[checkpoints.Candidate]) -> str | None:
        """Its trust, from an earlier verdict or a look at it now; None where it is none or the time is over."""
        known = self._wanted.known.get(candidate.path, {})
        if candidate.path in self._untouched and known.get("trust") in verifier.TRUSTED:
            return str(known["trust"])
        if candidate.path in self._untouched and known.get("trust") == vocabulary.REJECTED:
            reason = str(known.get("why") or "was found damaged when it was verified, and has not changed since")
            self._rejected.append({"path": candidate.path, "why": reason})
            return None
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            late.append(candidate)
            self._pass(
                candidate.path, f"was not verified: the {self._wanted.within_s:g} s of limits.verify_s were over"
            )
            return None
        tree = str(known.get("tree") or "") if known.get("trust") in verifier.TRUSTED else ""
        try:
            verdict = await checkpoints.verified(self._seen, candidate.path, left_s, urgent=True, tree=tree)
        except verifier.OutOfTimeError:
            self._late(candidate, late)
            return None
        except verifier.CouldNotLookError as error:
            self._pass(candidate.path, f"could not be looked at: {error}")
            return None
        return self._judge(verdict)

    async def _complete(self, candidate: checkpoints.Candidate) -> str | None:
        try:
            verdict = await checkpoints.verified(self._seen, candidate.path, QUICK_S_MAX, urgent=True, quick=True)
        except verifier.CouldNotLookError:
            return None
        return self._judge(verdict)

    def _judge(self, verdict: Json) -> str | None:
        if verdict["gone"] or verdict["step"] is None:
            return None
        self._judged.append(verdict)
        if verdict["trust"] in verifier.TRUSTED:
            return str(verdict["trust"])
        self._rejected.append({"path": verdict["path"], "why": why(verdict)})
        return None

    def _late(self, candidate: checkpoints.Candidate, late: list[checkpoints.Candidate]) -> None:
        late.append(candidate)
        self._pass(candidate.path, f"was not verified within the {self._wanted.within_s:g} s of limits.verify_s")

    def _pass(self, path: str, reason: str) -> None:
        self._passed.append({"path": path, "why": reason})

    def _answer(self, candidate: checkpoints.Candidate | None, trust: str) -> Json:
        chosen: Json = {"path": "", "step": 0, "trust": ""}
        if candidate is not None:
            chosen = {"path": candidate.path, "step": candidate.step or 0, "trust": trust}
        passed = [item for item in self._passed if item["path"] != chosen["path"]]
        late = any(item["path"] == chosen["path"] for item in self._passed)
        note = {"note": "complete, and not verified further: the time for it was over"} if late else {}
        return {**chosen, "rejected": self._rejected, "passed_over": passed, "judged": self._judged, **note}


async def find(wanted: Wanted) -> Json:
    """The answer of effect find-checkpoint. Raises CheckpointError, TimeoutError."""
    if not await bounded.call("find-checkpoint", LOOK_S_MAX, checkpoints.exists, wanted.directory):
        return {"path": "", "step": 0, "trust": "", "rejected": [], "passed_over": [], "judged": []}
    seen = await bounded.call(
        "find-checkpoint", LOOK_S_MAX, checkpoints.survey, wanted.directory, wanted.layout, wanted.run
    )
    untouched = await bounded.call("find-checkpoint", LOOK_S_MAX, _untouched, wanted, seen)
    return await _Search(wanted, seen, untouched).run()


def why(verdict: Json) -> str:
    """A verdict's reasons as one line."""
    return "; ".join(f"{problem['file']}: {problem['text']}" for problem in verdict["problems"])


def _untouched(wanted: Wanted, seen: checkpoints.Survey) -> frozenset[str]:
    """Known ones of which no file was touched; one that cannot be looked at is found out about later."""
    found = set()
    for candidate in seen.candidates:
        try:
            if checkpoints.unchanged(candidate.path, wanted.known.get(candidate.path, {})):
                found.add(candidate.path)
        except OSError:
            continue
    return frozenset(found)
