"""What one line of a training job's log says of its progress: a step, a phase, a checkpoint, a validation.

In: whole lines, one at a time, of a job that was never made for us; most say nothing, and any may be garbage or two
lines written into each other. Out: a record of what the line says, or None. Nothing is remembered between lines.

Three forms are understood. Their formats were read in the public sources (facts alone were taken) of Megatron-LM,
commit d98e8a64 of 2026-08-22 and tag v2.5, and of TorchTitan, commit b5bcd76c of 2026-08-21 and tags v0.1.0 to v0.2.2:

- Megatron-LM prints steps and validation on the last rank, checkpoints and settings on rank 0. A loss that is not
  finite is left out of the line; an iteration that was skipped for it is counted under "number of nan iterations".
- TorchTitan prints everything on every rank, each tenth step by default, with or without colours. Ranks without the
  loss (of a pipeline stage that is not the last) print -1 in its place. ``tps`` is per rank.
- The example job (examples/llama4d) prints on rank 0.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

LINE_CHARS_MAX: Final = 4096  # a longer line is none of these; the longest known one is about 700
PATH_CHARS_MAX: Final = 1024

_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_NUMBER: Final = r"[-+]?(?:\d[\d,]{0,24}(?:\.\d{0,20})?(?:[eE][-+]?\d{1,4})?|[nN][aA][nN]|[iI][nN][fF])"

# Megatron-LM, megatron/training/training.py, training_log: " [2026-08-22 15:22:22.123456] iteration       10/     100 |
# consumed samples:          320 | elapsed time per iteration (ms): 512.3 | learning rate: 3.000000E-04 | global batch
# size:    32 | lm loss: 9.123456E+00 | loss scale: 1.0 | grad norm: 1.234 | number of skipped iterations:   0 | ...".
# v2.5 has no time in front; the first versions have no colon after some names; forks write "now/average" for a number.
_MEGATRON_STEP: Final = re.compile(r"\biteration\s+(\d{1,15})/\s*\d{1,15} \|")
_MEGATRON_TIME: Final = "elapsed time per iteration (ms)"
_MEGATRON_FIELD: Final = re.compile(rf"\s*([^|:]{{1,80}}?):?\s+({_NUMBER})(?:/{_NUMBER})?\s*")
# ibid., evaluate and evaluate_and_print_results: "Evaluating on 320 samples", "Evaluating iter 1/10", " validation loss
# at iteration 100 on validation set | lm loss value: 8.1E+00 | lm loss PPL: 3.3E+03 | ", or without the set's name.
_MEGATRON_EVALUATES: Final = re.compile(r"^Evaluating (?:on \d+ samples|iter \d+/\d+)\s*$")
_MEGATRON_VALIDATION: Final = re.compile(
    rf"\bvalidation\S* loss at iteration\s+(\d{{1,15}})\b[^|]*\|(?:\s*lm loss value:\s*({_NUMBER})\s*\|)?"
)
# megatron/training/checkpointing.py: "saving checkpoint at iteration      20 to DIR in torch_dist format" (older ones
# without the format), "  [time] successfully saved checkpoint from iteration      20 to DIR [ t 1/2, p 1/4 ]" once the
# tracker file names it ("at iteration 20 to DIR" in v2.5); it lies in DIR/iter_0000020. " loading distributed
# checkpoint from DIR at iteration 20", "  successfully loaded checkpoint from DIR [ t 1/2, p 1/4 ] at iteration 20".
_MEGATRON_SAVES: Final = re.compile(r"\bsaving checkpoint at iteration\s+\d{1,15} to ")
_MEGATRON_SAVED: Final = re.compile(r"\bsuccessfully saved checkpoint (?:from|at) iteration\s+(\d{1,15}) to (?=\S)")
_MEGATRON_SAVED_LOCALLY: Final = re.compile(r"\bsuccessfully saved local checkpoint from iteration\s+\d")
_MEGATRON_LOADS: Final = re.compile(r"\bloading (?:\w+ )?checkpoint from .* at iteration \d{1,15}\s*$")
_MEGATRON_LOADED: Final = re.compile(r"\bsuccessfully loaded checkpoint from ")
# megatron/training/arguments.py, _print_args, at the start: "  seq_length ...................................... 4096".
_MEGATRON_SEQUENCE: Final = re.compile(r"^\s*(?:\[?\w*\]?:\s*)?seq_length \.+ (\d{1,9})\s*$")

# TorchTitan, components/metrics.py: "[titan] 2026-08-21 21:30:21,123 - root - INFO - step: 10  loss:  7.12345
# grad_norm:  1.2345  memory: 12.34GiB(15.43%)  tps: 12,345  tflops: 123.45  mfu: 12.34%" ("N/A" when quantised);
# grad_norm from v0.2.0 on.
_TITAN_STEP: Final = re.compile(
    rf"(?<!validate )\bstep:\s*(\d{{1,15}})\s+loss:\s*({_NUMBER})\s+(?:grad_norm:\s*({_NUMBER})\s+)?"
    rf"memory:\s*[\d.]+GiB\([\d.]+%\)\s+tps:\s*({_NUMBER})(?=\s|$)"
)
# ibid., log_validation: "validate step: 10  loss:  7.1234  memory: 12.34GiB(15.43%)  tps: 12,345".
_TITAN_VALIDATION: Final = re.compile(rf"\bvalidate step:\s*(\d{{1,15}})\s+loss:\s*({_NUMBER})\s+memory: ")
# components/checkpoint.py up to v0.2.2, components/checkpointer/ later: "Saving the checkpoint (or staging if async is
# enabled)." or "Saving the checkpoint.", "Finished saving the checkpoint (or staging if async is enabled)in 1.23
# seconds." (without the blank), "Loading the checkpoint from DIR.", "Finished loading the checkpoint in 1.23 seconds.".
_TITAN_CHECKPOINT: Final = re.compile(
    r" - INFO - (?:(Saving|Staging) the checkpoint[ .]|(Finished (?:saving|staging) the checkpoint[ (]|"
    r"Last step checkpoint completed in )|(Loading the checkpoint from )|(Finished loading the checkpoint in ))"
)

# examples/llama4d/train.py, Journal: "step 7/200 loss 5.12345 grad_norm 1.2345 tokens/s 1234 step_s 0.123".
_EXAMPLE_STEP: Final = re.compile(
    rf"^(?:\[\w+\]:\s?)?step (\d{{1,15}})/\d{{1,15}} loss ({_NUMBER}) grad_norm ({_NUMBER}) "
    rf"tokens/s ({_NUMBER}) step_s ({_NUMBER})$"
)


@dataclass(frozen=True)
class Step:
    """A finished step. Of the tokens, a form gives one of three: of the job a second, of a rank a second, or the
    sequences of a step.
    """

    step: int
    loss: float | None = None
    grad_norm: float | None = None
    step_s: float | None = None
    tokens_per_s: float | None = None
    rank_tokens_per_s: float | None = None
    sequences: float | None = None
    not_finite: tuple[str, ...] = ()  # "loss=nan": values that are no numbers; their own fields are then None

    def tokens(self, world: int, sequence: int | None, step_s: float | None) -> float | None:
        """Tokens of the step over all ranks, None where the line and what is known beside it do not tell.

        ``world``: ranks of the job; ``sequence``: tokens of a sequence; ``step_s``: seconds of the step as measured,
        for lines that do not say.
        """
        if self.sequences is not None:
            return self.sequences * sequence if sequence is not None else None
        seconds = self.step_s if self.step_s is not None else step_s
        rate = self.tokens_per_s
        if rate is None and self.rank_tokens_per_s is not None:
            rate = self.rank_tokens_per_s * world
        return rate * seconds if rate is not None and seconds is not None else None


@dataclass(frozen=True)
class Phase:
    """The rank enters (``begins``) or leaves a phase; ``name`` is a word of vocabulary.PHASES."""

    name: str
    begins: bool


@dataclass(frozen=True)
class Saved:
    """A checkpoint is complete on disk. ``path`` is as the job was given it, which may be relative."""

    step: int
    path: str


@dataclass(frozen=True)
class Validated:
    """A validation has ended; ``loss`` is None where it is no number."""

    step: int
    loss: float | None


@dataclass(frozen=True)
class Sequence:
    """The job says how many tokens a sequence has."""

    length: int


Found = Step | Phase | Saved | Validated | Sequence


def read_line(line: str) -> Found | None:
    """What ``line`` (without its end) says; None for nothing, and for a line of more than LINE_CHARS_MAX."""
    if len(line) > LINE_CHARS_MAX:
        return None
    # Most lines end here: a search for a word is many times as fast as the patterns.
    if "iteration" in line and (found := _megatron(line)):
        return found
    if "step" in line:
        return _titan_metrics(line) or _example(line)
    if "heckpoint" in line:
        return _titan_phase(line)
    if "Evaluating" in line and _MEGATRON_EVALUATES.search(line):
        return Phase("evaluation", True)
    if "seq_length" in line and (length := _MEGATRON_SEQUENCE.search(line)):
        return Sequence(int(length[1]))
    return None


def _titan_metrics(line: str) -> Found | None:
    plain = _plain(line)
    if (found := _TITAN_STEP.search(plain)) and plain.count("tps:") == 1:
        odd: list[str] = []
        loss, grad_norm = _finite("loss", found[2], odd), _finite("grad_norm", found[3], odd)
        return Step(
            int(found[1]),
            None if loss == -1.0 else loss,
            grad_norm,
            rank_tokens_per_s=_number(found[4]),
            not_finite=tuple(odd),
        )
    if found := _TITAN_VALIDATION.search(plain):
        return Validated(int(found[1]), _number(found[2]))
    return _titan_phase(plain)


def _titan_phase(line: str) -> Phase | None:
    found = _TITAN_CHECKPOINT.search(_plain(line))
    if found is None:
        return None
    saves, saved, loads, _ = found.groups()
    return Phase("checkpoint" if saves or saved else "load", bool(saves or loads))


def _example(line: str) -> Step | None:
    found = _EXAMPLE_STEP.search(line.rstrip())
    if found is None:
        return None
    odd: list[str] = []
    loss, grad_norm = _finite("loss", found[2], odd), _finite("grad_norm", found[3], odd)
    return Step(int(found[1]), loss, grad_norm, _number(found[5]), _number(found[4]), not_finite=tuple(odd))


def _megatron(line: str) -> Found | None:
    if _MEGATRON_TIME in line:
        return _megatron_step(line)
    if found := _MEGATRON_SAVED.search(line):
        return _megatron_saved(int(found[1]), line[found.end() :])
    if _MEGATRON_SAVES.search(line):
        return Phase("checkpoint", True)
    if _MEGATRON_SAVED_LOCALLY.search(line):
        return Phase("checkpoint", False)  # of this host's memory or disk; no restart loads it by name
    if found := _MEGATRON_VALIDATION.search(line):
        return Validated(int(found[1]), _number(found[2]))
    if _MEGATRON_LOADED.search(line):
        return Phase("load", False)
    return Phase("load", True) if _MEGATRON_LOADS.search(line) else None


def _megatron_saved(step: int, rest: str) -> Saved | None:
    """``rest``: the folder, and in newer versions whose part of it this was."""
    folder = rest.rpartition(" [ t ")[0] if rest.rstrip().endswith(" ]") else rest
    folder = folder.rstrip().rstrip("/")
    return Saved(step, f"{folder}/iter_{step:07d}") if 0 < len(folder) <= PATH_CHARS_MAX else None


def _megatron_step(line: str) -> Step | None:
    heads = _MEGATRON_STEP.findall(line)
    if len(heads) != 1 or line.count(_MEGATRON_TIME) != 1:
        return None  # two ranks have written into each other
    fields: dict[str, str] = {}
    for part in line.split("|")[1:-1]:  # what no bar ends may be cut in the middle of a number
        if found := _MEGATRON_FIELD.fullmatch(part):
            fields.setdefault(found[1].strip(), found[2])
    milliseconds = _number(fields.get(_MEGATRON_TIME))
    if milliseconds is None:
        return None
    odd: list[str] = []
    loss = _finite("loss", _megatron_loss(fields), odd)
    grad_norm = _finite("grad_norm", fields.get("grad norm"), odd)
    if (_number(fields.get("number of nan iterations")) or 0) > 0 and not any(o.startswith("loss=") for o in odd):
        odd.insert(0, "loss=nan")
    if loss == 0.0 and (_number(fields.get("number of skipped iterations")) or 0) > 0:
        loss = None  # the average over no iteration at all
    return Step(
        int(heads[0]),
        loss,
        grad_norm,
        milliseconds / 1000,
        sequences=_number(fields.get("global batch size")),
        not_finite=tuple(odd),
    )


def _megatron_loss(fields: dict[str, str]) -> str | None:
    """The main loss: the language model's, or the first that is called one; further ones belong to single parts."""
    for name in ("lm loss", "loss"):
        if name in fields:
            return fields[name]
    return next((value for name, value in fields.items() if name.endswith(" loss")), None)


def _plain(line: str) -> str:
    return _COLOURS.sub("", line) if "\x1b" in line else line


def _number(text: str | None) -> float | None:
    """A finite number, thousands separated or not."""
    value = float(text.replace(",", "")) if text else math.nan
    return value if math.isfinite(value) else None


def _finite(name: str, text: str | None, odd: list[str]) -> float | None:
    """The value of ``name``, or None with its word added to ``odd`` as marks spell it (nan, inf, -inf)."""
    if text is None:
        return None
    value = float(text.replace(",", ""))
    if math.isfinite(value):
        return value
    odd.append(f"{name}={value}")
    return None
