"""The documents that people and programs are given: status, incidents, report, nodes, rows, series.

In: the ledger's rows (read in a thread of their own, so that a long history holds nobody up) and the pictures that
the shell keeps. Out: plain JSON in the shape of the contracts. The last answer is kept as long as the ledger has not
grown.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any, Final

from outrider import clock as clock_module
from outrider_controller import accounting, projection, runbook_files, thinning, throughput, timeline
from outrider_controller import ledger as ledgers
from outrider_controller import nodes as nodes_module
from outrider_controller import progress as progress_module
from outrider_controller import series as series_module
from outrider_controller import turns as turns_module
from outrider_controller.core import jobs, placement, records
from outrider_controller.core import state as states

ROWS_PER_ANSWER_MAX: Final = 1000
SAMPLES_PER_ANSWER_MAX: Final = 20_000
SEGMENTS_PER_ANSWER_MAX: Final = 10_000
ROWS_CACHED_JOBS_MAX: Final = 8


class UnknownError(LookupError):
    """No such job, incident or node; the message names some that there are."""


class Documents:
    """Answers from one controller."""

    def __init__(
        self,
        ledger: ledgers.Ledger,
        turns: turns_module.Turns,
        progress: progress_module.Progress,
        nodes: nodes_module.Nodes,
        series: series_module.Series,
        clock: clock_module.Clock,
        books: runbook_files.Runbooks | None = None,
    ) -> None:
        self._ledger = ledger
        self._turns = turns
        self._progress = progress
        self._nodes = nodes
        self._series = series
        self._clock = clock
        self._books = books or runbook_files.Runbooks()
        self._rows: dict[str, tuple[int, tuple[records.Row, ...]]] = {}

    def jobs(self) -> list[dict[str, Any]]:
        """Every job with its state, in order of submission."""
        state, now = self._turns.state, self._clock.now()
        jobs = sorted(state.jobs.values(), key=lambda job: job.submitted_at)
        return [
            {
                "job": job.spec.name,
                "state": job.state,
                "since_at": projection.iso(job.since_at),
                "attempt": job.attempt.attempt if job.attempt else None,
                "step": self._progress.of(job.spec.name).shown_step,
                "open_incident": job.incident.incident if job.incident else None,
                "sentence": self._told(projection.status(job, _own_nodes(job, state), self._view(job.spec.name), now))[
                    "sentence"
                ],
            }
            for job in jobs
        ]

    def status(self, name: str) -> dict[str, Any]:
        """The document of ``outrider status``; raises UnknownError."""
        self.known(name)
        state = self._turns.state
        return self._told(projection.status(state.jobs[name], state.nodes, self._view(name), self._clock.now()))

    async def status_aside(self, name: str) -> dict[str, Any]:
        """The same, made in a thread: a job of 16,384 ranks is a long document. Raises UnknownError."""
        self.known(name)
        state, view = self._turns.state, self._view(name)
        now = self._clock.now()
        return self._told(await asyncio.to_thread(projection.status, state.jobs[name], state.nodes, view, now))

    def _told(self, found: dict[str, Any]) -> dict[str, Any]:
        """A status document that also says when the controller itself can do nothing."""
        ailing = self._turns.ailing
        return {**found, "sentence": f"{found['sentence']}; but {ailing}"} if ailing else found

    async def incidents(self, name: str) -> list[dict[str, Any]]:
        """The job's incidents, oldest first; raises UnknownError."""
        self.known(name)
        rows, now = await self._rows_of(name), self._clock.now()
        return await asyncio.to_thread(projection.incidents, rows, name, now)

    async def explain(self, name: str, incident: str) -> dict[str, Any]:
        """One incident with everything that belongs to it; raises UnknownError."""
        self.known(name)
        rows, now = await self._rows_of(name), self._clock.now()
        try:
            return await asyncio.to_thread(projection.explain, rows, incident, now)
        except projection.UnknownIncidentError as error:
            raise UnknownError(error.args[0]) from error

    async def incident(self, name: str, incident: str) -> dict[str, Any] | None:
        """One incident's contract document, None where there is none."""
        rows, now = await self._rows_of(name), self._clock.now()
        found = await asyncio.to_thread(projection.incidents, rows, name, now)
        return next((item for item in found if item["id"] == incident), None)

    async def report(self, name: str) -> dict[str, Any]:
        """The document of ``outrider report``; raises UnknownError."""
        self.known(name)
        rows, now = await self._rows_of(name), self._clock.now()
        return await asyncio.to_thread(_report, rows, self._turns.state.jobs[name].spec, now, self._series)

    async def timeline(self, name: str) -> dict[str, Any]:
        """When the job did not progress, and its attempts; raises UnknownError."""
        self.known(name)
        rows, now = await self._rows_of(name), self._clock.now()
        return await asyncio.to_thread(_timeline, rows, name, now)

    async def series(
        self, name: str, samples_max: int, points_max: int | None = None, last_s: float | None = None
    ) -> dict[str, Any]:
        """The newest samples of a job, oldest of them first, thinned to ``points_max``; raises UnknownError.

        ``last_s``: only those of the last seconds before the newest.
        """
        self.known(name)
        most = min(samples_max, SAMPLES_PER_ANSWER_MAX)
        return {"job": name, **await asyncio.to_thread(_curve, self._series, name, most, points_max, last_s)}

    def runbook(self, name: str) -> dict[str, Any]:
        """The runbook of a cause: what its front matter says of it, and its text; raises UnknownError."""
        file = f"{name}.md"
        if file not in self._books.bodies:
            known = ", ".join(sorted(one.removesuffix(".md") for one in self._books.bodies)) or "none"
            raise UnknownError(f"runbook {name!r} is unknown; there are {known}")
        head = self._books.documents[file]
        told = {key: head.get(key) for key in ("id", "title", "severity", "action", "page")}
        return {**told, "text": self._books.bodies[file].strip() + "\n"}

    def nodes(self) -> list[dict[str, Any]]:
        """Every node that ever joined, in natural order."""
        state, now = self._turns.state, self._clock.now()
        placed = {
            node: job.spec.name
            for job in state.jobs.values()
            if job.attempt is not None and not job.over
            for node in job.attempt.placement
        }
        return [
            {
                "node": name,
                "mark": node.mark,
                "why": node.why,
                "job": placed.get(name),
                "address": node.address,
                "slots": node.slots,
                "supervises": node.supervises,
                "simulated": node.simulated,
                "boot_id": node.boot_id,
                "joined_at": projection.iso(node.joined_at),
                "silent_s": None if node.silent_since is None else round(max(0.0, now - node.silent_since), 3),
                **self._nodes.describe(name),
            }
            for name, node in sorted(state.nodes.items(), key=lambda item: placement.natural(item[0]))
        ]

    async def rows(self, after: int, rows_max: int, job: str | None = None) -> dict[str, Any]:
        """Rows of the ledger after number ``after``, at most ROWS_PER_ANSWER_MAX."""
        most = max(0, min(rows_max, ROWS_PER_ANSWER_MAX))
        found = await asyncio.to_thread(lambda: list(ledgers.documents(self._ledger.path, after, job, most)))
        rows = [{**row, "data": json.loads(row["data"])} for row in found]
        return {"rows": rows, "last_seq": self._turns.seq, "next_after": rows[-1]["seq"] if rows else after}

    def known(self, name: str) -> None:
        """Raises UnknownError naming the jobs there are."""
        if name not in self._turns.state.jobs:
            names = ", ".join(sorted(self._turns.state.jobs)[:20]) or "none yet"
            raise UnknownError(f"job {name!r} is unknown; the jobs are: {names}")

    def _view(self, name: str) -> projection.ProgressView:
        found, state = self._progress.of(name), self._turns.state
        seen = {
            node: about["agent_seen_s"] for node in state.nodes if (about := self._nodes.describe(node))["connected"]
        }
        return projection.ProgressView(
            step=found.shown_step,
            step_s=found.step_s,
            tokens_per_s=found.tokens_per_s,
            devices=throughput.devices(state.jobs[name].spec),
            ranks={rank: progress for rank, (_, progress) in found.ranks.items()},
            seen_s=seen,
            findings={node: tuple(seen.kind for seen in self._nodes.findings(node)) for node in state.nodes},
            taken=frozenset(
                node
                for job in state.jobs.values()
                if job.spec.name != name and not job.over and job.attempt is not None
                for node in job.attempt.placement
            ),
        )

    async def _rows_of(self, name: str) -> tuple[records.Row, ...]:
        """Rows that concern the job: its own, and those of no job (its nodes). Each row is read once."""
        before, rows = self._rows.get(name, (0, ()))
        until = self._turns.seq
        if before < until:
            rows = await asyncio.to_thread(self._read_on, name, before, until, rows)
            if len(self._rows) >= ROWS_CACHED_JOBS_MAX and name not in self._rows:
                self._rows.pop(next(iter(self._rows)))
            self._rows[name] = (until, rows)
        return rows

    def _read_on(self, name: str, after: int, until: int, rows: tuple[records.Row, ...]) -> tuple[records.Row, ...]:
        fresh = (row for seq, row in self._ledger.read(after) if seq <= until)
        return (*rows, *(row for row in fresh if getattr(row, "job", "") in ("", name)))


def _report(
    rows: tuple[records.Row, ...], spec: jobs.JobSpec, now: float, series: series_module.Series
) -> dict[str, Any]:
    samples = series.window_aside(spec.name, throughput.SAMPLES_MAX)
    done = throughput.of(samples, throughput.first_generation(rows, spec.name))
    return accounting.report(rows, spec.name, now, throughput.devices(spec), done)


def _own_nodes(job: states.JobState, state: states.State) -> dict[str, states.NodeState]:
    """The nodes of the job's own placement; a list of jobs need not tell of the others."""
    placed = job.attempt.placement if job.attempt else ()
    return {name: state.nodes[name] for name in placed if name in state.nodes}


def _timeline(rows: tuple[records.Row, ...], name: str, now: float) -> dict[str, Any]:
    life = timeline.lives(rows, name)[-1]
    return {
        "job": name,
        "segments": [
            {"bin": s.bin, "from_at": projection.iso(s.begin), "to_at": projection.iso(s.end), "incident": s.incident}
            for s in timeline.of_life(life, now)
            if s.bin not in ("productive", "checkpoint")
        ][-SEGMENTS_PER_ANSWER_MAX:],
        "attempts": [
            {
                "attempt": row.attempt,
                "generation": row.generation,
                "planned_at": projection.iso(row.at),
                "resume_step": row.resume_step if row.resume_path else None,
            }
            for row in life.rows
            if isinstance(row, records.AttemptPlanned)
        ][-SEGMENTS_PER_ANSWER_MAX:],
    }


def _curve(
    series: series_module.Series, name: str, samples_max: int, points_max: int | None, last_s: float | None
) -> dict[str, Any]:
    found = series.window_aside(name, samples_max)
    if last_s is not None and found:
        found = [item for item in found if item.at >= found[-1].at - last_s]
    shown = found if points_max is None else thinning.thin(found, points_max)
    return {"samples": [_sample(item) for item in shown], "thinned_from": len(found)}


def _sample(item: series_module.Sample) -> dict[str, Any]:
    return {**dataclasses.asdict(item), "at": projection.iso(item.at)}
