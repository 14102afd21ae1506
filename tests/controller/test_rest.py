"""The people's door: every path, every right, and every way to get it wrong."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openapi_spec_validator
import pytest

from outrider_controller import intake, server
from outrider_controller.core import jobs
from tests.controller import house

READS = [
    "/v1/version",
    "/v1/jobs",
    "/v1/jobs/demo/status",
    "/v1/jobs/demo/incidents",
    "/v1/jobs/demo/incidents/demo-1",
    "/v1/jobs/demo/report",
    "/v1/jobs/demo/series",
    "/v1/jobs/demo/timeline",
    "/v1/runbooks/rank-killed",
    "/v1/nodes",
    "/v1/ledger",
]
ACTS = [
    "/v1/jobs",
    *(f"/v1/jobs/demo/{verb}" for verb in ("stop", "hold", "approve", "reject")),
    "/v1/nodes/n0/cordon",
    "/v1/nodes/n0/uncordon",
    "/v1/nodes/n0/token",
]


def failed(answer: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    """The answer is this error, in the one shape that errors have."""
    document: dict[str, Any] = answer.json()
    assert answer.status_code == status, answer.text
    assert isinstance(document["error"], str)
    assert document["error"]
    assert isinstance(document["remedy"], str)
    assert document["remedy"]
    for word in words:
        assert word in document["error"], document
    return document


def with_job(tmp_path: Path, work: Any) -> None:
    """Run ``work(running, act, read, agents)`` beside a job that has had an incident."""

    async def around() -> None:
        async with (
            house.controller(tmp_path) as running,
            house.agents(running, tmp_path, "n0", "n1") as made,
            house.Api(running) as act,
            house.Api(running, "read") as read,
        ):
            await house.training(running, made)
            await made[1].rank_dies(3)
            await house.until(lambda: len(made[1].ordered("start")) == 2, "the second start")
            await house.until(lambda: not running.state.jobs["demo"].pending, "every effect is done")
            await work(running, act, read, made)

    house.run(around())


def test_every_reader_answers_as_openapi_says(tmp_path: Path) -> None:
    async def work(running: Any, act: httpx.AsyncClient, read: httpx.AsyncClient, made: Any) -> None:
        spec = (await read.get("/openapi.json")).json()
        openapi_spec_validator.validate(spec)
        for path in READS:
            answer = await read.get(path)
            assert answer.status_code == 200, answer.text
            pattern = path.replace("incidents/demo-1", "incidents/{incident}").replace("/demo", "/{job}")
            pattern = pattern.replace("rank-killed", "{runbook}")
            check(spec, pattern, "get", answer)
        check(spec, "/healthz", "get", await read.get("/healthz"))
        told = {(path, method) for path, methods in spec["paths"].items() for method in methods}
        assert len(told) == len(READS) + len(ACTS) + 1

    with_job(tmp_path, work)


def check(spec: dict[str, Any], path: str, method: str, answer: httpx.Response) -> None:
    """The body fits the schema that the description gives for its path and status."""
    described = spec["paths"][path][method]["responses"][str(answer.status_code)]
    schema = described["content"]["application/json"]["schema"]
    jsonschema.validate(answer.json(), {**schema, "components": spec["components"]})


def test_the_description_refers_to_nothing_that_it_lacks_and_names_every_key_of_a_job(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.Api(running, "read") as read:
            spec = (await read.get("/openapi.json")).json()
        for reference in set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(spec))):
            assert reference in spec["components"]["schemas"]
        for path, methods in spec["paths"].items():
            for operation in methods.values():
                assert "requestBody" not in operation or "400" in operation["responses"], path
        described = spec["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        whole = jobs.document(jobs.parse({"name": "a", "command": ["x"], "env": {"A": "b"}}))
        assert set(described["properties"]) == set(whole)
        assert set(described["properties"]["limits"]["properties"]) == set(whole["limits"])
        jsonschema.validate(whole, described)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**whole, "nodes": "two"}, described)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**whole, "nods": 2}, described)

    house.run(work())


def test_every_act_answers_as_openapi_says(tmp_path: Path) -> None:
    async def work(running: Any, act: httpx.AsyncClient, read: httpx.AsyncClient, made: Any) -> None:
        spec = (await read.get("/openapi.json")).json()
        body = {"name": "other", "command": ["x"], "nodes": 7}
        check(spec, "/v1/jobs", "post", await act.post("/v1/jobs", json=body))
        for verb in ("cordon", "uncordon"):
            check(
                spec, f"/v1/nodes/{{node}}/{verb}", "post", await act.post(f"/v1/nodes/n1/{verb}", json={"by": "ada"})
            )
        check(spec, "/v1/nodes/{node}/token", "post", await act.post("/v1/nodes/n7/token"))
        check(spec, "/v1/jobs/{job}/hold", "post", await act.post("/v1/jobs/demo/hold"))
        await house.until(lambda: running.state.jobs["demo"].state == "held", "held")
        check(spec, "/v1/jobs/{job}/approve", "post", await act.post("/v1/jobs/demo/approve"))
        check(spec, "/v1/jobs/{job}/stop", "post", await act.post("/v1/jobs/demo/stop"))
        check(spec, "/v1/jobs/{job}/stop", "post", await act.post("/v1/jobs/nobody/stop"))

    with_job(tmp_path, work)


def test_a_read_token_reads_and_cannot_act(tmp_path: Path) -> None:
    async def work(running: Any, act: httpx.AsyncClient, read: httpx.AsyncClient, made: Any) -> None:
        for path in ACTS:
            found = failed(await read.post(path), 403, "may read and not act")
            assert "tokens/act" in found["remedy"]
        kinds = [row["kind"] for row in (await read.get("/v1/ledger")).json()["rows"]]
        assert (kinds.count("person-asked"), kinds.count("job-submitted")) == (0, 1)
        for path in READS:
            assert (await act.get(path)).status_code == 200

    with_job(tmp_path, work)


def test_without_a_known_token_every_path_but_health_is_closed(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.Api(running, None) as api:
            for header in (None, "Bearer wrong", "Basic eDp5", "Bearer " + "x" * 5000, "bearer"):
                headers = {"Authorization": header} if header is not None else {}
                for path in READS:
                    answer = await api.get(path, headers=headers)
                    failed(answer, 401, "token")
                    assert answer.headers["www-authenticate"] == "Bearer"
                for path in ACTS:
                    failed(await api.post(path, headers=headers), 401, "token")
                assert (await api.get("/healthz", headers=headers)).json()["ok"] is True

    house.run(work())


def test_a_nodes_token_opens_no_door_for_people(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.Api(running, None) as api:
            token = running.tokens.make_node("n0")
            failed(await api.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"}), 401)

    house.run(work())


MALFORMED = [
    (b"", 400, "not JSON"),
    (b"{oops", 400, "not JSON"),
    (b"\xff\xfe", 400, "not JSON"),
    (b"[" * 100_000, 400, "not JSON"),
    (b"[]", 422, "JSON list, not an object"),
    (b"null", 422, "NoneType"),
    (b'{"command": ["x"]}', 422, "name: is missing"),
    (b'{"name": "a", "command": "x"}', 422, "command: 'x' is not a list of texts"),
    (b'{"name": "a", "command": ["x"], "nodez": 2}', 422, "nodez: is not a key of a job; the keys are"),
    (b'{"name": "a", "command": ["x"], "nodes": 0}', 422, "nodes: 0 must be at least 1"),
    (b'{"name": "../a", "command": ["x"]}', 422, "name: '../a' must be"),
    (b'{"name": "a", "command": ["x"], "mesh": "dp=3"}', 422, "mesh: dp=3"),
    (b'{"name": "a", "command": ["x"], "limits": {"grace": 1}}', 422, "limits.grace: is not a key"),
    (b'{"name": "a", "command": ["x"], "limits": {"grace_s": NaN}}', 400, "NaN is no number of JSON"),
    (b'{"name": "a", "command": ["x"], "limits": {"grace_s": 1e999}}', 400, "1e999 is too large"),
]


def test_a_malformed_job_is_refused_with_the_offending_key(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.Api(running) as api:
            for body, status, words in MALFORMED:
                found = failed(await api.post("/v1/jobs", content=body), status, words)
                if status == 422 and ":" in words:
                    assert words.startswith(found["key"])
            assert not running.state.jobs

    house.run(work())


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_larger_than_the_bound_is_refused(tmp_path: Path, announced: bool) -> None:
    async def pieces() -> Any:
        for _ in range(intake.BODY_BYTES_MAX // 65536 + 2):
            yield b"x" * 65536

    async def work() -> None:
        async with house.controller(tmp_path) as running, house.Api(running) as api:
            content = b"x" * (intake.BODY_BYTES_MAX + 1) if announced else pieces()
            failed(await api.post("/v1/jobs", content=content), 413, "more than")
            assert (await api.get("/v1/jobs")).status_code == 200

    house.run(work())


def test_unknown_paths_jobs_incidents_nodes_and_methods_are_named(tmp_path: Path) -> None:
    async def work(running: Any, act: httpx.AsyncClient, read: httpx.AsyncClient, made: Any) -> None:
        failed(await act.get("/v2/jobs"), 404, "/v2/jobs")
        refused = await act.delete("/v1/jobs")
        failed(refused, 405, "DELETE")
        assert refused.headers["Allow"]
        failed(await act.get("/v1/jobs/nobody/status"), 404, "'nobody'", "demo")
        failed(await act.get("/v1/jobs/demo/incidents/demo-99"), 404, "demo-99")
        failed(await act.post("/v1/jobs/nobody/stop"), 404, "'nobody'")
        failed(await act.post("/v1/nodes/n99/cordon"), 404, "'n99'", "n0")
        failed(await act.post("/v1/nodes/..%2Fread/token"), 404)
        failed(await act.post("/v1/nodes/a%20b/token"), 422, "'a b'")
        failed(await act.get("/v1/ledger", params={"after": "x"}), 422, "after")
        failed(await act.get("/v1/ledger", params={"limit": 10**9}), 422, "limit")
        failed(await act.get("/v1/jobs/demo/series", params={"n": 0}), 422, "n:")
        failed(await act.post("/v1/jobs/demo/stop", json={"who": "me"}), 422, "who")
        failed(await act.post("/v1/jobs/demo/stop", json={"by": "a\nb"}), 422, "by")

    with_job(tmp_path, work)


def test_what_does_not_fit_how_things_stand_is_a_conflict(tmp_path: Path) -> None:
    async def work(running: Any, act: httpx.AsyncClient, read: httpx.AsyncClient, made: Any) -> None:
        again = {"name": "demo", "command": ["x"]}
        failed(await act.post("/v1/jobs", json=again), 409, "already")
        failed(await act.post("/v1/jobs/demo/approve"), 409, "not held")
        assert (await act.post("/v1/jobs/demo/stop", json={"by": "ada"})).status_code == 202
        assert (await running.wait_job("demo")).ended_by == "person"
        failed(await act.post("/v1/jobs/demo/stop"), 409, "already")
        assert (await act.post("/v1/jobs", json=again)).status_code == 201

    with_job(tmp_path, work)


def test_the_ledger_is_given_in_bounded_pages_that_can_be_followed(tmp_path: Path) -> None:
    async def work(running: Any, act: httpx.AsyncClient, read: httpx.AsyncClient, made: Any) -> None:
        after, seen = 0, []
        while True:
            page = (await read.get("/v1/ledger", params={"after": after, "limit": 7})).json()
            if not page["rows"]:
                break
            assert len(page["rows"]) <= 7
            seen += page["rows"]
            after = page["next_after"]
        assert [row["seq"] for row in seen] == list(range(1, len(seen) + 1))
        assert {"seq", "epoch", "at", "job", "kind", "schema", "data"} == set(seen[0])
        mine = (await read.get("/v1/ledger", params={"job": "demo"})).json()["rows"]
        assert {row["job"] for row in mine} == {"demo"}

    with_job(tmp_path, work)


def test_a_nodes_credential_is_made_once_in_a_file_of_its_owner(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.Api(running) as api:
            first = (await api.post("/v1/nodes/n5/token")).json()
            assert (await api.post("/v1/nodes/n5/token")).json() == first
            path = tmp_path / "tokens/nodes/n5"
            assert path.read_text().strip() == first["token"]
            assert path.stat().st_mode & 0o077 == 0
            assert running.tokens.node_of(first["token"]) == "n5"

    house.run(work())


def test_controller_json_says_where_it_listens_and_goes_with_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running:
            found = json.loads((tmp_path / "controller.json").read_text())
            assert found["url"] == running.url
            assert found["controller_id"] == running.controller_id
            assert set(found) == {"url", "pid", "controller_id", "started_at"}
        assert not (tmp_path / "controller.json").exists()

    house.run(work())


def test_controller_json_is_written_again_when_somebody_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ANNOUNCED_LOOK_S", 0.05)

    async def work() -> None:
        async with house.controller(tmp_path):
            before = (tmp_path / "controller.json").read_text()
            (tmp_path / "controller.json").unlink()
            await house.until((tmp_path / "controller.json").exists, "controller.json is back")
            assert (tmp_path / "controller.json").read_text() == before

    house.run(work())


def test_a_curve_can_be_thinned_and_cut_and_a_runbook_read(tmp_path: Path) -> None:
    async def work(running: Any, act: httpx.AsyncClient, read: httpx.AsyncClient, made: Any) -> None:
        for step in range(2, 40):
            await made[0].marks(step)
        path = "/v1/jobs/demo/series"

        async def samples(**query: float) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = (await read.get(path, params=query)).json()["samples"]
            return found

        for _ in range(500):
            if len(await samples()) == 39:
                break
        whole = await samples()
        thin = await samples(points=12)
        assert len(thin) <= 12 < len(whole)
        assert (thin[0], thin[-1]) == (whole[0], whole[-1])
        assert (await samples(last_s=1e-6))[-1] == whole[-1]
        assert len(await samples(last_s=1e-6)) == 1
        failed(await read.get(path, params={"points": 1}), 422, "points")
        failed(await read.get(path, params={"last_s": -1}), 422, "last_s")
        found = (await read.get("/v1/runbooks/rank-killed")).json()
        assert found["title"] == "A rank was killed by a signal from outside"
        assert "## When to override" in found["text"]
        failed(await read.get("/v1/runbooks/..%2Fx"), 404)
        failed(await read.get("/v1/runbooks/nothing"), 404, "rank-killed")

    with_job(tmp_path, work)


def test_the_timeline_tells_when_the_job_did_not_progress(tmp_path: Path) -> None:
    async def work(running: Any, act: httpx.AsyncClient, read: httpx.AsyncClient, made: Any) -> None:
        found = (await read.get("/v1/jobs/demo/timeline")).json()
        assert [one["attempt"] for one in found["attempts"]] == [0, 1]
        bins = [one["bin"] for one in found["segments"]]
        assert bins[-3:] == ["detection", "diagnosis", "restart"]
        assert {one["incident"] for one in found["segments"][-3:]} == {"demo-1"}
        times = [moment for one in found["segments"][-3:] for moment in (one["from_at"], one["to_at"])]
        assert times == sorted(times)

    with_job(tmp_path, work)
