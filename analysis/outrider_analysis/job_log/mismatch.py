"""Ranks of one group called different collectives: the words of gloo and of torch that say so, made a sentence.

Gloo's sends carry their size, so a rank whose peer sends more than its own call takes aborts, whoever of the group was
wrong. With TORCH_DISTRIBUTED_DEBUG=DETAIL torch compares the calls beforehand, and every rank raises what differs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from outrider_analysis.job_log import exceptions, native, patterns
from outrider_analysis.job_log import signature as signatures

KIND: Final = "collective-mismatch"
_SIZES: Final = re.compile(r"op\.preamble\.length <= op\.nbytes\. (\d{1,18}) vs (\d{1,18})")
_CALLED: Final = re.compile(
    r"Rank (\d{1,7}) is running collective: CollectiveFingerPrint\((?:SequenceNumber=\d{1,18}, )?OpType=(\w{1,40})"
    r"(?:, TensorShape=(\[[\d, ]{0,120}\]))?(?:, TensorDtypes=(\w{1,40}))?"
)


@dataclass(frozen=True)
class Mismatch:
    """``name``: the row that decided; ``text``: what follows "rank 3"; ``signature``: of that place in the job."""

    name: str
    text: str
    signature: str


def of_abort(tail: str) -> Mismatch | None:
    """What an abort tells, where it was one of gloo's for a size that does not fit."""
    thrown = native.thrown(tail)
    row = patterns.first(patterns.MISMATCH, thrown.what) if thrown is not None else None
    if thrown is None or row is None:
        return None
    call = native.call(tail)
    sizes = _SIZES.search(thrown.what)
    got = f"{sizes[1]} bytes from a peer where its call takes {sizes[2]}" if sizes else "more bytes than its call takes"
    within = f" ({call.operation} at {call.place})" if call else ""
    text = f"got {got}{within}: ranks of its group called different collectives or sizes"
    sign = signatures.signature(KIND, row.name, call.operation if call else "", call.function if call else "")
    return Mismatch(row.name, text, sign)


def of_error(error: exceptions.PythonError) -> Mismatch | None:
    """What an exception tells, where it is of a mismatch."""
    row = patterns.first(patterns.MISMATCH, error.message, error.name)
    if row is None:
        return None
    frame = error.users or error.innermost
    where = f" at {frame.where}" if frame else ""
    called = [_called(found) for found in list(_CALLED.finditer(error.message))[:2]]
    what = " and ".join(called) if len(called) == 2 else error.text
    text = f"called another collective than its peers{where}: {what}"
    return Mismatch(row.name, text, signatures.signature(KIND, row.name, frame.function if frame else ""))


def _called(found: re.Match[str]) -> str:
    words = (found[2], found[3], found[4])
    return f"rank {found[1]} of the group called {' '.join(word for word in words if word)}"
