"""Saving and loading the whole state of a run, on the same mesh or on another.

Each rank gives its shards to torch.distributed.checkpoint under names that do not depend on the layout, describes the
files it wrote, and rank 0 commits the lot (`llama4d_manifest`) after asking whether this generation still may. In the
background the same thing happens in a thread over a process group of its own; the ranks agree in a later step's
reduction that all are done, so the commit needs no waiting.
"""

import concurrent.futures
import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import filesystem, state_dict_loader, state_dict_saver

import llama4d_faults as faults_
import llama4d_manifest as manifest
import llama4d_supervisor as supervisor
from llama4d_data import Batches
from llama4d_options import Options
from llama4d_parallel import Groups
from llama4d_pipeline import Trainer

Files = dict[str, dict[str, int | str]]
MOMENTS = ("exp_avg", "exp_avg_sq")


class CheckpointError(Exception):
    """A checkpoint cannot be used; another one has to be chosen."""


class CommitRefused(Exception):
    """The fence is closed: a newer generation of this job is running, and this one has to end."""


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that a checkpoint holds the state of."""

    trainer: Trainer
    batches: Batches
    groups: Groups
    launch: supervisor.Launch

    def state(self, step: int) -> dict[str, Any]:
        """This rank's part of the state after a step, as flat names; tensors are the live ones."""
        progress = json.dumps({"step": step, "data": self.batches.state()})
        return {"progress": progress, **self.tensors(), **self.random_state()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights and optimizer moments, named by parameter whatever the layout."""
        named: dict[str, torch.Tensor] = {}
        for model in self.trainer.models:
            for name, parameter in model.named_parameters():
                named[f"model.{name}"] = parameter.detach()
                moments = self.trainer.optimizer.state[parameter]
                if not moments:  # before the first step there are none, and loading needs somewhere to load to
                    zeros = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
                    moments.update(step=torch.tensor(0.0), **zeros)
                named.update({f"optimizer.{name}.{moment}": moments[moment] for moment in MOMENTS})
        return named

    def random_state(self) -> dict[str, torch.Tensor]:
        """Random generators of this rank; they mean something under the same layout alone, so it is in their name."""
        key = f"random.{self.groups.layout.text}.{self.launch.rank}"
        states = {f"{key}.host": torch.get_rng_state()}
        if self.groups.device.type == "cuda":
            states[f"{key}.device"] = torch.cuda.get_rng_state()
        return states


def load(job: Job, path: Path) -> int:
    """Loads a checkpoint of any layout into the job, in place, and returns its step."""
    reader = filesystem.FileSystemReader(path)
    present = reader.read_metadata().state_dict_metadata
    # Loading is strict, and the random state is there only when the same layout saved it.
    random = {name: state for name, state in job.random_state().items() if name in present}
    state: dict[str, Any] = {"progress": "", **job.tensors(), **random}
    state_dict_loader.load(state, storage_reader=reader, process_group=job.groups.checkpoint)
    progress = json.loads(state["progress"])
    job.batches.restore(progress["data"])
    for moments in job.trainer.optimizer.state.values():
        moments["step"].fill_(progress["step"])
    for name, value in random.items():
        restore = torch.cuda.set_rng_state if name.endswith(".device") else torch.set_rng_state
        restore(state.get(name, value))
    return int(progress["step"])


def choose(folder: Path | None, resume: str, launch: supervisor.Launch, groups: Groups) -> Path | None:
    """The checkpoint to start from, the same on all ranks; None for a fresh start.

    `resume` is what the first attempt was told; a restart always goes on with what there is. What a supervisor trusts
    is taken as it is; otherwise `auto` takes the newest checkpoint whose every byte is as it was written. Raises
    CheckpointError when one was named that cannot be loaded.
    """
    if launch.attempt:
        resume = "auto"
    if launch.resume_from is not None and resume == "auto":
        return _trusted(launch.resume_from)
    answer: list[Any] = [None, None]
    if launch.rank == 0:
        answer = list(_choose(folder, resume))
    dist.broadcast_object_list(answer, src=0, group=groups.checkpoint)
    if answer[1]:
        raise CheckpointError(answer[1])
    return Path(answer[0]) if answer[0] else None


def _trusted(path: str) -> Path | None:
    """What the supervisor named; empty means a fresh start."""
    if path and not (Path(path) / ".metadata").is_file():
        raise CheckpointError(
            f"OUTRIDER_RESUME_FROM={path} holds no .metadata; name a whole checkpoint, or leave it empty"
        )
    return Path(path) if path else None


def _choose(folder: Path | None, resume: str) -> tuple[str | None, str | None]:
    """A path or a problem."""
    if resume == "none" or (resume == "auto" and folder is None):
        return None, None
    if resume != "auto":
        found = manifest.problem(Path(resume))
        return resume, f"--resume: {found}; name another checkpoint, or none" if found else None
    assert folder is not None
    for path in manifest.committed(folder):
        found = manifest.problem(path)
        if found is None:
            return str(path), None
        print(f"skipping a damaged checkpoint: {found}", file=sys.stderr, flush=True)
    return None, None


@dataclasses.dataclass(frozen=True)
class Pending:
    """A save under way in the background."""

    label: manifest.Label
    temporary: Path
    files: concurrent.futures.Future[Files]


class Saver:
    """Writes checkpoints of one job into one folder."""

    def __init__(self, job: Job, folder: Path, run: supervisor.Run, faults: faults_.Faults, options: Options) -> None:
        self._job = job
        self._folder = folder
        self._run = run
        self._faults = faults
        self._asynchronous = options.async_checkpoint
        self._keep = options.keep_checkpoints
        self._rank = job.launch.rank
        self._group = job.groups.checkpoint
        self._pending: Pending | None = None
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        if self._rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            manifest.sweep(folder, job.launch.generation if job.launch.supervised else None)

    @property
    def ready(self) -> bool:
        """Whether this rank has a background save to commit; all ranks have to say so before one may."""
        return self._pending is not None and self._pending.files.done()

    def save(self, step: int) -> None:
        """Saves the state after a step: all of it now, or a copy now and the rest in the background."""
        self.finish()
        launch, layout = self._job.launch, self._job.groups.layout
        label = manifest.Label(step, launch.run, launch.attempt, launch.generation, layout.text, layout.world)
        with self._run.phase("checkpoint"):
            self._faults.passing("checkpoint", step)
            temporary = self._folder / label.temporary_name
            if self._rank == 0:
                manifest.make_fresh(self._folder, label)
            dist.barrier(group=self._group)
            writer = filesystem.FileSystemWriter(temporary, sync_files=True)
            state = self._job.state(step)
            if self._asynchronous:
                written = state_dict_saver.async_save(state, storage_writer=writer, process_group=self._group)
                assert isinstance(written, concurrent.futures.Future)
                self._pending = Pending(label, temporary, self._background.submit(self._await, written, temporary))
            else:
                state_dict_saver.save(state, storage_writer=writer, process_group=self._group)
                self._commit(label, temporary, self._describe_own(temporary))

    def finish(self) -> None:
        """Waits for a background save, if there is one, and commits it. All ranks call this together."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        with self._run.phase("checkpoint"):
            self._commit(pending.label, pending.temporary, pending.files.result())

    def _await(self, written: concurrent.futures.Future[Any], temporary: Path) -> Files:
        written.result()
        return self._describe_own(temporary)

    def _describe_own(self, temporary: Path) -> Files:
        """The files that this rank wrote; each rank reads its own, so that describing is as parallel as writing."""
        own = [".metadata"] if self._rank == 0 else []
        own += [path.name for path in temporary.glob(f"__{self._rank}_*")]
        return {name: manifest.describe(temporary / name) for name in own}

    def _commit(self, label: manifest.Label, temporary: Path, own: Files) -> None:
        """Gathers all descriptions, asks the fence, and commits; CommitRefused on all ranks when it is closed."""
        parts: list[Files] | None = [{} for _ in range(label.world_size)] if self._rank == 0 else None
        dist.gather_object(own, parts, dst=0, group=self._group)
        answer = [True]
        if parts is not None:
            manifest.write(temporary, label, {name: about for part in parts for name, about in part.items()})
            answer = [self._run.may_commit()]
            if answer[0]:
                self._run.checkpoint_saved(str(manifest.commit(temporary, label)), label.step)
                manifest.prune(self._folder, self._keep, self._job.launch.resume_from)
            else:
                shutil.rmtree(temporary, ignore_errors=True)
        dist.broadcast_object_list(answer, src=0, group=self._group)
        if not answer[0]:
            raise CommitRefused(
                f"generation {label.generation} may no longer commit checkpoints, so step {label.step} was not saved "
                "and this attempt ends; a newer one is running"
            )
