"""``outrider runbook check``: looks at files, needs no running controller."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from outrider import vocabulary
from outrider_cli import errors


def add_to(commands: Any) -> None:
    """Add the sub-command."""
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
