"""What was read becomes observations: pure functions from an event or a count to a record with a plain sentence.

In: a keeper's events as JSON mappings (another version of the keeper may have written them, so nothing is taken on
trust), what the board knows of a rank, counts of refused marks. Out: records.Observation with ``seq`` 0; the spool
gives the number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from outrider import records

TEXT_CHARS_MAX: Final = 500


@dataclasses.dataclass(frozen=True)
class Place:
    """Whose event it is: the node, the job and the generation that ran when it came."""

    node: str
    job: str
    generation: int


def exit_of(event: records.Json) -> records.RankExit | None:
    """The RankExit in a keeper's ``rank-exited`` event; None when it holds none."""
    try:
        return msgspec.convert(event, records.RankExit, strict=True)
    except msgspec.ValidationError:
        return None


def completed(exit_: records.RankExit, step: int | None, phase: str | None, oom_kills: int) -> records.RankExit:
    """``exit_`` with what the keeper could not know: where the rank stood by its marks, and the host's memory kills."""
    return dataclasses.replace(
        exit_,
        step=exit_.step if exit_.step is not None else step,
        phase=exit_.phase or phase,
        oom_kills=max(exit_.oom_kills, oom_kills),
    )


def rank_exited(place: Place, exit_: records.RankExit) -> records.Observation:
    """A rank's process ended. An end that was asked for, or with status 0, is information; any other is an error."""
    fine = exit_.asked or exit_.code == 0
    return records.Observation(
        seq=0,
        kind="rank-exited",
        severity="info" if fine else "error",
        at=exit_.at,
        node=place.node,
        text=exit_sentence(exit_, place.node),
        job=place.job,
        generation=place.generation,
        rank=exit_.rank,
        evidence=dataclasses.asdict(exit_),
    )


def exit_sentence(exit_: records.RankExit, node: str) -> str:
    """``rank 3 (pid 123) on n0 was killed by SIGKILL at step 7``."""
    if exit_.signal is not None:
        how = f"was killed by {exit_.signal}"
    elif exit_.code is None:
        how = "ended with its keeper, and how is not known"
    else:
        how = f"ended with status {exit_.code}"
    asked = " as it was told to" if exit_.asked else ""
    message = " ".join((exit_.error_message or "").split())  # a sentence stands on one line
    error = f" after {exit_.error_type}: {message}".rstrip(": ") if exit_.error_type else ""
    where = f" at step {exit_.step}" if exit_.step is not None else f" in phase {exit_.phase}" if exit_.phase else ""
    return f"rank {exit_.rank} (pid {exit_.pid}) on {node} {how}{asked}{where}{error}"[:TEXT_CHARS_MAX]


def ranks_started(place: Place, event: records.Json, at: float) -> records.Observation:
    """A node's ranks of one attempt run."""
    pids = event.get("pids")
    count = len(pids) if isinstance(pids, dict | list) else 0
    how = "warm, forked from the keeper" if event.get("warm") else "cold"
    text = f"{count} ranks of job {place.job} started on {place.node} ({how}), generation {place.generation}"
    return _of(place, "ranks-started", "info", at, text, event)


def cold_start(place: Place, event: records.Json, at: float) -> records.Observation:
    """The keeper could not fork safely; each rank started afresh, which costs seconds and no more."""
    why = str(event.get("text") or "no reason given")
    return _of(place, "cold-start", "warning", at, f"ranks of job {place.job} start cold on {place.node}: {why}", event)


def start_failed(place: Place, event: records.Json, at: float) -> records.Observation:
    """A rank could not be started at all."""
    why, rank = str(event.get("text") or "no reason given"), event.get("rank")
    who = f"rank {rank}" if isinstance(rank, int) else "a rank"
    found = _of(
        place, "start-failed", "error", at, f"{who} of job {place.job} cannot start on {place.node}: {why}", event
    )
    return dataclasses.replace(found, rank=rank if isinstance(rank, int) else None)


def keeper_lost(place: Place, pids: dict[int, int], at: float) -> records.Observation:
    """A keeper died without being told to; the kernel ended its ranks with it."""
    ranks = ", ".join(str(rank) for rank in sorted(pids)) or "none"
    text = f"the keeper of job {place.job} on {place.node} died, and its ranks with it ({ranks})"
    evidence: records.Json = {"ranks": sorted(pids), "pids": {str(rank): pid for rank, pid in sorted(pids.items())}}
    return _of(place, "keeper-lost", "error", at, text, evidence)


def lost_ranks(place: Place, pids: dict[int, int], at: float) -> Iterable[records.Observation]:
    """The ends of the ranks that a lost keeper had: nobody saw their status."""
    first = min(pids, default=0)
    for order, (rank, pid) in enumerate(sorted(pids.items())):
        yield rank_exited(place, records.RankExit(rank, rank - first, pid, order, None, None, False, at))


def rank_stopped(place: Place, rank: int, pid: int, how: str, since: float) -> records.Observation:
    """A rank's process was stopped at two looks in a row; ``since`` is the first of them."""
    text = f"rank {rank} (pid {pid}) of job {place.job} on {place.node} is stopped, by {how or 'somebody'}"
    evidence: records.Json = {"pid": pid, "state": "stopped", "since": since, "how": how}
    return dataclasses.replace(_of(place, "rank-stopped", "error", since, text, evidence), rank=rank)


def rank_continued(place: Place, rank: int, pid: int, since: float, at: float) -> records.Observation:
    """A rank that was stopped runs again."""
    text = f"rank {rank} (pid {pid}) of job {place.job} on {place.node} runs again after {at - since:.1f} s"
    evidence: records.Json = {"pid": pid, "state": "running", "since": since}
    return dataclasses.replace(_of(place, "rank-continued", "info", at, text, evidence), rank=rank)


def logs_removed(
    place: Place, paths: list[str], count: int, why: str, numbers: records.Json, at: float
) -> records.Observation:
    """Old logs or dumps of a job were removed to keep within its bounds: the folders ``paths``, of ``count`` in all."""
    size = f" ({numbers['bytes'] / 2**20:.1f} MiB in {numbers['files']} files)" if "bytes" in numbers else ""
    more = f" and {count - 1} more" if count > 1 else ""
    text = f"old logs of job {place.job} on {place.node} were removed{size}: {paths[-1]}{more}; {why}"
    return _of(place, "logs-removed", "info", at, text, {"paths": paths, "why": why, **numbers})


def flight_record_written(place: Place, rank: int, path: str, size: int, at: float) -> records.Observation:
    """torch has dumped a rank's flight record of itself: its watchdog gave up, or an exception ended a collective."""
    text = f"torch wrote the flight record of rank {rank} of job {place.job} on {place.node}: {path}"
    evidence: records.Json = {"file": path, "bytes": size}
    return dataclasses.replace(_of(place, "flight-record-written", "info", at, text, evidence), rank=rank)


@dataclasses.dataclass(frozen=True)
class Lies:
    """What lies on a file system: rows of path, what and job; and the job that is named for it, if any has part."""

    job: str | None
    generation: int | None
    what: list[records.Json]


def disk_full(node: str, lies: Lies, numbers: records.Json, why: str, at: float) -> records.Observation:
    """A file system has no room. ``why``: space, inodes, or what a write of our own was told."""
    text = f"{numbers['mount']} on {node} has no room: {_left(numbers)}"
    text += "" if why in ("space", "inodes") else f", and a write was refused: {why}"
    evidence = {**numbers, "why": why, "lies_there": lies.what}
    return _of_disk("disk-full", "error", node, lies, numbers["mount"], f"{text}; {_list(lies)} there", evidence, at)


def disk_clear(node: str, lies: Lies, numbers: records.Json, since: float, at: float) -> records.Observation:
    """A file system that had no room has room again."""
    text = f"{numbers['mount']} on {node} has room again after {at - since:.0f} s: {_left(numbers)}"
    evidence = {**numbers, "since": since, "lies_there": lies.what}
    return _of_disk("disk-clear", "info", node, lies, numbers["mount"], text, evidence, at)


def _left(numbers: records.Json) -> str:
    inodes = f", {numbers['inodes_free']} of {numbers['inodes']} inodes" if numbers["inodes"] else ""
    return f"{numbers['free'] / 2**20:.1f} of {numbers['total'] / 2**20:.1f} MiB left{inodes}"


def _list(lies: Lies) -> str:
    words = sorted({str(row["what"]) for row in lies.what})
    return f"{', '.join(words)} {'lies' if len(words) == 1 else 'lie'}"


def _of_disk(
    kind: str, severity: str, node: str, lies: Lies, mount: str, text: str, evidence: records.Json, at: float
) -> records.Observation:
    return records.Observation(
        0, kind, severity, at, node, text[:TEXT_CHARS_MAX], lies.job, lies.generation, device=mount, evidence=evidence
    )


def marks_refused(node: str, refused: int, why: str, at: float) -> records.Observation:
    """Something that is no mark came on the marks' socket; it was counted, and marks go on."""
    text = f"{refused} datagrams on the marks socket of {node} were refused, the last because: {why}"
    evidence: records.Json = {"refused": refused, "last": why}
    return records.Observation(0, "marks-refused", "warning", at, node, text[:TEXT_CHARS_MAX], evidence=evidence)


def spool_damaged(node: str, path: str, why: str, at: float) -> records.Observation:
    """The spool could not be read and a new one was begun; what was not yet acknowledged in it is not sent."""
    text = f"the spool of {node} was damaged ({why}); it was set aside as {path}.damaged and a new one was begun"
    return records.Observation(0, "spool-damaged", "error", at, node, text, evidence={"path": path, "why": why})


def _of(place: Place, kind: str, severity: str, at: float, text: str, evidence: dict[str, Any]) -> records.Observation:
    return records.Observation(
        0, kind, severity, at, place.node, text[:TEXT_CHARS_MAX], place.job, place.generation, evidence=evidence
    )
