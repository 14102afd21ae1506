"""The shell around the core: a job's life over real sockets, and what survives which death."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from outrider import records
from outrider_controller import ledger
from outrider_controller.core import evolve, state
from outrider_controller.launchers import agents
from tests.controller import house


def test_the_gpus_of_ranks_are_part_of_the_state(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.agents(running, tmp_path, "n0", "n1") as made:
            made[1].gpus = {"2": "gpu7", "3": ""}
            await house.training(running, made)
            attempt = running.state.jobs["demo"].attempt
            assert attempt is not None
            assert attempt.gpus == ((2, "gpu7"), (3, ""))

    house.run(work())


def test_a_job_is_started_interrupted_restarted_and_completed(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.agents(running, tmp_path, "n0", "n1", "n2") as made:
            await house.training(running, made, step=3, checkpoint_dir=str(tmp_path / "checkpoints"))
            await made[1].rank_dies(3)
            await house.until(lambda: len(made[1].ordered("start")) == 2, "the second start")
            job = running.state.jobs["demo"]
            assert job.attempt is not None
            assert (job.attempt.attempt, job.attempt.placement) == (1, ("n0", "n1"))
            assert [order.args["ranks"] for order in made[1].ordered("start")] == [[2, 3], [2, 3]]
            await made[0].marks(1)
            await house.until(lambda: running.state.jobs["demo"].state == "training", "training again")
            assert running.state.jobs["demo"].incident is not None
            await made[0].marks(3)
            await house.until(lambda: running.state.jobs["demo"].incident is None, "the incident closes")
            for agent in made[:2]:
                for rank in agent.ranks:
                    await agent.rank_dies(rank, code=0, signal=None)
            assert (await running.wait_job("demo")).state == "completed"
            [incident] = await running.incidents("demo")
            assert incident["cause"] == "rank-killed"
            assert incident["suspects"]["ranks"] == [3]
            assert incident["lost_steps"] == 3
            report = await running.report("demo")
            assert abs(sum(report["bins"].values()) - report["elapsed_s"]) < 1e-3
            assert all(agent.ordered("release") for agent in made[:2])

    house.run(work())


def test_a_spare_is_warmed_and_takes_the_place_of_a_node_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "STOP_AWAY_S_MAX", 0.2)
    books = house.quick_runbooks(tmp_path)

    async def work() -> None:
        async with (
            house.controller(tmp_path, runbooks=books) as running,
            house.agents(running, tmp_path, "n0", "n1", "n2") as made,
        ):
            await house.training(running, made)
            await house.until(lambda: made[2].ordered("prepare"), "the spare is made ready")
            await made[1].go()
            await made[0].rank_dies(0, code=1, signal=None)
            await house.until(lambda: made[2].ordered("start"), "the spare steps in")
            assert running.state.jobs["demo"].attempt.placement == ("n0", "n2")  # type: ignore[union-attr]
            assert running.state.nodes["n1"].mark == "lost"

    house.run(work())


def test_a_controller_killed_in_the_middle_of_an_effect_takes_it_up_under_the_same_ids(tmp_path: Path) -> None:
    async def work() -> None:
        made = [house.Agent(tmp_path, node) for node in ("n0", "n1")]
        async with house.controller(tmp_path) as running:
            made[1].deaf = {"start"}
            for agent in made:
                await agent.connect(running)
            await running.submit_job(house.spec())
            await house.until(lambda: made[1].ordered("start"), "a start order")
            for agent in made:
                await agent.go()
        async with house.controller(tmp_path) as running:
            assert [effect.name for effect in running.state.jobs["demo"].pending] == ["start-attempt"]
            made[1].deaf = set()
            for agent in made:
                await agent.connect(running)
            await house.until(lambda: not running.state.jobs["demo"].pending, "the effect is done")
            assert all(len(agent.ordered("start")) == 1 for agent in made)
            assert [len(agent.results) for agent in made] == [2, 1]  # reserve-port and start; start
            await made[0].marks(1)
            await house.until(lambda: running.state.jobs["demo"].state == "training", "training")
            for agent in made:
                await agent.go()

    house.run(work())


def test_the_state_after_a_restart_is_what_evolve_makes_of_the_ledger(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.agents(running, tmp_path, "n0", "n1") as made:
            await house.training(running, made)
            await running.stop()  # before the agents go, whose silence would be one row more
            before = running.state
        assert evolve.evolve_all(state.State(), (row for _, row in ledger.read(tmp_path / "ledger.db"))) == before
        async with house.controller(tmp_path) as running:
            assert running.state == before
            assert running.epoch == 2

    house.run(work())


def test_ranks_of_a_node_that_stays_away_are_left_alone_and_its_silence_is_recorded(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.agents(running, tmp_path, "n0", "n1") as made:
            await house.training(running, made)
            await made[1].go()
            await house.until(lambda: running.state.nodes["n1"].silent_since is not None, "silence")
            assert running.state.jobs["demo"].state == "training"
            assert not made[0].ordered("stop")
            await made[1].connect(running)
            made[1].keepers = ()
            await house.until(lambda: running.state.nodes["n1"].silent_since is None, "it is back")

    house.run(work())


def test_a_node_whose_heartbeats_end_is_silent_although_its_connection_stands(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.agents(running, tmp_path, "n0") as made:
            made[0].heartbeats = False
            await house.until(lambda: running.state.nodes["n0"].silent_since is not None, "silence")

    house.run(work())


def test_a_node_that_never_comes_back_after_a_restart_of_the_controller_is_silent(tmp_path: Path) -> None:
    async def work() -> None:
        # Seldom heartbeats, so that none is missed on a busy machine before the controller ends.
        async with house.controller(tmp_path, heartbeat_s=5.0) as running, house.agents(running, tmp_path, "n0"):
            await running.stop()
        async with house.controller(tmp_path) as running:
            assert running.state.nodes["n0"].silent_since is None  # a graceful end of the controller is no silence
            await house.until(lambda: running.state.nodes["n0"].silent_since is not None, "silence")

    house.run(work())


def test_a_node_that_cannot_start_its_ranks_makes_the_others_stop(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.agents(running, tmp_path, "n0", "n1") as made:
            made[1].fails = {"start": "no interpreter at /usr/bin/pythom"}
            await running.submit_job(house.spec(attended=False))
            await house.until(lambda: made[0].ordered("stop"), "the other node is told to stop")
            await house.until(lambda: running.state.jobs["demo"].incidents, "an incident")
            rows = [row for _, row in ledger.read(tmp_path / "ledger.db")]
            failed = [row for row in rows if row.kind == "effect-done" and not row.ok]  # type: ignore[union-attr]
            assert "node n1 refused start: no interpreter" in failed[0].error  # type: ignore[union-attr,operator]

    house.run(work())


def test_a_node_that_comes_back_with_ranks_of_an_older_generation_is_told_to_stop_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "STOP_AWAY_S_MAX", 0.2)
    books = house.quick_runbooks(tmp_path)

    async def work() -> None:
        async with (
            house.controller(tmp_path, runbooks=books) as running,
            house.agents(running, tmp_path, "n0", "n1", "n2") as made,
        ):
            await house.training(running, made)
            old = made[1].generation
            await made[1].go()
            await made[0].rank_dies(0)
            await house.until(lambda: made[2].ordered("start"), "the spare steps in")
            made[1].keepers = (records.KeeperState("demo", old, 0, "running", True),)
            await made[1].connect(running)
            await house.until(lambda: made[1].ordered("stop"), "the order to stop")
            assert made[1].ordered("stop")[0].generation == old

    house.run(work())


def test_observations_are_taken_once_however_often_they_are_sent(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.agents(running, tmp_path, "n0") as made:
            await made[0].see("marks-refused", "garbage")
            await house.until(lambda: made[0].acked == 1, "an acknowledgement")
            for _ in range(3):
                made[0].acked = 0
                await made[0].say_observations()
            await house.until(lambda: made[0].acked == 1, "an acknowledgement again")
            await made[0].go()
            made[0].acked = 0
            await made[0].connect(running)
            assert made[0].acked == 1
        noted = [row for _, row in ledger.read(tmp_path / "ledger.db") if row.kind == "noted"]
        assert len(noted) == 1

    house.run(work())


def test_a_full_disk_stops_recording_and_acting_and_nothing_else(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.agents(running, tmp_path, "n0", "n1") as made:
            await house.until(lambda: running.state.nodes["n0"].silent_since is None, "joined")
            database = running._ledger._db
            pages = database.execute("PRAGMA page_count").fetchone()[0]
            database.execute(f"PRAGMA max_page_count = {pages}")
            with contextlib.suppress(ledger.UnwritableError):
                for number in range(200):  # until the last free bytes of the last page are used
                    await running.submit_job(house.spec(f"filler-{number}", nodes=9, env={"A": "x" * 2000}))
            orders = sum(len(agent.orders) for agent in made)
            before = running.state
            async with house.Api(running) as api:
                answer = await api.post("/v1/jobs", json={"name": "demo", "command": ["x"], "env": {"A": "x" * 9000}})
                assert answer.status_code == 503
                assert "full" in answer.json()["error"]
                assert (await api.get("/v1/jobs")).status_code == 200
                assert (await api.get("/healthz")).status_code == 503
                assert running.state == before
                assert sum(len(agent.orders) for agent in made) == orders
                database.execute("PRAGMA max_page_count = 1000000")
                await made[0].connect(running)
                await made[1].connect(running)
                assert (await api.post("/v1/jobs", json={"name": "demo", "command": ["x"]})).status_code == 201
                assert (await api.get("/healthz")).status_code == 200

    house.run(work())


def test_a_fact_on_which_the_core_fails_is_put_aside_and_acknowledged(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.agents(running, tmp_path, "n0", "n1") as made:
            await house.training(running, made)
            generation = made[0].generation
            about = {"job": "demo", "generation": generation, "rank": 0, "evidence": {"nonsense": True}}
            await made[0].see("rank-exited", "a rank ended, says a broken agent", **about)
            await house.until(lambda: made[0].acked == 1, "an acknowledgement")
            assert running.state.jobs["demo"].state == "training"
            notes = [row.text for _, row in ledger.read(tmp_path / "ledger.db") if row.kind == "noted"]  # type: ignore[union-attr]
            assert any("put aside" in text for text in notes)

    house.run(work())


def test_a_successor_fences_the_first_controller_out(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as first:
            other = ledger.Ledger(tmp_path / "ledger.db")
            other.take_epoch()
            stopped = asyncio.create_task(first.wait_stopped())
            with contextlib.suppress(ledger.FencedError):
                await first.submit_job(house.spec())
            assert isinstance(await stopped, ledger.FencedError)
            assert not first.state.jobs
            async with house.Api(first) as api:
                assert (await api.post("/v1/jobs", json={"name": "x", "command": ["x"]})).status_code == 503
                assert (await api.get("/v1/jobs")).status_code == 200
            other.close()

    house.run(work())


def test_the_step_times_and_losses_of_a_job_can_be_asked_for(tmp_path: Path) -> None:
    async def work() -> None:
        async with house.controller(tmp_path) as running, house.agents(running, tmp_path, "n0", "n1") as made:
            await house.training(running, made, step=1)
            for step in (2, 3, 4):
                await made[0].marks(step)
            await house.until(lambda: running.status("demo")["step"] == 4, "step 4")
            status = running.status("demo")
            assert status["step_s"] > 0
            assert [rank["pid"] is not None for rank in status["ranks"]] == [True] * 4
            async with house.Api(running, "read") as api:
                for _ in range(200):
                    series = (await api.get("/v1/jobs/demo/series", params={"n": 2})).json()
                    if series["samples"] and series["samples"][-1]["step"] == 4:
                        break
                    await asyncio.sleep(0.02)
            assert [sample["step"] for sample in series["samples"]] == [3, 4]

    house.run(work())
