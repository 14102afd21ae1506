"""The documents that a running controller would give, read straight from the ledger of one that has ended.

The ledger is opened for reading alone, so it may be done beside anything. Times count up to the ledger's last row,
because nobody knows what came after it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from outrider_cli import errors, finding

Json = dict[str, Any]


class LedgerDocuments:
    """What the ledger of one state directory says. Raises CommandError where it cannot be read."""

    def __init__(self, state: Path) -> None:
        with errors.extra("controller"):
            from outrider_controller import ledger
            from outrider_controller.core import evolve
            from outrider_controller.core import state as states
        self._state_dir = state
        try:
            self._rows = [row for _, row in ledger.read(state / "ledger.db")]
        except ledger.LedgerError as error:
            raise errors.CommandError(str(error)) from error
        self._state = evolve.evolve_all(states.State(), self._rows)
        self._now = self._rows[-1].at if self._rows else 0.0

    def _job(self, given: str | None) -> str:
        return finding.chosen_job(sorted(self._state.jobs), given)

    def status(self, job: str | None) -> Json:
        """The document of ``outrider status``."""
        from outrider_controller import projection

        name = self._job(job)
        view = projection.ProgressView(step=self._last_step(name))
        return projection.status(self._state.jobs[name], self._state.nodes, view, self._now)

    def incidents(self, job: str | None) -> Json:
        """The document of ``outrider incidents``."""
        from outrider_controller import projection

        if job is not None:
            self._job(job)
        return {"incidents": projection.incidents(self._rows, job, self._now)}

    def explain(self, incident: str) -> Json:
        """The document of ``outrider explain``."""
        from outrider_controller import projection

        try:
            return projection.explain(self._rows, incident, self._now)
        except projection.UnknownIncidentError as error:
            _refuse(error)

    def report(self, job: str | None) -> Json:
        """The document of ``outrider report``."""
        from outrider_controller import accounting, throughput

        name = self._job(job)
        spec, since = self._state.jobs[name].spec, throughput.first_generation(self._rows, name)
        done = throughput.of(self._samples(name, throughput.SAMPLES_MAX), since)
        return accounting.report(self._rows, name, self._now, throughput.devices(spec), done)

    def _last_step(self, job: str) -> int | None:
        latest = self._samples(job, 1)
        return latest[-1].step if latest else None

    def _samples(self, job: str, most: int) -> list[Any]:
        from outrider_controller import series

        path = self._state_dir / "series.db"
        if not path.is_file():
            return []
        store = series.Series(path)
        try:
            return list(store.window(job, most))
        finally:
            store.close()


def _refuse(error: Exception) -> NoReturn:
    raise errors.CommandError(str(error)) from error
