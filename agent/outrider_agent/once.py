"""One sweep of every signal on this node, judged, as a document: no controller, no state, nothing left behind.

In: signals and a judge. Out: the document of ``outrider agent --once --json``. All signals are looked at side by side,
each within its own deadline; one that hangs is told as such and left behind. A sweep alone has no past: what needs two
looks (a counter that rises, a port that flaps) shows only in a running agent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from outrider import records
from outrider.records import Json
from outrider_agent import readings, watchers, workers
from outrider_agent.observe import TEXT_CHARS_MAX

WITHIN_S_MAX: Final = 20.0  # for any signal, whatever deadline it has in a running agent
GRAVE: Final = frozenset({"fatal", "error"})
LOOKED: Final = frozenset({"ok", "partial", "absent"})
COULD_NOT_LOOK: Final = "could-not-look"


@dataclass(frozen=True)
class Look:
    """What came of one signal."""

    name: str
    state: str
    duration_s: float
    error: str
    sweep: readings.Sweep | None


def look(node: str, boot_id: str, signals: Sequence[readings.Signal], judge: watchers.Judging, simulated: bool) -> Json:
    """The document; blocks until every signal has answered or its deadline has passed."""
    looks = asyncio.run(_look_at_all(signals))
    seen = [observation for one in looks for observation in _judged(one, judge)]
    told = {one.device for one in seen if one.kind == COULD_NOT_LOOK}
    seen += [_blind(node, one) for one in looks if one.state not in LOOKED and one.name not in told]
    sweeps = [one.sweep for one in looks if one.sweep is not None]
    simulated = simulated or any(sweep.context.get("simulated") is True for sweep in sweeps)
    return {
        "node": node,
        "boot_id": boot_id,
        "simulated": simulated,
        "gpus": gpus(sweeps),
        "observations": [document(one) for one in seen],
        "signals": [_signal(one) for one in looks],
        "readings": [_with_device(one) for sweep in sweeps for one in sweep.readings if not _gpu(one.device)],
    }


def grave(found: Json) -> bool:
    """Whether an observation of the document is fatal or an error."""
    return any(one["severity"] in GRAVE for one in found["observations"])


def document(seen: records.Observation) -> Json:
    """One observation as the document has it."""
    return {
        "kind": seen.kind,
        "severity": seen.severity,
        "device": seen.device or "",
        "text": seen.text,
        "evidence": seen.evidence,
        "recovery": seen.recovery or "none",
    }


def gpus(sweeps: Iterable[readings.Sweep]) -> list[Json]:
    """Every GPU that a sweep names, by index, with its readings; those of a part (a link) under its name."""
    found: dict[str, Json] = {}
    for sweep in sweeps:
        for name, about in dict(sweep.context.get("devices") or {}).items():
            if _gpu(name) and isinstance(about, dict):
                _entry(found, name).update({"uuid": str(about.get("uuid") or ""), "name": str(about.get("name") or "")})
        for one in sweep.readings:
            if _gpu(one.device):
                _fill(_entry(found, one.device.partition("/")[0]), one)
    return [found[name] for name in sorted(found, key=lambda name: int(name[3:]))]


def _entry(found: dict[str, Json], name: str) -> Json:
    return found.setdefault(name, {"index": int(name[3:]), "uuid": "", "name": "", "readings": {}})


def _fill(entry: Json, one: readings.Reading) -> None:
    part = one.device.partition("/")[2]
    entry["readings"][f"{part}/{one.name}" if part else one.name] = _reading(one)
    if not part and one.name in ("uuid", "name") and one.state == "value":
        entry[one.name] = str(one.value)


def _reading(one: readings.Reading) -> Json:
    value = one.value if one.state == "value" else None
    shown: Json = {"value": value, "unit": one.unit, "state": one.state}
    return shown | ({"error": one.error} if one.error else {})


def _with_device(one: readings.Reading) -> Json:
    return {"device": one.device, "name": one.name, **_reading(one)}


def _signal(one: Look) -> Json:
    shown: Json = {"name": one.name, "state": one.state, "duration_s": round(one.duration_s, 4)}
    return shown | ({"error": one.error} if one.error else {})


def _gpu(device: str) -> bool:
    name = device.partition("/")[0]
    return name.startswith("gpu") and name[3:].isdigit()


def _blind(node: str, one: Look) -> records.Observation:
    """A judge waits whether the next looks fare better; here there is none, and what was not seen is not well."""
    evidence: Json = {"signal": one.name, "state": one.state}
    text = f"{one.name} could not be looked at: {one.error or one.state}"[:TEXT_CHARS_MAX]
    return records.Observation(
        0, COULD_NOT_LOOK, "warning", time.time(), node, text, device=one.name, evidence=evidence
    )


def _judged(one: Look, judge: watchers.Judging) -> list[records.Observation]:
    if one.sweep is None:
        return [*judge.silent(one.name, time.time(), one.error)]
    return [*judge.take(one.sweep)]


async def _look_at_all(signals: Sequence[readings.Signal]) -> list[Look]:
    asked: list[workers.Worker[readings.Sweep]] = [
        workers.Worker(one.name, one.read, workers.ending(one)) for one in signals
    ]
    looks = await asyncio.gather(*map(_look, signals, asked))
    await workers.close_all(asked)
    return looks


async def _look(signal: readings.Signal, worker: workers.Worker[readings.Sweep]) -> Look:
    began = time.monotonic()
    within_s = min(signal.deadline_s, WITHIN_S_MAX)
    try:
        async with asyncio.timeout(within_s):
            sweep = await worker.asked()
    except TimeoutError:
        return Look(signal.name, "overdue", time.monotonic() - began, f"no answer within {within_s:g} s", None)
    except Exception as error:  # noqa: BLE001 - a signal that fails costs only itself
        return Look(signal.name, "failed", time.monotonic() - began, f"{type(error).__name__}: {error}", None)
    return Look(signal.name, sweep.state, sweep.duration_s, sweep.error, sweep)
