"""``outrider runbook check`` and ``outrider checkpoint list``: looks at files, needs no running controller."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from outrider import vocabulary
from outrider_cli import errors


def add_to(commands: Any) -> None:
    """Add the sub-commands."""
    _add_runbook(commands)
    _add_checkpoint(commands)


def _add_runbook(commands: Any) -> None:
    parser = commands.add_parser(
        "runbook",
        help="check the runbooks, which are the policy",
        description="A runbook's front matter is the rule that the controller follows. Exit 1 when one is wrong.",
        epilog="examples:\n  outrider runbook check\n  outrider runbook check my-runbooks --json",
    )
    parser.add_argument("action", metavar="check", choices=["check"], help="name every problem with its file and line")
    parser.add_argument("directory", metavar="DIR", nargs="?", help="default: the runbooks of this version")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(handler=check_runbooks)


def _add_checkpoint(commands: Any) -> None:
    parser = commands.add_parser(
        "checkpoint",
        help="list checkpoints and how far each is trusted",
        description="Judges a directory of checkpoints without loading any. Exit status 1 when one is rejected.",
        epilog="example:\n  outrider checkpoint list /checkpoints/run-7 --json",
    )
    parser.add_argument("action", metavar="list", choices=["list"], help="newest first, and the one to resume from")
    parser.add_argument("directory", metavar="DIR", help="the job's checkpoint_dir")
    parser.add_argument(
        "--layout", choices=["dcp", "megatron"], default="dcp", metavar="dcp|megatron", help="default dcp"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(handler=list_checkpoints)


def check_runbooks(options: argparse.Namespace) -> int:
    """Lint a directory of runbooks."""
    with errors.extra("controller"):
        from outrider_controller import runbook_files
    directory = Path(options.directory) if options.directory else runbook_files.BUILT_IN
    try:
        count, problems = runbook_files.check(directory)
    except (OSError, runbook_files.RunbookError) as error:
        raise errors.CommandError(str(error)) from error
    if options.json:
        found = [{"file": p.file, "line": p.line, "text": p.text} for p in problems]
        print(json.dumps({"runbooks": count, "problems": found}))
    else:
        for problem in problems:
            print(f"{directory / problem.file}:{problem.line}: {problem.text}")
        print(f"{count} runbooks in {directory}, {len(problems)} problems", file=sys.stderr)
    return vocabulary.EXIT_PROBLEM if problems else vocabulary.EXIT_DONE


def list_checkpoints(options: argparse.Namespace) -> int:
    """Judge a directory of checkpoints."""
    with errors.extra("controller"):
        from outrider_controller import checkpoints
    directory = Path(options.directory)
    if not directory.is_dir():
        raise errors.CommandError(f"{directory}: is not a directory; give the job's checkpoint_dir")
    try:
        document = checkpoints.listing(directory, options.layout)
    except checkpoints.CheckpointError as error:
        raise errors.CommandError(str(error)) from error
    if options.json:
        print(json.dumps(document))
    else:
        _print_checkpoints(document)
    rejected = any(item["trust"] == "rejected" for item in document["checkpoints"])
    return vocabulary.EXIT_PROBLEM if rejected else vocabulary.EXIT_DONE


def _print_checkpoints(document: dict[str, Any]) -> None:
    for item in document["checkpoints"]:
        step = "-" if item["step"] is None else item["step"]
        size = f"{item['bytes'] / 1e6:.1f} MB in {item['files']} files"
        why = "; ".join(f"{p['file']} {p['text']}" for p in item["problems"])
        print(f"step {step:>8}  {item['trust']:<9} {size:<24} {item['path']}{'  ' + why if why else ''}")
    print(f"resume from: {document['resume_from'] or 'nothing, the job would begin at step 0'}")
