"""``outrider demo``: a real 4D-parallel job on this machine, real faults, and the proof that nothing was lost by them.

The job trains under supervision on simulated hosts while faults are injected at seeded moments; then the same job
trains again plainly, without supervision and faults, and losses and gradient norms are compared bit for bit.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outrider import mesh as mesh_module
from outrider import places, vocabulary
from outrider_cli import demo_faults, demo_job, errors, parsing, processes, run, serve, views
from outrider_controller.core import jobs

if TYPE_CHECKING:
    from outrider_cli import supervision

MESH_DEFAULT: Final = "dp=2,pp=2,cp=1,tp=2"
STEPS_DEFAULT: Final = 40
CHECKPOINT_EVERY_MAX: Final = 5
RANKS_MAX: Final = 64  # of one machine that has to run all of them
SPARES: Final = 1
FOLDER: Final = "demo"  # within the state directory: checkpoints, metrics and the reference
STEPS_NAMED_MAX: Final = 10
DEMOS_KEPT_MAX: Final = 5  # fresh state directories of past demos, to be looked at with status and incidents
EXIT_SIGNALLED: Final = 128
EXAMPLES: Final = """\
examples:
  outrider demo                                   8 ranks on two simulated hosts and a spare; a kill and a lost host
  outrider demo --mesh dp=2,pp=2,cp=2,tp=2        all four axes, 16 ranks
  outrider demo --faults none --headless          no faults; those from outside are healed all the same
  outrider demo --faults kill --json report.json

While it runs, `outrider status --state DIR` and `outrider incidents --state DIR` show it; DIR is said at the start.
exit status: 0 completed with equal bits, 1 completed otherwise, 2 it could not be done
"""

Json = dict[str, Any]


def add_to(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "demo",
        help="train a small 4D-parallel job here and let faults hit it",
        description="Train a small Llama in 4D on simulated hosts, inject faults, come back by itself, and\n"
        "compare every bit with an uninterrupted run.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("--mesh", default=MESH_DEFAULT, metavar="MESH", help="outermost axis first (default %(default)s)")
    add(
        "--nodes",
        type=parsing.at_least(1),
        default=2,
        metavar="N",
        help="simulated hosts, and one spare beside them (default %(default)s)",
    )
    add(
        "--steps",
        type=parsing.at_least(1),
        default=STEPS_DEFAULT,
        metavar="N",
        help="steps to train (default %(default)s)",
    )
    add(
        "--faults",
        default=",".join(vocabulary.DEMO_FAULTS_READY),
        metavar="LIST|none",
        help="each is injected once (default %(default)s)",
    )
    add(
        "--seed",
        type=parsing.at_least(0),
        default=0,
        metavar="N",
        help="of weights, data and the faults' moments (default %(default)s)",
    )
    add("--headless", action="store_true", help="open no browser")
    add("--json", metavar="FILE", help="write the report there")
    add("--state", metavar="DIR", help="state directory (default: a new one)")
    parser.set_defaults(handler=demo)


@dataclass
class _Injector:
    """Injects each planned fault once, when its moment has come and the job is well."""

    faults: list[demo_faults.Fault]
    injected: list[Json] = field(default_factory=list)
    due_at: float | None = None

    async def __call__(self, under: supervision.Supervision, status: Json) -> None:
        """Called with every status."""
        if not self.faults or status["state"] != "training" or status["open_incident"]:
            return
        fault = self.faults[0]
        if status["step"] is None or status["step"] < fault.step:
            return
        if self.due_at is None:
            self.due_at = time.monotonic() + fault.delay_s
        if time.monotonic() >= self.due_at:
            self._inject(under, fault, status)

    def _inject(self, under: supervision.Supervision, fault: demo_faults.Fault, status: Json) -> None:
        target = status["ranks"][fault.rank]
        if target["pid"] is None or not processes.alive(target["pid"]):
            return  # its first mark is still on its way
        self.faults.pop(0)
        self.due_at = None
        under.say(
            f"FAULT {fault.kind} after step {status['step']}: {fault.words} ({target['node']}, pid {target['pid']})"
        )
        if fault.kind == "node":
            under.cluster.vanish(target["node"])
        else:
            processes.send(target["pid"], signal.SIGKILL)
        found = {"fault": fault.kind, "at": time.time(), "step": status["step"]}
        self.injected.append(found | {key: target[key] for key in ("rank", "node", "pid")})


def demo(options: argparse.Namespace) -> int:
    """Run the demo."""
    job = _job(options)
    faults = demo_faults.plan(
        demo_faults.parse(options.faults), job.seed, job.steps, job.checkpoint_every, job.mesh.world_size
    )
    _check_json_file(options.json)
    parts = run.parts()
    if importlib.util.find_spec("torch") is None:
        raise errors.CommandError("the demo trains with torch, which is not installed: pip install 'outrider[job]'")
    state = serve.prepared_state(options.state) if options.state else _fresh_state()
    plan = parts.Plan(spec=_spec(job, options.nodes, state), state=state, spares=SPARES, shown=())
    _clear_what_is_over(plan)
    injector = _Injector(faults)
    under = parts.Supervision(plan, injector)
    _introduce(under, job, options)
    outcome = asyncio.run(under.run())
    if options.state is None:
        under.cluster.forget()
    if outcome.state not in ("completed", "failed") or outcome.code >= EXIT_SIGNALLED:
        return int(outcome.code)
    compared = _compare(under, job, state)
    return _conclude(options, job, outcome, compared, injector, state)


def _job(options: argparse.Namespace) -> demo_job.DemoJob:
    try:
        mesh = mesh_module.parse(options.mesh)
    except mesh_module.MeshError as error:
        raise errors.CommandError(f"--mesh: {error}") from error
    if mesh.world_size > RANKS_MAX:
        raise errors.CommandError(f"--mesh {mesh}: has {mesh.world_size} ranks; the demo runs at most {RANKS_MAX} here")
    if mesh.world_size % options.nodes:
        raise errors.CommandError(
            f"--nodes {options.nodes}: cannot share the {mesh.world_size} ranks of {mesh} evenly; give a divisor of it"
        )
    every = max(1, min(CHECKPOINT_EVERY_MAX, options.steps // 4))
    return demo_job.DemoJob(mesh, options.steps, options.seed, every)


def _spec(job: demo_job.DemoJob, nodes: int, state: Path) -> jobs.JobSpec:
    folder = state / FOLDER
    document = {
        "name": "demo",
        "command": job.command(folder / "checkpoints", folder / "metrics.jsonl"),
        "nodes": nodes,
        "ranks_per_node": job.mesh.world_size // nodes,
        "mesh": str(job.mesh),
        "checkpoint_dir": str(folder / "checkpoints"),
        "cwd": str(state),
        "attended": False,
    }
    return jobs.parse(document)


def _fresh_state() -> Path:
    base = serve.prepared_state(None)
    old = sorted(base.glob("demo-*"), key=lambda path: path.stat().st_mtime)
    for folder in old[: 1 - DEMOS_KEPT_MAX]:
        # One that was cut off still says where its controller was; it may be taken up again.
        if not (folder / "controller.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
    try:
        return places.make_private(Path(tempfile.mkdtemp(prefix="demo-", dir=base)))
    except OSError as error:
        raise errors.CommandError(f"{base}: no directory for the demo can be made in it: {error.strerror}") from error


def _clear_what_is_over(plan: supervision.Plan) -> None:
    """A demo that was cut off is taken up again; of one that is over, nothing may be resumed or compared."""
    from outrider_cli import unfinished

    if not unfinished.look(plan.state, plan.spec).adopt:
        shutil.rmtree(plan.state / FOLDER, ignore_errors=True)


def _check_json_file(name: str | None) -> None:
    if name is None:
        return
    path = Path(name).absolute()
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise errors.CommandError(f"--json {name}: cannot be written; give a file in a directory that exists")


def _introduce(under: supervision.Supervision, job: demo_job.DemoJob, options: argparse.Namespace) -> None:
    state = under.plan.state
    under.say(
        f"{job.mesh.world_size} ranks ({job.mesh}) on {options.nodes} simulated hosts of this machine, {SPARES} spare "
        f"beside them; {job.steps} steps, a checkpoint every {job.checkpoint_every}; faults: {options.faults}"
    )
    under.say(f"state directory {state}; while it runs: outrider status --state {state}")
    if not options.headless:
        under.say("there is no page to open yet, it comes with the dashboard; this terminal shows everything")


def _compare(under: supervision.Supervision, job: demo_job.DemoJob, state: Path) -> demo_job.Comparison:
    under.say("now the reference: the same job and seed, without supervision and without faults")
    reference = state / FOLDER / "reference"
    shutil.rmtree(reference, ignore_errors=True)
    metrics = demo_job.run_reference(job, reference, under.line.show)
    under.line.clear()
    return demo_job.compare(state / FOLDER / "metrics.jsonl", metrics, job.steps)


def _conclude(
    options: argparse.Namespace,
    job: demo_job.DemoJob,
    outcome: supervision.Outcome,
    compared: demo_job.Comparison,
    injector: _Injector,
    state: Path,
) -> int:
    same_mesh = outcome.mesh is None or mesh_module.parse(outcome.mesh) == job.mesh
    document = outcome.report | {
        "loss_equal_to_uninterrupted": compared.equal if same_mesh else None,
        "simulated_hosts": True,
        "mesh": str(job.mesh),
        "steps": job.steps,
        "seed": job.seed,
        "state_dir": str(state),
        "faults": injector.injected,
        "faults_not_injected": [fault.kind for fault in injector.faults],
        "compared": dataclasses.asdict(compared),
    }
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    print(views.report(document))
    print(f"{outcome.sentence}.")
    for fault in injector.faults:
        print(f"The fault {fault.kind} was not injected: the job was not well again before its last steps.")
    print(_statement(compared, same_mesh))
    well = outcome.state == "completed" and not injector.faults and (compared.equal or not same_mesh)
    return vocabulary.EXIT_DONE if well else vocabulary.EXIT_PROBLEM


def _statement(compared: demo_job.Comparison, same_mesh: bool) -> str:
    if not same_mesh:
        return "A restart changed the mesh, so losses are not compared bit for bit."
    if compared.equal:
        again = compared.lines - compared.steps
        lost = f"{again} lost steps were trained again and gave the same bits" if again else "no step was trained twice"
        return (
            f"Loss and gradient norm of all {compared.steps} steps equal the uninterrupted run bit for bit; {lost}. "
            "The hosts were simulated on one machine."
        )
    which = [f"different at steps {_some(compared.different)}"] if compared.different else []
    which += [f"missing steps {_some(compared.missing)}"] if compared.missing else []
    return f"Loss and gradient norm are NOT those of the uninterrupted run: {', '.join(which)}."


def _some(steps: tuple[int, ...]) -> str:
    return ", ".join(map(str, steps[:STEPS_NAMED_MAX])) + (" ..." if len(steps) > STEPS_NAMED_MAX else "")
