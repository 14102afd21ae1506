"""``outrider kmsg``: judges kernel logs that somebody brings, many at once. Needs no agent and no controller."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import IO, Any

from outrider import vocabulary
from outrider_cli import errors

EPILOG = """\
Each line of FILE is one log: {"id": ..., "kmsg": [record, ...]}, records as /dev/kmsg gives them (lines of dmesg or of
a journal are understood as well). For each, one line is printed: {"id": ..., "observations": [...]}. Exit status 1 when
one of them is fatal or an error, 2 when a line of FILE cannot be read; the others are judged all the same.

examples:
  outrider kmsg --cases logs.jsonl
  outrider kmsg --cases - < logs.jsonl
"""


def add_to(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "kmsg",
        help="judge kernel logs",
        description="Reads kernel logs and says what they tell of the hardware below a job.",
        epilog=EPILOG,
    )
    parser.add_argument("--cases", metavar="FILE", required=True, help="JSON lines; - reads standard input")
    parser.set_defaults(handler=judge_cases)


def judge_cases(options: argparse.Namespace) -> int:
    """Judge every log of a file; a line that is none is named and passed over."""
    code = vocabulary.EXIT_DONE
    try:
        with _opened(options.cases) as file:
            for number, answer in _answers(file):
                if isinstance(answer, str):
                    print(f"{options.cases}:{number}: {answer}", file=sys.stderr)
                    code = vocabulary.EXIT_COULD_NOT
                    continue
                print(json.dumps(answer))
                grave = any(found["severity"] in ("fatal", "error") for found in answer["observations"])
                code = max(code, vocabulary.EXIT_PROBLEM) if grave else code
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise errors.CommandError(f"--cases {options.cases}: {error.strerror or error}") from error
    return code


def _opened(path: str) -> IO[str]:
    if path == "-":
        return open(sys.stdin.fileno(), encoding="utf-8", errors="replace", closefd=False)
    return open(path, encoding="utf-8", errors="replace")


def _answers(file: IO[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line numbers from 1, each with its answer or with what is wrong with the line."""
    from outrider_analysis.kernel_log import judge

    for number, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            case = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield number, f"no JSON: {error}"
            continue
        problem = _problem(case)
        if problem:
            yield number, problem
            continue
        found = [each.document() for each in judge.judged(case["kmsg"])]
        yield number, {"id": case["id"], "observations": found}


def _problem(case: object) -> str:
    if not isinstance(case, dict):
        return f'a case is an object with "id" and "kmsg", this is {type(case).__name__}'
    for key in ("id", "kmsg"):
        if key not in case:
            return f'"{key}" is missing; there are {", ".join(map(repr, case)) or "no keys"}'
    records = case["kmsg"]
    if not isinstance(records, list) or not all(isinstance(record, str) for record in records):
        return '"kmsg" must be a list of records, each a text'
    return ""
