"""What lines of training logs say of progress.

The lines have the forms that Megatron-LM (commit d98e8a64 of 2026-08-22, tag v2.5) and TorchTitan (commit b5bcd76c of
2026-08-21, tags v0.1.0 and v0.2.2) print; prefixes are those of torchrun, srun and torch.
"""

import math
import random

import pytest

from outrider_analysis.job_log import progress
from outrider_analysis.job_log.progress import Phase, Saved, Sequence, Step, Validated

MEGATRON = (
    " [2026-08-22 15:22:22.123456] iteration       10/     500 | consumed samples:          320 | elapsed time per "
    "iteration (ms): 512.3 | throughput per GPU (TFLOP/s/GPU): 401.2 | learning rate: 3.000000E-04 | global batch size:"
    "    32 | lm loss: 9.123456E+00 | mtp_1 loss: 1.000000E+01 | loss scale: 1.0 | grad norm: 1.234 | num zeros: 0 | "
    "params norm: 496.206 | number of skipped iterations:   0 | number of nan iterations:   0 |"
)
MEGATRON_25 = (
    " iteration       25/73242187 | consumed samples:           50 | elapsed time per iteration (ms): 87.0 | learning "
    "rate: 1.638E-08 | global batch size:     2 | lm loss: 1.086954E+01 | loss scale: 4294967296.0 | grad norm: 0.500 |"
    " number of skipped iterations:   0 | number of nan iterations:   0 |"
)
TITAN = (
    "[titan] 2026-08-21 21:30:21,123 - root - INFO - step: 10  loss:  7.12345  grad_norm:  1.2345  memory: 12.34GiB"
    "(15.43%)  tps: 12,345  tflops: 123.45  mfu: 12.34%"
)
TITAN_COLOURED = (
    "[titan] 2026-08-21 21:30:21,123 - root - INFO - \x1b[31mstep: 10  \x1b[32mloss:  7.12345  \x1b[38;2;180;60;0m"
    "grad_norm:  1.2345  \x1b[38;2;54;234;195mmemory: 12.34GiB(15.43%)  \x1b[34mtps: 12,345  \x1b[36mtflops: 123.45  "
    "\x1b[35mmfu: N/A\x1b[39m"
)
TITAN_01 = (
    "[titan] 2025-06-01 08:00:00,000 - root - INFO - \x1b[31mstep:  1  \x1b[32mloss: 12.2721  \x1b[33mmemory: 39.45GiB"
    "(49.81%)  \x1b[34mtps: 3,128  \x1b[36mtflops: 47.93  \x1b[35mmfu: 15.36%\x1b[39m"
)
INFO = "[titan] 2026-08-21 21:30:21,123 - root - INFO - "
EXAMPLE = "step 7/200 loss 5.12345 grad_norm 1.2345 tokens/s 1234 step_s 0.500"


def step(line: str) -> Step:
    found = progress.read_line(line)
    assert isinstance(found, Step), found
    return found


@pytest.mark.parametrize("prefix", ["", "[default7]:", "1: ", "[rank3]: "])
def test_megatron_tells_step_loss_gradient_norm_time_and_sequences(prefix: str) -> None:
    assert step(prefix + MEGATRON) == Step(10, 9.123456, 1.234, 0.5123, sequences=32)
    assert step(prefix + MEGATRON_25) == Step(25, 10.86954, 0.5, 0.087, sequences=2)


@pytest.mark.parametrize("line", [TITAN, TITAN_COLOURED])
def test_torchtitan_tells_step_loss_gradient_norm_and_tokens_of_a_rank(line: str) -> None:
    assert step(line) == Step(10, 7.12345, 1.2345, rank_tokens_per_s=12345)


def test_torchtitan_before_0_2_tells_no_gradient_norm() -> None:
    assert step(TITAN_01) == Step(1, 12.2721, rank_tokens_per_s=3128)


def test_the_example_job_is_understood() -> None:
    assert step(EXAMPLE) == Step(7, 5.12345, 1.2345, 0.5, tokens_per_s=1234)


def test_a_pipeline_stage_without_the_loss_tells_none() -> None:
    assert step(TITAN.replace(" 7.12345", "-1.00000")).loss is None


@pytest.mark.parametrize(
    ("line", "odd"),
    [
        (TITAN.replace("7.12345", "    nan"), ("loss=nan",)),
        (TITAN_COLOURED.replace("1.2345  ", "   inf  "), ("grad_norm=inf",)),
        (EXAMPLE.replace("5.12345", "-inf").replace("1.2345", "nan"), ("loss=-inf", "grad_norm=nan")),
        (MEGATRON.replace("9.123456E+00", "INF"), ("loss=inf",)),
        # the loss is left out where it is no number, and the gradients follow it
        (MEGATRON.replace(" lm loss: 9.123456E+00 |", "").replace("norm: 1.234", "norm: nan"), ("grad_norm=nan",)),
        (MEGATRON.replace("nan iterations:   0", "nan iterations:   1"), ("loss=nan",)),
    ],
)
def test_what_is_no_number_is_kept_by_its_name(line: str, odd: tuple[str, ...]) -> None:
    found = step(line)
    assert found.not_finite == odd
    assert all(value is None or math.isfinite(value) for value in (found.loss, found.grad_norm))


def test_an_average_over_no_iteration_is_no_loss() -> None:
    line = MEGATRON.replace("9.123456E+00", "0.000000E+00").replace(
        "skipped iterations:   0", "skipped iterations:   1"
    )
    assert (step(line).loss, step(line).not_finite) == (None, ())


def test_forks_of_megatron_with_other_fields_are_understood() -> None:
    deepspeed = MEGATRON_25.replace("| elapsed", "| consumed tokens:        65536 | elapsed") + (
        " samples per second: 7.582 | TFLOPs: 16.98 |"
    )
    assert step(deepspeed) == step(MEGATRON_25)
    assert step(MEGATRON.replace("(ms): 512.3", "(ms): 512.3/530.0")).step_s == 0.5123
    assert step(MEGATRON.replace("lm loss", "masked loss")).loss == 9.123456


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "[2026-08-22 15:22:22.123456] saving checkpoint at iteration      20 to /c in torch_dist format",
            Phase("checkpoint", True),
        ),
        ("saving checkpoint at iteration      20 to /c", Phase("checkpoint", True)),
        (
            "  [2026-08-22 15:22] successfully saved checkpoint from iteration      20 to /c/my run [ t 1/2, p 1/4 ] ",
            Saved(20, "/c/my run/iter_0000020"),
        ),
        ("  successfully saved checkpoint from iteration     845 to /c/", Saved(845, "/c/iter_0000845")),
        ("  successfully saved checkpoint at iteration 12345678 to c", Saved(12345678, "c/iter_12345678")),
        ("  successfully saved local checkpoint from iteration      20", Phase("checkpoint", False)),
        (" loading checkpoint from /c at iteration 5000", Phase("load", True)),
        (" loading distributed checkpoint from /c at iteration 5000", Phase("load", True)),
        ("  successfully loaded checkpoint from /c [ t 1/2, p 1/4 ] at iteration 5000", Phase("load", False)),
        ("Evaluating on 320 samples", Phase("evaluation", True)),
        ("Evaluating iter 3/10", Phase("evaluation", True)),
        (
            " validation loss at iteration 100 on validation set | lm loss value: 8.1E+00 | lm loss PPL: 3.3E+03 | ",
            Validated(100, 8.1),
        ),
        (" validation loss at iteration 100 | lm loss value: nan | lm loss PPL: nan | ", Validated(100, None)),
        ("  seq_length ...................................... 4096", Sequence(4096)),
        (
            f"{INFO}Saving the checkpoint (or staging if async is enabled).",
            Phase("checkpoint", True),
        ),
        (f"{INFO}Staging the checkpoint.", Phase("checkpoint", True)),
        (
            f"{INFO}Finished saving the checkpoint (or staging if async is enabled)in 1.23 seconds.",
            Phase("checkpoint", False),
        ),
        (
            f"{INFO}Finished staging the checkpoint in 1.23 seconds.",
            Phase("checkpoint", False),
        ),
        (
            f"{INFO}Last step checkpoint completed in 1.23s",
            Phase("checkpoint", False),
        ),
        (
            f"{INFO}Loading the checkpoint from ./outputs/checkpoint/step-10.",
            Phase("load", True),
        ),
        (
            f"{INFO}Finished loading the checkpoint in 1.23 seconds.",
            Phase("load", False),
        ),
        (
            f"{INFO}\x1b[33mvalidate step: 10  \x1b[32mloss:  7.1234  \x1b[36mmemory: 12.34GiB(15.43%)  \x1b[34mtps: 1",
            Validated(10, 7.1234),
        ),
    ],
)
def test_phases_checkpoints_and_validations_are_understood(line: str, found: object) -> None:
    assert progress.read_line(line) == found


@pytest.mark.parametrize(
    "line",
    [
        "",
        "step 6",
        "step 6 loss 5.1",
        "iteration 10 is done",
        "training step: 10 of 100, loss: 7.1",
        "setting training iterations to 500",
        "Saving the checkpoint",
        "a successfully saved checkpoint from iteration soon to /c",
        "WARNING: could not find the metadata file /c/latest_checkpointed_iteration.txt",
        " iteration       10/     500 | consumed samples:          320 | lm loss: 9.1E+00 |",
        MEGATRON[:130],  # the rest has not come yet
        MEGATRON[100:],
        MEGATRON[:200] + MEGATRON,  # two ranks in one line
        MEGATRON.replace("512.3", "soon"),
        TITAN[:90],
        TITAN + TITAN,
        TITAN.replace("step: 10", "step: ten"),
        TITAN.replace("step: 10", "step: 1" + "0" * 40),
        EXAMPLE + EXAMPLE,
        EXAMPLE.replace("5.12345", "5.12.345"),
        "x" * 5000,
        MEGATRON + " " * progress.LINE_CHARS_MAX,
    ],
)
def test_other_lines_and_halves_of_lines_say_nothing(line: str) -> None:
    assert progress.read_line(line) is None


def test_a_number_that_was_cut_is_not_read() -> None:
    assert step(MEGATRON[: MEGATRON.index("9.123456") + 3]).loss is None
    assert step(MEGATRON[: MEGATRON.index("9.123456") + 3]).sequences == 32


def test_tokens_come_from_what_the_form_gives() -> None:
    assert step(MEGATRON).tokens(8, 4096, None) == 32 * 4096
    assert step(MEGATRON).tokens(8, None, 0.5) is None
    assert step(TITAN).tokens(8, None, 2.0) == 12345 * 8 * 2.0
    assert step(TITAN).tokens(8, None, None) is None
    assert step(EXAMPLE).tokens(8, None, None) == 617.0
    assert Step(1).tokens(8, 4096, 1.0) is None


def test_garbage_is_read_without_an_error() -> None:
    chance = random.Random(7)
    lines = [MEGATRON, MEGATRON_25, TITAN, TITAN_COLOURED, TITAN_01, EXAMPLE]
    alphabet = "0123456789.,:|/ -+eEnNaAiIfF()%[]\x1b\0\ufffd"
    for _ in range(20_000):
        letters = list(chance.choice(lines))
        for _ in range(chance.randrange(1, 12)):
            letters[chance.randrange(len(letters))] = chance.choice(alphabet)
        start = chance.randrange(len(letters)) if chance.random() < 0.3 else 0
        found = progress.read_line("".join(letters[start:]))
        if isinstance(found, Step):
            assert found.step >= 0
            for value in (found.loss, found.grad_norm, found.step_s):
                assert value is None or math.isfinite(value)
