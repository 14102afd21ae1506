"""The entry of ``outrider``: finds the sub-command, runs it, and turns what went wrong into one or two lines.

Nothing that needs more than the standard library is imported before a sub-command asks for it, so that ``outrider
--help`` works, and is quick, wherever the base install does.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from importlib import metadata

from outrider import vocabulary
from outrider_cli import errors, parsing

EXIT_INTERRUPTED = 130

DESCRIPTION = "Rides beside a training run: sees faults, names causes, restarts from a checkpoint it trusts."
EXAMPLES = """\
examples:
  outrider demo                                 train a small 4D job here, and let faults hit it
  outrider run --nproc-per-node 8 train.py      torchrun's command line, supervised
  outrider status                               is it training, how well, since when
  outrider incidents                            what happened, and what was done about it
`outrider COMMAND --help` says more about each. OUTRIDER_DEBUG=1 shows the traceback of an error.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command and return its exit status."""
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except errors.CommandError as error:
        _complain(str(error))
        return error.code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has left (`outrider incidents | head`); the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return vocabulary.EXIT_DONE
    except PermissionError as error:
        _complain(f"{error.filename}: {error.strerror}; ask as the user whose it is, or name another place")
        return vocabulary.EXIT_COULD_NOT
    except Exception as error:  # noqa: BLE001 - the last guard: a person gets a sentence, never a traceback
        _complain(f"unexpected {type(error).__name__}: {error}")
        if not os.environ.get("OUTRIDER_DEBUG"):
            print("OUTRIDER_DEBUG=1 shows where it came from.", file=sys.stderr)
        return vocabulary.EXIT_COULD_NOT


def _run(argv: list[str]) -> int:
    parser = build()
    try:
        options = parser.parse_args(argv)
    except SystemExit as ended:  # --help and --version
        return int(ended.code or 0)
    handler: parsing.Handler = options.handler
    code = handler(options)
    sys.stdout.flush()
    return code


def build() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    # Imported under main's guards, so that Ctrl-C while they load ends without a traceback.
    from outrider_cli import agent, ask, check, checkpoint, checks, dashboard, demo, fr, job, kmsg, replay, run, serve

    parser = parsing.Parser(prog="outrider", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"outrider {version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for part in (demo, run, ask, dashboard, job, serve, agent, check, checks, checkpoint, fr, kmsg, replay):
        part.add_to(commands)
    return parser


def version() -> str:
    """The installed version; a tree that was never installed has none."""
    try:
        return metadata.version("outrider")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _complain(text: str) -> None:
    if os.environ.get("OUTRIDER_DEBUG"):
        traceback.print_exc()
    print(text if text.startswith("outrider") else f"outrider: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
