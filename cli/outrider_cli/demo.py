"""``outrider demo``: a real 4D-parallel job on this machine, real faults, and the proof that nothing was lost by them.

The job trains under supervision on simulated hosts while faults are injected at seeded moments; then the same job
trains again plainly, without supervision and faults, and losses and gradient norms are compared bit for bit. What the
controller, which was told of no fault, made of each is set beside what was really done.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outrider import mesh as mesh_module
from outrider import places, vocabulary
from outrider_cli import (
    cpu_peak,
    demo_faults,
    demo_findings,
    demo_injector,
    demo_job,
    demo_page,
    demo_worlds,
    errors,
    parsing,
    run,
    serve,
    views,
)
from outrider_controller.core import jobs

if TYPE_CHECKING:
    from outrider_cli import supervision

MESH_DEFAULT: Final = "dp=2,pp=2,cp=1,tp=2"
STEPS_DEFAULT: Final = 60
CHECKPOINT_EVERY_MAX: Final = 5
RANKS_MAX: Final = 64  # of one machine that has to run all of them
SPARES: Final = 1
FOLDER: Final = "demo"  # within the state directory: checkpoints, metrics and the reference
STEPS_NAMED_MAX: Final = 10
DEMOS_KEPT_MAX: Final = 5  # fresh state directories of past demos, to be looked at with status and incidents
EXIT_SIGNALLED: Final = 128
EXAMPLES: Final = """\
examples:
  outrider demo                                   8 ranks on two simulated hosts and a spare; every kind of fault
  outrider demo --mesh dp=2,pp=2,cp=2,tp=2        all four axes, 16 ranks
  outrider demo --faults none --headless          no faults; those from outside are healed all the same
  outrider demo --faults kill --json report.json
  outrider demo --faults gpu-lost,power-brake     on simulated GPUs (needs a C compiler)

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
        metavar="LIST|none",
        help=f"each is injected once (default {','.join(vocabulary.DEMO_FAULTS_PLAIN)}, as many as the steps have room "
        f"for; on simulated GPUs also {','.join(vocabulary.DEMO_FAULTS_SIMULATED)})",
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
class _Demo:
    """One demo, and what became of it."""

    options: argparse.Namespace
    job: demo_job.DemoJob
    state: Path
    peak_tflops: float | None  # of this machine's cores together
    injector: demo_injector.Injector
    page: demo_page.Page = field(default_factory=demo_page.Page)
    code: int = vocabulary.EXIT_COULD_NOT

    async def follow(self, under: supervision.Supervision, status: Json) -> None:
        """Called with every status of the job."""
        if not self.options.headless:
            self.page.open(under)
        await self.injector(under, status)

    async def end(self, under: supervision.Supervision, outcome: supervision.Outcome) -> None:
        """Called once the job is over, while the controller still answers."""
        cut_off = threading.Event()
        try:
            compared = await asyncio.to_thread(_compare, under, self, cut_off)
            self.code = _conclude(self, outcome, compared)
            await self.page.linger(under)
        finally:
            cut_off.set()
            await self.page.close()


def demo(options: argparse.Namespace) -> int:
    """Run the demo."""
    job = _job(options)
    faults = _faults(options, job)
    _check_json_file(options.json)
    parts = run.parts()
    if importlib.util.find_spec("torch") is None:
        raise errors.CommandError("the demo trains with torch, which is not installed: pip install 'outrider[job]'")
    state = serve.prepared_state(options.state) if options.state else _fresh_state()
    peak = cpu_peak.measured_tflops()
    plan = parts.Plan(spec=_spec(job, options.nodes, state, peak), state=state, spares=SPARES, shown=())
    _clear_what_is_over(plan)
    folder = state / FOLDER
    worlds = _worlds(faults, plan, folder)
    if worlds is not None:
        given = {host.node: tuple(worlds.options(host.node)) for host in plan.hosts()}
        plan = dataclasses.replace(plan, agent_options=given)
    injector = demo_injector.Injector(faults, folder / "checkpoints", folder / demo_job.FAULTS, worlds)
    this = _Demo(options, job, state, peak, injector)
    under = parts.Supervision(plan, this.follow, this.end)
    _introduce(under, this)
    outcome = asyncio.run(under.run())
    if options.state is None:
        under.cluster.forget()
    if outcome.state not in ("completed", "failed") or outcome.code >= EXIT_SIGNALLED:
        return int(outcome.code)
    return this.code


def _faults(options: argparse.Namespace, job: demo_job.DemoJob) -> list[demo_faults.Fault]:
    """The plan; without --faults as many kinds as find room, which is said."""
    kinds = vocabulary.DEMO_FAULTS_PLAIN if options.faults is None else demo_faults.parse(options.faults)
    fitting = demo_faults.fitting(kinds, job.steps, job.checkpoint_every)
    if options.faults is None and fitting and len(fitting) < len(kinds):
        print(f"outrider: {job.steps} steps have room for {len(fitting)} faults: {', '.join(fitting)}", file=sys.stderr)
        kinds = fitting
    return demo_faults.plan(kinds, job.seed, job.steps, job.checkpoint_every, job.mesh.world_size)


def _worlds(faults: list[demo_faults.Fault], plan: supervision.Plan, folder: Path) -> demo_worlds.Worlds | None:
    """Simulated hardware for every host, where a fault asks for it."""
    if not any(fault.kind in demo_worlds.FAULTS for fault in faults):
        return None
    hosts = plan.hosts()
    return demo_worlds.Worlds(folder / "worlds", [host.node for host in hosts], hosts[0].slots)


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


def _spec(job: demo_job.DemoJob, nodes: int, state: Path, peak_tflops: float | None) -> jobs.JobSpec:
    folder = state / FOLDER
    document = {
        "name": "demo",
        "command": job.command(folder, demo_job.STEP_FLOOR_S),
        "nodes": nodes,
        "ranks_per_node": job.mesh.world_size // nodes,
        "mesh": str(job.mesh),
        "checkpoint_dir": str(folder / "checkpoints"),
        "cwd": str(state),
        "attended": False,
    }
    if peak_tflops is not None:
        document["peak_tflops"] = peak_tflops / job.mesh.world_size
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


def _introduce(under: supervision.Supervision, this: _Demo) -> None:
    job, state, planned = this.job, this.state, [fault.kind for fault in this.injector.faults]
    under.say(
        f"{job.mesh.world_size} ranks ({job.mesh}) on {this.options.nodes} simulated hosts of this machine, {SPARES} "
        f"spare beside them; {job.steps} steps, a checkpoint every {job.checkpoint_every}; "
        f"faults: {', '.join(planned) or 'none'}"
    )
    under.say(f"state directory {state}; while it runs: outrider status --state {state}")
    if this.peak_tflops is None:
        under.say("this machine's peak could not be measured, so there will be no MFU")
    else:
        under.say(
            f"MFU is a share of what this CPU was just measured to do, {this.peak_tflops * 1e3:.3g} GFLOP/s in fp32 "
            f"matrix products with a thread a core, divided by the {job.mesh.world_size} ranks that share it"
        )


def _compare(under: supervision.Supervision, this: _Demo, cut_off: threading.Event) -> demo_job.Comparison:
    under.say("now the reference: the same job and seed, without supervision and without faults")
    folder = this.state / FOLDER
    reference = folder / "reference"
    shutil.rmtree(reference, ignore_errors=True)

    def tell(text: str) -> None:
        if cut_off.is_set():
            raise errors.CommandError("the reference run was cut off")
        under.line.show(text)

    metrics = demo_job.run_reference(this.job, reference, tell)
    under.line.clear()
    poisoned = any(fault["fault"] == "nan" for fault in this.injector.injected)
    return demo_job.compare(folder / demo_job.METRICS, metrics, this.job.steps, poisoned)


def _conclude(this: _Demo, outcome: supervision.Outcome, compared: demo_job.Comparison) -> int:
    job, left = this.job, [fault.kind for fault in this.injector.faults]
    this.injector.when_taken()
    faults = demo_findings.judge(this.injector.injected, outcome.report["incidents"])
    same_mesh = outcome.mesh is None or mesh_module.parse(outcome.mesh) == job.mesh
    document = outcome.report | {
        "loss_equal_to_uninterrupted": compared.equal if same_mesh else None,
        "simulated_hosts": True,
        "mesh": str(job.mesh),
        "steps": job.steps,
        "seed": job.seed,
        "state_dir": str(this.state),
        "faults": faults,
        "faults_not_injected": left,
        "compared": dataclasses.asdict(compared),
        "peak": {"tflops_of_all_cores": this.peak_tflops, "source": "measured", "shared_by_ranks": job.mesh.world_size},
    }
    if this.options.json:
        Path(this.options.json).write_text(json.dumps(document, indent=1) + "\n")
    print(views.report(document))
    if faults:
        print("What was really done, and what the controller made of it without being told:")
        print(demo_findings.table(faults))
        print("".join(f"{line}\n" for line in demo_findings.recorded(faults)), end="")
    print(f"{outcome.sentence}.")
    for kind in left:
        print(f"The fault {kind} was not injected: the job was not well again before its last steps.")
    print(_statement(compared, same_mesh), flush=True)
    right = demo_findings.all_right(faults) and not left
    well = outcome.state == "completed" and right and (compared.equal or not same_mesh)
    return vocabulary.EXIT_DONE if well else vocabulary.EXIT_PROBLEM


def _statement(compared: demo_job.Comparison, same_mesh: bool) -> str:
    if not same_mesh:
        return "A restart changed the mesh, so losses are not compared bit for bit."
    if compared.equal:
        again = compared.lines - compared.steps
        poisoned = f" ({compared.not_finite} lines said themselves that they were not finite)" * bool(
            compared.not_finite
        )
        lost = f"{again} lost steps were trained again and gave the same bits" if again else "no step was trained twice"
        return (
            f"Loss and gradient norm of all {compared.steps} steps equal the uninterrupted run bit for bit; "
            f"{lost}{poisoned}. The hosts were simulated on one machine."
        )
    which = [f"different at steps {_some(compared.different)}"] if compared.different else []
    which += [f"missing steps {_some(compared.missing)}"] if compared.missing else []
    return f"Loss and gradient norm are NOT those of the uninterrupted run: {', '.join(which)}."


def _some(steps: tuple[int, ...]) -> str:
    return ", ".join(map(str, steps[:STEPS_NAMED_MAX])) + (" ..." if len(steps) > STEPS_NAMED_MAX else "")
