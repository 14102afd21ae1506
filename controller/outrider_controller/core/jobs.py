"""A job as a person describes it: the file's keys, their types and defaults, and clear words when one is wrong."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Final

from outrider import mesh as mesh_module

LAYOUTS: Final = ("dcp", "megatron")
NAME_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
NAME_LENGTH_MAX: Final = 40


class JobError(ValueError):
    """A job that cannot be taken; the message names the key, the value and what is expected."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one job; every field has a unit in its name. The runbooks bound the rest."""

    grace_s: float = (
        2.0  # SIGTERM to SIGKILL; a blocked collective never runs a Python handler, so long waits are wasted
    )
    start_s: float = 600.0  # an order to start ranks must be answered within this
    memory_bytes: int = 0  # address space of a rank (RLIMIT_AS); 0 for none
    open_files: int = 0  # RLIMIT_NOFILE of a rank; 0 leaves the system's
    verify_s: float = 120.0  # a restart waits so long for checkpoints to be verified, then it takes what is known
    attempts_kept: int = 20  # logs and dumps of so many newest attempts stay on the nodes; 0 removes none
    logs_bytes: int = 32 << 30  # of all these in one log directory; the oldest go; 0 for no bound
    stall_s: float = 20.0  # floor for a step without a sign of progress; other phases have multiples; 0 for no watch


@dataclass(frozen=True)
class JobSpec:
    """One job. ``command`` is run once a rank; with a Python script it is forked from a warm keeper where that is
    safe.
    """

    name: str
    command: tuple[str, ...]
    nodes: int = 1
    ranks_per_node: int = 1
    mesh: str = ""  # outermost axis first; empty when the job does not say
    checkpoint_dir: str = ""
    checkpoint_layout: str = "dcp"
    checkpoint_keep: int = 0  # so many checkpoints are kept, never fewer than the newest trusted; 0 removes none
    peak_tflops: float = 0.0  # dense peak of one rank's device in the job's precision, for MFU; 0 where not known
    resume: tuple[str, ...] = ()  # arguments appended on a resume, with {checkpoint}
    env: dict[str, str] = field(default_factory=dict)
    preload: tuple[str, ...] = ("auto",)  # modules the keeper imports before it forks; "auto" reads them off the script
    user: str = ""  # run ranks as this user; empty for the agent's own
    cwd: str = ""
    log_dir: str = ""
    master_port: int = 0  # 0: a new port every attempt
    attended: bool = True  # a person can be asked; without one a job that cannot be helped ends with 93
    max_restarts: int = -1  # a ceiling over everything (torchrun's option); -1 leaves it to the runbooks
    limits: Limits = field(default_factory=Limits)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.nodes * self.ranks_per_node


_KINDS: Final[dict[str, tuple[type, str]]] = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "bool": (bool, "true or false"),
    "tuple[str, ...]": (list, "a list of texts"),
    "dict[str, str]": (dict, "a table of texts"),
}


def parse(document: dict[str, Any]) -> JobSpec:
    """Turn a decoded job file or REST body into a JobSpec; raises JobError naming the offending key."""
    values = _checked(document, JobSpec, "", skip=("limits",))
    limits = document.get("limits", {})
    if not isinstance(limits, dict):
        raise JobError(f"limits: {limits!r} is not a table; write [limits] and one key a line")
    values["limits"] = Limits(**_checked(limits, Limits, "limits."))
    for needed in ("name", "command"):
        if needed not in values:
            raise JobError(f"{needed}: is missing; a job needs at least name and command")
    spec = JobSpec(**values)
    _consistent(spec)
    return spec


def document(spec: JobSpec) -> dict[str, Any]:
    """The mapping that ``parse`` reads back to an equal JobSpec (lists for tuples, so that it is plain JSON)."""
    plain = dataclasses.asdict(spec)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def _checked(given: dict[str, Any], cls: type, prefix: str, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    fields = {f.name: str(f.type) for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key in skip:
            continue
        if key not in fields:
            raise JobError(f"{prefix}{key}: is not a key of a job; the keys are {', '.join(sorted(fields))}")
        values[key] = _value(prefix + key, value, fields[key])
    return values


def _value(key: str, value: Any, kind: str) -> Any:
    wanted, words = _KINDS[kind]
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise JobError(
                f"{key}: {value!r} is not a {'number of seconds' if key.endswith('_s') else 'finite number'}"
            )
        return float(value)
    plain: Any = list(value) if isinstance(value, tuple) else value
    if not isinstance(plain, wanted) or (wanted is int and isinstance(plain, bool)):
        raise JobError(f"{key}: {value!r} is not {words}")
    if isinstance(plain, list):
        if not all(isinstance(item, str) for item in plain):
            raise JobError(f"{key}: {value!r} is not a list of texts")
        return tuple(plain)
    if isinstance(value, dict) and not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise JobError(f"{key}: every name and value must be a text; put numbers in quotes")
    return value


def _consistent(spec: JobSpec) -> None:
    if not spec.name or len(spec.name) > NAME_LENGTH_MAX or not set(spec.name) <= NAME_LETTERS or spec.name[0] in "-.":
        raise JobError(
            f"name: {spec.name!r} must be 1 to {NAME_LENGTH_MAX} of a-z, 0-9, '-', '_', '.', "
            "and begin with a letter or digit"
        )
    if not spec.command:
        raise JobError("command: is empty; give the program and its arguments as a list")
    for key, value in (("nodes", spec.nodes), ("ranks_per_node", spec.ranks_per_node)):
        if value < 1:
            raise JobError(f"{key}: {value} must be at least 1")
    if spec.checkpoint_layout not in LAYOUTS:
        raise JobError(f"checkpoint_layout: {spec.checkpoint_layout!r} is not one of {', '.join(LAYOUTS)}")
    if not 0 <= spec.master_port <= 65535:
        raise JobError(f"master_port: {spec.master_port} is not a port; 0 takes a new one every attempt")
    for key in ("grace_s", "start_s"):
        if getattr(spec.limits, key) <= 0:
            raise JobError(f"limits.{key}: {getattr(spec.limits, key)} must be above 0")
    _not_negative(spec)
    if spec.resume and not any("{checkpoint}" in part for part in spec.resume):
        raise JobError(
            f"resume: {list(spec.resume)!r} nowhere says {{checkpoint}}, so it would not resume from anything"
        )
    _mesh_fits(spec)


def _not_negative(spec: JobSpec) -> None:
    numbers = {
        "checkpoint_keep": spec.checkpoint_keep,
        "peak_tflops": spec.peak_tflops,
        "limits.memory_bytes": spec.limits.memory_bytes,
        "limits.open_files": spec.limits.open_files,
        "limits.attempts_kept": spec.limits.attempts_kept,
        "limits.logs_bytes": spec.limits.logs_bytes,
        "limits.stall_s": spec.limits.stall_s,
        "limits.verify_s": spec.limits.verify_s,
    }
    for key, number in numbers.items():
        if number < 0:
            raise JobError(f"{key}: {number} must not be below 0")


def _mesh_fits(spec: JobSpec) -> None:
    if not spec.mesh:
        return
    try:
        size = mesh_module.parse(spec.mesh).world_size
    except mesh_module.MeshError as error:
        raise JobError(f"mesh: {error}") from error
    if size != spec.world_size:
        raise JobError(
            f"mesh: {spec.mesh} has {size} ranks, "
            f"but nodes x ranks_per_node is {spec.nodes} x {spec.ranks_per_node} = {spec.world_size}"
        )
