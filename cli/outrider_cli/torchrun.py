"""torchrun's options, in both of its spellings, and what each of them means under Outrider.

A command line that works with torchrun works here. Some options have no counterpart: there is no rendezvous, since
the controller gives every attempt a store and a port of its own. Those are taken, and one sentence each says so.
"""

from __future__ import annotations

import argparse
import glob
import os
from dataclasses import dataclass
from typing import Final

from outrider_cli import errors, parsing


@dataclass(frozen=True)
class Option:
    """One option of torchrun. ``why_not`` is empty where it means something here."""

    name: str
    help: str
    short: str = ""
    flag: bool = False
    metavar: str = "VALUE"
    why_not: str = ""

    @property
    def dest(self) -> str:
        """Its key in the namespace."""
        return self.name.replace("-", "_")


_NO_RENDEZVOUS: Final = "there is no rendezvous: every attempt gets a store and a port of its own"
_ALWAYS_FILES: Final = "every rank's output goes to a file of its own; see --log-dir"

OPTIONS: Final = (
    Option("nproc-per-node", "ranks on each host: a number, cpu, gpu or auto", metavar="N"),
    Option("nnodes", "simulated hosts, as --nodes; of a range MIN:MAX the larger", metavar="N"),
    Option("max-restarts", "ceiling on restarts; without it the runbooks decide", metavar="N"),
    Option("master-port", "port of rank 0's store (default: a new one for every attempt)", metavar="PORT"),
    Option("module", "SCRIPT is a module, as with python -m", short="-m", flag=True),
    Option("no-python", "SCRIPT is a program, run as it is", flag=True),
    Option("log-dir", "where the ranks' logs go (default: logs/JOB in the state directory)", metavar="DIR"),
    Option("tee", "show the output of all ranks, not of rank 0 alone", short="-t"),
    Option("local-ranks-filter", "show the output of these ranks", metavar="RANKS"),
    Option("rdzv-id", "names the job where --job does not", metavar="NAME"),
    Option("role", "ROLE_NAME in the ranks' environment", metavar="NAME"),
    Option("shutdown-timeout", "seconds between SIGTERM and SIGKILL", metavar="S"),
    Option("standalone", "taken as it is: this is always one machine", flag=True),
    Option("redirects", "", short="-r", why_not=_ALWAYS_FILES),
    Option("master-addr", "", why_not="rank 0's host gives the address"),
    Option("node-rank", "", why_not="all hosts are started here"),
    Option("rdzv-backend", "", why_not=_NO_RENDEZVOUS),
    Option("rdzv-endpoint", "", why_not=_NO_RENDEZVOUS),
    Option("rdzv-conf", "", why_not=_NO_RENDEZVOUS),
    Option("local-addr", "", why_not="simulated hosts share the loopback address"),
    Option("monitor-interval", "", why_not="deaths are told by the kernel at once, nothing is polled"),
    Option("start-method", "", why_not="ranks are forked where that is safe and started afresh where it is not"),
    Option("event-log-handler", "", why_not="events are in the ledger; see outrider incidents"),
    Option("run-path", "", flag=True, why_not="the script always runs in a process of its own"),
    Option("logs-specs", "", why_not=_ALWAYS_FILES),
    Option("numa-binding", "", why_not="ranks are not bound to processors"),
    Option("signals-to-handle", "", why_not="SIGINT and SIGTERM stop the job"),
    Option("virtual-local-rank", "", flag=True, why_not="ranks see their own LOCAL_RANK"),
    Option("duplicate-stdout-filters", "", why_not=_ALWAYS_FILES),
    Option("duplicate-stderr-filters", "", why_not=_ALWAYS_FILES),
)


def add_to(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` every option of torchrun; a PET_ variable is its default, as in torchrun."""
    meant = parser.add_argument_group("options of torchrun, in dash or underscore spelling")
    for option in OPTIONS:
        flags = [option.short] if option.short else []
        flags += dict.fromkeys([f"--{option.name}", f"--{option.dest}"])
        text = argparse.SUPPRESS if option.why_not else option.help
        given = os.environ.get(f"PET_{option.dest.upper()}")
        if option.flag:
            on = given is not None and given not in ("", "0")
            meant.add_argument(*flags, dest=option.dest, action="store_true", default=on, help=text)
        else:
            meant.add_argument(*flags, dest=option.dest, metavar=option.metavar, default=given, help=text)


def notes(options: argparse.Namespace) -> list[str]:
    """A sentence for each given option that has no meaning here."""
    given = [option for option in OPTIONS if option.why_not and getattr(options, option.dest) not in (None, False)]
    return [f"--{option.name} has no meaning here: {option.why_not}." for option in given]


def nodes(options: argparse.Namespace) -> int:
    """Number of simulated hosts, from --nodes and --nnodes."""
    if options.nnodes is None:
        return int(options.nodes or 1)
    try:
        low, _, high = str(options.nnodes).partition(":")
        bounds = [int(low), int(high or low)]
    except ValueError:
        bounds = [0, 0]
    if not 1 <= bounds[0] <= bounds[1]:
        raise errors.CommandError(
            f"--nnodes {options.nnodes!r} is neither a number of hosts nor MIN:MAX, as in 2 or 1:4"
        )
    if options.nodes not in (None, bounds[1]):
        raise errors.CommandError(f"--nodes {options.nodes} and --nnodes {options.nnodes} differ; give one of them")
    return bounds[1]


def ranks_per_node(options: argparse.Namespace, default: int) -> int:
    """Number of ranks on each host, from --nproc-per-node; ``default`` where it is not given."""
    text = options.nproc_per_node
    if text is None:
        return default
    if text in ("cpu", "gpu", "auto"):
        return _devices(str(text))
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise errors.CommandError(f"--nproc-per-node {text!r} is not a number from 1 on, cpu, gpu or auto")
    return int(text)


def _devices(kind: str) -> int:
    # The device files tell without a driver library, and a rank's own count is what torch will see anyway.
    gpus = len(glob.glob("/dev/nvidia[0-9]*"))
    if kind == "gpu" and not gpus:
        raise errors.CommandError("--nproc-per-node gpu: this machine has no /dev/nvidia*; give a number or cpu")
    return gpus if gpus and kind != "cpu" else len(os.sched_getaffinity(0))


def number(options: argparse.Namespace, name: str, lowest: int, default: int) -> int:
    """The value of a numeric option of torchrun."""
    given = getattr(options, name.replace("-", "_"))
    if given is None:
        return default
    try:
        return parsing.at_least(lowest)(str(given))
    except argparse.ArgumentTypeError as error:
        raise errors.CommandError(f"--{name}: {error}") from None


def shown_ranks(options: argparse.Namespace, world_size: int) -> tuple[int, ...]:
    """Ranks whose output is shown: rank 0, or what --local-ranks-filter or --tee ask for."""
    if options.local_ranks_filter:
        words = str(options.local_ranks_filter).split(",")
        if not all(word.strip().isdigit() and int(word) < world_size for word in words):
            raise errors.CommandError(
                f"--local-ranks-filter {options.local_ranks_filter!r} is no list of ranks below {world_size}, as in 0,1"
            )
        return tuple(sorted({int(word) for word in words}))
    return tuple(range(world_size)) if options.tee not in (None, "0") else (0,)
