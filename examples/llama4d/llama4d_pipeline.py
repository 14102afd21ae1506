"""One training step, from a global batch to a clipped update, under any layout.

With pp of 1 the microbatches run one after another; otherwise a schedule of torch.distributed.pipelining moves them
through the stages, 1F1B with one stage a rank or interleaved 1F1B with two. The loss of a microbatch is its share of
the mean over the global batch, so gradients and reported losses only ever need adding up.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch.distributed import fsdp, pipelining
from torch.distributed.pipelining import schedules
from torch.nn import functional

import llama4d_model as model
import llama4d_parallel as parallel
from llama4d_options import Options


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What every rank knows after a step."""

    loss: float  # mean over the tokens of the global batch, natural logarithm
    grad_norm: float  # over all parameters, before clipping
    agreed: int  # number of ranks that raised the flag given to `Trainer.step`


class Trainer:
    """This rank's part of the model and its optimizer."""

    def __init__(self, options: Options, groups: parallel.Groups) -> None:
        self._options = options
        self._groups = groups
        layout = groups.layout
        parts, index = layout.size("cp"), groups.coords["cp"]
        self._context = model.Context(options.model.sequence, parts, index, groups.cp if parts > 1 else None)
        self._positions = self._context.positions
        self.stage_indices = range(groups.coords["pp"], options.stages, layout.size("pp"))
        self.models = [self._build(stage) for stage in self.stage_indices]
        parameters = [parameter for part in self.models for parameter in part.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate)
        self._schedule = self._build_schedule() if options.stages > 1 else None
        self._poison = 1.0

    def step(self, tokens: torch.Tensor, labels: torch.Tensor, flag: bool, poison: bool) -> StepResult:
        """Trains on a global batch, (global batch, sequence) int64 twice. `poison` turns the loss into NaN."""
        self._poison = math.nan if poison else 1.0
        tokens, labels = self._own(tokens), self._own(labels)
        if self._schedule is None:
            losses = self._microbatches(tokens, labels)
        else:
            losses = self._pipeline(tokens, labels, self._schedule.step)
        share = self._share(losses)
        square = parallel.squared_norm(self.models, self._groups)
        loss, square, agreed = parallel.sum_over_world([share, square, float(flag)], self._groups)
        norm = math.sqrt(square)
        parallel.clip(self.models, norm, self._options.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return StepResult(loss, norm, round(agreed))

    def evaluate(self, tokens: torch.Tensor, labels: torch.Tensor) -> float:
        """The loss on a global batch, (global batch, sequence) int64 twice; nothing that training needs changes."""
        self._poison = 1.0
        tokens, labels = self._own(tokens), self._own(labels)
        for part in self.models:
            part.eval()  # no dropout, so no random number is drawn
        with torch.no_grad():
            if self._schedule is None:
                count = self._options.microbatches
                pairs = zip(tokens.chunk(count), labels.chunk(count), strict=True)
                losses = [self._loss(self.models[0](ids), following) for ids, following in pairs]
            else:
                losses = self._pipeline(tokens, labels, self._schedule.eval)
        for part in self.models:
            part.train()
            for module in part.modules():
                if isinstance(module, fsdp.FSDPModule):
                    module.reshard()  # weights are left gathered for a backward that does not come
        return parallel.sum_over_world([self._share(losses)], self._groups)[0]

    def _share(self, losses: list[torch.Tensor]) -> float:
        """This rank's part of the loss: tensor-parallel ranks of the last stage compute the same, and one reports."""
        return sum(float(loss) for loss in losses) if self._groups.coords["tp"] == 0 else 0.0

    def _build(self, stage: int) -> model.Stage:
        """One stage: all weights from the seed, then cut over tp, then over dp and cp."""
        options, config = self._options, self._options.model
        layers = range(stage * config.layers // options.stages, (stage + 1) * config.layers // options.stages)
        part = model.Stage(config, self._context, layers, options.attention, options.dropout)
        model.initialise(part, config, options.seed)
        part.to(self._groups.device)
        if self._groups.layout.world > 1:
            parallel.shard_tensors(part, self._groups)
            parallel.shard_data(part, self._groups, options.stages > 1 or options.microbatches > 1)
        return part

    def _build_schedule(self) -> schedules.PipelineScheduleSingle | schedules.PipelineScheduleMulti:
        options, layout = self._options, self._groups.layout
        rows = options.global_batch // layout.size("dp") // options.microbatches
        tokens = options.model.sequence // layout.size("cp")
        ids = torch.empty((rows, tokens), dtype=torch.int64, device="meta")
        stream = torch.empty((rows, tokens // layout.size("tp"), options.model.width), device="meta")
        logits = torch.empty((rows, tokens, options.model.vocab), device="meta")
        # Shapes are given, as finding them out would run the model once more and cost seconds of the first step.
        stages = [
            pipelining.PipelineStage(
                part,
                index,
                options.stages,
                self._groups.device,
                input_args=ids if part.is_first else stream.requires_grad_(),
                output_args=logits.requires_grad_() if part.is_last else stream.requires_grad_(),
                group=self._groups.pp,
            )
            for index, part in zip(self.stage_indices, self.models, strict=True)
        ]
        if options.schedule == "interleaved":
            return schedules.ScheduleInterleaved1F1B(
                list(stages),
                options.microbatches,
                loss_fn=self._loss,
                scale_grads=False,
            )
        return schedules.Schedule1F1B(stages[0], options.microbatches, loss_fn=self._loss, scale_grads=False)

    def _own(self, batch: torch.Tensor) -> torch.Tensor:
        """This rank's rows and positions of a global batch."""
        rows = batch.shape[0] // self._groups.layout.size("dp")
        start = self._groups.coords["dp"] * rows
        return batch[start : start + rows, self._positions].to(self._groups.device)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The share of these tokens in the mean over the global batch."""
        total = functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")
        return total * (self._poison / (self._options.global_batch * self._options.model.sequence))

    def _microbatches(self, tokens: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        part, count, losses = self.models[0], self._options.microbatches, []
        for index, (ids, following) in enumerate(zip(tokens.chunk(count), labels.chunk(count), strict=True)):
            if isinstance(part, fsdp.FSDPModule):
                # Gradients stay whole on each rank until the last microbatch sends their sum.
                part.set_requires_gradient_sync(index == count - 1)
            loss = self._loss(part(ids), following)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return losses

    def _pipeline(self, tokens: torch.Tensor, labels: torch.Tensor, run: Callable[..., object]) -> list[torch.Tensor]:
        """`run` is the schedule's step or its eval; the losses of the microbatches, on the last stage alone."""
        losses: list[torch.Tensor] = []
        inputs = (tokens,) if self.models[0].is_first else ()
        if self.models[-1].is_last:
            run(*inputs, target=labels, losses=losses, return_outputs=False)
        else:
            run(*inputs, return_outputs=False)
        return [loss.detach() for loss in losses]
