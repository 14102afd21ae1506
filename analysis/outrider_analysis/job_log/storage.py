"""Exceptions that speak of storage: no room to write, or a checkpoint that could not be read back.

In: the chain of exceptions that ended a rank, the last lines of its log, the phase it was in. Out: ``disk-full``,
``checkpoint-torn`` (something of it is missing or cut off), ``checkpoint-damaged`` (it is all there and is not what
was written), or nothing. A checkpoint that is whole and does not fit the model (a missing key, another shape) is the
script's own error, and a mount that is ill (EIO, ESTALE) says nothing about the checkpoint.

Recorded with torch 2.13.0, whose distributed checkpoints wrap every error of every rank in one CheckpointException.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from outrider_analysis.job_log import exceptions, patterns


class Found(NamedTuple):
    """``kind``: a word of judgement.KINDS; ``name``: the table row that decided; ``text``: the line it stands on."""

    kind: str
    name: str
    text: str


def find(chain: Sequence[exceptions.PythonError], tail: str, phase: str | None) -> Found | None:
    """What the exceptions say of storage; None where they speak of something else. ``chain``: root cause first."""
    for error in reversed(chain):
        text = _words(error, tail)
        row = patterns.first(patterns.DISK_FULL, text, error.name)
        if row:
            return Found(row.kind, row.name, _line(text, row))
    for error in reversed(chain):
        text = _words(error, tail)
        if not _of_a_loader(error, text, phase) or patterns.first(patterns.NO_FAULT_OF_THE_CHECKPOINT, text):
            continue
        row = patterns.first((*patterns.CHECKPOINT_TORN, *patterns.CHECKPOINT_DAMAGED), text)
        if row:
            return Found(row.kind, row.name, _line(text, row))
    return None


def _words(error: exceptions.PythonError, tail: str) -> str:
    """The exception in words. Of a CheckpointException the log's end, since its message holds whole tracebacks."""
    own = f"{error.name}: {error.message}"
    if error.name != WRAPPER:
        return own
    at = tail.rfind(f"{WRAPPER}: ")
    return f"{own}\n{tail[at:]}" if at >= 0 else own


def _of_a_loader(error: exceptions.PythonError, text: str, phase: str | None) -> bool:
    if error.name == WRAPPER:
        return _LOADS.search(text) is not None or phase == "load"
    if _READER.search(text):
        return True
    if phase == "load" and error.name in READ_TYPES:
        return True
    return any(_LOAD_FRAME.search(frame.file) and "load" in frame.function for frame in error.frames)


def _line(text: str, row: patterns.Pattern) -> str:
    """The last line that the row fits: of nested tracebacks that is the exception itself."""
    lines = (line.strip() for line in reversed(text.splitlines()) if row.regex.search(line))
    return next(lines, "")[: exceptions.TEXT_CHARS_MAX]


WRAPPER: Final = "CheckpointException"
# Believed in the phase that loads a checkpoint, wherever they were raised; elsewhere a data set raises them too.
READ_TYPES: Final = frozenset({"EOFError", "UnpicklingError", "BadZipFile"})
_LOADS: Final = re.compile(r"state_dict_loader|read_data|read_metadata|PytorchStreamReader")
_READER: Final = re.compile(r"PytorchStreamReader|Weights only load failed")
_LOAD_FRAME: Final = re.compile(r"torch/serialization\.py|torch/distributed/checkpoint/")
