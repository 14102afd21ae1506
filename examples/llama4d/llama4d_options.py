"""What one run is asked to do: the command line, checked before anything starts.

Every check that needs no other rank happens here, so a bad value ends with exit status 2 and one sentence that names
the value and the way out, before a process group exists that others would wait in.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import llama4d_mesh as mesh

# Where a run can be slow or suffer a fault. `start` is before the first word to a supervisor, `before-load` after the
# process groups were made, `first-step` the first one of each attempt; each comes before collectives.
POINTS = ("start", "before-load", "load", "first-step", "step", "evaluation", "checkpoint")
SEEDS = 2**31  # each seed is shifted to make room for a rank or a weight's name, and has to stay within 64 bits


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of a Llama: counts of layers, heads and tokens; widths in elements."""

    layers: int = 4
    width: int = 64
    heads: int = 8
    kv_heads: int = 4
    ffn: int = 192
    vocab: int = 256
    sequence: int = 64

    @property
    def head_size(self) -> int:
        """Elements of one attention head."""
        return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class Slow:
    """A stretch of sleep where a point of POINTS begins. `step` and `rank`: None is every one."""

    point: str
    seconds: float
    step: int | None
    rank: int | None


@dataclasses.dataclass(frozen=True)
class SlowSteps:
    """From the first to the last of these, a step takes so many times as long. `rank`: None is every one."""

    first: int
    last: int
    factor: float
    rank: int | None


@dataclasses.dataclass(frozen=True)
class Options:
    """One run, as asked for."""

    mesh: mesh.Mesh
    model: ModelConfig
    steps: int
    seed: int
    global_batch: int
    microbatches: int
    schedule: str
    attention: str
    dropout: float
    learning_rate: float
    clip: float
    checkpoint_dir: str | None
    checkpoint_every: int
    async_checkpoint: bool
    keep_checkpoints: int  # newest ones kept on disk; 0 keeps all
    resume: str
    eval_every: int  # steps between two evaluations; 0 is never
    eval_batches: int
    metrics: str | None
    timeout_s: float
    slow_rank: tuple[int, float] | None  # rank, seconds added to each of its steps
    nan_at: int | None
    raise_at: tuple[int, int | None] | None  # step, rank; None is every rank
    step_floor_s: float
    slow: tuple[Slow, ...]
    slow_steps: SlowSteps | None
    faults_dir: str | None

    @property
    def stages(self) -> int:
        """Number of pipeline stages in the whole mesh: two on each rank when interleaved."""
        pp = self.mesh.size("pp")
        return 2 * pp if self.schedule == "interleaved" and pp > 1 else pp


def parse(arguments: list[str], world_size: int) -> Options:
    """The command line as options; ends the process with status 2 and a sentence where a value cannot work."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    model = ModelConfig(**{name: given.pop(name) for name in _MODEL_HELP})
    try:
        given["mesh"] = mesh.parse(given["mesh"] or f"dp={world_size}")
        if given["microbatches"] is None:
            given["microbatches"] = _usual_microbatches(given["mesh"], given["global_batch"], given["schedule"])
        given["slow"] = tuple(given["slow"])
        options = Options(model=model, **given)
        for problem in problems(options, world_size):
            raise ValueError(problem)
    except ValueError as error:
        parser.error(str(error))
    return options


def _usual_microbatches(layout: mesh.Mesh, global_batch: int, schedule: str) -> int:
    """Two where that divides a data rank's rows and fills the pipeline; else the next number that does, if any."""
    rows, pp = global_batch // layout.size("dp"), layout.size("pp")
    multiple = pp if schedule == "interleaved" else 1
    fitting = [count for count in range(pp, rows + 1) if rows % count == 0 and count % multiple == 0]
    return next((count for count in fitting if count > 1), max(fitting, default=max(2, pp)))


def problems(options: Options, world_size: int) -> list[str]:
    """Every reason why these options cannot run, each with the way out."""
    return [text for works, text in [*_mesh_rules(options, world_size), *_size_rules(options)] if not works]


def _mesh_rules(options: Options, world_size: int) -> list[tuple[bool, str]]:
    layout, text = options.mesh, options.mesh.text
    ranks = range(layout.world)
    slow = options.slow_rank[0] if options.slow_rank else 0
    raising = (options.raise_at[1] or 0) if options.raise_at else 0
    slowed = [slow.rank for slow in (*options.slow, options.slow_steps) if slow is not None]
    sleeping = next((rank for rank in slowed if rank not in (None, *ranks)), 0)
    started = f"{layout.world} ranks and the launcher started {world_size}"
    return [
        (layout.world == world_size, f"mesh {text} has {started}; start {layout.world} processes or change --mesh"),
        (options.seed < SEEDS, f"--seed {options.seed} must be less than {SEEDS}"),
        (not _is(Path.is_file, options.checkpoint_dir), f"--checkpoint-dir {options.checkpoint_dir} is a file"),
        (not _is(Path.is_dir, options.metrics), f"--metrics {options.metrics} is a directory; name a file in it"),
        (slow in ranks, f"--slow-rank names rank {slow}; mesh {text} has ranks 0 to {layout.world - 1}"),
        (raising in ranks, f"--raise-at names rank {raising}; mesh {text} has ranks 0 to {layout.world - 1}"),
        (
            sleeping in ranks,
            f"--slow or --slow-steps names rank {sleeping}; mesh {text} has ranks 0 to {layout.world - 1}",
        ),
        (
            not options.checkpoint_every or options.checkpoint_dir is not None,
            f"--checkpoint-every {options.checkpoint_every} has nowhere to write; add --checkpoint-dir DIR",
        ),
    ]


def _is(kind: Callable[[Path], bool], path: str | None) -> bool:
    return path is not None and kind(Path(path))


def _size_rules(options: Options) -> list[tuple[bool, str]]:
    model, layout = options.model, options.mesh
    dp, cp, tp = (layout.size(axis) for axis in ("dp", "cp", "tp"))
    pp_interleaved = layout.size("pp") if options.schedule == "interleaved" else 1

    def divides(divisor: int, value: int, flag: str, reason: str) -> tuple[bool, str]:
        return value % divisor == 0, f"{flag} {value} must be a multiple of {divisor} ({reason})"

    rules = [
        divides(model.heads, model.width, "--width", f"--heads {model.heads}"),
        divides(2, model.head_size, "the head size, --width over --heads,", "rotary positions turn pairs"),
        divides(model.kv_heads, model.heads, "--heads", f"--kv-heads {model.kv_heads}"),
        divides(dp * options.microbatches, options.global_batch, "--global-batch", "dp times --microbatches"),
        divides(pp_interleaved, options.microbatches, "--microbatches", "pp, for the interleaved schedule"),
        (
            options.microbatches >= layout.size("pp"),
            f"--microbatches {options.microbatches} is fewer than pp={layout.size('pp')}; raise it or lower pp",
        ),
        divides(tp, model.kv_heads, "--kv-heads", "tp"),
        divides(tp, model.ffn, "--ffn", "tp"),
        divides(tp, model.vocab, "--vocab", "tp"),
        (
            model.layers >= options.stages,
            f"--layers {model.layers} is fewer than the {options.stages} pipeline stages; add layers or lower pp",
        ),
    ]
    if cp > 1:
        rules.append(divides(2 * cp, model.sequence, "--sequence", "2 * cp, for the balanced split"))
    rules.append(divides(cp * tp, model.sequence, "--sequence", "cp times tp"))
    return rules


_MODEL_HELP = {
    "layers": "transformer blocks",
    "width": "elements of the residual stream",
    "heads": "query heads",
    "kv_heads": "key and value heads",
    "ffn": "elements of the feed-forward layer",
    "vocab": "token ids",
    "sequence": "tokens in one sequence",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train.py", description="Train a small Llama in 4D.", allow_abbrev=False)
    add = parser.add_argument
    add("--mesh", help="outermost axis first, such as dp=2,pp=2,cp=1,tp=2; all ranks along dp when left out")
    add("--steps", type=_at_least(1), default=40, help="step to train to, counted from the first start")
    add("--seed", type=_at_least(0), default=0, help="of weights and data")
    add("--global-batch", type=_at_least(1), default=8, help="sequences in one step over all ranks")
    add("--microbatches", type=_at_least(1), help="parts of a step on each rank; 2, or pp where that is more")
    add("--schedule", choices=["1f1b", "interleaved"], default="1f1b", help="of the pipeline; no effect when pp is 1")
    add("--attention", choices=["sdpa", "matmul"], default="sdpa", help="fused, or as matrix products")
    add("--dropout", type=_fraction, default=0.0, help="fraction of each branch's output dropped, below 1")
    add("--learning-rate", type=_positive, default=1e-3, help="of AdamW")
    add("--clip", type=_positive, default=1.0, help="largest gradient norm")
    for name, text in _MODEL_HELP.items():
        add(f"--{name.replace('_', '-')}", type=_at_least(1), default=getattr(ModelConfig, name), help=text)
    _add_run_options(parser)
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint-dir", metavar="DIR", help="where checkpoints are kept")
    add("--checkpoint-every", type=_at_least(0), default=0, metavar="N", help="steps between two; 0 is never")
    add("--async-checkpoint", action="store_true", help="write in the background while training goes on")
    add("--keep-checkpoints", type=_at_least(0), default=0, metavar="N", help="newest ones to keep; 0 keeps all")
    add("--resume", default="auto", metavar="auto|none|PATH", help="auto takes the newest whole checkpoint")
    add("--eval-every", type=_at_least(0), default=0, metavar="N", help="steps between two evaluations; 0 is never")
    add("--eval-batches", type=_at_least(1), default=1, metavar="N", help="held-out global batches in an evaluation")
    add("--metrics", metavar="FILE", help="JSON lines are added to it, one a step")
    add("--timeout-s", type=_positive, default=60.0, help="time-out of every process group")
    add("--step-floor-s", type=_seconds, default=0.0, help="shortest duration of a step, so that a demo can be watched")
    add("--slow-rank", type=_slow_rank, metavar="RANK:SECONDS", help="fault: this rank sleeps in each step")
    add("--nan-at", type=_at_least(1), metavar="STEP", help="fault: the loss is NaN here, in the first attempt alone")
    add("--raise-at", type=_raise_at, metavar="STEP[:RANK]", help="fault: raise here, in every attempt")
    add("--faults-dir", metavar="DIR", help="where files tell of faults while the job runs; see README.md")
    add(
        "--slow",
        type=_slow,
        action="append",
        default=[],
        metavar="POINT:SECONDS[:STEP[:RANK]]",
        help=f"sleep where a point begins ({', '.join(POINTS)}); may be given more than once",
    )
    add(
        "--slow-steps",
        type=_slow_steps,
        metavar="FROM:TO:FACTOR[:RANK]",
        help="these steps take FACTOR times as long, on every rank or on one",
    )


def _at_least(lowest: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise argparse.ArgumentTypeError(f"{value} is less than {lowest}")
        return value

    whole_number.__name__ = "whole number"  # argparse names the expected thing by it
    return whole_number


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text} must be zero or more, and finite")
    return value


def _positive(text: str) -> float:
    if _seconds(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} must be more than zero")
    return float(text)


def _fraction(text: str) -> float:
    if _seconds(text) >= 1:
        raise argparse.ArgumentTypeError(f"{text} must be less than 1")
    return float(text)


def _slow_rank(text: str) -> tuple[int, float]:
    rank, colon, seconds = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return _at_least(0)(rank), _seconds(seconds)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not RANK:SECONDS, such as 3:0.5") from error


def _raise_at(text: str) -> tuple[int, int | None]:
    step, colon, rank = text.partition(":")
    try:
        return _at_least(1)(step), _at_least(0)(rank) if colon else None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not STEP or STEP:RANK, such as 7:3") from error


def _slow(text: str) -> Slow:
    point, *numbers = text.split(":")
    if point not in POINTS or not 1 <= len(numbers) <= 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not POINT:SECONDS[:STEP[:RANK]] with one of {', '.join(POINTS)}")
    try:
        seconds, step, rank = (*numbers, "", "")[:3]
        whole = _at_least(0)
        return Slow(point, _seconds(seconds), whole(step) if step else None, whole(rank) if rank else None)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not POINT:SECONDS[:STEP[:RANK]], such as step:3:7:0") from error


def _slow_steps(text: str) -> SlowSteps:
    try:
        first, last, factor, *more = text.split(":")
        rank = _at_least(0)(*more) if more else None
        found = SlowSteps(_at_least(1)(first), _at_least(1)(last), _seconds(factor), rank)
    except (ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not FROM:TO:FACTOR[:RANK], such as 20:40:3") from error
    if found.first > found.last or found.factor < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: FROM must not be after TO, and FACTOR is at least 1")
    return found
