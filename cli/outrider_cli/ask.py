"""``outrider status``, ``incidents``, ``explain`` and ``report``: what a controller knows, as text or as JSON.

A running controller is asked over HTTP. Where none runs on the state directory, its ledger is read instead, and
standard error says so; a controller that was named by address and does not answer is an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final
from urllib import parse

from outrider import vocabulary
from outrider_cli import errors, finding, from_ledger, http_client, parsing, views

WRONG: Final = ("held", "failed")  # states of a job, for which status exits with 1; an interrupted one is being helped

EXAMPLES: Final = {
    "status": "examples:\n  outrider status\n  outrider status --job llama --json",
    "incidents": "examples:\n  outrider incidents\n  outrider incidents --job llama --json",
    "explain": "example:\n  outrider explain llama-1",
    "report": "examples:\n  outrider report\n  outrider report --job llama --json",
}
HELP: Final = {
    "status": "is it training, how well, since when",
    "incidents": "what happened, why, and what was done",
    "explain": "one incident in full: evidence, decision, alternatives, every step of the way",
    "report": "where every second went",
}


def add_to(commands: Any) -> None:
    """Add the sub-commands."""
    for name, text in HELP.items():
        parser = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=EXAMPLES[name]
        )
        if name == "explain":
            parser.add_argument("incident", metavar="INCIDENT", help="as `outrider incidents` names it")
        alone = (
            "needs no saying: an incident's name says it" if name == "explain" else "may be left out when there is one"
        )
        parser.add_argument("--job", metavar="NAME", help=alone)
        parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
        parsing.add_places(parser)
        parser.set_defaults(handler=show)


def show(options: argparse.Namespace) -> int:
    """Get the document and print it."""
    document = _document(options)
    if options.json:
        print(json.dumps(document))
    else:
        render = {
            "status": views.status,
            "incidents": views.incidents,
            "explain": views.explain,
            "report": views.report,
        }
        print(render[options.command](document).rstrip("\n"))
    wrong = options.command == "status" and document["state"] in WRONG
    return vocabulary.EXIT_PROBLEM if wrong else vocabulary.EXIT_DONE


def _document(options: argparse.Namespace) -> Any:
    api = finding.api(options, "read")
    if api is not None:
        try:
            return _from_controller(api, options)
        except http_client.NoAnswerError:
            if finding.named_url(options) or not _ledger_is_there(options):
                raise
    state = finding.state_dir(options)
    if not _ledger_is_there(options):
        raise errors.CommandError(
            f"no controller runs on {state}, and there is no ledger in it: start one with outrider run or outrider "
            "controller, name one with --controller URL, or another directory with --state DIR"
        )
    print(f"outrider: no controller runs on {state}; this is what its ledger says.", file=sys.stderr)
    documents = from_ledger.LedgerDocuments(state)
    if options.command == "explain":
        return _of_job(documents.explain(options.incident), options.job)
    readers = {"status": documents.status, "incidents": documents.incidents, "report": documents.report}
    return readers[options.command](options.job)


def _from_controller(api: http_client.Api, options: argparse.Namespace) -> Any:
    names = [str(item["job"]) for item in api.get("/v1/jobs")["jobs"]]
    if options.command == "explain":
        return _of_job(_explained(api, options.incident, names), options.job)
    if options.command == "incidents":
        chosen = [finding.chosen_job(names, options.job)] if options.job else names
        found = [item for name in chosen for item in api.get(f"/v1/jobs/{quoted(name)}/incidents")["incidents"]]
        return {"incidents": sorted(found, key=lambda item: item["opened_at"])}
    return api.get(f"/v1/jobs/{quoted(finding.chosen_job(names, options.job))}/{options.command}")


def _explained(api: http_client.Api, incident: str, names: list[str]) -> Any:
    # An incident's id begins with its job's name, and one job's name may begin with another's.
    owners = sorted((name for name in names if incident.startswith(f"{name}-")), key=len, reverse=True) or names
    refusal = errors.CommandError(f"incident {incident!r} is unknown: there has been no job yet")
    for name in owners:
        try:
            return api.get(f"/v1/jobs/{quoted(name)}/incidents/{quoted(incident)}")
        except http_client.NotThereError as error:
            refusal = error
    raise refusal


def _of_job(incident: Any, job: str | None) -> Any:
    if job is not None and incident["job"] != job:
        raise errors.CommandError(f"incident {incident['id']!r} is of job {incident['job']}, not of --job {job!r}")
    return incident


def quoted(name: str) -> str:
    """A name as one part of a path."""
    return parse.quote(name, safe="")


def _ledger_is_there(options: argparse.Namespace) -> bool:
    return (finding.state_dir(options) / "ledger.db").is_file()
