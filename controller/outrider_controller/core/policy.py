"""Runbook front matter -> the rules the core follows.

Each runbook says which failures it speaks for (``match``), what to do (``action``) and how often (``limits``). The
core holds no number and no choice that stands here. A file with an unknown key, a wrong type or an unknown word is
refused, with the good ones named, so that a typing error can never silently switch a rule off.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from outrider import vocabulary
from outrider_controller.core import flight_record

# How a failure is told apart. ``exit`` words are outrider_analysis.job_log's judgements of the first dead rank, plus
# start-failed for ranks that never came to life, and start-refused for an attempt that a node would not even begin.
EXIT_WORDS: Final = (
    "killed",
    "native-crash",
    "out-of-memory",
    "python-error",
    "exit-code",
    "peer-lost",
    "clean",
    "disk-full",
    "checkpoint-damaged",
    "checkpoint-torn",
    "collective-mismatch",
    "start-failed",
    "start-refused",
)
NODE_WORDS: Final = ("lost",)
NUMBERS_WORDS: Final = ("not-finite",)  # a step whose loss or gradient norm is no number
STALL_WORDS: Final = flight_record.HUNG
# What this version can carry out; the other decisions are words of the vocabulary that later parts bring to life.
ACTIONS_READY: Final = ("watch", "restart", "restart-without-suspect", "hold-for-person")
WHILE_TRAINING_WORDS: Final = ("watch", "drain-at-checkpoint")
NO_SPARE_WORDS: Final = ("wait", "hold-for-person", "restart")  # restart: on that very node again
PAGE_WORDS: Final = ("never", "when-held", "always")


@dataclass(frozen=True)
class Match:
    """Which failures a runbook speaks for. Every list is an "any of"; an empty match never fits."""

    exit: tuple[str, ...] = ()  # judgement of the first rank to die of its own
    node: tuple[str, ...] = ()  # "lost": a node with ranks fell silent and stayed so
    observation: tuple[str, ...] = ()  # an observation kind seen in the incident, or found of a node of it
    xid: tuple[int, ...] = ()  # numbers of Xids found of a node of it; others are the observation xid's
    numbers: tuple[str, ...] = ()  # what became of the loss or the gradient norm
    stall: tuple[str, ...] = ()  # verdict of the looks at a job that stood still
    attempts_without_checkpoint: int = 0  # so many restarts since the newest checkpoint; 0 for does not matter
    anything: bool = False  # what no other runbook speaks for


@dataclass(frozen=True)
class Limits:
    """The brakes of a runbook. A limit of 0 is off."""

    restarts: int = 0  # restarts for this cause within window_s
    same_failure: int = 0  # restarts for one and the same failure with no newer checkpoint between them
    same_step: int = 0  # restarts for one failure that names its step (loss-nan), whatever was saved between them
    same_node: int = 0  # restarts that blame one node within window_s, before it is taken out
    nodes_out: int = 0  # nodes taken out within window_s, whatever the cause
    window_s: float = 3600.0
    settle_s: float = 10.0  # how long news of the other ranks is waited for before a diagnosis
    silence_s: float = 5.0  # how long a node must be silent before it counts as lost
    absent_s: float = 60.0  # how long a silent node and a job that finishes no step together are waited for
    drain_s: float = 1800.0  # how long drain-at-checkpoint waits for the next checkpoint
    then: str = "hold-for-person"  # what is done once a limit is reached


@dataclass(frozen=True)
class Rule:
    """One runbook's front matter."""

    id: str
    title: str
    match: Match
    severity: str
    action: str
    limits: Limits = field(default_factory=Limits)
    page: str = "when-held"
    cause_group: str | None = None
    while_training: str = "watch"  # where a node's fault has not interrupted the job: watch or drain-at-checkpoint
    no_spare: str = "wait"  # where the node must not be used and no other is free: wait, hold-for-person or restart


@dataclass(frozen=True)
class Problem:
    """One fault of one runbook. ``key`` is dotted (``limits.restarts``), empty where it concerns the whole file."""

    file: str
    key: str
    text: str


class PolicyError(ValueError):
    """The runbooks cannot be followed; ``problems`` says where and why."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(f"{p.file}: {p.text}" for p in problems))
        self.problems = problems


@dataclass(frozen=True)
class Policy:
    """All rules by cause, and the hash that every decision carries."""

    rules: Mapping[str, Rule]
    hash: str
    check_before: str = "never"  # no runbook's: whether a node is checked before it returns or joins (node_checks)

    def rule(self, cause: str) -> Rule:
        """The rule of a cause; every cause of the vocabulary has one (``load`` proves it)."""
        return self.rules[cause]


def load(documents: Mapping[str, Mapping[str, Any]]) -> Policy:
    """Front matter by file name -> Policy. Raises PolicyError with every problem found."""
    problems = check(documents)
    if problems:
        raise PolicyError(problems)
    rules = {rule.id: rule for rule in (_rule(document) for document in documents.values())}
    text = json.dumps({name: dataclasses.asdict(rule) for name, rule in sorted(rules.items())}, sort_keys=True)
    return Policy(rules=rules, hash=hashlib.sha256(text.encode()).hexdigest()[:16])


def check(documents: Mapping[str, Mapping[str, Any]]) -> tuple[Problem, ...]:
    """Every problem of a set of runbooks: each file by itself, and whether each cause has exactly one."""
    problems = [problem for name, document in documents.items() for problem in _problems(name, document)]
    given = [document.get("id") for document in documents.values()]
    missing = [cause for cause in vocabulary.CAUSES if cause not in given]
    problems += [Problem(f"{c}.md", "", f"there is no runbook for the cause {c}; add {c}.md") for c in missing]
    return tuple(problems) or _shared(documents)


def _shared(documents: Mapping[str, Mapping[str, Any]]) -> tuple[Problem, ...]:
    """Failures that two runbooks claim, and whether one of them takes what no other speaks for."""
    owners: dict[tuple[str, str], str] = {}
    found = []
    for name, document in documents.items():
        match = _rule(document).match
        keys = ("exit", "node", "observation", "stall", "numbers", "xid")
        claims = [(key, str(word)) for key in keys for word in getattr(match, key)]
        for claim in [*claims, ("anything", "true")] if match.anything else claims:
            owner = owners.setdefault(claim, name)
            if owner != name:
                key, word = claim
                text = f"match.{key}: {word!r} is what {owner} speaks for; one failure has one runbook"
                found.append(Problem(name, f"match.{key}", text))
    if ("anything", "true") not in owners:
        found.append(
            Problem("unknown.md", "match", "match: no runbook says anything: true, and some failures fit no other")
        )
    return tuple(found)


def _problems(name: str, document: Mapping[str, Any]) -> list[Problem]:
    found = [Problem(name, key, text) for key, text in _key_problems("", document, Rule)]
    cause = document.get("id")
    if isinstance(cause, str):
        if cause not in vocabulary.CAUSES:
            found.append(
                Problem(name, "id", f"id: {cause!r} is not a cause; the causes are {', '.join(vocabulary.CAUSES)}")
            )
        if name != f"{cause}.md":
            found.append(Problem(name, "id", f"id: {cause!r} must be the file's name without .md"))
    for key, words in _WORDS.items():
        found += [Problem(name, key, text) for text in _word_problems(document, key, words)]
    if not found and _rule(document).match == Match():
        found.append(
            Problem(name, "match", f"match: is empty, so this runbook would never be used; give one of {_names(Match)}")
        )
    return found


_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "severity": vocabulary.SEVERITIES,
    "action": ACTIONS_READY,
    "page": PAGE_WORDS,
    "cause_group": vocabulary.CAUSE_GROUPS,
    "while_training": WHILE_TRAINING_WORDS,
    "no_spare": NO_SPARE_WORDS,
    "match.exit": EXIT_WORDS,
    "match.node": NODE_WORDS,
    "match.numbers": NUMBERS_WORDS,
    "match.observation": vocabulary.OBSERVATION_KINDS,
    "match.stall": STALL_WORDS,
    "limits.then": ACTIONS_READY,
}


def _word_problems(document: Mapping[str, Any], key: str, words: tuple[str, ...]) -> list[str]:
    value: Any = document
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    given = value if isinstance(value, list | tuple) else [] if value is None else [value]
    return [
        f"{key}: {word!r} is not one of {', '.join(words)}"
        for word in given
        if isinstance(word, str) and word not in words
    ]


def _names(cls: type) -> str:
    return ", ".join(f.name for f in dataclasses.fields(cls))


_NESTED: Final = {"match": Match, "limits": Limits}
_TEXT: Final = {
    "str": "a text",
    "str | None": "a text or null",
    "int": "a whole number, 0 or more",
    "float": "a number, 0 or more",
    "bool": "true or false",
    "tuple[str, ...]": "a list of words",
    "tuple[int, ...]": "a list of whole numbers",
}


def _key_problems(prefix: str, document: Mapping[str, Any], cls: type) -> list[tuple[str, str]]:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    found: list[tuple[str, str]] = []
    for key, value in document.items():
        dotted = f"{prefix}{key}"
        if key not in fields:
            found.append((dotted, f"{dotted}: is not a key here; the keys are {_names(cls)}"))
        elif key in _NESTED and not prefix:
            if isinstance(value, Mapping):
                found += _key_problems(f"{key}.", value, _NESTED[key])
            else:
                found.append((dotted, f"{dotted}: {value!r} is not a table of {_names(_NESTED[key])}"))
        elif not _fits(str(fields[key].type), value):
            found.append((dotted, f"{dotted}: {value!r} is not {_TEXT[str(fields[key].type)]}"))
    for name, f in fields.items():
        needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if needed and name not in document:
            found.append((f"{prefix}{name}", f"{prefix}{name}: is missing"))
    return found


def _fits(kind: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "str | None":
        return value is None or isinstance(value, str)
    if kind == "str":
        return isinstance(value, str)
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and number and value >= 0
    if kind == "float":
        return bool(number and 0 <= value < float("inf"))
    wanted = int if kind == "tuple[int, ...]" else str
    return isinstance(value, list | tuple) and all(
        isinstance(item, wanted) and not isinstance(item, bool) for item in value
    )


def _rule(document: Mapping[str, Any]) -> Rule:
    match: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document["match"].items()}
    limits: dict[str, Any] = {k: float(v) if k.endswith("_s") else v for k, v in document.get("limits", {}).items()}
    plain = {key: value for key, value in document.items() if key not in _NESTED}
    return Rule(**plain, match=Match(**match), limits=Limits(**limits))
