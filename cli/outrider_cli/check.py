"""``outrider check``: tries this node's GPUs, memory, links and disks, and says whether a job should run here."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any, Final

from outrider import vocabulary
from outrider_cli import errors, parsing, progress_line

EPILOG: Final = """\
checks, each in a process of its own that may hang or crash without harm:
  gpus         torch can use as many GPUs as the machine has
  matmul       products whose exact result is known, on every GPU (without one: every core), and how fast
  memory       of every GPU: patterns written and read back, how fast it copies
  host-memory  the same for the host's
  host-copies  between the host and every GPU          peer-copies  from every GPU to every other
  collectives  every rank with itself, all together, two by two so that a bad one is named
  file-system  writes, reads back, small files, room   sweep        what the agent sees in one look
It wants the node for itself: beside a job it is slow, and so is the job.

examples:
  outrider check
  outrider check --deep --mount /ckpt --timeout 600
  outrider check --only matmul,collectives --gpus 0,3 --json
  outrider check --python /opt/job/bin/python       an interpreter that has torch, where this one has none

Exit status 0 when it passed (or passed with a warning), 1 when something failed, 2 when something could not be looked
at or nothing was run. What was skipped is said, and does not count as passed.
"""
MARKS: Final = {"pass": "ok", "warn": "WARN", "fail": "FAIL", "skipped": "skipped", "could-not-look": "COULD NOT LOOK"}
PASSED_ON: Final = ("nvml_library", "kernel_log", "sysfs", "procfs")


def add_to(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "check",
        help="try this node's GPUs, memory, links and disks",
        description="Measures this node with a bound and a verdict for each check. Needs no controller and no agent.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("--deep", action="store_true", help="take minutes: most of the memory, every pair, large files")
    add("--json", action="store_true", help="one JSON document on standard output")
    add("--only", metavar="NAME,...", help="these checks alone")
    add(
        "--mount",
        metavar="PATH",
        action="append",
        help="a file system to try; may be repeated (default: for temporary files)",
    )
    add("--gpus", metavar="LIST", help="these GPUs alone, by number as in 0,3; none for none (default: all)")
    add("--timeout", metavar="S", type=parsing.seconds, help="for all checks together (default 120, with --deep 300)")
    add("--python", metavar="PATH", default=sys.executable, help="interpreter with torch (default: this one)")
    add(
        "--node",
        metavar="NAME",
        default=socket.gethostname(),
        help="the node's name (default: the host's, %(default)s)",
    )
    sweep = parser.add_argument_group("the sweep, as for `outrider agent --once`")
    sweep.add_argument("--nvml-library", metavar="PATH", help="NVML library to load")
    sweep.add_argument("--kernel-log", metavar="PATH", help="kernel log, or a file in its place")
    sweep.add_argument("--sysfs", metavar="DIR", help="tree to read in place of /sys")
    sweep.add_argument("--procfs", metavar="DIR", help="tree to read in place of /proc")
    parser.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Run the checks and tell of them."""
    import time

    from outrider_agent.checks import machine, results
    from outrider_agent.checks import run as running

    line = progress_line.ProgressLine(sys.stderr)
    checks = running.Checks(_chosen(options, running), machine.look(), line.show)
    began = time.monotonic()
    try:
        found = checks.run()
    finally:
        line.clear()
    document = results.document(options.node, checks.simulated, found, time.monotonic() - began)
    if options.json:
        print(json.dumps(document))
    else:
        _print(document)
    return _status(document["verdict"])


def _chosen(options: argparse.Namespace, running: Any) -> Any:
    default_s = running.TIMEOUT_DEEP_S if options.deep else running.TIMEOUT_S
    timeout_s = default_s if options.timeout is None else options.timeout
    if timeout_s <= 0:
        raise errors.CommandError(f"--timeout {timeout_s:g}: has to be above 0 seconds")
    if not os.access(options.python, os.X_OK):
        raise errors.CommandError(
            f"--python {options.python}: is no program; give the path of an interpreter with torch"
        )
    mounts = tuple(Path(path).absolute() for path in options.mount or ())
    for path in mounts:
        if not path.is_dir():
            raise errors.CommandError(f"--mount {path}: is no directory; name one on the file system to try")
    words = [
        word
        for name in PASSED_ON
        if (given := getattr(options, name))
        for word in (f"--{name.replace('_', '-')}", given)
    ]
    return running.Options(
        deep=options.deep,
        only=_names(options.only, running.NAMES),
        mounts=mounts,
        gpus=_gpus(options.gpus),
        timeout_s=timeout_s,
        python=options.python,
        sweep=("--node", options.node, *words),
    )


def _names(text: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    if text is None:
        return known
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in known:
            raise errors.CommandError(
                f"--only {name}: is no check{parsing.near(name, known)}; there are {', '.join(known)}"
            )
    if not names:
        raise errors.CommandError(f"--only {text!r}: names no check; there are {', '.join(known)}")
    return names


def _gpus(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    if text == "none":
        return ()
    try:
        return tuple(sorted({int(number.removeprefix("gpu")) for number in text.split(",")}))
    except ValueError:
        raise errors.CommandError(f"--gpus {text!r}: is not a list of numbers such as 0,3, or none") from None


def _print(document: dict[str, Any]) -> None:
    for one in document["checks"]:
        value = "" if one["value"] is None else f"{one['value']:.4g} {one['unit']}"
        bound = "" if one["bound"] is None else f"bound {one['bound']:.4g}"
        print(f"{MARKS[one['verdict']]:<15}{one['name']:<17}{one['device']:<12}{value:<15}{bound:<13}{one['text']}")
    print(f"{document['sentence']} ({document['seconds']:.1f} s)")


def _status(verdict: str) -> int:
    if verdict == "fail":
        return vocabulary.EXIT_PROBLEM
    return vocabulary.EXIT_DONE if verdict in ("pass", "warn") else vocabulary.EXIT_COULD_NOT
