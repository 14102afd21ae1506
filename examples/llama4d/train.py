"""Trains a small Llama in 4D: the whole of a run, from the command line to the last step.

Data, pipeline, context and tensor parallelism in any sizes and order, checkpoints that load under any mesh, and a
resume that repeats the interrupted run in every bit. One process is its own reference. The same file runs by hand,
under torchrun and under Outrider, on CPU (gloo) and on CUDA (NCCL). See README.md beside it.
"""

import datetime
import json
import math
import os
import sys
import time
import warnings
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record
from torch.utils import deterministic

import llama4d_checkpoint as checkpoint
import llama4d_faults as faults_
import llama4d_flops as flops
import llama4d_options as options_
import llama4d_parallel as parallel
import llama4d_supervisor as supervisor
from llama4d_data import Batches
from llama4d_pipeline import StepResult, Trainer

EXIT_BAD_ARGUMENTS = 2
EXIT_COMMIT_REFUSED = 3


@record
def main(arguments: list[str] | None = None) -> int:
    """One rank's whole run; returns the exit status."""
    try:
        launch = supervisor.launch()
    except ValueError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return EXIT_BAD_ARGUMENTS
    options = options_.parse(sys.argv[1:] if arguments is None else arguments, launch.world_size)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # ranks share the cores, and one thread adds up in one order
    if torch.cuda.is_available():
        _make_cuda_repeatable()
    # A stage's output is a view by nature, and nothing here changes it in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    cost = flops.flops_per_token(options.model, causal=False)
    faults = faults_.Faults(options, launch)
    faults.passing("start", 0)
    run = supervisor.attach(mesh=options.mesh.text, flops_per_token=float(cost))
    groups = parallel.start(launch, options.mesh, options.timeout_s)
    try:
        _train(options, launch, groups, run, faults)
    except checkpoint.CheckpointError as error:
        status, text = EXIT_BAD_ARGUMENTS, str(error)
    except checkpoint.CommitRefused as error:
        status, text = EXIT_COMMIT_REFUSED, str(error)
    else:
        status, text = 0, ""
    if text and launch.rank == 0:
        print(f"train.py: {text}", file=sys.stderr, flush=True)
    dist.destroy_process_group()
    return status


def _make_cuda_repeatable() -> None:
    """Kernels that add in one order, so that a resume can be exact on CUDA as well."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory guards against bugs, and costs time in every step.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _train(
    options: options_.Options,
    launch: supervisor.Launch,
    groups: parallel.Groups,
    run: supervisor.Run,
    faults: faults_.Faults,
) -> None:
    """Everything between the first collective and the last."""
    # Dropout has to differ between ranks; weights and data have seeds of their own.
    torch.manual_seed(options.seed * 65_536 + launch.rank)
    trainer = Trainer(options, groups)
    batches = Batches(options.seed, options.model.vocab, options.global_batch, options.model.sequence)
    job = checkpoint.Job(trainer, batches, groups, launch)
    journal = Journal(options, launch)
    folder = Path(options.checkpoint_dir) if options.checkpoint_dir else None
    done = 0
    faults.passing("before-load", done)
    source = checkpoint.choose(folder, options.resume, launch, groups)
    if source is not None:
        with run.phase("load"):
            faults.passing("load", done)
            done = checkpoint.load(job, source)
    journal.start(done, source)
    saver = checkpoint.Saver(job, folder, run, faults, options) if folder else None
    for step in range(done + 1, options.steps + 1):
        began = time.monotonic()
        faults.passing("step" if step > done + 1 else "first-step", step)
        result = _step(job, faults, step, flag=saver is not None and saver.ready)
        run.step(step, tokens=journal.tokens, loss=result.loss, grad_norm=result.grad_norm)
        journal.note(step, result)
        if saver is not None and result.agreed == launch.world_size:
            saver.finish()
        if saver is not None and options.checkpoint_every and step % options.checkpoint_every == 0:
            _save(saver, step, result, launch)
        if options.eval_every and step % options.eval_every == 0:
            journal.evaluation(step, _evaluate(options, job, run, faults, step))
        time.sleep(max(0.0, options.step_floor_s - (time.monotonic() - began)))
        journal.tell(step, result, time.monotonic() - began)
    if saver is not None:
        saver.finish()


def _step(job: checkpoint.Job, faults: faults_.Faults, step: int, flag: bool) -> StepResult:
    """One step, with the faults that were asked for."""
    faults.in_step(step)
    tokens, labels = job.batches.draw()
    result = job.trainer.step(tokens, labels, flag, faults.poison(step))
    faults.after_step(step)
    return result


def _evaluate(
    options: options_.Options, job: checkpoint.Job, run: supervisor.Run, faults: faults_.Faults, step: int
) -> float:
    """Mean loss over batches that are never trained on, the same ones each time."""
    # The training batches' generator has the seed alone; another bit of it gives another stream.
    held_out = Batches(options.seed + options_.SEEDS, options.model.vocab, options.global_batch, options.model.sequence)
    with run.phase("evaluation"):
        faults.passing("evaluation", step)
        losses = [job.trainer.evaluate(*held_out.draw()) for _ in range(options.eval_batches)]
    return sum(losses) / len(losses)


def _save(saver: checkpoint.Saver, step: int, result: StepResult, launch: supervisor.Launch) -> None:
    """Saves, unless what would be saved is already lost."""
    if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
        saver.save(step)
    elif launch.rank == 0:
        print(f"train.py: step {step} is not finite, so it was not saved", file=sys.stderr, flush=True)


class Journal:
    """What a run says of itself, by rank 0 alone: lines on standard output, and the metrics file."""

    def __init__(self, options: options_.Options, launch: supervisor.Launch) -> None:
        self._options = options
        self._launch = launch
        self._metrics: TextIO | None = None
        self.tokens = options.global_batch * options.model.sequence  # of a step, over all ranks
        if launch.rank == 0 and options.metrics:
            Path(options.metrics).parent.mkdir(parents=True, exist_ok=True)
            self._metrics = open(options.metrics, "a", buffering=1)  # noqa: SIM115 - open until the process ends

    def start(self, step: int, source: Path | None) -> None:
        """Says what is about to be trained, and from where."""
        model = self._options.model
        full, causal = flops.flops_per_token(model, causal=False), flops.flops_per_token(model, causal=True)
        self._say(f"mesh {self._options.mesh.text} ranks {self._launch.world_size} attempt {self._launch.attempt}")
        self._say(f"parameters {flops.parameters(model):,} FLOPs per token: full {full:,} causal {causal:,}")
        self._say(f"resumed at step {step} from {source}" if source else "starting at step 0")

    def note(self, step: int, result: StepResult) -> None:
        """One line in the metrics file, before the step can be saved: what is saved is never done again."""
        if self._metrics is None:
            return
        line = {
            "step": step,
            "loss": result.loss if math.isfinite(result.loss) else None,
            "grad_norm": result.grad_norm if math.isfinite(result.grad_norm) else None,
            "loss_hex": result.loss.hex(),
            "grad_norm_hex": result.grad_norm.hex(),
            "attempt": self._launch.attempt,
            "at": datetime.datetime.now(datetime.UTC).isoformat(),
        }
        self._metrics.write(json.dumps(line) + "\n")

    def evaluation(self, step: int, loss: float) -> None:
        """One line on standard output; the metrics file holds trained steps alone."""
        self._say(f"evaluation after step {step}: loss {loss:.5f} over {self._options.eval_batches} held-out batches")

    def tell(self, step: int, result: StepResult, seconds: float) -> None:
        """One line on standard output, when the step is over with all that belongs to it."""
        self._say(
            f"step {step}/{self._options.steps} loss {result.loss:.5f} grad_norm {result.grad_norm:.4f} "
            f"tokens/s {self.tokens / seconds:.0f} step_s {seconds:.3f}"
        )

    def _say(self, text: str) -> None:
        if self._launch.rank == 0:
            print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
