"""``outrider replay LEDGER``: what other runbooks, or this version, would have decided on the same facts."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from outrider import vocabulary
from outrider_cli import errors


def add_to(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "replay",
        help="which past decisions other runbooks would change",
        description="Puts every recorded fact to the core again. Exit 1 when a decision would differ. Changes nothing.",
        epilog="example:\n  outrider replay /var/lib/outrider/ledger.db --runbooks my-runbooks",
    )
    parser.add_argument("ledger", metavar="LEDGER", help="a ledger.db, or the state directory it lies in")
    parser.add_argument("--runbooks", metavar="DIR", help="default: the runbooks of this version")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(handler=replay)


def replay(options: argparse.Namespace) -> int:
    """Compare recorded decisions with those of a policy."""
    with errors.extra("controller"):
        from outrider_controller import ledger, runbook_files
    from outrider_controller.core import replay as replaying

    path = Path(options.ledger)
    path = path / "ledger.db" if path.is_dir() else path
    directory = Path(options.runbooks) if options.runbooks else runbook_files.BUILT_IN
    try:
        policy = runbook_files.load(directory)
        found = replaying.replay((row for _, row in ledger.read(path)), policy)
    except (runbook_files.RunbookError, ledger.LedgerError) as error:
        raise errors.CommandError(str(error)) from error
    different = [dataclasses.asdict(difference) for difference in found.different]
    if options.json:
        print(json.dumps({"decisions": found.decisions, "different": different, "state_equal": found.state_equal}))
    else:
        for row in different:
            was, would_be = row["was"] or "nothing", row["would_be"] or "nothing"
            print(f"{row['incident']}: was {was}, would be {would_be} (runbook {row['runbook']})")
        print(f"{found.decisions} decisions, {len(different)} would differ", file=sys.stderr)
    return vocabulary.EXIT_PROBLEM if different else vocabulary.EXIT_DONE
