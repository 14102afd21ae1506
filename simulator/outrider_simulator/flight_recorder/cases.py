"""Whole cases from a seed: a job of some mesh, a fault or none, every rank's dump, and what is true.

Flow: make(seed) -> Case; write(case, folder) -> `rank_<N>` files and the truth as JSON. A case whose fault
does not bring the job to a stop is thrown away and another is drawn, so every hang is a state that a real job could be
in. The truth names who was changed; ``identifiable`` says whether the dumps that were kept must tell it:
"yes"; "maybe" where innocent ranks look the same or telling dumps are lost, so that `unknown` is a good answer too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from outrider_simulator.flight_recorder import encoding, entries, execute, faults, program
from outrider_simulator.flight_recorder import layout as layouts

START_NS: Final = 1_795_000_000_000_000_000
PREFIX: Final = "rank_"
LOST: Final = 4  # dumps that a case with lost dumps lacks
NAMES: Final = (
    *("healthy", "idle", "link", "two", "lost", "slow-host", "slow-device", "killed", "killed-node"),
    *("stuck-tp", "stuck-cp", "stuck-pp", "stuck-dp", "stuck-world", "stuck-embedding", "stuck-ep"),
    *("wrong-op", "wrong-size", "wrong-dtype", "skipped", "extra"),
    *("no-send", "no-recv", "both-receive", "swapped", "device-late", "device-endless"),
)
DESCRIPTIONS: Final = ("axis", "mesh", "mesh", "megatron", "undefined")
_TRIES: Final = 60


@dataclass(frozen=True)
class Truth:
    """What is true of a case.

    ``kinds``: words for it that fit, the most fitting first. ``culprits``: who was changed and took effect;
    ``allowed``: also those whose change lies behind another and may or may not be seen yet. ``where``: the operation at
    which the first fault shows. ``lost``: ranks without a dump.
    """

    fault: str
    kinds: tuple[str, ...]
    culprits: tuple[int, ...]
    allowed: tuple[int, ...]
    identifiable: str
    where: dict[str, Any] | None
    findings: tuple[dict[str, Any], ...]
    lost: tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One case. ``settings`` by rank; ``at`` is when dumps are taken, in seconds from the start of the run."""

    seed: int
    truth: Truth
    run: execute.Run
    settings: Sequence[entries.Settings]
    recorder: entries.Recorder
    at: Sequence[float]

    @property
    def mesh(self) -> str:
        """The mesh as text."""
        return str(self.run.plan.layout.mesh)

    def dumps(self) -> Iterator[tuple[int, bytes]]:
        """Rank and bytes of every dump that was not lost."""
        for rank in range(self.run.plan.layout.world):
            if rank not in self.truth.lost:
                dump = self.recorder.dump(rank, self.settings[rank], self.at[rank])
                yield rank, encoding.encode(dump)

    def document(self) -> dict[str, Any]:
        """The truth, and how the case was made, for JSON."""
        plan = self.run.plan
        shown = dataclasses.asdict(self.settings[0])
        versions = sorted({settings.version for settings in self.settings})
        return {
            "seed": self.seed,
            "mesh": self.mesh,
            "ranks": plan.layout.world,
            **dataclasses.asdict(self.truth),
            "settings": shown | {"versions": versions, "ahead": plan.ahead, "steps_before": plan.first_step},
        }


def write(case: Case, folder: Path) -> None:
    """Files `rank_<N>` in `folder/dumps`, with the time of the dump as theirs, and `folder/truth.json`."""
    place = folder / "dumps"
    place.mkdir(parents=True, exist_ok=True)
    late = max(rank.time for rank in case.run.ranks) + 600.0
    with execute.no_collector():
        for rank, written in case.dumps():
            path = place / f"{PREFIX}{rank}"
            path.write_bytes(written)
            os.utime(path, ns=(0, START_NS + int(min(case.at[rank], late) * 1e9)))
    (folder / "truth.json").write_text(json.dumps(case.document()))


def make(
    seed: int, ranks_max: int = 1024, name: str = "", settings: entries.Settings | None = None, mesh: str = ""
) -> Case:
    """The case of a seed. ``name`` picks the fault (one of NAMES), ``settings`` how all ranks record.

    ``mesh`` (such as ``dp=2,pp=2,cp=1,tp=2``) is drawn when it is empty; a job on a given one is plain, without bundles
    or an interleaved pipeline, and has experts only where the fault needs them. Raises ValueError where no job of up to
    ``ranks_max`` ranks, or of this mesh, can have the fault.
    """
    chance = random.Random(seed)
    name = name or chance.choice(NAMES)
    for _ in range(_TRIES):
        job, plan = _job(chance, mesh or _mesh(chance, ranks_max), name, not mesh)
        made = _attempt(name, job, plan)
        if made is not None:
            run, truth = made
            each = [settings] * job.layout.world if settings else _settings(chance, job, name)
            truth = dataclasses.replace(truth, identifiable=_identifiable(truth, run, each))
            # Hosts that agree on the time, and some that do not.
            apart = 0.002 if mesh else chance.choice((0.002, 0.002, 0.002, 1.0))
            clocks = {node: chance.gauss(0, apart) for node in range(job.layout.world)}
            recorder = entries.Recorder(run, START_NS, clocks)
            return Case(seed, truth, run, each, recorder, _moments(name, chance, run))
    raise ValueError(f"no job for the fault {name!r} in {_TRIES} tries of seed {seed} with at most {ranks_max} ranks")


def _mesh(chance: random.Random, ranks_max: int) -> str:
    """A mesh of 16 to ``ranks_max`` ranks, small ones more often, in any order of its axes."""
    while True:
        sizes = {
            "pp": chance.choice((1, 2, 2, 3, 4, 4, 8, 16)),
            "cp": chance.choice((1, 1, 2, 2, 4)),
            "tp": chance.choice((1, 2, 2, 4, 8)),
            "dp": chance.choice((1, 2, 2, 3, 4, 8, 16)),
        }
        world = sizes["pp"] * sizes["cp"] * sizes["tp"] * sizes["dp"]
        if 16 <= world <= ranks_max and chance.random() < max(0.15, 64 / world):
            break
    order = chance.choice((["dp", "pp", "cp", "tp"], ["pp", "dp", "cp", "tp"], chance.sample(sorted(sizes), 4)))
    return ",".join(f"{axis}={sizes[axis]}" for axis in order)


def _job(chance: random.Random, mesh: str, name: str, wide: bool) -> tuple[faults.Job, execute.Plan]:
    """How the job on a mesh is written and made; ``wide`` with experts, bundles and interleaving now and then."""
    naming, words = chance.choice(layouts.NAMINGS), chance.choice(DESCRIPTIONS if wide else DESCRIPTIONS[1:])
    embedding, node = chance.random() < 0.7, chance.choice((4, 8))
    experts = chance.choice((1, 1, 1, 2, 4)) if wide else 1
    if name == "stuck-ep":
        experts = chance.choice((2, 4))
    model = wide and chance.random() < 0.25
    layout = layouts.lay_out(mesh, naming, words, embedding, node, experts, model)
    in_line = layout.size("pp")
    interleaves = wide and 1 < in_line <= 4 and chance.random() < 0.25
    layers = chance.choice((1, 1, 2))
    microbatches = chance.choice((2, 3, 4)) if in_line < 8 else chance.choice((2, 4))
    schedule = chance.choice(("1f1b", "1f1b", "gpipe"))
    shape = program.Shape(
        layers=layers,
        microbatches=in_line if interleaves else microbatches,
        schedule="interleaved" if interleaves else schedule,
        batched=chance.random() < 0.6,
        sequence=chance.random() < 0.7,
        ring=chance.random() < 0.5,
        sharded=chance.random() < 0.7,
        barrier=chance.random() < 0.3,
        old_names=chance.random() < 0.7,
        bundled=wide and chance.random() < 0.15,
    )
    stages = [program.step(layout, shape, stage) for stage in range(in_line)]
    plan = execute.Plan(
        layout,
        stages,
        steps=5,
        ahead=chance.choice((0, 2, 8, 24, 64)),
        first_step=chance.choice((0, 3, 12, 30)),
        seed=chance.randrange(2**31),
    )
    return faults.Job(layout, stages, chance), plan


def _attempt(name: str, job: faults.Job, plan: execute.Plan) -> tuple[execute.Run, Truth] | None:
    """One execution of the fault, or None where this job cannot have it or does not stop by it."""
    if name in ("healthy", "idle", "slow-host", "slow-device"):
        return _moving(name, job, plan)
    chosen = _choose(name, job)
    if not chosen:
        return None
    run = execute.Run(faults.apply(plan, chosen))
    if not run.blocked:
        return None
    seen = [faults.reached(run, fault) for fault in chosen]
    if not seen[0][1] or not all(host for host, _ in seen):
        return None
    effective = [fault for fault, (_, device) in zip(chosen, seen, strict=True) if device]
    culprits = sorted(fault.rank for fault in effective if fault.blamed)
    allowed = sorted(fault.rank for fault in chosen if fault.blamed)
    found = tuple(_finding(fault, run) for fault in effective)
    lost = _lost(name, job, chosen)
    kinds = tuple(dict.fromkeys(kind for fault in effective for kind in fault.kinds))
    truth = Truth(chosen[0].name, kinds, tuple(culprits), tuple(allowed), "yes", found[0], found, lost)
    return run, dataclasses.replace(truth, fault=name if name in ("two", "lost", "killed-node") else truth.fault)


def _choose(name: str, job: faults.Job) -> list[faults.Fault]:
    """The faults of a case; none where the job has no place for them."""
    single = {"killed-node": "killed", "lost": job.chance.choice(("stuck-tp", "stuck-pp", "wrong-size", "stuck-dp"))}
    data = {"stuck-dp": "stuck-dp_cp"} if any(group.kind == "dp_cp" for group in job.layout.groups) else {}
    if name == "two":
        kinds = ("stuck-tp", "stuck-pp", "stuck-dp", "wrong-size", "wrong-op", "wrong-dtype")
        names = [job.chance.choice(kinds) for _ in range(2)]
    else:
        names = [single.get(name, name)]
    made = [faults.FAULTS[data.get(word, word)](job) for word in names]
    found = [fault for fault in made if fault is not None]
    apart = len({fault.rank for fault in found}) == len(names) and len({fault.group for fault in found}) == len(names)
    return found if apart else []


def _lost(name: str, job: faults.Job, chosen: Sequence[faults.Fault]) -> tuple[int, ...]:
    gone = {fault.rank for fault in chosen if not fault.dumps}
    if name == "killed-node":
        node = job.layout.node(chosen[0].rank)
        gone |= {rank for rank in range(job.layout.world) if job.layout.node(rank) == node}
    if name == "lost":
        gone |= set(job.chance.sample(range(job.layout.world), LOST))
    return tuple(sorted(gone))


def _moving(name: str, job: faults.Job, plan: execute.Plan) -> tuple[execute.Run, Truth]:
    """A job that runs on, with one slow rank or none."""
    rank = job.chance.randrange(job.layout.world)
    if name == "slow-host":
        plan = dataclasses.replace(plan, slow_host={rank: job.chance.uniform(200, 800)})
    if name == "slow-device":
        plan = dataclasses.replace(plan, slow_device={rank: job.chance.uniform(10, 40)})
    run = execute.Run(plan)
    if any(not each.ended for each in run.ranks):
        raise AssertionError(f"a healthy job stands still: {plan.layout.mesh}, seed {plan.seed}")
    if not name.startswith("slow"):
        return run, Truth(name, ("none",), (), (), "yes", None, (), ())
    finding = {"kind": "straggler", "culprits": [rank], "group": None, "op": None}
    kinds = ("straggler", "rank-missing")
    return run, Truth(name, kinds, (rank,), (rank,), "yes", None, (finding,), ())


def _finding(fault: faults.Fault, run: execute.Run) -> dict[str, Any]:
    """What one fault shows as, in the words of the truth."""
    lines = run.ranks[fault.rank].calls[: fault.point[1]]
    before = sum(call.kind == fault.group.kind and call.what == program.COLLECTIVE for call in lines)
    each = execute.per_step(run.ranks[fault.rank].calls)[0][fault.group.kind][0]
    seq = each * (run.plan.first_step + fault.point[0]) + before + (not fault.pair)
    return {
        "fault": fault.name,
        "kind": fault.kinds[0],
        "culprits": [fault.rank] if fault.blamed else [],
        "group": fault.group.name,
        "description": fault.group.description,
        "ranks": list(fault.group.ranks),
        "op": fault.op,
        "collective_seq_id": seq,
    }


def _settings(chance: random.Random, job: faults.Job, name: str) -> list[entries.Settings]:
    """How the ranks record; now and then releases are mixed, or JSON is all there is."""
    world = job.layout.world
    bundled = any(call.members for lines in job.stages for call in lines)
    versions = ("2.7", "2.9", "2.10") if bundled else ("2.3", "2.4", "2.7", "2.9", "2.10")
    one = entries.Settings(
        version=chance.choice((*versions, "2.10", "2.10")),
        ring=chance.choice((2000, 300, 300, 64)),
        form="json" if chance.random() < 0.12 else "pickle",
        stacks=chance.random() < 0.5,
        timing=chance.random() < 0.4,
        active_only=chance.random() < 0.15 and not name.startswith("slow"),
        told_members=chance.random() < 0.2,
    )
    if chance.random() < 0.06:
        return [dataclasses.replace(one, version=chance.choice(versions)) for _ in range(world)]
    return [one] * world


def _moments(name: str, chance: random.Random, run: execute.Run) -> list[float]:
    """When each rank dumps: a stopped job long after; a moving one at about the same moment of its later steps."""
    world = len(run.ranks)
    if name == "idle":  # between two steps, with everything over
        return [entries.FOREVER] * world
    if name not in ("healthy", "slow-host", "slow-device"):
        return [entries.FOREVER] * world
    begins, ends = [], []
    for rank in run.ranks:
        begins.append(next(record.created for record in rank.records if record.point[0] == 2))
        ends.append(max(record.done or 0.0 for record in rank.records if record.point[0] == 3))
    moment = chance.uniform(max(begins), min(ends))
    return [moment + chance.uniform(0.0, 0.005) for _ in range(world)]


def _identifiable(truth: Truth, run: execute.Run, settings: Sequence[entries.Settings]) -> str:
    """Whether the dumps that were kept must tell who it was."""
    if not truth.culprits:
        return "maybe" if truth.fault == "healthy" else "yes"
    one, lost = settings[0], set(truth.lost)
    where = truth.where or {}
    members = set(where.get("ranks", ()))
    alike = len(run.ranks) // dict(run.plan.layout.mesh.axes)["pp"]  # ranks of the same place on the pipeline
    checks = (
        truth.fault == "device-late" and not one.timing,
        truth.fault == "slow-device" and not (one.timing and one.ring > 64),
        truth.fault == "slow-host" and (one.ring == 64 or one.active_only),
        truth.fault in ("skipped", "extra", "no-send", "no-recv") and (one.ring == 64 or one.active_only),
        truth.fault == "extra" and run.plan.ahead > 8,
        truth.fault == "device-endless" and len(members) == 2 and not one.timing,
        truth.fault.startswith(("wrong", "skipped", "extra", "both", "p2p", "group", "no-")) and alike == len(members),
        # Of two who differ the finished calls of other groups tell who is right, and those were left out.
        truth.fault.startswith("wrong") and len(members) == 2 and (alike <= 2 or one.active_only),
        truth.fault in ("both-receive", "p2p-order") and one.active_only,
        truth.fault.startswith(("both", "p2p", "group", "no-")) and alike < 3,
        truth.fault in ("two",) and one.active_only,
        bool(lost & members) and lost != set(truth.culprits),
        len(lost) > 1 and bool(lost & set(truth.culprits)),
        any(_is_forgotten(run.ranks[rank], settings[rank].ring) for rank in range(len(run.ranks))),
    )
    return "maybe" if any(checks) else "yes"


def _is_forgotten(rank: execute.Rank, ring: int) -> bool:
    """The host went on for so long that its ring no longer holds what it was the first to wait in."""
    began = next((record for record in rank.records if record.done is None), None)
    return began is not None and rank.next_record - began.record > ring
