"""``outrider checkpoint list`` and ``outrider checkpoint verify``: judges checkpoints without loading any.

Needs no running controller. Progress goes to standard error. Exit status 1 when one is rejected, 2 when it could not
look.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from outrider import vocabulary
from outrider_cli import errors, progress_line

TRUST_HELP = """\
trust, each word with what those before it promise:
  written    its last file is there
  complete   every file is there with its exact size, every part of every tensor is stored once, checksums are good
  hashed     every byte is proven by the manifest's SHA-256
  loadable   what a loader has to read is readable
  rejected   something is wrong, and the line says what; it is never loaded
"""


def add_to(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "checkpoint",
        help="list or verify checkpoints: how far each can be trusted",
        description="Judges checkpoints without loading any. Exit 1 when one is rejected, 2 when it cannot look.",
        epilog=f"{TRUST_HELP}\nexamples:\n  outrider checkpoint list /checkpoints/run-7 --quick\n"
        "  outrider checkpoint verify /checkpoints/run-7/step-00001200-attempt-000 --json",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    listed = actions.add_parser(
        "list",
        help="newest first, and the one to resume from",
        description="Verifies every checkpoint of a directory, newest first. Exit status 1 when one is rejected.",
        epilog=TRUST_HELP,
    )
    listed.add_argument("directory", metavar="DIR", help="the job's checkpoint_dir")
    listed.add_argument("--quick", action="store_true", help="completeness alone: no content is read")
    listed.set_defaults(handler=list_checkpoints)
    verify = actions.add_parser(
        "verify",
        help="one checkpoint, every byte of it",
        description="Verifies one checkpoint, every byte of it. Exit status 1 when it is rejected.",
        epilog=TRUST_HELP,
    )
    verify.add_argument("path", metavar="PATH", help="a checkpoint's folder, or for Megatron its iter_ folder")
    verify.set_defaults(handler=verify_checkpoint)
    for each in (listed, verify):
        words = {"choices": ["dcp", "megatron"], "default": "dcp", "metavar": "dcp|megatron", "help": "default dcp"}
        each.add_argument("--layout", **words)
        each.add_argument("--json", action="store_true", help="one JSON document on standard output")


def list_checkpoints(options: argparse.Namespace) -> int:
    """Judge a directory of checkpoints."""
    with errors.extra("controller"):
        from outrider_controller import checkpoints, verifier
    directory = Path(options.directory).absolute()
    if not directory.is_dir():
        raise errors.CommandError(f"{options.directory}: is not a directory; give the job's checkpoint_dir")
    line = progress_line.ProgressLine(sys.stderr)
    looking = checkpoints.listing(directory, options.layout, quick=options.quick, progress=_shown_on(line))
    try:
        document = asyncio.run(looking)
    except (checkpoints.CheckpointError, verifier.CouldNotLookError) as error:
        raise errors.CommandError(str(error)) from error
    finally:
        line.clear()
    if options.json:
        print(json.dumps(document))
    else:
        for item in document["checkpoints"]:
            _print(item)
        none = "nothing: none can be trusted" if document["checkpoints"] else "nothing: there is no checkpoint"
        print(f"resume from: {document['resume_from'] or none}")
    return _status(document["checkpoints"])


def verify_checkpoint(options: argparse.Namespace) -> int:
    """Judge one checkpoint."""
    with errors.extra("controller"):
        from outrider_controller import checkpoints, verifier
    path = Path(options.path).absolute()
    if not path.is_symlink() and not path.is_dir():
        raise errors.CommandError(f"{options.path}: is no checkpoint's folder; outrider checkpoint list DIR names them")
    line = progress_line.ProgressLine(sys.stderr)
    tell = _shown_on(line)
    try:
        seen = checkpoints.surroundings(path, options.layout)
        looking = checkpoints.verified(seen, str(path), urgent=True, progress=lambda count: tell(str(path), count))
        found = asyncio.run(looking)
    except (checkpoints.CheckpointError, verifier.CouldNotLookError) as error:
        raise errors.CommandError(str(error)) from error
    finally:
        line.clear()
    if found["gone"]:
        raise errors.CommandError(f"{options.path}: was removed while it was verified")
    document = {key: found[key] for key in checkpoints.VERIFIED}
    if options.json:
        print(json.dumps(document))
    else:
        _print(document)
        print(f"verified in {document['seconds']:.1f} s, content {document['tree'][:16] or 'not read'}")
    return _status([document])


def _shown_on(line: progress_line.ProgressLine) -> Any:
    def tell(path: str, count: int) -> None:
        line.show(f"verifying {Path(path).name}: {count / 1e6:.0f} MB read")

    return tell


def _print(item: dict[str, Any]) -> None:
    step = "-" if item["step"] is None else item["step"]
    size = f"{item['bytes'] / 1e6:.1f} MB in {item['files']} files"
    print(f"step {step:>8}  {item['trust']:<9} {size:<24} {item['path']}")
    for problem in item["problems"]:
        print(f"{'':14}{problem['file']} {problem['text']}")
    for note in item.get("notes", ()):
        print(f"{'':14}note: {note}")


def _status(items: list[dict[str, Any]]) -> int:
    rejected = any(item["trust"] == vocabulary.REJECTED for item in items)
    return vocabulary.EXIT_PROBLEM if rejected else vocabulary.EXIT_DONE
