"""Checks of this node that the controller asks for: ``outrider check`` as a bounded child, never beside ranks.

In: how deep, how long. Out: the check's document, and an observation: ``check-failed`` while the newest check of this
node failed. A check takes cores, memory and links for itself, so it waits a while for ranks that are being ended, is
refused while any live, and no rank begins before it is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec

from outrider import clock as clock_module
from outrider import records
from outrider_agent import keepers
from outrider_agent import settings as settings_module

log = logging.getLogger(__name__)

COMMAND: Final = (sys.executable, "-m", "outrider_cli", "check")
TIMEOUT_S: Final = 120.0
TIMEOUT_S_MAX: Final = 3600.0
SLACK_S: Final = 15.0  # beyond the check's own time: for what it cannot end by itself
RANKS_END_S: Final = 20.0  # how long ranks that are being ended are waited for
LOOK_S: Final = 0.2
OUTPUT_BYTES_MAX: Final = 1 << 20
TOLD_MAX: Final = 16  # checks of a node that its answer and its observation name, the worst first
TEXT_CHARS_MAX: Final = 500
KIND: Final = "check-failed"
_GRAVITY: Final = ("fail", "could-not-look", "warn", "skipped", "pass")


class CheckError(Exception):
    """A check that was not made; the message names the node, the reason and the way out."""


class Check(msgspec.Struct, frozen=True):
    """Arguments of a check order."""

    deep: bool = False
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=TIMEOUT_S_MAX)] = TIMEOUT_S
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=TIMEOUT_S_MAX)] = RANKS_END_S


class Checker:
    """Checks one node, one check at a time. ``tell`` takes the observation."""

    def __init__(
        self,
        settings: settings_module.Settings,
        keepers_: keepers.Keepers,
        clock: clock_module.Clock,
        tell: Callable[[records.Observation], None],
    ) -> None:
        self._settings = settings
        self._keepers = keepers_
        self._clock = clock
        self._tell = tell
        self._failed = True  # nobody knows what an agent before us was told; a pass ends it
        self.busy = False

    async def check(self, wanted: Check) -> records.Json:
        """The document of the check, its checks the worst first and at most TOLD_MAX. Raises CheckError."""
        if self.busy:
            raise CheckError(f"node {self._settings.node} is being checked already; ask again after it")
        self.busy = True
        try:
            await self._until_idle(wanted.wait_s)
            document = await self._run(wanted)
        finally:
            self.busy = False
        checks = sorted(document["checks"], key=lambda one: _GRAVITY.index(one["verdict"]))
        self._observe(document, [one for one in checks if one["verdict"] == "fail"][:TOLD_MAX])
        return {**document, "checks": checks[:TOLD_MAX], "checks_made": len(checks)}

    async def _until_idle(self, wait_s: float) -> None:
        until = self._clock.monotonic() + wait_s
        while living := self._keepers.living():
            if self._clock.monotonic() >= until:
                raise CheckError(
                    f"{living} ranks run on node {self._settings.node}; it is checked once they have ended"
                )
            await self._clock.sleep(LOOK_S)

    async def _run(self, wanted: Check) -> Any:
        words = self._words(wanted)
        log.info("the node is checked", extra={"command": " ".join(words)})
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=OUTPUT_BYTES_MAX,
                start_new_session=True,
            )
        except OSError as error:
            raise CheckError(f"--check-command {words[0]}: {error.strerror or error}") from error
        within_s = wanted.timeout_s + SLACK_S
        try:
            async with asyncio.timeout(within_s):
                text = await _read(process.stdout)
                code = await process.wait()
        except TimeoutError:
            raise CheckError(f"the check of node {self._settings.node} did not end within {within_s:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        document = _document(text)
        if document is None:
            raise CheckError(f"--check-command {words[0]} ended with status {code} and gave no document of a check")
        return document

    def _words(self, wanted: Check) -> list[str]:
        given = self._settings.sources or settings_module.Sources()
        words = [*(self._settings.check_command or COMMAND), "--json", "--node", self._settings.node]
        words += ["--timeout", f"{wanted.timeout_s:g}", *(["--deep"] if wanted.deep else [])]
        words += [word for mount in given.expect_mounts for word in ("--mount", str(mount))]
        default = settings_module.Sources()
        for option in ("nvml_library", "kernel_log", "sysfs", "procfs"):
            if getattr(given, option) != getattr(default, option):
                words += [f"--{option.replace('_', '-')}", str(getattr(given, option))]
        return words

    def _observe(self, document: records.Json, failed: list[records.Json]) -> None:
        """Failed: told each time, with what failed. Passed: what stood is over. Else nothing is known anew."""
        verdict, over = document["verdict"], document["verdict"] in ("pass", "warn")
        if verdict != "fail" and not (over and self._failed):
            return
        self._failed = verdict == "fail"
        evidence: records.Json = {"verdict": verdict, "checks": failed, "simulated": document["simulated"]}
        evidence |= {"cleared": True} if over else {"stops": "new jobs"}
        self._tell(
            records.Observation(
                seq=0,
                kind=KIND,
                severity="info" if over else "error",
                at=self._clock.now(),
                node=self._settings.node,
                text=str(document["sentence"])[:TEXT_CHARS_MAX],
                evidence=evidence,
                recovery="none" if over else "drain",
            )
        )


async def _read(out: asyncio.StreamReader | None) -> bytes:
    """Everything that was printed, up to a bound."""
    text = b""
    while out is not None and len(text) < OUTPUT_BYTES_MAX and (piece := await out.read(65536)):
        text += piece
    return text


def _document(text: bytes) -> records.Json | None:
    """What a check printed, None where it is no document of a check."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("verdict") not in _GRAVITY:
        return None
    checks = found.get("checks")
    sound = isinstance(checks, list) and all(isinstance(one, dict) and one.get("verdict") in _GRAVITY for one in checks)
    return {"simulated": False, "sentence": "", **found} if sound else None
