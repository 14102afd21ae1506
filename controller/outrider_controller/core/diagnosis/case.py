"""What a diagnosis looks at (Case) and what it answers (Finding), with the small questions that several families
ask.
"""

from __future__ import annotations

from dataclasses import dataclass

from outrider import records as spoken
from outrider_analysis import job_log
from outrider_controller.core import policy as policies
from outrider_controller.core import state as states


@dataclass(frozen=True)
class Judged:
    """One dead rank with the judgement of its exit."""

    node: str
    exit: spoken.RankExit
    kind: str  # a word of policy.EXIT_WORDS, or "asked"
    signature: str
    text: str
    pattern: str = ""  # the known message that decided, if one did


@dataclass(frozen=True)
class Case:
    """An open incident with everything that bears on it, at the moment of diagnosis."""

    job: states.JobState
    incident: states.OpenIncident
    nodes: dict[str, states.NodeState]
    policy: policies.Policy
    at: float

    @property
    def attempt(self) -> states.Attempt:
        """The attempt that was disturbed."""
        assert self.job.attempt is not None, "an incident is opened only for a job with an attempt"
        return self.job.attempt

    def judged(self) -> tuple[Judged, ...]:
        """Every known exit, in order of death: by node order within a node, by time stamp across nodes."""
        found = []
        for node, exit_ in sorted(self.attempt.exits, key=lambda e: (e[1].at, e[1].order)):
            said = job_log.judge(exit_)
            found.append(Judged(node, exit_, said.kind, said.signature, said.text, said.pattern))
        return tuple(found)

    def silent(self) -> tuple[states.NodeState, ...]:
        """Nodes of the attempt whose agents are not heard now."""
        return silent_with_ranks(self.job, self.nodes)


@dataclass(frozen=True)
class Finding:
    """A named cause with its reasons."""

    cause: str
    confidence: float
    sentence: str
    signature: str
    ranks: tuple[int, ...] = ()
    nodes: tuple[str, ...] = ()
    evidence: tuple[spoken.Json, ...] = ()
    gpus: tuple[str, ...] = ()  # n0/gpu3
    links: tuple[str, ...] = ()  # n0/gpu3/link7, n0/mlx5_0/1
    recovery: str = ""  # what the hardware needs; empty where none is blamed


def ranks_of(job: states.JobState, node: str) -> range:
    """Ranks that the current attempt placed on ``node``: consecutive, in placement order."""
    assert job.attempt is not None
    first = job.attempt.placement.index(node) * job.spec.ranks_per_node
    return range(first, first + job.spec.ranks_per_node)


def gpu_of(job: states.JobState, rank: int) -> str:
    """``gpu3``: the GPU that a rank uses on its node, as its start told it, else that of its local number. "" where
    that is not known.
    """
    assert job.attempt is not None
    return dict(job.attempt.gpus).get(rank, f"gpu{rank % job.spec.ranks_per_node}")


def silent_with_ranks(job: states.JobState, nodes: dict[str, states.NodeState]) -> tuple[states.NodeState, ...]:
    """Nodes of the attempt whose agents are not heard now."""
    placement = job.attempt.placement if job.attempt else ()
    return tuple(nodes[name] for name in placement if name in nodes and nodes[name].silent_since is not None)


def evidence(at: float, source: str, kind: str, text: str, cause: str) -> spoken.Json:
    """One row of evidence; ``cause`` is what it speaks for."""
    return {"at": at, "source": source, "kind": kind, "text": text, "for": cause}


def cause_of(
    policy: policies.Policy,
    *,
    exit_: str = "",
    observation: str = "",
    node: str = "",
    stall: str = "",
    numbers: str = "",
) -> str | None:
    """The cause whose runbook matches a word, if any; runbooks are looked at in the order of the vocabulary."""
    for cause, rule in policy.rules.items():
        match = rule.match
        pairs = (
            (exit_, match.exit),
            (observation, match.observation),
            (node, match.node),
            (stall, match.stall),
            (numbers, match.numbers),
        )
        if any(word in words for word, words in pairs):
            return cause
    return None
