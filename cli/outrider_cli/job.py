"""``outrider job``: give a standing controller a job, and say what becomes of it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any, Final

from outrider import vocabulary
from outrider_cli import ask, errors, finding, http_client, parsing
from outrider_controller.core import jobs

FILE_BYTES_MAX: Final = 1024 * 1024
VERBS: Final = {
    "stop": "end the job for good",
    "hold": "end its ranks and wait for a person",
    "approve": "let a held job go on",
    "reject": "give a held job up",
}
KEYS: Final = ", ".join(field.name for field in dataclasses.fields(jobs.JobSpec) if field.name != "limits")
LIMITS: Final = ", ".join(field.name for field in dataclasses.fields(jobs.Limits))
EXAMPLES: Final = """\
a job file:
  name = "llama"
  command = ["/opt/train/bin/python", "train.py", "--steps", "1000"]
  nodes = 2
  ranks_per_node = 8
  mesh = "dp=2,pp=2,cp=1,tp=4"
  checkpoint_dir = "/checkpoints/llama"

examples:
  outrider job start llama.toml
  outrider job list
  outrider job hold --job llama
"""


def add_to(commands: Any) -> None:
    """Add the sub-commands."""
    parser = commands.add_parser(
        "job",
        help="start, stop, list, hold, approve or reject a job of a standing controller",
        description=textwrap.fill(f"A job is a TOML file. Its keys: {KEYS}; and under [limits]: {LIMITS}.", 100),
        epilog=EXAMPLES,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    start = actions.add_parser(
        "start", help="give the controller a job", description="Give the controller a job.", epilog=EXAMPLES
    )
    start.add_argument("file", metavar="FILE", help="the job as TOML")
    start.add_argument("--job", metavar="NAME", help="a name in place of the file's")
    listing = actions.add_parser("list", help="every job and how it stands", description="Every job and how it stands.")
    for name, text in VERBS.items():
        verb = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        verb.add_argument("--job", metavar="NAME", help="may be left out when there is one")
        verb.set_defaults(handler=ask_for)
    start.set_defaults(handler=begin)
    listing.set_defaults(handler=show_list)
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", help="one JSON document on standard output")
        parsing.add_places(action)


def begin(options: argparse.Namespace) -> int:
    """Read the file, check it, and hand it over."""
    document = read(Path(options.file))
    if options.job:
        document["name"] = options.job
    try:
        spec = jobs.parse(document)
    except jobs.JobError as error:
        raise errors.CommandError(f"{options.file}: {error}") from error
    answer = finding.needed_api(options, "act").post("/v1/jobs", jobs.document(spec))
    _tell(options, answer, f"{spec.name} is taken: {spec.world_size} ranks on {spec.nodes} nodes")
    return vocabulary.EXIT_DONE


def ask_for(options: argparse.Namespace) -> int:
    """Ask for one of VERBS."""
    api = finding.needed_api(options, "act")
    name = _job(api, options.job)
    answer = api.post(f"/v1/jobs/{ask.quoted(name)}/{options.action}", {})
    _tell(options, answer, f"{name}: {options.action} is recorded")
    return vocabulary.EXIT_DONE


def show_list(options: argparse.Namespace) -> int:
    """Every job."""
    document = finding.needed_api(options, "read").get("/v1/jobs")
    if options.json:
        print(json.dumps(document))
        return vocabulary.EXIT_DONE
    for item in document["jobs"]:
        print(f"{item['job']:<24} {item['state']:<12} {item.get('sentence') or ''}".rstrip())
    if not document["jobs"]:
        print("no jobs yet; outrider job start FILE gives the controller one", file=sys.stderr)
    return vocabulary.EXIT_DONE


def read(file: Path) -> dict[str, Any]:
    """A job file as a mapping. Raises CommandError naming the line of a slip."""
    try:
        with file.open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise errors.CommandError(f"{file}: cannot be read: {error.strerror or error}") from error
    if len(data) > FILE_BYTES_MAX:
        raise errors.CommandError(f"{file}: is larger than {FILE_BYTES_MAX} bytes; a job file is a page")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise errors.CommandError(f"{file}: is not UTF-8 text: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise errors.CommandError(f"{file}: is not TOML: {error}") from error


def _job(api: http_client.Api, given: str | None) -> str:
    listed = api.get("/v1/jobs")["jobs"]
    none = "there is none yet"
    if given is None:
        none = "every job is over" if listed else none
        listed = [item for item in listed if item["state"] not in ("completed", "failed")]
    return finding.chosen_job([str(item["job"]) for item in listed], given, none)


def _tell(options: argparse.Namespace, answer: Any, sentence: str) -> None:
    if options.json:
        print(json.dumps(answer))
    else:
        print(answer.get("sentence") or sentence if isinstance(answer, dict) else sentence)
