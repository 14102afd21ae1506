"""Rows of the ledger -> what a job's time came to: bins, interruptions, causes, MTTF and MFU.

In: the rows in order, and from outside the ledger only what it cannot know (tokens done, the devices' peak). Out: the
document of ``outrider report --json``. Each number that can be counted in more than one way says how it was counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from outrider import records as spoken
from outrider_analysis import flops, statistics
from outrider_controller import incident_documents, timeline
from outrider_controller.core import records

Json = spoken.Json
Segment = timeline.Segment
segments = timeline.segments
bins = timeline.bins

CONFIDENCE = 0.95
NAMES_TOLD_MAX = 20  # of jobs in an error message, the newest
ETTR_DEFINITION = (
    "productive / elapsed: seconds in which new steps were trained over all seconds from submission to the end (or "
    "now); checkpoint stalls, re-done steps, detection, diagnosis, restarts, planned stops, holds and waiting for "
    "nodes are not productive"
)
MTTF_EXPOSURE = "elapsed_s: unexpected interruptions over all the time from submission on, held and idle included"


@dataclass(frozen=True)
class Devices:
    """The accelerators that the job trains on. ``peak_tflops``: dense, of one device, in the job's precision."""

    count: int
    peak_tflops: float
    name: str = ""


@dataclass(frozen=True)
class Throughput:
    """What the step marks add up to. ``tokens``: of new steps alone, each step counted once."""

    tokens: float
    convention: str = "as the job counts it"  # how its FLOPs per token treat attention (flops.CONVENTIONS)


class UnknownJobError(LookupError):
    """No such job in the ledger; the message names the jobs that are there."""


def report(
    rows: Iterable[records.Row],
    job: str,
    now: float,
    devices: Devices | None = None,
    throughput: Throughput | None = None,
) -> Json:
    """The report of the latest life of ``job`` up to its end or ``now``."""
    rows = tuple(rows)
    lives = timeline.lives(rows, job)
    if not lives:
        raise UnknownJobError(_unknown(rows, job))
    life = lives[-1]
    found = timeline.of_life(life, now)
    end = life.ended_at if life.ended_at is not None else max(now, life.submitted_at)
    elapsed = end - life.submitted_at
    spent = {name: incident_documents.seconds(value) for name, value in timeline.bins(found).items()}
    incidents = incident_documents.incidents(life.rows, job, end)
    unexpected = [one for one in incidents if one["interrupted"] and not one["planned"]]
    return {
        "job": job,
        "state": life.state,
        "ended_by": life.ended_by,
        "submitted_at": incident_documents.iso(life.submitted_at),
        "ended_at": incident_documents.iso(life.ended_at),
        "attempts": sum(isinstance(row, records.AttemptPlanned) for row in life.rows),
        "elapsed_s": incident_documents.seconds(elapsed),
        "bins": spent,
        "ettr": spent["productive"] / elapsed if elapsed > 0 else None,
        "ettr_definition": ETTR_DEFINITION,
        "interruptions": _interruptions(incidents),
        "by_cause": _lost(unexpected, "cause", "unknown"),
        "by_cause_group": _lost(unexpected, "cause_group", "none"),
        "mttf": mttf(len(unexpected), elapsed),
        "mfu": _mfu(life, spent["productive"], elapsed, devices, throughput),
        "incidents": incidents,
    }


def mttf(unexpected: int, exposure_s: float, confidence: float = CONFIDENCE) -> Json:
    """Mean time to an unexpected interruption, in hours; null where it is unknown or the bound is infinite."""
    found = {"hours": None, "low": None, "high": None, "confidence": confidence, "exposure": MTTF_EXPOSURE}
    if exposure_s <= 0:
        return found
    interval = statistics.mean_time_to_failure(unexpected, exposure_s / 3600, confidence)
    high = interval.high if math.isfinite(interval.high) else None
    return {**found, "hours": interval.value, "low": interval.low, "high": high}


def _interruptions(incidents: list[Json]) -> Json:
    watched = sum(not one["interrupted"] for one in incidents)
    incidents = [one for one in incidents if one["interrupted"]]
    planned = sum(one["planned"] for one in incidents)
    automatic = sum(one["automatic"] for one in incidents)
    unexpected = len(incidents) - planned
    return {
        "total": len(incidents),
        "watched": watched,  # beside the total: findings that interrupted nothing
        "planned": planned,
        "unexpected": unexpected,
        "automatic": automatic,  # of the unexpected ones: nobody had to be asked
        "manual": unexpected - automatic,
    }


def _lost(incidents: list[Json], key: str, otherwise: str) -> Json:
    """Count and lost seconds by cause or by group; ``otherwise`` is the word for those that have none."""
    found: dict[str, Json] = {}
    for one in incidents:
        mine = found.setdefault(one[key] or otherwise, {"count": 0, "lost_s": 0.0})
        mine["count"] += 1
        mine["lost_s"] = incident_documents.seconds(mine["lost_s"] + sum(one["phases"].values()))
    return dict(sorted(found.items(), key=lambda item: (-item[1]["count"], item[0])))


def _mfu(
    life: timeline.Life, productive_s: float, elapsed_s: float, devices: Devices | None, throughput: Throughput | None
) -> Json:
    per_token = _flops_per_token(life)
    found: Json = {
        "while_training": None,
        "with_downtime": None,
        "peak_tflops": devices.peak_tflops if devices else None,
        "devices": devices.count if devices else None,
        "flops_per_token": per_token,
        "convention": throughput.convention if throughput else None,
        "reason": _no_mfu(per_token, productive_s, devices, throughput),
    }
    if found["reason"] is None:
        assert devices is not None
        assert throughput is not None
        assert per_token is not None
        for key, seconds in (("while_training", productive_s), ("with_downtime", elapsed_s)):
            found[key] = flops.mfu(throughput.tokens / seconds, per_token, devices.count, devices.peak_tflops)
    return found


def _no_mfu(
    per_token: float | None, productive_s: float, devices: Devices | None, throughput: Throughput | None
) -> str | None:
    """Why there is no MFU, in the words that a person can act on; None where there is one."""
    if devices is None:
        return (
            "no accelerator with a known peak: MFU is a share of a device's peak, and a CPU has none in the table; "
            "peak_tflops in the job's file gives one"
        )
    if per_token is None:
        return "the job has not said its FLOPs per token (flops_per_token of outrider.attach)"
    if throughput is None:
        return "the job's marks carry no tokens (tokens of run.step)"
    return None if productive_s > 0 else "no step has been trained yet"


def _flops_per_token(life: timeline.Life) -> float | None:
    told = [row.flops_per_token for row in life.rows if isinstance(row, records.Attached) and row.flops_per_token]
    return told[-1] if told else None


def _unknown(rows: tuple[records.Row, ...], job: str) -> str:
    names = incident_documents.submitted(rows)[-NAMES_TOLD_MAX:]
    known = f"the ledger has {', '.join(names)}" if names else "the ledger has no job yet"
    return f"job {job!r} is unknown; {known}"
