"""Rows of the ledger written by hand, in the order in which the core writes them; times are seconds from ``START``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from outrider import records as spoken
from outrider_controller.core import jobs, records

START = 1_800_000_000.0


@dataclass
class Story:
    """One job's rows. Every method appends what one turn of the controller would append at ``at``."""

    job: str = "llama"
    attended: bool = True
    speaks: bool = True
    rows: list[records.Row] = field(default_factory=list)
    generation: int = 0
    incidents: int = 0
    effects: int = 0
    state: str = "starting"

    @property
    def incident(self) -> str:
        return f"{self.job}-{self.incidents}"

    def submit(self, at: float = 0.0) -> Story:
        spec = jobs.JobSpec(self.job, ("python", "train.py"), 2, 2, "dp=2,tp=2", attended=self.attended)
        self.state = "starting"
        return self._add(records.JobSubmitted(START + at, self.job, jobs.document(spec)))

    def plan(self, at: float, incident: str | None = None, step: int = 0) -> Story:
        self.generation += 1
        path = f"/ckpt/step-{step}" if step else ""
        attempt = self.generation - 1
        self._add(
            records.AttemptPlanned(
                START + at, self.job, attempt, self.generation, ("n0", "n1"), path, step, incident=incident
            )
        )
        return self._effect(at, "start-attempt", incident, generation=self.generation)

    def run(self, at: float) -> Story:
        return self._done(at, "start-attempt", {"warm": True, "pids": {}})

    def train(self, at: float, step: int = 1) -> Story:
        self._add(records.Attached(START + at - 0.5, self.job, self.generation, "dp=2,tp=2", 6e9))
        self._add(records.Training(START + at, self.job, self.generation, step))
        return self.move(at, "training", f"step {step} finished")

    def start(self, planned: float, running: float, training: float) -> Story:
        return self.plan(planned).run(running).train(training)

    def save(self, at: float, step: int, stall_s: float) -> Story:
        path = f"/ckpt/step-{step}"
        return self._add(records.CheckpointSaved(START + at, self.job, self.generation, step, path, stall_s))

    def open(self, at: float, fault_at: float, lost_step: int | None = 47, planned: str = "") -> Story:
        self.incidents += 1
        self.move(at, "interrupted", "rank 3 ended: SIGKILL")
        self._add(
            records.IncidentOpened(
                at=START + at,
                job=self.job,
                incident=self.incident,
                planned=bool(planned),
                fault_at=START + fault_at,
                attempt=self.generation - 1,
                generation=self.generation,
                lost_step=lost_step,
                text="rank 3 ended: SIGKILL",
                wanted=planned,
            )
        )
        self._effect(at, "stop-attempt", self.incident, generation=self.generation)
        return self._effect(at, "find-checkpoint", self.incident, generation=self.generation + 1)

    def look(self, at: float, step: int = 40) -> Story:
        self._done(at, "stop-attempt", {"stopped": ["n0", "n1"], "unreached": []})
        path = f"/ckpt/step-{step}" if step else ""
        return self._done(at, "find-checkpoint", {"path": path, "step": step, "trust": "complete"})

    def decide(self, at: float, decision: str = "restart", cause: str = "rank-killed") -> Story:
        evidence = {"at": START + at, "source": "n1", "kind": "rank-exited", "text": "SIGKILL", "for": cause}
        self._add(
            records.Diagnosed(
                at=START + at,
                job=self.job,
                incident=self.incident,
                cause=cause,
                cause_group=None,
                confidence=0.95,
                ranks=(3,),
                nodes=("n1",),
                gpus=(),
                links=(),
                evidence=(evidence,),
                signature="killed:SIGKILL",
                sentence="rank 3 was killed, on n1",
            )
        )
        return self.decided(at, decision, automatic=decision != "hold-for-person", runbook=cause)

    def decided(self, at: float, decision: str, automatic: bool, runbook: str = "rank-killed") -> Story:
        losers = ({"action": "watch", "price_gpu_h": None, "why_not": "cannot go on"},) if automatic else ()
        return self._add(
            records.Decided(
                at=START + at,
                job=self.job,
                incident=self.incident,
                decision=decision,
                reason=f"the runbook {runbook} says {decision}",
                price_gpu_h=0.01,
                alternatives=losers,
                runbook=runbook,
                policy_hash="abc",
                automatic=automatic,
            )
        )

    def close(self, at: float, outcome: str = "regained", lost_steps: int | None = 7) -> Story:
        if outcome == "regained":
            self._add(records.StepReached(START + at, self.job, self.generation, 47))
        after = self.generation - 1 if outcome == "regained" else None
        return self._add(records.IncidentClosed(START + at, self.job, self.incident, outcome, lost_steps, after))

    def move(self, at: float, now: str, why: str = "") -> Story:
        if now == self.state:
            return self
        self._add(records.JobMoved(START + at, self.job, self.state, now, why))
        self.state = now
        return self

    def killed(self, fault: float, opened: float, decided: float, training: float, regained: float) -> Story:
        """A whole incident, as after the kill of a rank."""
        self.open(opened, fault).look(decided).decide(decided).plan(decided, self.incident, 40)
        return self.run((decided + training) / 2).train(training, 41).close(regained)

    def _effect(self, at: float, name: str, incident: str | None, **args: Any) -> Story:
        self.effects += 1
        return self._add(records.EffectRequested(START + at, self.job, self._id(name), name, dict(args), incident))

    def _done(self, at: float, name: str, result: dict[str, Any]) -> Story:
        effect = next(
            r.effect for r in reversed(self.rows) if isinstance(r, records.EffectRequested) and r.name == name
        )
        return self._add(records.EffectDone(START + at, self.job, effect, True, result))

    def _id(self, name: str) -> str:
        return f"{self.job}-e{self.effects}"

    def _add(self, row: records.Row) -> Story:
        self.rows.append(row)
        return self


def observation(at: float, node: str, kind: str, text: str, generation: int) -> spoken.Observation:
    return spoken.Observation(1, kind, "error", START + at, node, text, "llama", generation)
