"""A small cluster under a virtual clock that drives the real core, and refuses worlds that could not exist.

It stands for the shell, the launcher and the nodes: facts go in, conclusions come out, effects are answered as real
nodes would answer them. After every fact the invariants of the core are asserted, and the state is rebuilt from the
rows alone and compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from outrider import records as spoken
from outrider_controller import runbook_files
from outrider_controller.core import decide, evolve, jobs, records
from outrider_controller.core import policy as policies
from outrider_controller.core import state as states
from tests.core import hanging

START = 1_800_000_000.0
CUDA_ERROR: dict[str, Any] = {
    "code": 1,
    "error_type": "RuntimeError",
    "error_message": "CUDA error: unspecified launch failure",
}
LOST_PEER = (
    "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4242"
)


class ImpossibleWorld(AssertionError):
    """The test asked for something that could not happen."""


@dataclass
class World:
    """``nodes`` x ``ranks_per_node`` ranks and ``spares`` idle nodes; one job named ``job``."""

    nodes: int = 2
    ranks_per_node: int = 2
    spares: int = 1
    attended: bool = True
    speaks: bool = True
    max_restarts: int = -1
    policy: policies.Policy = field(default_factory=runbook_files.load)
    now: float = START
    step: int = 0
    state: states.State = field(default_factory=states.State)
    rows: list[records.Row] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)
    keep: int = 0  # checkpoint_keep of the job
    checkpoint_file: str = "__3_0.distcp"  # the file of a checkpoint that damage is done to
    damaged: dict[str, tuple[str, str]] = field(default_factory=dict)  # path -> kind and text of what is wrong with it
    alive: dict[int, str] = field(default_factory=dict)  # rank -> node, of the running attempt
    silent: set[str] = field(default_factory=set)
    stale: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)  # cut off node -> generation, ranks
    seq: int = 0
    unreadable: str = ""  # set: find-checkpoint fails with these words
    start_fails: str = ""  # set: start-attempt fails with these words
    gpus: dict[str, str] = field(default_factory=dict)  # the GPU of each rank, where its node numbers them anew
    start_seen: bool = True  # the keeper itself says so too (no such program), not only the node's answer (no room)
    effects_seen: dict[str, str] = field(default_factory=dict)
    mute: bool = False  # effects are not answered while set
    hung: dict[int, str] = field(default_factory=dict)  # rank -> a word of hanging.HOW
    found: dict[str, dict[tuple[str, str, str], spoken.Observation]] = field(default_factory=dict)  # not over, by node
    look_fails: str = ""  # set: capture-evidence fails with these words
    recorded: dict[str, Any] | None = None  # set: what the ranks' flight records come to
    dumped: dict[str, Any] | None = None  # set: the same of ranks that have given up by themselves

    name = "job"

    # --- the world's moves
    # ---------------------------------------------------------------------------------------------

    def submit(self) -> World:
        """All nodes join, then the job is submitted and its first attempt begins."""
        for index in range(self.nodes + self.spares):
            self.join(f"n{index}")
        return self.submit_only()

    def submit_only(self) -> World:
        """The job is submitted to whatever nodes there are."""
        spec = jobs.JobSpec(
            name=self.name,
            command=("python", "train.py"),
            nodes=self.nodes,
            ranks_per_node=self.ranks_per_node,
            attended=self.attended,
            max_restarts=self.max_restarts,
            checkpoint_keep=self.keep,
        )
        return self.feed(records.JobSubmitted(self.now, self.name, jobs.document(spec)))

    def join(self, node: str, holds: bool = False, boot: str = "b1") -> World:
        """An agent says hello; ``holds``: its keeper still runs the current attempt's ranks."""
        self.silent.discard(node)
        keepers: tuple[spoken.KeeperState, ...] = ()
        attempt = self.job.attempt if self.name in self.state.jobs else None
        if holds:
            held = tuple(r for r, n in self.alive.items() if n == node)
            if attempt is None or not (held or node in self.stale):
                raise ImpossibleWorld(f"{node} holds no living rank")
            generation, ranks = self.stale.get(node, (attempt.generation, held))
            states_ = tuple(spoken.RankState(r, r % self.ranks_per_node, 100 + r, True) for r in ranks)
            keepers = (spoken.KeeperState(self.name, generation, attempt.attempt, "running", True, states_),)
        else:
            self.alive = {r: n for r, n in self.alive.items() if n != node}
            self.stale.pop(node, None)
        steps = {self.name: self.step} if self.step else {}
        told = tuple(self.found.get(node, {}).values())
        return self.feed(
            records.NodeJoined(self.now, node, boot, "127.0.0.1", self.ranks_per_node, True, True, keepers, steps, told)
        )

    def train(self, to: int, save_every: int = 0) -> World:
        """The running attempt finishes steps up to ``to``, one a second."""
        attempt = self.job.attempt
        if attempt is None or len(self.alive) != self.nodes * self.ranks_per_node:
            raise ImpossibleWorld("a synchronous job trains with all its ranks or not at all")
        if any(how != "works" for how in self.hung.values()):
            raise ImpossibleWorld(f"a synchronous job waits for each of its ranks, and {self.hung} do not go on")
        if self.speaks and attempt.attached_at is None:
            self.feed(records.Attached(self.now, self.name, attempt.generation))
        for step in range(attempt.resume_step + 1 if attempt.training_at is None else self.step + 1, to + 1):
            self.now += 1.0
            self.step = step
            self._finished(step, attempt)
            if save_every and step % save_every == 0:
                self.save(step)
        return self

    def save(self, step: int) -> World:
        """The running attempt commits a checkpoint; one of the same step is replaced."""
        attempt = self.job.attempt
        assert attempt is not None
        path = f"/ckpt/step-{step}"
        self.damaged.pop(path, None)
        self.checkpoints = [*(s for s in self.checkpoints if s != step), step]
        return self.feed(records.CheckpointSaved(self.now, self.name, attempt.generation, step, path, 0.2))

    def damage(self, step: int, kind: str = "sha256", text: str = "is not what was written") -> World:
        """What lies on the disk of a checkpoint changes; nobody is told."""
        if step not in self.checkpoints:
            raise ImpossibleWorld(f"there is no checkpoint of step {step}")
        self.damaged[f"/ckpt/step-{step}"] = (kind, text)
        return self

    def nan(self, step: int, **more: Any) -> World:
        """A finished step has told a loss that is no number."""
        attempt = self.job.attempt
        if attempt is None or step > self.step or attempt.training_at is None:
            raise ImpossibleWorld(f"step {step} was not finished by this attempt")
        what = more.pop("what", ("loss=nan",))
        return self.feed(records.NotFinite(self.now, self.name, attempt.generation, step, what, **more))

    def _finished(self, step: int, attempt: states.Attempt) -> None:
        job = self.job
        if job.attempt is not None and job.attempt.training_at is None:
            self.feed(records.Training(self.now, self.name, attempt.generation, step))
        watch = self.job.watch_step
        if watch is not None and step >= watch:
            self.feed(records.StepReached(self.now, self.name, attempt.generation, step))

    def die(self, rank: int, echoes: bool = True, **end: Any) -> World:
        """A rank dies of its own; the others follow with a lost peer, 20 ms apart, unless ``echoes`` is False."""
        first = self.now
        self.mute = True
        self._exit(rank, **end)
        for order, other in enumerate(sorted(self.alive) if echoes else (), start=1):
            self.now = first + 0.02 * order
            if other in self.alive and self.hung.get(other) not in hanging.HUNG:
                self._exit(other, code=1, log_tail=LOST_PEER)
        return self.unmute()

    def _exit(self, rank: int, **end: Any) -> None:
        if rank not in self.alive:
            raise ImpossibleWorld(f"rank {rank} is not alive and cannot die")
        node = self.alive.pop(rank)
        self.hung.pop(rank, None)
        if node in self.silent:
            return
        attempt = self.job.attempt
        assert attempt is not None
        order = sum(n == node for n, _ in attempt.exits)
        values: dict[str, Any] = {"code": None, "signal": None, "asked": False, "step": self.step or None, **end}
        exit_ = spoken.RankExit(rank, rank % self.ranks_per_node, 100 + rank, order, at=self.now, **values)
        self.seq += 1
        how = exit_.signal or f"status {exit_.code}"
        seen = spoken.Observation(
            seq=self.seq,
            kind="rank-exited",
            severity="error",
            at=self.now,
            node=node,
            text=f"rank {rank} on {node} ended: {how}",
            job=self.name,
            generation=attempt.generation,
            rank=rank,
            evidence=vars(exit_).copy(),
        )
        self.feed(records.Observed(self.now, self.name, seen, self.step or None, 1.0))

    def observe(self, kind: str, node: str, text: str) -> World:
        """Any other observation about the current attempt."""
        attempt = self.job.attempt
        assert attempt is not None
        self.seq += 1
        seen = spoken.Observation(self.seq, kind, "error", self.now, node, text, self.name, attempt.generation)
        return self.feed(records.Observed(self.now, self.name, seen, self.step or None))

    def find(self, node: str, kind: str, device: str = "gpu0", **more: Any) -> World:
        """A node's agent finds something: grave, of hardware, and of no job. ``xid=79`` and the like are evidence."""
        fields = {"severity": "fatal", "recovery": "reboot", "at": self.now, "text": ""}
        fields |= {name: more.pop(name) for name in tuple(fields) if name in more}
        if node in self.silent or node not in self.state.nodes:
            raise ImpossibleWorld(f"{node} is not heard, and nothing that it finds")
        self.seq += 1
        fields["text"] = fields["text"] or f"{kind} {' '.join(map(str, more.values()))}".strip() + f" on {device}"
        seen = spoken.Observation(self.seq, kind, node=node, device=device, evidence=more, **fields)
        self.found.setdefault(node, {})[kind, device, str(more.get("xid", ""))] = seen
        return self._tell_finding(seen)

    def cleared(self, node: str) -> World:
        """Everything that was found of a node is over, and its agent says so."""
        for seen in self.found.pop(node, {}).values():
            self.seq += 1
            over = {"seq": self.seq, "severity": "info", "at": self.now, "evidence": {**seen.evidence, "cleared": True}}
            self._tell_finding(dataclasses.replace(seen, **over))
        return self

    def _tell_finding(self, seen: spoken.Observation) -> World:
        steps = {self.name: self.step} if self.step else {}
        return self.feed(records.NodeFound(self.now, seen.node, seen, steps, {self.name: 1.0}))

    def hang(self, rank: int, how: str) -> World:
        """From now on a living rank does what ``how`` says; its agent tells of one that is stopped."""
        if rank not in self.alive or how not in hanging.HOW:
            raise ImpossibleWorld(f"rank {rank} cannot be found to be {how!r}")
        was = self.hung.get(rank)
        self.hung[rank] = how
        if how == "stopped" and was != "stopped":
            self._told("rank-stopped", rank)
        return self

    def go_on(self, rank: int) -> World:
        """The rank does its work again."""
        if self.hung.pop(rank, None) == "stopped":
            self._told("rank-continued", rank)
        return self

    def _told(self, kind: str, rank: int) -> None:
        node, attempt = self.alive[rank], self.job.attempt
        assert attempt is not None
        if node in self.silent:
            return
        self.seq += 1
        about: dict[str, Any] = {"job": self.name, "generation": attempt.generation, "rank": rank}
        seen = spoken.Observation(self.seq, kind, "error", self.now, node, f"{kind} {rank}", **about)
        self.feed(records.Observed(self.now, self.name, seen, self.step or None, 1.0))

    def suspect(self, silent_s: float, act_s: float = 20.0, phase: str = "step") -> World:
        """The job gives no sign of progress for ``silent_s``, which is past its deadline."""
        attempt = self.job.attempt
        if attempt is None or attempt.running_at is None or attempt.stop_wanted:
            raise ImpossibleWorld("only a running attempt is suspected")
        if self.silent & set(attempt.placement):
            raise ImpossibleWorld("while a node is not heard nobody can tell whether the job is silent")
        since = self.now
        self.wait(silent_s)
        current = self.job.attempt
        if current is None or current.generation != attempt.generation or current.stop_wanted:
            return self  # something came of it meanwhile
        fact = records.Suspected(
            self.now, self.name, attempt.generation, phase, since, silent_s, act_s, "as usual", (), self.step or None
        )
        return self.feed(fact)

    def resume(self) -> World:
        """A suspected job gives a sign of progress."""
        attempt = self.job.attempt
        assert attempt is not None
        assert attempt.suspicion is not None
        silent_s = self.now - attempt.suspicion.since
        return self.feed(records.Resumed(self.now, self.name, attempt.generation, silent_s, self.step or None))

    def vanish(self, node: str) -> World:
        """A host goes: its agent falls silent, its ranks are gone, the others die of the loss."""
        self.silence(node)
        self.mute = True
        for rank in [r for r, n in self.alive.items() if n == node]:
            del self.alive[rank]
        for rank in sorted(self.alive):
            if rank in self.alive and self.hung.get(rank) not in hanging.HUNG:
                self.now += 0.02
                self._exit(rank, code=1, log_tail=LOST_PEER)
        return self.unmute()

    def unmute(self) -> World:
        """Answer the effects that have waited, oldest first, each under its own id."""
        self.mute = False
        for effect in self.job.pending:
            if effect.effect not in self.effects_seen:
                self.perform(effect)
        return self

    def silence(self, node: str) -> World:
        """An agent is not heard any more; its ranks, if any, go on."""
        self.silent.add(node)
        return self.feed(records.NodeSilent(self.now, node, self.now, {self.name: self.step} if self.step else {}))

    def finish(self) -> World:
        """Every rank ends with status 0."""
        for rank in sorted(self.alive):
            self._exit(rank, code=0)
        return self

    def ask(self, verb: str, node: str | None = None) -> World:
        """A person asks."""
        return self.feed(records.PersonAsked(self.now, "" if node else self.name, verb, "ada", node, self.step or None))

    def wait(self, seconds: float) -> World:
        """Time passes; timers that fall due fire in order."""
        end = self.now + seconds
        while True:
            due = sorted((at, t) for t, at in self.job.timers if at <= end) if self.name in self.state.jobs else []
            if not due:
                break
            self.now = max(self.now, due[0][0])
            self.feed(records.TimerFired(self.now, self.name, due[0][1], self.step or None))
        self.now = max(self.now, end)  # what was done meanwhile may have taken longer: no clock goes back
        return self

    # --- the machinery
    # -------------------------------------------------------------------------------------------------

    @property
    def job(self) -> states.JobState:
        """The job's state."""
        return self.state.jobs[self.name]

    def feed(self, fact: records.Fact) -> World:
        """One turn of the controller, then its effects."""
        conclusions = decide.decide(self.state, fact, self.policy)
        again = decide.decide(self.state, fact, self.policy)
        assert conclusions == again, "the core is a function"
        for row in (fact, *conclusions):
            self.rows.append(row)
            self.state = evolve.evolve(self.state, row)
        self._check()
        if not self.mute:
            for row in conclusions:
                if isinstance(row, records.EffectRequested):
                    self.perform(row)
        return self

    def perform(self, effect: records.EffectRequested) -> None:
        """Answer an effect as a launcher over these nodes would; a second time for the same id is refused."""
        if effect.effect in self.effects_seen:
            raise ImpossibleWorld(f"effect {effect.effect} was performed twice")
        self.effects_seen[effect.effect] = effect.name
        answers: dict[str, Callable[[records.EffectRequested], tuple[bool, dict[str, Any], str | None]]] = {
            "start-attempt": self._start,
            "stop-attempt": self._stop,
            "find-checkpoint": self._find,
            "verify-checkpoint": lambda effect: (True, self._verdict(effect.args["step"]), None),
            "prune-checkpoints": self._prune,
            "capture-evidence": self._capture,
        }
        ok, result, error = answers.get(effect.name, lambda _: (True, {}, None))(effect)
        self.feed(records.EffectDone(self.now, self.name, effect.effect, ok, result, error, self.step or None))
        if not ok and self.mute:
            self.unmute()

    def _capture(self, effect: records.EffectRequested) -> tuple[bool, dict[str, Any], str | None]:
        if self.look_fails:
            return False, {}, self.look_fails
        self.now += 0.5
        found = hanging.result(self.alive, self.hung, effect.args["placement"], self.silent)
        told = self.dumped if effect.incident else self.recorded
        return True, found | ({"flight_recorder": told} if told is not None else {}), None

    def _start(self, effect: records.EffectRequested) -> tuple[bool, dict[str, Any], str | None]:
        if self.start_fails:
            if self.start_seen:
                self.mute = True  # the node's answer comes before anything that the observation leads to
                self.observe("start-failed", effect.args["placement"][0], self.start_fails)
            return False, {}, self.start_fails
        for node in set(self.alive.values()) & self.silent:
            self.stale[node] = (effect.args["generation"] - 1, tuple(r for r, n in self.alive.items() if n == node))
        self.alive = {r: n for r, n in self.alive.items() if n not in self.silent}
        if self.alive or set(self.stale) & set(effect.args["placement"]):
            raise ImpossibleWorld("two attempts at once on one node")
        self.now += 1.0
        for index, node in enumerate(effect.args["placement"]):
            if node in self.silent:
                return False, {}, f"{node} is not connected"
            for local in range(self.ranks_per_node):
                self.alive[index * self.ranks_per_node + local] = node
        return True, {"warm": True, "pids": {}} | ({"gpus": self.gpus} if self.gpus else {}), None

    def _stop(self, effect: records.EffectRequested) -> tuple[bool, dict[str, Any], str | None]:
        self.now += 0.1
        reached = set(effect.args["placement"]) - self.silent
        for node in reached & set(self.stale):
            del self.stale[node]
        current = self.job.attempt is not None and self.job.attempt.generation == effect.args["generation"]
        for rank in sorted(self.alive) if current else ():
            if rank in self.alive and self.alive[rank] in reached:
                self._exit(rank, signal="SIGTERM", asked=True)
        unreached = [n for n in effect.args["placement"] if n in self.silent]
        return (
            True,
            {"stopped": [n for n in effect.args["placement"] if n not in unreached], "unreached": unreached},
            None,
        )

    def _find(self, effect: records.EffectRequested) -> tuple[bool, dict[str, Any], str | None]:
        if self.unreadable:
            return False, {}, self.unreadable
        args = effect.args
        rejected: list[dict[str, Any]] = []
        judged: list[dict[str, Any]] = []
        best: dict[str, Any] = {"path": "", "step": 0, "trust": ""}
        for step in sorted(self.checkpoints, reverse=True):
            path = f"/ckpt/step-{step}"
            if path in args["distrusted"]:
                rejected.append({"path": path, "step": step, "why": args["distrusted"][path]})
            elif args["before_step"] is not None and step >= args["before_step"]:
                rejected.append({"path": path, "step": step, "why": f"is not from before step {args['before_step']}"})
            else:
                verdict = self._verdict(step)
                judged.append(verdict)
                if verdict["trust"] != "rejected":
                    best = {"path": path, "step": step, "trust": verdict["trust"]}
                    break
                why = "; ".join(f"{p['file']}: {p['text']}" for p in verdict["problems"])
                rejected.append({"path": path, "step": step, "why": why})
        return True, {**best, "rejected": rejected, "judged": judged}, None

    def _verdict(self, step: int) -> dict[str, Any]:
        path = f"/ckpt/step-{step}"
        if step not in self.checkpoints:
            return {"path": path, "step": step, "gone": True}
        kind, text = self.damaged.get(path, ("", ""))
        problems = [{"file": self.checkpoint_file, "kind": kind, "text": text}] if kind else []
        print_ = f"{step}:{kind}"
        trust = "rejected" if kind else "hashed"
        return {"path": path, "step": step, "trust": trust, "fingerprint": print_, "tree": print_, "problems": problems}

    def _prune(self, effect: records.EffectRequested) -> tuple[bool, dict[str, Any], str | None]:
        kept = set(effect.args["protect"])
        rest = [step for step in sorted(self.checkpoints, reverse=True) if f"/ckpt/step-{step}" not in kept]
        gone = rest[max(0, effect.args["keep"] - len(kept)) :]
        self.checkpoints = [step for step in self.checkpoints if step not in gone]
        return True, {"removed": [f"/ckpt/step-{step}" for step in gone], "kept": sorted(kept)}, None

    def _check(self) -> None:
        assert evolve.evolve_all(states.State(), self.rows) == self.state, "state is evolve over the rows"
        opened = [r.incident for r in self.rows if isinstance(r, records.IncidentOpened)]
        closed = [r.incident for r in self.rows if isinstance(r, records.IncidentClosed)]
        assert len(opened) == len(set(opened)), "an incident is opened once"
        assert len(closed) == len(set(closed)), "an incident is closed once"
        assert set(closed) <= set(opened), "only an opened incident is closed"
        generations = [r.generation for r in self.rows if isinstance(r, records.AttemptPlanned)]
        assert generations == sorted(set(generations)), "a generation is used once"
        attempt = self.job.attempt if self.name in self.state.jobs else None
        if isinstance(self.rows[-1], records.EffectRequested) and self.rows[-1].name == "start-attempt" and attempt:
            bad = self.job.not_finite_step
            known = next((k for k in self.job.checkpoints if k.path == attempt.resume_path), None)
            assert known is None or not known.distrust, "a checkpoint that is distrusted is never loaded"
            assert attempt.resume_path not in self.damaged, "a checkpoint that was refused is never loaded"
            assert not attempt.resume_path or bad is None or attempt.resume_step < bad, "nothing after a NaN is loaded"
        effects = [r.effect for r in self.rows if isinstance(r, records.EffectRequested)]
        assert len(effects) == len(set(effects)), "an effect id is used once"

    # --- questions
    # -----------------------------------------------------------------------------------------------------

    def of(self, kind: type[Any]) -> list[Any]:
        """All rows of a kind, oldest first."""
        return [row for row in self.rows if isinstance(row, kind)]

    @property
    def cause(self) -> str:
        """Cause of the newest diagnosis."""
        return str(self.of(records.Diagnosed)[-1].cause)

    @property
    def decision(self) -> str:
        """The newest decision."""
        return str(self.of(records.Decided)[-1].decision)
