"""Flight records of real processes, collected by a real agent: through pipes, from dumps that were written, of ranks
that have died, that are stopped, that write slowly, that write what nobody should read. ``recorders`` says what stands
for torch here; ``test_capture_torch`` has torch itself.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest

from outrider_agent import old_attempts
from outrider_agent.flight_recorder import ask, find, gather, keep
from outrider_agent.keeper import recorder
from outrider_agent.signals import processes
from outrider_analysis.flight_recorder import model
from outrider_simulator import flight_recorder
from tests.agent import recorders, world


def notes(found: dict[str, object]) -> str:
    """What could not be had, as one text."""
    known = found["flight_recorder"]
    assert isinstance(known, dict)
    return "; ".join(known["notes"])


def test_ranks_are_asked_by_their_pipes_and_the_digest_names_the_culprit() -> None:
    async def scenario(job: recorders.Job) -> None:
        await job.start({})
        found = await job.capture()
        assert recorders.ranks(found) == [0, 1, 2, 3], notes(found)
        told = recorders.verdict_of(found)
        assert tuple(told.culprits) == job.truth.culprits
        files = recorders.kept(found)
        assert sorted(files) == [0, 1, 2, 3]
        for rank, path in files.items():
            assert path.name == f"rank_{rank}"
            assert path.read_bytes() == (job.node.state / "dumps" / f"rank_{rank}").read_bytes()
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert files[0].parent.parent == job.node.state / "logs" / "j" / keep.FOLDER / "n0"
        assert sorted(path.name for path in files[0].parent.iterdir()) == [f"rank_{rank}" for rank in range(4)]
        assert [one["rank"] for one in found["ranks"]] == [0, 1, 2, 3]
        assert not job.controller.observed("flight-record-written"), "what was asked for is no news"
        assert all(world.alive(pid) for pid in job.pids.values())

    recorders.play(scenario)


def test_slow_and_torn_writers_are_waited_for_and_hostile_and_huge_ones_cost_themselves_alone() -> None:
    how = {0: "slow", 1: "cut, then whole", 2: "hostile", 3: "huge"}

    async def scenario(job: recorders.Job) -> None:
        await job.start(how)
        found = await job.capture()
        assert recorders.ranks(found) == [0, 1], notes(found)
        for rank in (0, 1):
            assert recorders.kept(found)[rank].read_bytes() == (job.node.state / "dumps" / f"rank_{rank}").read_bytes()
        assert "asks for os.system" in notes(found), notes(found)
        assert f"at most {keep.DUMP_BYTES_MAX} are read" in notes(found)
        assert not (job.begun / "owned").exists()
        assert 3 not in recorders.kept(found)
        assert len((job.node.runtime / "agent.json").read_text()) < 500
        assert resident_mib(job.node.agents[0].pid) < 80

    recorders.play(scenario)


def test_ranks_with_nccl_are_asked_on_their_control_sockets_and_without_stacks_where_the_lock_is_held() -> None:
    how = {0: "socket", 1: "socket, lock held", 2: "socket", 3: "socket"}

    async def scenario(job: recorders.Job) -> None:
        await job.start(how)
        found = await job.capture()
        assert recorders.ranks(found) == [0, 1, 2, 3], notes(found)
        assert tuple(recorders.verdict_of(found).culprits) == job.truth.culprits
        names = {rank: path.name for rank, path in recorders.kept(found).items()}
        assert names == {0: "rank_0", 1: "rank_1.json", 2: "rank_2", 3: "rank_3"}
        assert sorted(path.name for path in recorders.kept(found)[0].parent.iterdir()) == sorted(names.values())
        pending = [one["rank"] for one in found["ranks"] if one["pending"]]
        assert pending, "what NCCL's own recorder tells is in the evidence too"
        again = await job.capture()
        assert recorders.ranks(again) == [0, 1, 2, 3], notes(again)
        assert len(list(job.begun.glob("stacks-asked-1-*"))) == 1, "who does not tell its stacks is asked once"

    recorders.play(scenario)


def test_ranks_that_never_answer_hold_nothing_up() -> None:
    async def scenario(job: recorders.Job) -> None:
        await job.start({1: "no reader", 2: "no pipe", 3: "mute"})
        os.kill(job.pids[0], signal.SIGSTOP)
        one = processes.Process("j", 1, 0, job.pids[0])
        await world.until(lambda: processes.look(one, 0).state == "stopped", "the stop")
        found = await job.capture(6.0)
        assert recorders.ranks(found) == []
        assert found["flight_recorder"]["digest"] is None
        assert "rank 0 is stopped and was not asked" in notes(found)
        assert "rank 2: it has no control socket" in notes(found)
        assert "rank 3 was asked by its pipe and has not written" in notes(found)
        assert [one["rank"] for one in found["ranks"]] == [0, 1, 2, 3]
        os.kill(job.pids[0], signal.SIGCONT)
        again = await job.capture(ranks=(0,))
        assert recorders.ranks(again) == [0], notes(again)

    recorders.play(scenario)


def test_what_torch_writes_of_itself_is_told_once_and_counts_also_when_its_rank_is_dead() -> None:
    async def scenario(job: recorders.Job) -> None:
        await job.start({1: "itself", 2: "itself"})
        seen = await world.until(
            lambda: found if len(found := job.controller.observed("flight-record-written")) == 2 else None, "the news"
        )
        assert [one.rank for one in sorted(seen, key=lambda one: one.rank)] == [1, 2]
        assert {one.severity for one in seen} == {"info"}
        path = Path(seen[0].evidence["file"])
        assert path.parent == job.node.state / "logs" / "j" / "attempt-0" / "fr" / "n0" / "generation-1"
        await job.end(2)
        found = await job.capture()
        assert recorders.ranks(found) == [0, 1, 2, 3], notes(found)
        assert [one["rank"] for one in found["ranks"]] == [0, 1, 3]
        job.node.agents[0].kill()
        job.node.agents[0].wait()
        job.node.start()
        await world.until(lambda: len(job.controller.hellos) == 2, "the next agent")
        await job.end(0, 1, 3)
        after = await job.capture()
        assert recorders.ranks(after) == [0, 1, 2, 3], "torch's own, and those that were asked for"
        assert {one["state"] for one in after["ranks"]} == {"gone"}
        assert {one.rank for one in job.controller.observed("flight-record-written")} >= {1, 2}
        assert len([one for one in job.controller.observed("flight-record-written") if one.rank in (1, 2)]) == 2

    recorders.play(scenario)


def test_a_job_whose_keeper_died_with_all_ranks_is_still_told_of() -> None:
    async def scenario(job: recorders.Job) -> None:
        own = job.node.state / "own"
        own.mkdir()
        await job.start({1: "itself", 3: "itself"}, env={"TORCH_FR_DUMP_TEMP_FILE": str(own / "trace_")})
        for pid in job.node.pids():
            os.kill(pid, signal.SIGKILL)
        await world.until(lambda: len(job.controller.observed("rank-exited")) == 4, "the ranks' ends")
        found = await job.capture()
        assert recorders.ranks(found) == [1, 3], notes(found)
        assert found["ranks"] == []
        part = await job.capture(ranks=(1, 2))
        assert [(one["rank"], one["state"]) for one in part["ranks"]] == [(1, "gone"), (2, "gone")]
        assert recorders.ranks(part) == [1]

    recorders.play(scenario)


def test_a_collecting_process_that_hangs_or_never_stops_talking_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sought = gather.Sought("j", 1, "n0", tmp_path, str(tmp_path), {0: 0}, (tmp_path,))
    known = '{"digest": null, "files": {"0": "/kept"}, "notes": ["so far"], "silent": [0]}'
    for words, files, why in (
        (f"echo '{known}'; exec sleep 600", {"0": "/kept"}, "was ended after"),
        ("exec cat /dev/zero", {}, "more than"),
        ("exit 3", {}, "ended with status 3"),
        ("echo '{}'", {}, "cannot be understood"),
    ):
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{words}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        found = asyncio.run(gather.Gatherer().gather(sought, "name", 1.0 if "sleep" in words else 60.0))
        assert found["files"] == files
        assert why in found["notes"][-1], found
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    found = asyncio.run(gather.Gatherer().gather(sought, "name", 60.0))
    assert "could be started" in found["notes"][-1]


def test_hundreds_of_ranks_on_one_node_fit_into_one_answer(tmp_path: Path) -> None:
    case = flight_recorder.make(5, name="stuck-tp", mesh=recorders.MESH, settings=flight_recorder.Settings(ring=100))
    record = dict(case.dumps())[0]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        known = ask.PICKLE.encode() in asked
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + record if known else b"HTTP/1.1 404 Not Found\r\n\r\n")
        writer.close()

    async def scenario(folder: Path) -> None:
        async with contextlib.AsyncExitStack() as servers:
            for rank in range(300):
                server = await asyncio.start_unix_server(answer, str(folder / f"{rank}.sock"))
                await servers.enter_async_context(server)
            pids = dict.fromkeys(range(300), os.getpid())
            sought = gather.Sought("j", 1, "n0", folder, f"{folder}/", pids, (tmp_path,))
            found = await gather.Gatherer().gather(sought, "name", 60.0)
            assert len(model.from_json(found["digest"]).ranks) == 300, found["notes"]
            assert len(found["files"]) == 300
            assert len(json.dumps(found["digest"])) < 300 * gather.RANK_BYTES

    with world.short_directory() as folder:
        asyncio.run(scenario(folder))


def test_dumps_of_an_earlier_generation_never_count() -> None:
    async def scenario(job: recorders.Job) -> None:
        await job.start(dict.fromkeys(range(4), "itself"))
        assert recorders.ranks(await job.capture()) == [0, 1, 2, 3]
        stopped = await job.controller.order("stop", {"grace_s": 0.1})
        assert stopped.ok
        env = {"TORCH_FR_DUMP_TEMP_FILE": str(job.node.state / "logs/j/attempt-0/fr/n0/generation-1/rank_")}
        await job.start(dict.fromkeys(range(4), "no pipe"), generation=2, env=env)
        found = await job.capture(generation=2)
        assert found["flight_recorder"]["digest"] is None, "the files there are of the run before"

    recorders.play(scenario)


def test_the_jobs_own_setting_under_the_old_name_is_watched() -> None:
    async def scenario(job: recorders.Job) -> None:
        own = job.node.state / "own"
        own.mkdir()
        await job.start({2: "itself"}, env={"TORCH_NCCL_DEBUG_INFO_TEMP_FILE": "own/trace_"})
        (seen,) = await world.until(lambda: job.controller.observed("flight-record-written"), "the news")
        assert seen.evidence["file"] == str(own / "trace_2")
        found = await job.capture()
        assert recorders.ranks(found) == [0, 1, 2, 3], notes(found)
        assert sorted(path.name for path in own.iterdir()) == [f"trace_{rank}" for rank in range(4)]

    recorders.play(scenario)


def test_ranks_that_a_job_starts_itself_are_found_by_their_environment() -> None:
    async def scenario(job: recorders.Job) -> None:
        await job.start({3: "itself"}, launcher=True)
        found = await job.capture()
        assert recorders.ranks(found) == [0, 1, 2, 3], notes(found)
        assert tuple(recorders.verdict_of(found).culprits) == job.truth.culprits
        assert len(list(job.node.state.glob("inner_*"))) == 4
        assert [one["rank"] for one in found["ranks"]] == [0]

    recorders.play(scenario)


@pytest.mark.parametrize("module", [False, True])
def test_ranks_below_a_real_torchrun_are_asked_by_the_pipes_they_inherit_and_told_by_its_numbers(module: bool) -> None:
    """Its ranks are stand-ins for NCCL's recorder as elsewhere here; torchrun itself, with its environment, is real."""
    torchrun = (str(Path(sys.executable).parent / "torchrun"),)
    words = (sys.executable, "-m", "torch.distributed.run") if module else torchrun

    async def scenario(job: recorders.Job) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        await job.start({3: "whole, with workers"}, launcher=(*words, "--nproc-per-node=4", f"--master-port={port}"))
        found = await job.capture()
        assert recorders.ranks(found) == [0, 1, 2, 3], notes(found)
        assert tuple(recorders.verdict_of(found).culprits) == job.truth.culprits
        assert found["flight_recorder"]["numbering"] == {"world": 4, "ranks": dict.fromkeys("0123", 0)}
        assert [one["rank"] for one in found["ranks"]] == [0]

    recorders.play(scenario)


def test_a_note_that_is_damaged_or_of_another_generation_is_said_and_not_believed(tmp_path: Path) -> None:
    place = recorder.Place((f"{tmp_path}/rank_",), f"{tmp_path}/ask_")
    good = recorder.note(place, (3,), str(tmp_path), 2, 100.0, {"WORLD_SIZE": "4"})
    note = tmp_path / "recorder.json"
    note.write_text(json.dumps(good))
    found = find.noted(str(tmp_path), 2)
    assert (found.ranks, found.spots[0].dumps(3), found.spots[0].pipe(3)) == (
        (3,),
        (f"{tmp_path}/rank_3",),
        f"{tmp_path}/ask_3.pipe",
    )
    with pytest.raises(find.NoNote, match="generation 2, not 3"):
        find.noted(str(tmp_path), 3)
    strange: tuple[object, ...] = (None, {"a": "\0"}, [[]], 10**400)
    for bad in (
        "",
        "[]",
        "nonsense",
        "{}",
        *(json.dumps({**good, key: value}) for key in good for value in strange),
        "[" * 100_000,
    ):
        note.write_text(bad)
        with pytest.raises(find.NoNote):
            find.noted(str(tmp_path), 2)
    note.unlink()
    with pytest.raises(find.NoNote, match="No such file"):
        find.noted(str(tmp_path), 2)


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    rows = dict(row.split(":", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in row)
    return int(rows["VmRSS"].split()[0]) / 1024


def test_captures_that_make_room_for_a_new_one_are_told() -> None:
    async def scenario(job: recorders.Job) -> None:
        above = job.node.state / "logs" / "j" / keep.FOLDER / "n0"
        above.mkdir(parents=True, mode=0o700)
        for path in (above.parent, above):
            path.chmod(0o700)
        for number in range(keep.CAPTURES_MAX + 1):
            (above / f"2020-{number:02d}").mkdir()
        await job.start({})
        await job.capture()
        (seen,) = await world.until(lambda: job.controller.observed("logs-removed"), "the news")
        assert seen.evidence["paths"] == [str(above / "2020-00"), str(above / "2020-01")]
        assert seen.evidence["why"] == f"removed after {keep.CAPTURES_MAX} newer captures"

    recorders.play(scenario)


def test_a_start_removes_what_the_jobs_bounds_no_longer_allow() -> None:
    async def scenario(job: recorders.Job) -> None:
        logs = job.node.state / "logs" / "j"
        for number in range(4):
            old = logs / f"attempt-{number}" / "rank_0.log"
            old.parent.mkdir(parents=True)
            old.touch()
            os.utime(old, (0, 0))
            (old.parent / f"{old_attempts.MARK}j").touch()
        await job.start({}, attempt=4, limits={"attempts_kept": 2})
        (seen,) = await world.until(lambda: job.controller.observed("logs-removed"), "the news")
        assert seen.evidence["paths"] == [str(logs / f"attempt-{number}") for number in range(3)]
        assert sorted(path.name for path in logs.glob("attempt-*")) == ["attempt-3", "attempt-4"]
        assert (logs / "attempt-4" / "rank_0.log").exists()
        assert (logs / "attempt-4" / f"{old_attempts.MARK}j").exists()

    recorders.play(scenario)
