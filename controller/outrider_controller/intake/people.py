"""The people's door: REST under ``/v1``, read with either token, acted on with the act token.

In: requests, whose bodies are judged by the core's own rules (a job's keys by core.jobs). Out: the documents of the
contracts. What is asked is recorded before it is answered; what comes of it shows in the status.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Final

import fastapi
from fastapi import responses

from outrider_controller import documents
from outrider_controller.core import jobs
from outrider_controller.intake import doors, failures, shapes

SAMPLES_DEFAULT: Final = 1000
POINTS_MIN: Final = 10

Json = dict[str, Any]
Answer = responses.JSONResponse

_READ_FAILS: Final[dict[int | str, Json]] = {
    code: {"model": shapes.Failure} for code in (401, 403, 404, 409, 413, 422, 500, 503)
}
_BODY_FAILS: Final[dict[int | str, Json]] = {400: {"model": shapes.Failure}}
# Bodies are read by hand, for the sake of their errors, so that their schemas are given here.
_JOB_BODY: Final[Json] = {
    "requestBody": {
        "required": True,
        "description": "A job: the keys of a job file (name and command at least).",
        "content": {"application/json": {"schema": shapes.job()}},
    }
}
_BY_BODY: Final[Json] = {
    "requestBody": {
        "required": False,
        "content": {"application/json": {"schema": shapes.By.model_json_schema()}},
    }
}

open_router = fastapi.APIRouter(responses={503: {"model": shapes.Health}})
router = fastapi.APIRouter(prefix="/v1", responses=_READ_FAILS, dependencies=[fastapi.Depends(doors.may_read)])
_acts: Final = [fastapi.Depends(doors.may_act)]


@open_router.get("/healthz", response_model=shapes.Health)
async def healthz(request: fastapi.Request) -> Answer:
    """Whether the controller can record and act."""
    house = doors.house_of(request)
    ailing, damage = house.ailing(), house.damage()
    fine = "the controller records and acts" + (f"; {damage}" if damage else "")
    return Answer({"ok": not ailing, "sentence": ailing or fine}, 503 if ailing else 200)


@router.get("/version", response_model=shapes.Version)
async def version(request: fastapi.Request) -> Answer:
    """What runs here."""
    return Answer(doors.house_of(request).about())


@router.get("/jobs", response_model=shapes.Jobs)
async def list_jobs(request: fastapi.Request) -> Answer:
    """Every job."""
    return Answer({"jobs": doors.house_of(request).documents.jobs()})


@router.post(
    "/jobs",
    response_model=shapes.JobAsked,
    status_code=201,
    responses=_BODY_FAILS,
    dependencies=_acts,
    openapi_extra=_JOB_BODY,
)
async def submit_job(request: fastapi.Request) -> Answer:
    """Give the controller a job."""
    house = doors.house_of(request)
    body = await _body(request)
    try:
        spec = jobs.parse(body)
    except jobs.JobError as error:
        key = str(error).partition(":")[0]
        raise failures.ApiError(422, str(error), f"correct the key {key} and send the job again", key=key) from error
    await _without_conflict(house.submit_job(spec))
    return Answer(_asked(f"job {spec.name} is taken", job=spec.name), 201)


@router.get("/jobs/{job}/status", response_model=shapes.Status)
async def status(request: fastapi.Request, job: str) -> Answer:
    """How the job stands."""
    return Answer(await doors.house_of(request).documents.status_aside(job))


@router.get("/jobs/{job}/incidents", response_model=shapes.Incidents)
async def incidents(request: fastapi.Request, job: str) -> Answer:
    """The job's incidents."""
    return Answer({"incidents": await doors.house_of(request).documents.incidents(job)})


@router.get("/jobs/{job}/incidents/{incident}", response_model=shapes.Incident)
async def explain(request: fastapi.Request, job: str, incident: str) -> Answer:
    """One incident with every row that belongs to it."""
    return Answer(await doors.house_of(request).documents.explain(job, incident))


@router.get("/jobs/{job}/report", response_model=shapes.Report)
async def report(request: fastapi.Request, job: str) -> Answer:
    """Where the job's time went."""
    return Answer(await doors.house_of(request).documents.report(job))


@router.get("/jobs/{job}/series", response_model=shapes.Series)
async def series(
    request: fastapi.Request,
    job: str,
    n: Annotated[int, fastapi.Query(ge=1, le=documents.SAMPLES_PER_ANSWER_MAX)] = SAMPLES_DEFAULT,
    points: Annotated[int | None, fastapi.Query(ge=POINTS_MIN, le=documents.SAMPLES_PER_ANSWER_MAX)] = None,
    last_s: Annotated[float | None, fastapi.Query(gt=0, allow_inf_nan=False)] = None,
) -> Answer:
    """The newest ``n`` finished steps, of the last ``last_s`` seconds, thinned to ``points`` that stand out."""
    return Answer(await doors.house_of(request).documents.series(job, n, points, last_s))


@router.get("/jobs/{job}/timeline", response_model=shapes.Timeline)
async def timeline(request: fastapi.Request, job: str) -> Answer:
    """When the job did not progress, and its attempts."""
    return Answer(await doors.house_of(request).documents.timeline(job))


@router.get("/runbooks/{runbook}", response_model=shapes.Runbook)
async def runbook(request: fastapi.Request, runbook: str) -> Answer:
    """The page that a person works from."""
    return Answer(doors.house_of(request).documents.runbook(runbook))


async def ask_job(request: fastapi.Request, job: str) -> Answer:
    """Ask for something to be done with a job."""
    house = doors.house_of(request)
    verb = request.url.path.rpartition("/")[2]
    by = await _by(request)
    await _without_conflict(house.ask_job(job, verb, by))
    return Answer(_asked(f"{by} asked for {verb} of job {job}", job=job), 202)


for _verb in ("stop", "hold", "approve", "reject"):
    router.add_api_route(
        f"/jobs/{{job}}/{_verb}",
        ask_job,
        methods=["POST"],
        name=f"{_verb}_job",
        summary=f"{_verb.capitalize()} a job",
        response_model=shapes.JobAsked,
        status_code=202,
        responses=_BODY_FAILS,
        dependencies=_acts,
        openapi_extra=_BY_BODY,
    )


@router.get("/nodes", response_model=shapes.Nodes)
async def nodes(request: fastapi.Request) -> Answer:
    """Every node."""
    return Answer({"nodes": doors.house_of(request).documents.nodes()})


async def ask_node(request: fastapi.Request, node: str) -> Answer:
    """Take a node out, or back in."""
    house = doors.house_of(request)
    verb = request.url.path.rpartition("/")[2]
    by = await _by(request)
    await _without_conflict(house.ask_node(node, verb, by))
    return Answer(_asked(f"{by} asked to {verb} node {node}", node=node), 202)


for _verb in ("cordon", "uncordon"):
    router.add_api_route(
        f"/nodes/{{node}}/{_verb}",
        ask_node,
        methods=["POST"],
        name=f"{_verb}_node",
        summary=f"{_verb.capitalize()} a node",
        response_model=shapes.NodeAsked,
        status_code=202,
        responses=_BODY_FAILS,
        dependencies=_acts,
        openapi_extra=_BY_BODY,
    )


@router.post("/nodes/{node}/token", response_model=shapes.NodeToken, dependencies=_acts)
async def make_token(request: fastapi.Request, node: str) -> Answer:
    """The node's credential, made now if it has none."""
    token = doors.house_of(request).tokens.make_node(node)
    return responses.JSONResponse({"node": node, "token": token}, headers={"Cache-Control": "no-store"})


@router.get("/ledger", response_model=shapes.Rows)
async def rows(
    request: fastapi.Request,
    after: Annotated[int, fastapi.Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, fastapi.Query(ge=1, le=documents.ROWS_PER_ANSWER_MAX)] = documents.ROWS_PER_ANSWER_MAX,
    job: Annotated[str | None, fastapi.Query(max_length=jobs.NAME_LENGTH_MAX)] = None,
) -> Answer:
    """Rows of the ledger after number ``after``."""
    return Answer(await doors.house_of(request).documents.rows(after, limit, job))


async def _body(request: fastapi.Request) -> Json:
    """The request's JSON object; raises ApiError."""
    try:
        found = json.loads(await request.body(), parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise failures.ApiError(400, f"the body is not JSON: {error}", "send one JSON object") from error
    if not isinstance(found, dict):
        words = f"the body is a JSON {type(found).__name__}, not an object"
        raise failures.ApiError(422, words, "send one JSON object")
    return found


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"{text[: shapes.BY_CHARS_MAX]} is too large")
    return found


async def _by(request: fastapi.Request) -> str:
    body = await _body(request) if await request.body() else {}
    if unknown := sorted(set(body) - {"by"}):
        raise failures.ApiError(422, f"{unknown[0][: shapes.BY_CHARS_MAX]}: is not a key here", "the only key is by")
    by = body.get("by", "person")
    if not isinstance(by, str) or not by.strip() or len(by) > shapes.BY_CHARS_MAX or not by.isprintable():
        raise failures.ApiError(
            422, f"by: is not a text of 1 to {shapes.BY_CHARS_MAX} letters", "say in a word who asks"
        )
    return by


async def _without_conflict(asked: Any) -> None:
    try:
        await asked
    except doors.ConflictError as error:
        raise failures.ApiError(409, str(error), error.remedy) from error


def _asked(sentence: str, **keys: str) -> Json:
    return {"accepted": True, "sentence": sentence, **keys}
