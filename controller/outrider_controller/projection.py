"""What people see of the ledger and of the state: incidents, one incident explained, and how a job stands now.

In: ledger rows, or one job's state with the nodes and a view of its progress. Out: the JSON documents of
``outrider incidents``, ``outrider explain`` and ``outrider status``. "Could not look" is told as such: a node that is
not heard is ``unknown``, never healthy, and a number that nobody measured is null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from outrider import mesh as meshes
from outrider import records as spoken
from outrider import wire
from outrider_analysis import flops
from outrider_controller import accounting, incident_documents, status_sentence, story_lines, timeline
from outrider_controller.core import health, placement, records
from outrider_controller.core import state as states

Json = spoken.Json
# An agent that is connected sends something every HEARTBEAT_S; after this long nobody can say how its node is.
AGENT_STALE_S = 5 * wire.HEARTBEAT_S

incidents = incident_documents.incidents
iso = incident_documents.iso


class UnknownIncidentError(LookupError):
    """No such incident in the ledger; the message names the newest ones that are there."""


@dataclass(frozen=True)
class ProgressView:
    """What marks and heartbeats say about one job; everything may be missing. Ages are in seconds."""

    step: int | None = None  # newest finished step of the current attempt, or of the former while none is finished
    step_s: float | None = None
    tokens_per_s: float | None = None
    ranks: Mapping[int, spoken.RankProgress] = field(default_factory=dict)
    seen_s: Mapping[str, float] = field(default_factory=dict)  # node -> seconds since its agent was last heard
    findings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # node -> kinds of what is wrong there now
    taken: frozenset[str] = frozenset()  # nodes that other jobs hold; they are nobody's spares
    devices: accounting.Devices | None = None


def explain(rows: Iterable[records.Row], incident: str, now: float | None = None) -> Json:
    """The document of one incident with ``timeline``: every row that belongs to it, in order, in plain words."""
    rows = tuple(rows)
    opened = next((r for r in rows if isinstance(r, records.IncidentOpened) and r.incident == incident), None)
    if opened is None:
        raise UnknownIncidentError(_unknown(rows, incident))
    found = next(one for one in incidents(rows, opened.job, now) if one["id"] == incident)
    life = next(life for life in timeline.lives(rows, opened.job) if opened in life.rows)
    return {**found, "timeline": story_lines.lines(rows, opened, life)}


def status(job: states.JobState, nodes: Mapping[str, states.NodeState], progress: ProgressView, now: float) -> Json:
    """How the job stands, as in ``outrider status --json``."""
    working = job.state == "training" and job.attempt is not None
    found = {
        "job": job.spec.name,
        "state": job.state,
        "ended_by": job.ended_by or None,
        "attempt": job.attempt.attempt if job.attempt else None,
        "generation": job.attempt.generation if job.attempt else None,
        "step": progress.step,
        "step_s": progress.step_s if working else None,
        "tokens_per_s": progress.tokens_per_s if working else None,
        "mfu": _mfu(job, progress) if working else None,
        "since_at": iso(job.since_at),
        "since_s": incident_documents.seconds(max(0.0, now - job.since_at)),
        "why": job.why,
        "mesh": job.mesh or job.spec.mesh or None,
        "nodes": [_node(name, job, nodes.get(name), progress, now) for name in _names(job, nodes)],
        "ranks": _ranks(job, progress),
        "open_incident": job.incident.incident if job.incident else None,
        "suspected": _suspected(job, now),
    }
    return {**found, "sentence": status_sentence.sentence(job, found, now)}


def _suspected(job: states.JobState, now: float) -> Json | None:
    """What is known while nobody can say whether the job hangs; None while nothing is suspected."""
    attempt, incident = job.attempt, job.incident
    found = attempt.suspicion if attempt is not None else None
    if found is None or attempt is None or (incident is not None and incident.generation == attempt.generation):
        return None
    return {
        "since_at": iso(found.since),
        "since_s": incident_documents.seconds(max(0.0, now - found.since)),
        "silent": found.silent,
        "phase": found.phase or None,
        "look_s": found.look_s,
        "act_s": found.act_s,
        "basis": found.basis,
        "stopped_ranks": list(found.stopped),
        "looks": found.looks,
        "look": found.look.sentence if found.look is not None else None,
    }


def _names(job: states.JobState, nodes: Mapping[str, states.NodeState]) -> list[str]:
    """The job's nodes in rank order, then the others in natural order."""
    mine = job.attempt.placement if job.attempt else ()
    return [*mine, *sorted((name for name in nodes if name not in mine), key=placement.natural)]


def _node(name: str, job: states.JobState, node: states.NodeState | None, progress: ProgressView, now: float) -> Json:
    return {
        "node": name,
        "state": _node_state(name, job, node, progress, now),
        "agent_seen_s": _seen_s(name, node, progress, now),
        "findings": _findings(name, job, progress),
        "simulated": node.simulated if node else None,
        "why": "" if node is None else node.why if node.mark != "clear" else health.why_kept_out(node),
    }


def _node_state(
    name: str, job: states.JobState, node: states.NodeState | None, progress: ProgressView, now: float
) -> str:
    if node is None:
        return "unknown"
    if node.mark != "clear":
        return node.mark
    seen_s = _seen_s(name, node, progress, now)
    if node.silent_since is not None or seen_s is None or seen_s > AGENT_STALE_S:
        return "unknown"
    diagnosis = job.incident.diagnosis if job.incident else None
    if diagnosis is not None and name in diagnosis.nodes:
        return "suspect"
    if health.tier(node):
        return "suspect"
    mine = job.attempt is not None and name in job.attempt.placement
    spare = node.supervises and not mine and not job.over and name not in progress.taken
    return "spare" if spare else "healthy"


def _seen_s(name: str, node: states.NodeState | None, progress: ProgressView, now: float) -> float | None:
    """Seconds since the agent was heard; while it is silent the ledger knows since when."""
    if node is not None and node.silent_since is not None:
        return incident_documents.seconds(max(0.0, now - node.silent_since))
    seen_s = progress.seen_s.get(name)
    return incident_documents.seconds(seen_s) if seen_s is not None else None


def _findings(name: str, job: states.JobState, progress: ProgressView) -> list[str]:
    kinds = list(progress.findings.get(name, ()))
    if job.incident is not None:
        kinds += [seen.kind for seen in job.incident.observations if seen.node == name]
        exits = job.attempt.exits if job.attempt and job.attempt.generation == job.incident.generation else ()
        kinds += ["rank-exited" for node, exit_ in exits if node == name and not exit_.asked and exit_.code != 0]
    return list(dict.fromkeys(kinds))


def _ranks(job: states.JobState, progress: ProgressView) -> list[Json]:
    """Every rank of the current attempt. A rank of which nothing is known has nulls, not the words of an older one."""
    attempt = job.attempt
    if attempt is None:
        return []
    mesh = _mesh(job)
    ended = {exit_.rank: exit_ for _, exit_ in attempt.exits}
    found: list[Json] = []
    for rank in range(job.spec.world_size):
        at, local = divmod(rank, job.spec.ranks_per_node)
        said = progress.ranks.get(rank)
        said = said if said is not None and said.generation == attempt.generation else None
        alive = said is not None and rank not in ended
        found.append(
            {
                "rank": rank,
                "node": attempt.placement[at] if at < len(attempt.placement) else None,
                "local_rank": local,
                "pid": said.pid if said and alive else None,
                "coords": _coords(mesh, rank),
                "step": said.step if said else None,
                "phase": said.phase if said and alive else None,
                "ended": _ended(ended.get(rank)),
            }
        )
    return found


def _coords(mesh: meshes.Mesh | None, rank: int) -> dict[str, int]:
    """The rank's index on every axis, outermost first; empty where the mesh is not known."""
    if mesh is None:
        return {}
    coords = mesh.coords(rank)
    return {axis: coords[axis] for axis, _ in mesh.axes}


def _ended(exit_: spoken.RankExit | None) -> str | None:
    """How the rank's process ended: the signal's name or ``status N``; None while it is not known to have ended."""
    if exit_ is None:
        return None
    return exit_.signal or f"status {exit_.code}"


def _mesh(job: states.JobState) -> meshes.Mesh | None:
    """The mesh that the job told of or was given, where it fits the number of ranks."""
    try:
        mesh = meshes.parse(job.mesh or job.spec.mesh) if job.mesh or job.spec.mesh else None
    except meshes.MeshError:
        return None
    return mesh if mesh is not None and mesh.world_size == job.spec.world_size else None


def _mfu(job: states.JobState, progress: ProgressView) -> float | None:
    if progress.devices is None or progress.tokens_per_s is None or job.flops_per_token is None:
        return None
    devices = progress.devices
    return flops.mfu(progress.tokens_per_s, job.flops_per_token, devices.count, devices.peak_tflops)


def _unknown(rows: tuple[records.Row, ...], incident: str) -> str:
    names = [row.incident for row in rows if isinstance(row, records.IncidentOpened)][-accounting.NAMES_TOLD_MAX :]
    known = f"the newest are {', '.join(names)}" if names else "there has been no incident yet"
    return f"incident {incident!r} is unknown; {known}"
