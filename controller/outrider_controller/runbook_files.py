"""Runbook files -> front matter as plain mappings, for core.policy to judge. Markdown with YAML between two ``---``
lines.

YAML is read by PyYAML's safe loader, which makes plain data only. Problems are collected, never raised one by one, so
that ``outrider runbook check`` shows all of them with their lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from outrider_controller.core import policy

RUNBOOK_BYTES_MAX: Final = 256 * 1024
BUILT_IN: Final = Path(__file__).parent / "runbooks"


@dataclass(frozen=True)
class Located:
    """One problem with its place, as ``outrider runbook check --json`` prints it."""

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Runbooks:
    """All runbooks of a directory: front matter and body by file name, lines of keys, and what could not be read."""

    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    bodies: dict[str, str] = field(default_factory=dict)
    lines: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: tuple[Located, ...] = ()


class RunbookError(ValueError):
    """The runbooks cannot be followed; the message lists every problem with file and line."""


def read(directory: Path = BUILT_IN) -> Runbooks:
    """Read every ``*.md`` of ``directory`` but README.md. Raises RunbookError where the directory cannot be read."""
    try:
        files = sorted(p for p in directory.iterdir() if p.suffix == ".md" and p.name != "README.md")
    except OSError as error:
        raise RunbookError(
            f"{directory}: cannot read runbooks: {error.strerror}. Give their directory with --runbooks DIR"
        ) from error
    found = Runbooks()
    problems: list[Located] = []
    for file in files:
        problems += _read_one(file, found)
    return Runbooks(found.documents, found.bodies, found.lines, tuple(problems))


def check(directory: Path = BUILT_IN) -> tuple[int, tuple[Located, ...]]:
    """Number of runbooks and every problem with file and line."""
    found = read(directory)
    named = [Located(p.file, _line(found, p), p.text) for p in policy.check(found.documents)]
    unread = {p.file for p in found.problems}
    problems = (*found.problems, *(p for p in named if p.file not in unread))
    return len(found.documents) + len(unread), tuple(sorted(problems, key=lambda p: (p.file, p.line)))


def load(directory: Path = BUILT_IN) -> policy.Policy:
    """The policy of a directory; raises RunbookError naming every problem."""
    _, problems = check(directory)
    if problems:
        raise RunbookError("\n".join(f"{directory / p.file}:{p.line}: {p.text}" for p in problems))
    return policy.load(read(directory).documents)


def _read_one(file: Path, into: Runbooks) -> list[Located]:
    try:
        if file.stat().st_size > RUNBOOK_BYTES_MAX:
            return [Located(file.name, 1, f"is larger than {RUNBOOK_BYTES_MAX} bytes; a runbook is a page")]
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return [Located(file.name, 1, f"cannot be read: {error}")]
    head, body, problem = _split(text)
    if problem:
        return [Located(file.name, 1, problem)]
    try:
        document = yaml.safe_load(head)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        return [
            Located(
                file.name,
                mark.line + 2 if mark else 1,
                f"the front matter is not YAML: {getattr(error, 'problem', error)}",
            )
        ]
    except RecursionError:
        return [Located(file.name, 1, "the front matter is nested too deeply")]
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        return [Located(file.name, 2, "the front matter must be a table of keys")]
    if repeated := _repeated(head):
        return [Located(file.name, line, f"{key}: is given twice") for key, line in repeated]
    if not body.strip():
        return [Located(file.name, 1, "has no text below its front matter; a person reads it at three in the morning")]
    into.documents[file.name] = document
    into.bodies[file.name] = body
    into.lines[file.name] = _key_lines(head)
    return []


def _split(text: str) -> tuple[str, str, str | None]:
    if not text.startswith("---\n"):
        return "", "", "has no front matter: the first line must be ---"
    head, mark, body = text[4:].partition("\n---\n")
    if not mark:
        return "", "", "has no end of its front matter: a second line of --- is missing"
    return head, body, None


def _key_lines(head: str) -> dict[str, int]:
    """Line of each key, dotted one level deep, by its indentation; the opening --- is line 1."""
    return dict(_keys(head))


def _repeated(head: str) -> list[tuple[str, int]]:
    """Keys that stand there a second time; YAML would let the last one win."""
    first: dict[str, int] = {}
    return [(key, line) for key, line in _keys(head) if first.setdefault(key, line) != line]


def _keys(head: str) -> Iterator[tuple[str, int]]:
    parent = ""
    for number, line in enumerate(head.splitlines(), start=2):
        name, colon, _ = line.strip().partition(":")
        if not colon or not name.isidentifier():
            continue
        if line[0] not in " \t":
            parent = name
            yield name, number
        else:
            yield f"{parent}.{name}", number


def _line(found: Runbooks, problem: policy.Problem) -> int:
    lines = found.lines.get(problem.file, {})
    return lines.get(problem.key) or lines.get(problem.key.partition(".")[0]) or 1
