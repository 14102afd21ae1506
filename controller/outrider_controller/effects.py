"""Carries out what the core requested: one EffectRequested in, one EffectDone out, whatever happens in between.

Every effect may be repeated under its id after a crash: orders carry ids that agents remember, the fence only rises, a
webhook's receiver sees the event's id again. An effect that fails says so in its EffectDone; it never raises.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from outrider import clock as clock_module
from outrider_analysis import stalls
from outrider_controller import checkpoint_effects, checkpoints, flight_records, launchers
from outrider_controller.core import jobs, node_checks, records

ERROR_CHARS_MAX: Final = 2000
CAPTURE_S: Final = 5.0  # an agent's own deadline for looking at its ranks
CHECK_S: Final = 120.0  # a node's check as a whole
CHECK_DEEP_S: Final = 600.0
CHECKS_KEPT_MAX: Final = 8  # of those that did not pass, in the ledger

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Somebody who is told of incidents."""

    @property
    def name(self) -> str:
        """The sink in words, without secrets."""
        ...

    async def send(self, event_id: str, event: str, incident: dict[str, Any]) -> str | None:
        """None when delivered, else the reason it was not."""
        ...


class EffectError(Exception):
    """An effect that failed; the message goes into its EffectDone."""


class Effects:
    """Performs effects with a launcher, checkpoints on disk and sinks. ``describe``: (job, incident) -> document."""

    def __init__(
        self,
        launcher: launchers.Launcher,
        clock: clock_module.Clock,
        ledger_id: str,
        sinks: Sequence[Sink],
        describe: Callable[[str, str], Awaitable[dict[str, Any] | None]],
    ) -> None:
        self._launcher = launcher
        self._clock = clock
        self._ledger_id = ledger_id
        self._sinks = tuple(sinks)
        self._describe = describe
        self._telling: dict[str, asyncio.Lock] = {}  # job -> held while its sinks are told
        looks = checkpoint_effects.CheckpointEffects(ledger_id)
        self._performers = {
            "start-attempt": self._start,
            "stop-attempt": self._stop,
            "capture-evidence": self._capture,
            "find-checkpoint": looks.find,
            "verify-checkpoint": looks.verify,
            "prune-checkpoints": looks.prune,
            "release-job": self._release,
            "notify": self._notify,
        }

    async def perform(self, effect: records.EffectRequested, spec: jobs.JobSpec | None) -> records.EffectDone:
        """Carry out one effect and say what came of it. ``spec`` None: it concerns a node and no job."""
        ok, result, error = True, {}, None
        try:
            if spec is None:
                return records.EffectDone(self._clock.now(), "", effect.effect, True, await self._check(effect))
            performer = self._performers.get(effect.name)
            if performer is None:
                good = ", ".join(sorted(self._performers))
                raise EffectError(f"{effect.name!r} is not an effect of this version; there are {good}")
            result = await performer(effect, spec)
        except Exception as failed:  # whatever failed is the result, and the core decides on it
            ok, error = False, _words(failed)
            expected = isinstance(failed, EffectError | launchers.LaunchError | OSError | TimeoutError)
            log.warning(
                "an effect failed",
                extra={"job": effect.job, "effect": effect.effect, "name_": effect.name, "why": error},
                exc_info=None if expected else failed,
            )
        return records.EffectDone(self._clock.now(), effect.job, effect.effect, ok, result, error)

    async def _start(self, effect: records.EffectRequested, spec: jobs.JobSpec) -> dict[str, Any]:
        directory = checkpoint_effects.checkpoint_dir(spec)
        path = str(effect.args.get("resume_path") or "")
        plan = launchers.Plan(
            effect=effect.effect,
            spec=spec,
            attempt=effect.args["attempt"],
            generation=effect.args["generation"],
            placement=tuple(effect.args["placement"]),
            load=checkpoints.load_argument(path, spec.checkpoint_layout),
            fence=(str(directory / checkpoint_effects.FENCE),) if directory else (),
            keep_from=effect.args.get("keep_from"),
        )
        started = await self._launcher.start(plan)
        pids = {str(rank): pid for rank, pid in sorted(started.pids.items())}
        gpus = {str(rank): gpu for rank, gpu in sorted(started.gpus.items())}
        told = {"gpus": gpus} if gpus else {}
        return {"warm": started.warm, "pids": pids, "why_cold": started.why_cold, **told}

    async def _stop(self, effect: records.EffectRequested, spec: jobs.JobSpec) -> dict[str, Any]:
        args = effect.args
        stopped = await self._launcher.stop(
            effect.effect, effect.job, args["generation"], tuple(args["placement"]), float(args["grace_s"])
        )
        return {"stopped": list(stopped.stopped), "unreached": list(stopped.unreached)}

    async def _capture(self, effect: records.EffectRequested, spec: jobs.JobSpec) -> dict[str, Any]:
        """Look at ranks; those that do the same are told once, so that 16,384 of them fit into one row."""
        args, each = effect.args, spec.ranks_per_node
        wanted = [int(rank) for rank in args.get("ranks") or ()]
        asked = {
            node: tuple(rank for rank in wanted if rank // each == place)
            for place, node in enumerate(args["placement"])
            if not wanted or any(rank // each == place for rank in wanted)
        }
        held = {node: range(place * each, (place + 1) * each) for place, node in enumerate(args["placement"])}
        mesh = str(args.get("mesh") or spec.mesh)
        gathering = flight_records.Gathering(effect.job, {node: held[node] for node in asked}, mesh, spec.world_size)
        found = await self._launcher.capture(
            effect.effect, effect.job, args["generation"], asked, CAPTURE_S, gathering.take
        )
        single = (item.evidence for item in stalls.from_plain(found.ranks))
        result = {"ranks": stalls.plain(stalls.group(single)), "unanswered": list(found.unanswered)}
        record = await gathering.judged()
        return result if record is None else {**result, flight_records.KEY: record}

    async def _check(self, effect: records.EffectRequested) -> dict[str, Any]:
        """Have a node check itself; of its checks those are kept that did not pass."""
        if effect.name != node_checks.EFFECT:
            raise EffectError(f"{effect.name!r} needs a job, and {effect.effect} names none")
        deep = bool(effect.args.get("deep"))
        found = await self._launcher.check(effect.effect, effect.args["node"], deep, CHECK_DEEP_S if deep else CHECK_S)
        told = [one for one in found.get("checks") or () if one.get("verdict") != "pass"][:CHECKS_KEPT_MAX]
        return {key: found.get(key) for key in ("verdict", "sentence", "seconds")} | {"checks": told}

    async def _release(self, effect: records.EffectRequested, spec: jobs.JobSpec) -> dict[str, Any]:
        await self._launcher.release(effect.effect, effect.job, tuple(effect.args["placement"]))
        return {}

    async def _notify(self, effect: records.EffectRequested, spec: jobs.JobSpec) -> dict[str, Any]:
        # One at a time and in order: an "opened" that was tried again must not arrive after its "closed".
        async with self._telling.setdefault(effect.job, asyncio.Lock()):
            return await self._tell_sinks(effect)

    async def _tell_sinks(self, effect: records.EffectRequested) -> dict[str, Any]:
        delivered: list[str] = []
        failed: list[dict[str, str]] = []
        incident = await self._describe(effect.job, effect.args["incident"]) if self._sinks else None
        for sink in self._sinks:
            event_id = f"{self._ledger_id}.{effect.effect}"
            why = await sink.send(event_id, f"incident-{effect.args['event']}", incident or {})
            if why is None:
                delivered.append(sink.name)
            else:
                failed.append({"sink": sink.name, "error": why})
                log.warning("a sink was not told of an incident", extra={"job": effect.job, "why": why})
        return {"delivered": delivered, "failed": failed}


def _words(error: Exception) -> str:
    text = str(error)
    if isinstance(error, EffectError | launchers.LaunchError | checkpoints.CheckpointError) and text:
        return text[:ERROR_CHARS_MAX]
    return f"{type(error).__name__}: {text}"[:ERROR_CHARS_MAX]
