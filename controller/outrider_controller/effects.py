"""Carries out what the core requested: one EffectRequested in, one EffectDone out, whatever happens in between.

Every effect may be repeated under its id after a crash: orders carry ids that agents remember, the fence only rises, a
webhook's receiver sees the event's id again. An effect that fails says so in its EffectDone; it never raises.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from outrider import clock as clock_module
from outrider_controller import bounded, checkpoints, launchers
from outrider_controller.core import jobs, records

FENCE: Final = ".outrider-fence"
FENCE_BYTES_MAX: Final = 4096
FIND_S_MAX: Final = 60.0
ERROR_CHARS_MAX: Final = 2000

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
        self._performers = {
            "start-attempt": self._start,
            "stop-attempt": self._stop,
            "find-checkpoint": self._find,
            "release-job": self._release,
            "notify": self._notify,
        }

    async def perform(self, effect: records.EffectRequested, spec: jobs.JobSpec) -> records.EffectDone:
        """Carry out one effect and say what came of it."""
        ok, result, error = True, {}, None
        try:
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
        directory = checkpoint_dir(spec)
        path = str(effect.args.get("resume_path") or "")
        plan = launchers.Plan(
            effect=effect.effect,
            spec=spec,
            attempt=effect.args["attempt"],
            generation=effect.args["generation"],
            placement=tuple(effect.args["placement"]),
            load=checkpoints.load_argument(path, spec.checkpoint_layout),
            fence=(str(directory / FENCE),) if directory else (),
        )
        started = await self._launcher.start(plan)
        pids = {str(rank): pid for rank, pid in sorted(started.pids.items())}
        return {"warm": started.warm, "pids": pids, "why_cold": started.why_cold}

    async def _stop(self, effect: records.EffectRequested, spec: jobs.JobSpec) -> dict[str, Any]:
        args = effect.args
        stopped = await self._launcher.stop(
            effect.effect, effect.job, args["generation"], tuple(args["placement"]), float(args["grace_s"])
        )
        return {"stopped": list(stopped.stopped), "unreached": list(stopped.unreached)}

    async def _find(self, effect: records.EffectRequested, spec: jobs.JobSpec) -> dict[str, Any]:
        directory = checkpoint_dir(spec)
        if directory is None:
            return {"path": "", "step": 0, "trust": "", "rejected": []}
        generation = int(effect.args["generation"])
        name = f"find-checkpoint-{effect.effect}"
        first = effect.incident is None
        try:
            return await bounded.call(name, FIND_S_MAX, self._fence_and_find, directory, spec, generation, first)
        except TimeoutError as error:
            words = str(error) or f"it did not answer within {FIND_S_MAX:g} s; is its file system there?"
            raise EffectError(f"{directory}: {words}") from error

    def _fence_and_find(self, directory: Path, spec: jobs.JobSpec, generation: int, first: bool) -> dict[str, Any]:
        if first:
            make_directory(directory, spec.user)
        elif not (directory / FENCE).is_file():
            raise EffectError(
                f"{directory}: the file {FENCE} that marked it is gone, so this is not the directory that the job "
                "wrote to. Mount its file system again; if it was emptied on purpose, make an empty file of that name"
            )
        raise_fence(directory, generation, self._ledger_id)
        return checkpoints.find(directory, spec.checkpoint_layout)

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


def checkpoint_dir(spec: jobs.JobSpec) -> Path | None:
    """The job's directory of checkpoints; a relative one counts from where its ranks run."""
    return Path(spec.cwd or ".", spec.checkpoint_dir).absolute() if spec.checkpoint_dir else None


def make_directory(directory: Path, user: str) -> None:
    """Make the job's directory before its first attempt, for the user whose ranks will write there."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        if user and os.geteuid() == 0:
            try:
                shutil.chown(path, user)
            except LookupError as error:
                raise EffectError(f"user {user!r}: is not known on the controller's machine") from error


def raise_fence(directory: Path, generation: int, ledger_id: str) -> None:
    """From now on ranks of a generation before ``generation`` may not commit a checkpoint in ``directory``.

    The fence of one ledger never falls, even if an old effect is repeated late. One that another ledger left belongs to
    a run that is gone, and its numbers say nothing about ours.
    """
    path = directory / FENCE
    if _standing(path, ledger_id) >= generation:
        return
    draft = directory / f"{FENCE}-{secrets.token_hex(4)}"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o644)  # the ranks may be another user's
            json.dump({"generation": generation, "ledger": ledger_id}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    _sync(directory)


def _standing(path: Path, ledger_id: str) -> int:
    try:
        with path.open(encoding="ascii") as file:
            found = json.loads(file.read(FENCE_BYTES_MAX))
        return int(found["generation"]) if found.get("ledger") == ledger_id else -1
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return -1


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _words(error: Exception) -> str:
    text = str(error)
    if isinstance(error, EffectError | launchers.LaunchError | checkpoints.CheckpointError) and text:
        return text[:ERROR_CHARS_MAX]
    return f"{type(error).__name__}: {text}"[:ERROR_CHARS_MAX]
