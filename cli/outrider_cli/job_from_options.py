"""From the options of ``outrider run`` to a job, with every mistake named before anything starts."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from outrider import mesh as mesh_module
from outrider_cli import errors, torchrun
from outrider_controller.core import jobs


def spec(options: argparse.Namespace) -> jobs.JobSpec:
    """The job that the command line describes. Raises CommandError naming the option and the way out."""
    nodes = torchrun.nodes(options)
    command, title = _command(options)
    document: dict[str, Any] = {
        "name": options.job or job_name(options.rdzv_id or title),
        "command": command,
        "nodes": nodes,
        "ranks_per_node": _ranks_per_node(options, nodes),
        "mesh": options.mesh or "",
        "checkpoint_dir": os.path.abspath(options.checkpoint_dir) if options.checkpoint_dir else "",
        "checkpoint_layout": options.checkpoint_layout,
        "checkpoint_keep": options.checkpoint_keep,
        "resume": shlex.split(options.resume or ""),
        "env": _environment(options),
        "preload": [name for name in options.preload or ["auto"] if name != "none"],
        "cwd": os.getcwd(),
        "log_dir": os.path.abspath(options.log_dir) if options.log_dir else "",
        "master_port": torchrun.number(options, "master-port", 0, 0),
        "attended": False,
        "max_restarts": torchrun.number(options, "max-restarts", 0, -1),
    }
    limits: dict[str, float] = {}
    if options.shutdown_timeout is not None:
        limits["grace_s"] = torchrun.number(options, "shutdown-timeout", 1, 1)
    if options.stall_s is not None:
        limits["stall_s"] = options.stall_s
    document["limits"] = limits
    try:
        return jobs.parse(document)
    except jobs.JobError as error:
        raise errors.CommandError(str(error)) from error


def job_name(text: str) -> str:
    """A name that a job may have, made from a script's or a person's."""
    name = re.sub(r"[^a-z0-9_.-]+", "-", text.lower()).strip("-.")[: jobs.NAME_LENGTH_MAX]
    return name or "job"


def _command(options: argparse.Namespace) -> tuple[list[str], str]:
    script, arguments = options.script, list(options.arguments)
    if options.module and options.no_python:
        raise errors.CommandError("--module and --no-python exclude each other; give one of them")
    if options.module:
        _need_module(script)
        return [sys.executable, "-m", script, *arguments], script.rpartition(".")[2]
    if options.no_python:
        found = shutil.which(script)
        if not found:
            raise errors.CommandError(f"{script}: is neither a program on PATH nor an executable file")
        return [os.path.abspath(found), *arguments], Path(script).stem
    path = Path(script)
    _need_file(path)
    return [sys.executable, str(path.absolute()), *arguments], path.stem


def _need_module(name: str) -> None:
    package = name.partition(".")[0]
    here = Path.cwd()
    local = (here / package).is_dir() or (here / f"{package}.py").is_file()
    if not local and (not package.isidentifier() or importlib.util.find_spec(package) is None):
        raise errors.CommandError(f"--module {name}: there is no module {package!r} here ({here}) or installed")


def _need_file(path: Path) -> None:
    if path.is_dir():
        raise errors.CommandError(f"{path}: is a directory; give the script in it")
    if not path.exists():
        raise errors.CommandError(f"{path}: there is no such script; -m runs a module, --no-python a program")
    if not os.access(path, os.R_OK):
        raise errors.CommandError(f"{path}: may not be read by this user")


def _ranks_per_node(options: argparse.Namespace, nodes: int) -> int:
    if not options.mesh or options.nproc_per_node is not None:
        return torchrun.ranks_per_node(options, 1)
    try:
        world_size = mesh_module.parse(options.mesh).world_size
    except mesh_module.MeshError as error:
        raise errors.CommandError(f"--mesh: {error}") from error
    if world_size % nodes:
        raise errors.CommandError(
            f"--mesh {options.mesh} has {world_size} ranks, which {nodes} hosts cannot share evenly"
        )
    return world_size // nodes


def _environment(options: argparse.Namespace) -> dict[str, str]:
    found = {"ROLE_NAME": str(options.role)} if options.role else {}
    for item in options.env:
        name, equals, value = item.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise errors.CommandError(f"--env {item!r} is not NAME=VALUE")
        found[name] = value
    return found
