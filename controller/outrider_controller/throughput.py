"""What a job's step marks add up to, and the devices they ran on: the two things that MFU needs beside the ledger.

In: the samples of the series store, the job's file, its ledger rows. Out: tokens of all steps, each step counted once
however often it was trained; the number of devices with their peak. None where nobody knows, which is an answer too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from outrider_controller import accounting, timeline
from outrider_controller import series as series_module
from outrider_controller.core import jobs, records

SAMPLES_MAX: Final = series_module.SAMPLES_PER_JOB_MAX
CONVENTION: Final = (
    "as the job counts them (flops_per_token of outrider.attach); each step's tokens once; peak as the job's file "
    "gives it (peak_tflops, dense, of one rank's device)"
)


def devices(spec: jobs.JobSpec) -> accounting.Devices | None:
    """One device a rank, where the job's file says the peak of one; None where it does not."""
    return accounting.Devices(spec.world_size, spec.peak_tflops) if spec.peak_tflops > 0 else None


def first_generation(rows: Iterable[records.Row], job: str) -> int:
    """Of the latest life of the job: marks of a former life of the name are not its own."""
    lives = timeline.lives(rows, job)
    planned = [row.generation for row in lives[-1].rows if isinstance(row, records.AttemptPlanned)] if lives else []
    return min(planned, default=0)


def of(samples: Sequence[series_module.Sample], since_generation: int) -> accounting.Throughput | None:
    """Tokens of all steps of one life; None where no mark carries any.

    A sample that was thinned out of the store is stood for by the next one that was kept.
    """
    tokens = {s.step: s.tokens for s in samples if s.generation >= since_generation and s.tokens is not None}
    total, before = 0.0, None
    for step in sorted(tokens):
        total += tokens[step] * (1 if before is None else step - before)
        before = step
    return accounting.Throughput(total, CONVENTION) if tokens else None
