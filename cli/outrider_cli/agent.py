"""``outrider agent``: watches this node, as a standing process or for one look (``--once``)."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import tomllib
from pathlib import Path
from typing import Any, Final

from outrider import vocabulary
from outrider_cli import errors, parsing, serve

EXAMPLES: Final = """\
examples:
  outrider agent --once
      look at this node once and say what is wrong; exit status 1 when something is
  outrider agent --once --kernel-log dmesg.txt --json
      judge a kernel log that somebody brought
  outrider agent --supervise --slots 8
      beside a controller on this machine: address and token come from the state directory
  outrider agent --supervise --slots 8 --address 10.0.0.11 --controller https://10.0.0.5:8470 \\
      --token-file node.token --ca-file chain.pem --expect-gpus 8 --expect-ports 8 --expect-mount /ckpt

A settings file (TOML) has the names of the options that say what is watched, with underscores:
  expect_gpus = 8
  expect_mount = ["/ckpt", "/data"]
What is given on the command line counts before it.
"""
# What says where and what is watched: option (with underscores) -> type in a settings file.
WATCHED: Final[dict[str, type]] = {
    "nvml_library": str,
    "kernel_log": str,
    "sysfs": str,
    "procfs": str,
    "expect_gpus": int,
    "expect_ports": int,
    "expect_port_rate": int,
    "expect_power_limit": int,
    "expect_cores": int,
    "expect_mount": list,
    "probe_mount": list,
    "checkpoint_mount": list,
    "redfish": str,
    "redfish_credentials": str,
    "redfish_ca_file": str,
}
NOT_ONCE: Final = (
    *("controller", "token_file", "ca_file", "supervise", "metrics_listen"),
    *("leave_idle_s", "allow_root", "check_command"),
)


def add_to(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "agent",
        help="watch this node, and run jobs on it where told to",
        description="One agent per node. It dials the controller and opens no port of its own but for metrics.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add(
        "--node",
        metavar="NAME",
        default=socket.gethostname(),
        help="the node's name (default: the host's, %(default)s)",
    )
    add("--once", action="store_true", help="look once, print what was seen, and end; needs no controller and no state")
    add("--json", action="store_true", help="with --once: print one JSON document")
    _add_watched(parser.add_argument_group("what is watched"))
    _add_supervision(parser)
    parsing.add_places(parser)
    parser.set_defaults(handler=run)


def _add_watched(group: Any) -> None:
    add = group.add_argument
    add("--nvml-library", metavar="PATH", help="NVML library to load (default: the driver's, as the loader finds it)")
    add("--kernel-log", metavar="PATH", help="kernel log, or a file in its place (default: /dev/kmsg)")
    add("--sysfs", metavar="DIR", help="tree to read in place of /sys")
    add("--procfs", metavar="DIR", help="tree to read in place of /proc")
    add("--expect-gpus", type=parsing.at_least(0), metavar="N", help="GPUs this node has; fewer are a fault")
    add(
        "--expect-ports", type=parsing.at_least(0), metavar="N", help="InfiniBand and RoCE ports that have to be active"
    )
    add("--expect-port-rate", type=parsing.at_least(0), metavar="GBITS", help="rate of each of those ports, as in 400")
    add("--expect-power-limit", type=parsing.at_least(0), metavar="W", help="cap that somebody set on the GPUs")
    add("--expect-cores", type=parsing.at_least(0), metavar="N", help="processors this node has")
    add(
        "--checkpoint-mount",
        action="append",
        metavar="PATH",
        help="a file system with checkpoints: it has to be mounted and to have room; may be repeated",
    )
    add("--expect-mount", action="append", metavar="PATH", help="a file system that has to be mounted; may be repeated")
    add(
        "--probe-mount",
        action="append",
        metavar="PATH",
        help="a file system where a small file is written and read back, each within a deadline; may be repeated",
    )
    add("--redfish", metavar="URL", help="the node's BMC, asked for power supplies, fans and its log")
    add("--redfish-credentials", metavar="FILE", help="file with the BMC's user:password, for nobody else to read")
    add("--redfish-ca-file", metavar="FILE", help="certificates to trust for the BMC in place of the system's (PEM)")
    add("--config", metavar="FILE", help="settings file (TOML) for the options of this group")


def _add_supervision(parser: Any) -> None:
    add = parser.add_argument
    add("--supervise", action="store_true", help="take orders to run jobs")
    slots = len(os.sched_getaffinity(0))
    add(
        "--slots",
        type=parsing.at_least(1),
        metavar="N",
        default=slots,
        help="ranks it can take (default %(default)s)",
    )
    add("--address", default="127.0.0.1", help="how ranks on other nodes reach this one (default %(default)s)")
    add(
        "--simulated",
        action="store_true",
        help="one of several pretended hosts on one machine; it watches its ranks, and what is named of the machine",
    )
    add("--allow-root", action="store_true", help="run ranks as root where a job names no user")
    add("--metrics-listen", metavar="HOST:PORT", help="serve /metrics there")
    add(
        "--check-command",
        metavar="COMMAND",
        help="checks the node when the controller asks (default: `outrider check`)",
    )
    add("--leave-idle-s", type=parsing.seconds, metavar="S", help="leave after so long without controller and ranks")


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM, Ctrl-C, or idleness where that was asked for; or look once."""
    with errors.extra("agent"):
        from outrider_agent import settings
    given = _given(options)
    if options.json and not options.once:
        raise errors.CommandError(
            "--json belongs to --once; a standing agent prints its log, and serves --metrics-listen"
        )
    try:
        sources = settings.check_sources(_sources(settings, given))
        if options.once:
            return _once(options, sources, only_kernel_log=set(given) == {"kernel_log"})
        return _stand(options, None if options.simulated and not given else sources)
    except settings.SettingsError as error:
        raise errors.CommandError(str(error)) from error


def _once(options: argparse.Namespace, sources: Any, only_kernel_log: bool) -> int:
    with errors.extra("agent"):
        from outrider_agent import node_signals, once
        from outrider_agent.signals import host
    from outrider_cli import sweep_view

    for name in NOT_ONCE:
        if getattr(options, name):
            raise errors.CommandError(
                f"--{name.replace('_', '-')} has no meaning with --once: nothing stays to serve it"
            )
    simulated = options.simulated or sources.pretends
    signals = node_signals.of(sources, once=True, only_kernel_log=only_kernel_log)
    judge = node_signals.judge(options.node, sources, simulated, once=True)
    found = once.look(options.node, host.boot_id(sources.procfs), signals, judge, simulated)
    print(json.dumps(found) if options.json else sweep_view.text(found), end="\n" if options.json else "")
    return vocabulary.EXIT_PROBLEM if once.grave(found) else vocabulary.EXIT_DONE


def _stand(options: argparse.Namespace, sources: Any) -> int:
    with errors.extra("agent"):
        from outrider_agent import agent, settings
    state = serve.prepared_state(options.state)
    url = options.controller or os.environ.get("OUTRIDER_CONTROLLER") or None
    token_file = options.token_file or os.environ.get("OUTRIDER_TOKEN_FILE")
    # An address of this very state directory's controller would change with its port, so none is handed down then.
    chosen = settings.Settings(
        node=options.node,
        state=state,
        controller_url=url,
        token_file=_path(token_file) if url else None,
        ca_file=_path(options.ca_file),
        slots=options.slots,
        supervise=options.supervise,
        simulated=options.simulated,
        address=options.address,
        allow_root=options.allow_root,
        metrics_listen=options.metrics_listen,
        leave_idle_s=options.leave_idle_s,
        sources=sources,
        check_command=tuple(shlex.split(options.check_command or "")),
    )
    return agent.main(settings.check(chosen))


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """What the settings file and the command line say of WATCHED; the command line counts."""
    found = _file(Path(options.config)) if options.config else {}
    return found | {name: getattr(options, name) for name in WATCHED if getattr(options, name) is not None}


def _file(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise errors.CommandError(
            f"--config {path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise errors.CommandError(f"--config {path}: is no TOML: {error}") from error
    for name, value in found.items():
        wanted = WATCHED.get(name)
        if wanted is None:
            near = parsing.near(name, [one.replace("_", "-") for one in WATCHED]).replace("-", "_")
            raise errors.CommandError(f"--config {path}: {name} is not known{near}; there are {', '.join(WATCHED)}")
        good = isinstance(value, wanted) and not isinstance(value, bool)
        if wanted is list:
            good = good and all(isinstance(one, str) for one in value)
        if not good:
            kind = {str: "a text", int: "a whole number", list: "a list of texts"}[wanted]
            raise errors.CommandError(f"--config {path}: {name} = {value!r} has to be {kind}")
    return found


def _sources(settings: Any, given: dict[str, Any]) -> Any:
    made: dict[str, Any] = {
        name: _path(given[name])
        for name in ("nvml_library", "kernel_log", "sysfs", "procfs", "redfish_credentials", "redfish_ca_file")
        if given.get(name)
    }
    counts = ("expect_gpus", "expect_ports", "expect_port_rate", "expect_power_limit", "expect_cores")
    made |= {name: given[name] for name in counts if given.get(name) is not None}
    return settings.Sources(
        **made,
        expect_mounts=tuple(Path(mount) for mount in given.get("expect_mount") or ()),
        probe_mounts=tuple(Path(mount) for mount in given.get("probe_mount") or ()),
        checkpoint_mounts=tuple(Path(mount) for mount in given.get("checkpoint_mount") or ()),
        redfish_url=given.get("redfish"),
    )


def _path(text: str | None) -> Path | None:
    return Path(text).absolute() if text else None
