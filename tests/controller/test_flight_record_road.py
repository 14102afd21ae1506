"""Flight records on their road: from the nodes' answers over a real controller into the incident, whatever dies."""

import asyncio
import dataclasses
import functools
import json
import multiprocessing
import os
import signal
import time
import types
from pathlib import Path
from typing import Any

from outrider import records
from outrider_cli import views
from outrider_controller import codec, flight_records, ledger
from outrider_controller import controller as controllers
from outrider_controller import tokens as tokens_module
from outrider_controller.core import records as rows
from outrider_simulator import flight_recorder
from tests.controller import house
from tests.core import hanging
from tests.flight_recorder import answers

TIME_OUT = (Path(__file__).parents[1] / "recorded/job_log/gloo-peer-stopped.txt").read_text()
MESH = "dp=2,pp=1,cp=1,tp=2"
SPEC: dict[str, Any] = {"mesh": MESH, "limits": {"stall_s": 0.4}}
HEARTBEAT_S = 1.0


@functools.cache
def case(name: str) -> flight_recorder.Case:
    return flight_recorder.make(3, name=name, mesh=MESH)


def progress(agent: house.Agent, step: int) -> tuple[records.RankProgress, ...]:
    about = (agent.job, agent.generation)
    return tuple(records.RankProgress(*about, r, r % 2, 100 + r, step, "step", time.time()) for r in agent.ranks)


async def train(made: list[house.Agent], steps: range) -> None:
    for step in steps:
        for agent in made:
            await agent.marks(step, ranks=progress(agent, step))
        await asyncio.sleep(0.02)


def hangs(made: list[house.Agent], name: str, otherwise: str = "waits") -> int:
    """From now on the ranks stand as in the simulated case, and leave its records; the culprit."""
    [culprit] = case(name).truth.culprits
    told = answers.of(case(name), 2)
    for agent in made:
        agent.record = told[agent.node]
        for rank in agent.ranks:
            how = "spins" if rank == culprit and name.startswith("stuck") else otherwise
            agent.evidence[rank] = dataclasses.asdict(records.RankEvidence(rank, 100 + rank, **hanging.EVIDENCE[how]))
    return culprit


def blamed(incident: dict[str, Any]) -> list[int]:
    found = incident["flight_recorder"]
    return sorted({rank for finding in found["findings"] for rank in finding["culprits"]})


def test_what_the_records_say_stands_in_the_incident_and_in_what_people_read(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            house.controller(tmp_path, heartbeat_s=HEARTBEAT_S) as running,
            house.agents(running, tmp_path, "n0", "n1") as made,
        ):
            await house.training(running, made, **SPEC)
            await train(made, range(2, 12))
            culprit = hangs(made, "stuck-tp")
            await house.until(lambda: all(len(agent.ordered("start")) == 2 for agent in made), "a new attempt")
            [incident] = await running.incidents("demo")
            found = incident["flight_recorder"]
            assert (incident["cause"], incident["suspects"]["ranks"]) == ("rank-hung", [culprit])
            assert (blamed(incident), found["culprits"], found["nodes_read"]) == ([culprit], [culprit], 2)
            assert found["graph"]["nodes"]
            assert found["graph"]["edges"]
            assert found["files"] == {str(culprit): f"n{culprit // 2}:/evidence/rank_{culprit}"}
            assert incident["confidence"] >= 0.95
            explained = await running.documents.explain("demo", incident["id"])
            said = views.explain(explained)
            assert "flight recorder\n" in said
            assert f"n{culprit // 2}:/evidence/rank_{culprit}" in said
            assert any("flight records of 4 of 4 ranks" in line["text"] for line in explained["timeline"])

    house.run(work())


def test_a_mismatch_that_no_stack_shows_blames_the_code_and_no_node(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            house.controller(tmp_path, heartbeat_s=HEARTBEAT_S) as running,
            house.agents(running, tmp_path, "n0", "n1") as made,
        ):
            await house.training(running, made, **SPEC)
            await train(made, range(2, 12))
            hangs(made, "wrong-size")
            await house.until(lambda: all(len(agent.ordered("start")) == 2 for agent in made), "a new attempt")
            [incident] = await running.incidents("demo")
            assert (incident["cause"], incident["suspects"]["nodes"]) == ("collective-mismatch", [])
            assert set(blamed(incident)) <= set(case("wrong-size").truth.allowed)
            assert incident["cause_group"] == "Software Bug"

    house.run(work())


def test_ranks_that_died_of_their_time_outs_are_asked_for_their_records_and_these_name_the_one(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            house.controller(tmp_path, heartbeat_s=HEARTBEAT_S) as running,
            house.agents(running, tmp_path, "n0", "n1") as made,
        ):
            await house.training(running, made, mesh=MESH, limits={"stall_s": 0})
            culprit = hangs(made, "stuck-tp")
            for agent in made:
                agent.evidence = {}
                for rank in agent.ranks:
                    if rank != culprit:
                        await agent.rank_dies(rank, code=1, signal=None, log_tail=TIME_OUT)
            await house.until(lambda: all(len(agent.ordered("start")) == 2 for agent in made), "a new attempt")
            assert [len(agent.ordered("capture")) for agent in made] == [1, 1]
            [incident] = await running.incidents("demo")
            assert (incident["cause"], incident["suspects"]["ranks"]) == ("rank-hung", [culprit])
            assert blamed(incident) == [culprit]

    house.run(work())


def test_a_plain_kill_is_not_held_up_by_any_question(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            house.controller(tmp_path, heartbeat_s=HEARTBEAT_S) as running,
            house.agents(running, tmp_path, "n0", "n1") as made,
        ):
            await house.training(running, made, mesh=MESH, limits={"stall_s": 0})
            hangs(made, "stuck-tp")
            await made[0].rank_dies(0)
            await house.until(lambda: all(len(agent.ordered("start")) == 2 for agent in made), "a new attempt")
            assert not any(agent.ordered("capture") for agent in made)
            [incident] = await running.incidents("demo")
            assert (incident["cause"], incident["flight_recorder"]) == ("rank-killed", None)

    house.run(work())


def test_a_controller_killed_while_it_merges_comes_to_the_same_under_the_same_id(tmp_path: Path) -> None:
    """SIGKILL of a real process that is in the midst of judging; the next one asks again, and nothing happens twice."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=stuck_in_judging, args=(str(tmp_path),), daemon=True)
    process.start()

    async def work() -> None:
        await house.until(lambda: (tmp_path / "url").exists(), "a controller")
        about: Any = types.SimpleNamespace(tokens=tokens_module.Tokens(tmp_path), url=(tmp_path / "url").read_text())
        made = [await house.Agent(tmp_path, node).connect(about) for node in ("n0", "n1")]
        await house.until(lambda: all(agent.ordered("start") for agent in made), "start orders")
        await train(made, range(1, 12))
        culprit = hangs(made, "stuck-tp")
        await house.until(lambda: (tmp_path / "judging").exists(), "the merge")
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        for agent in made:
            agent.keepers = keeper(agent)
            await agent.go()
        async with house.controller(tmp_path, heartbeat_s=HEARTBEAT_S) as running:
            [pending] = [e for e in running.state.jobs["demo"].pending if e.name == "capture-evidence"]
            for agent in made:
                await agent.connect(running)
            await house.until(lambda: done(tmp_path, pending.effect), "the effect is over")
            [row] = done(tmp_path, pending.effect)
            assert (row.ok, row.result["flight_recorder"]["culprits"]) == (True, [culprit])
            orders = [order.order_id for agent in made for order in agent.ordered("capture")]
            assert len([order for order in orders if f".{pending.effect}." in order]) == 2, "each node looked once"
            for agent in made:
                await agent.go()

    house.run(work())


def done(state: Path, effect: str) -> list[rows.EffectDone]:
    found = (row for _, row in ledger.read(state / "ledger.db"))
    return [row for row in found if isinstance(row, rows.EffectDone) and row.effect == effect]


def keeper(agent: house.Agent) -> tuple[records.KeeperState, ...]:
    states = tuple(records.RankState(rank, rank % 2, 100 + rank, True) for rank in agent.ranks)
    return (records.KeeperState(agent.job, agent.generation, 0, "running", True, states),)


def stuck_in_judging(state: str) -> None:
    """A controller that never ends its first verdict."""
    folder = Path(state)

    def judge(*_: Any) -> Any:
        (folder / "judging").touch()
        time.sleep(600)

    flight_records.Gathering._judge = judge  # type: ignore[method-assign]

    async def work() -> None:
        made = controllers.Controller(
            house.settings_module.Settings(state=folder, port=0, log_to_stderr=False, heartbeat_s=HEARTBEAT_S)
        )
        await made.start()
        await made.submit_job(house.spec(**SPEC))
        (folder / "url.part").write_text(made.url)
        (folder / "url.part").replace(folder / "url")
        await asyncio.sleep(600)

    asyncio.run(work())


def test_a_row_of_a_ledger_from_before_there_were_records_reads_as_it_did() -> None:
    """Rows that an earlier version wrote lack every field that records brought."""
    looked = rows.Looked(1.0, "demo", 1, "rank-hung", (2,), 0.9, "as seen", 20.0)
    plain = json.loads(codec.row_data(looked))
    for key in ("record", "doubt", "by_looks", "by_looks_ranks", "by_looks_places"):
        del plain[key]
    assert codec.row("looked", 1, json.dumps(plain)) == looked
