"""One rank's evidence, read: does it wait for others, is it elsewhere, is it stopped, or could nobody look?

The flight recorder speaks first: a collective that is enqueued and not finished is what the rank waits for, wherever
its Python stack happens to be. Without it the innermost frame decides. Where torch waits is told by the files below,
checked against real stacks of torch 2.13 (tests/recorded/stacks): a frame further out proves nothing, since a pipeline
schedule or a DTensor stands on the stack of all the work that is done under it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from outrider import records

KINDS: Final = ("stopped", "traced", "gone", "unseen", "waiting", "moving", "spinning", "blocked")
CORE_BURNT: Final = 0.5  # cores: above it a process computes, below it sleeps

_FRAME: Final = re.compile(r"^(?P<file>.*):(?P<line>\d+) in (?P<function>.*)$")
# These only pass a call on; what lies outside of them says what the rank is at.
_WRAPPERS: Final = re.compile(
    r"torch/(_ops|_compile|_tensor|utils/_contextlib|utils/_pytree|distributed/c10d_logger|autograd/function)\.py$"
    r"|torch/(_library|_dynamo)/"
    r"|torch/distributed/fsdp/_fully_shard/_fsdp_common\.py$"
)
_WAITS: Final = (
    # file, function (any where it is empty), what it waits for
    (r"torch/distributed/distributed_c10d\.py$", r"^(?!_object_to_tensor|_tensor_to_object)", "a collective"),
    (r"torch/distributed/_functional_collectives(_impl)?\.py$", "", "a collective"),
    (r"torch/distributed/(nn/functional|_symmetric_memory/__init__)\.py$", "", "a collective"),
    (r"torch/distributed/rendezvous\.py$", "", "the store"),
    (r"torch/distributed/elastic/utils/store\.py$", "", "the store"),
    (r"torch/distributed/fsdp/_fully_shard/_fsdp_collectives\.py$", "", "a collective"),
    (r"torch/distributed/fsdp/", r"wait|unshard|reduce_grad|finalize_backward", "a collective"),
    (r"torch/distributed/tensor/(_redistribute|_collective_utils|placement_types)\.py$", "", "a collective"),
    (r"torch/distributed/pipelining/", r"wait|p2p|recv|send", "a neighbour in the pipeline"),
    (r"torch/nn/parallel/distributed\.py$", r"sync|_pre_forward|_post_forward|_verify", "a collective"),
    (r"torch/cuda/", r"synchronize|wait", "its GPU"),
    (r"megatron/core/.*(p2p_communication|mappings|param_and_grad_buffer)\.py$", "", "a collective"),
    (r"deepspeed/comm/", "", "a collective"),
)
_WAITING: Final = tuple((re.compile(file), re.compile(function), what) for file, function, what in _WAITS)
_SENDS: Final = re.compile(r"^(i?send|send_object_list)$")
_RECEIVES: Final = re.compile(r"^(i?recv|recv_object_list)$")
_NEIGHBOURS: Final = re.compile(r"torch/distributed/pipelining/|megatron/core/.*p2p_communication\.py$")
_BATCHES: Final = re.compile(r"^batch_isend_irecv$")
# The engine runs backward passes in C++, and may either compute there or wait for a collective.
_EITHER: Final = re.compile(r"torch/autograd/(graph|__init__)\.py$")
_STORAGE: Final = re.compile(
    r"torch/distributed/checkpoint/(filesystem|_fsspec_filesystem)\.py$|torch/serialization\.py$"
    r"|/(fsspec|safetensors|zipfile|tarfile|shutil|pathlib|mmap)(/|\.py$)"
)
_LOADER: Final = re.compile(r"torch/utils/data/|/(webdataset|datasets|grain)/")
_STANDARD: Final = re.compile(r"/lib/python3[.\d]*/(?!site-packages|dist-packages)")
_FOREIGN: Final = re.compile(r"site-packages/|dist-packages/|/lib/python3[.\d]*/|^<")


@dataclass(frozen=True)
class Reading:
    """``kind``: one of KINDS. ``place``: where it stands, for two looks to be compared by. ``text``: for people."""

    kind: str
    place: str
    text: str
    awaited: str = ""  # what a waiting rank waits for
    elsewhere: str = ""  # a waiting rank by its flight recorder, of which the stack alone would say this


def read(evidence: records.RankEvidence) -> Reading:
    """Read one rank's evidence. Its process comes first: a stopped one tells nothing else."""
    if evidence.state in ("stopped", "traced"):
        by = "a debugger traces it" if evidence.state == "traced" else "its process is stopped"
        return Reading(evidence.state, evidence.state, by)
    if evidence.state in ("gone", "zombie"):
        return Reading("gone", "gone", "its process has ended")
    by_stack = _by_stack(evidence) if evidence.frames else _without_stack(evidence)
    if not evidence.pending:
        return by_stack
    what = _collective(evidence)
    elsewhere = by_stack.text if by_stack.kind == "spinning" and evidence.moved is False else ""
    kind = "moving" if evidence.moved else "waiting"
    return Reading(kind, f"{what} {by_stack.place}".strip(), f"waits in {what}", what, elsewhere)


def awaited(frames: tuple[str, ...], asleep: bool = True) -> str:
    """What a rank with this stack waits for, in words; nothing where its stack stands in no wait that is known."""
    file, _, function = innermost(frames)
    found = next((what for where, name, what in _WAITING if where.search(file) and name.search(function)), "")
    return found or ("a collective of the backward pass" if asleep and _EITHER.search(file) else "")


def stands_in(frames: tuple[str, ...]) -> tuple[str, str]:
    """What the stack of a waiting rank stands in: ``collective``, ``send``, ``recv`` or ``p2p`` (one of these two), and
    the function's name. Nothing for a store, a GPU, and what is not known.
    """
    file, _, function = innermost(frames)
    what = awaited(frames)
    if _NEIGHBOURS.search(file) or _BATCHES.search(function):
        return "p2p", function
    if "collective" not in what:
        return "", function
    if _SENDS.search(function):
        return "send", function
    return ("recv" if _RECEIVES.search(function) else "collective"), function


def outside(evidence: records.RankEvidence) -> bool:
    """True where a sleeping rank surely waits for no other: any function may sleep in ``Work.wait()``, which leaves no
    frame, but not one of the standard library, of a data loader, or of storage; nor does that wait sleep by the clock
    or on a disk.
    """
    file = innermost(evidence.frames)[0]
    foreign = bool(_STANDARD.search(file) or _STORAGE.search(file) or _LOADER.search(file))
    return foreign or evidence.state == "disk" or "nanosleep" in evidence.blocked_on


def innermost(frames: tuple[str, ...]) -> tuple[str, int, str]:
    """File, line and function of the innermost frame that does something itself."""
    parsed = [_parse(frame) for frame in frames]
    return next((found for found in parsed if not _WRAPPERS.search(found[0])), parsed[0] if parsed else ("", 0, ""))


def short(frame: str) -> str:
    """``train.py:12 in f``, without the folders."""
    file, line, function = _parse(frame)
    return f"{file.rsplit('/', 1)[-1]}:{line} in {function}" if line else frame


def _by_stack(evidence: records.RankEvidence) -> Reading:
    file, line, function = innermost(evidence.frames)
    asleep = evidence.cpu is None or evidence.cpu < CORE_BURNT
    what = awaited(evidence.frames, asleep)
    named = f"{file.rsplit('/', 1)[-1]}:{line} in {function}" if line else file
    if evidence.moved:
        return Reading("moving", "", f"works in {named}; its stack changed while it was looked at")
    if what:
        return Reading("waiting", f"{file} in {function}", f"waits for {what} ({named})", what)
    where = f"{_own(evidence.frames)} ({named})" if _own(evidence.frames) not in ("", named) else named
    place = _place(evidence, file, line, function)
    if asleep and evidence.state != "running":
        return Reading("blocked", place, f"sleeps in {where}{_on(evidence, file)}, outside any collective")
    burnt = f" and burns {evidence.cpu:.2g} of a core" if evidence.cpu is not None else ""
    return Reading("spinning", place, f"spins in {where}{burnt}, outside any collective")


def _without_stack(evidence: records.RankEvidence) -> Reading:
    if evidence.state == "disk":
        on = f" ({evidence.blocked_on})" if evidence.blocked_on else ""
        return Reading("blocked", f"disk {evidence.blocked_on}", f"hangs in the kernel, on storage or a device{on}")
    if evidence.pending is False:
        # Its flight recorder answered, so it lives; a stack is not to be had while C code holds the interpreter's lock.
        kind = "spinning" if evidence.cpu is not None and evidence.cpu >= CORE_BURNT else "blocked"
        return Reading(kind, "no stack", "holds its interpreter and has no collective pending")
    why = evidence.error or "it gave no stack"
    return Reading("unseen", "", f"could not be looked at: {why}")


def _place(evidence: records.RankEvidence, file: str, line: int, function: str) -> str:
    """A loop flickers between its lines, so a stack that was seen not to move is compared by its functions; one that
    was seen once, line by line.
    """
    if evidence.moved is None:
        return " < ".join(evidence.frames)
    own_file, _, own_function = _parse(_own_frame(evidence.frames))
    return f"{file} in {function} < {own_file} in {own_function}"


def _on(evidence: records.RankEvidence, file: str) -> str:
    if evidence.state == "disk" or _STORAGE.search(file):
        return " on storage"
    if any(_LOADER.search(_parse(frame)[0]) for frame in evidence.frames):
        return " for its data loader"
    return f" (kernel: {evidence.blocked_on})" if evidence.blocked_on not in ("", "0") else ""


def _own_frame(frames: tuple[str, ...]) -> str:
    """The innermost frame of the job's own code."""
    return next((frame for frame in frames if not _FOREIGN.search(frame)), "")


def _own(frames: tuple[str, ...]) -> str:
    frame = _own_frame(frames)
    return short(frame) if frame else ""


def _collective(evidence: records.RankEvidence) -> str:
    found = evidence.collective or {}
    op = str(found.get("op") or "a collective").split(":", 1)[-1]
    group = str(found.get("description") or found.get("group") or "")
    seq = found.get("seq")
    return f"{op}{f' of group {group}' if group else ''}{f', number {seq}' if seq is not None else ''}"


def _parse(frame: str) -> tuple[str, int, str]:
    found = _FRAME.match(frame)
    return (found["file"], int(found["line"]), found["function"]) if found else (frame, 0, "")
