"""``outrider run``: torchrun's command line, supervised on this machine."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from outrider_cli import errors, job_from_options, parsing, serve, torchrun

EXAMPLES = """\
examples:
  outrider run --nproc-per-node 8 train.py --steps 1000
  outrider run --nodes 2 --spares 1 --mesh dp=2,pp=2,cp=1,tp=2 --checkpoint-dir ckpt train.py --checkpoint-dir ckpt
  outrider run --nproc-per-node 4 --checkpoint-dir ckpt --resume '--load {checkpoint}' -m my.trainer
  outrider run --no-python ./loop.sh

exit status: 0 the job completed, 93 no restart can help, 2 it could not start, 130 ended with Ctrl-C
"""


def add_to(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "run",
        help="run a training script under supervision on this machine",
        usage="outrider run [torchrun options] [options] SCRIPT [ARGS ...]",
        description="Start the ranks, watch them, and bring them back from the newest trusted checkpoint\n"
        "when they die. Rank 0's output comes on standard output, progress on standard error.",
        epilog=EXAMPLES,
    )
    add_options(parser)
    parser.set_defaults(handler=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Every option and argument of ``outrider run``."""
    own = parser.add_argument_group("options of outrider")
    add = own.add_argument
    add("--job", metavar="NAME", help="the job's name (default: the script's)")
    add("--nodes", type=parsing.at_least(1), metavar="N", help="hosts; several are simulated (default 1, this machine)")
    add(
        "--spares",
        type=parsing.at_least(0),
        default=0,
        metavar="N",
        help="further hosts that take the place of a lost one",
    )
    add("--mesh", metavar="MESH", help="outermost axis first, as in dp=2,pp=2,cp=1,tp=2")
    add("--checkpoint-dir", metavar="DIR", help="where the script keeps its checkpoints")
    add("--checkpoint-layout", choices=["dcp", "megatron"], default="dcp", metavar="dcp|megatron", help="default dcp")
    add(
        "--checkpoint-keep",
        type=parsing.at_least(0),
        default=0,
        metavar="N",
        help="remove checkpoints but the newest N, never the newest trusted one (default 0 removes none)",
    )
    add(
        "--stall-s",
        metavar="SECONDS",
        type=parsing.seconds,
        help="how long a step may always be silent before anything is done (default 20); other phases are given more, "
        "and all of them what their own past asks for; 0 looks into none",
    )
    add("--resume", metavar="TEMPLATE", help="arguments added on a resume, as in '--load {checkpoint}'")
    add(
        "--preload",
        action="append",
        metavar="MODULE",
        help="imported once, before ranks are forked; may be repeated. auto (default) reads the modules off the "
        "script, none imports nothing ahead",
    )
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="for the ranks, may be repeated")
    add("--runbooks", metavar="DIR", help="the policy (default: the runbooks of this version)")
    add("--webhook", metavar="URL", help="is told of opened and closed incidents, as JSON")
    add("--webhook-secret-file", metavar="FILE", help="key of the webhook's HMAC signature")
    parsing.add_places(parser, controller=False)
    torchrun.add_to(parser)
    parser.add_argument(
        "script", metavar="SCRIPT", help="the training script (a module with -m, a program with --no-python)"
    )
    parser.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="its own arguments")


def run(options: argparse.Namespace) -> int:
    """Supervise the script until it is over."""
    spec = job_from_options.spec(options)
    shown = torchrun.shown_ranks(options, spec.world_size)
    supervision = parts()
    for note in torchrun.notes(options):
        print(f"outrider run: {note}", file=sys.stderr)
    plan = supervision.Plan(
        spec=spec,
        state=serve.prepared_state(options.state),
        spares=options.spares,
        shown=shown,
        runbooks=Path(options.runbooks) if options.runbooks else None,
        webhook=options.webhook or "",
        webhook_secret_file=Path(options.webhook_secret_file).absolute() if options.webhook_secret_file else None,
    )
    return int(supervision.run(plan).code)


def parts() -> ModuleType:
    """The supervision, with all that it needs proven to be installed, the agents' half too."""
    with errors.extra("controller", "agent"):
        importlib.import_module("outrider_agent.agent")
        return importlib.import_module("outrider_cli.supervision")
