"""What the agent looks at by itself: stopped ranks, with real processes, and full disks, with a real small one."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider_agent import exporter, jobs, keepers, spool, watch
from outrider_agent.signals import disks, processes, ranks
from tests.agent import test_capture, test_supervision, world

MIB = 2**20


# --- ranks ------------------------------------------------------------------------------------------------------------


def test_a_stopped_rank_is_told_once_and_so_is_that_it_runs_again() -> None:
    async def scenario(node: world.Node, controller: world.Controller, pids: dict[int, int]) -> None:
        os.kill(pids[1], signal.SIGSTOP)
        (told,) = await world.until(lambda: controller.observed("rank-stopped"), "the observation")
        assert (told.rank, told.severity, told.job, told.generation) == (1, "error", "j", 1)
        assert told.text == f"rank 1 (pid {pids[1]}) of job j on n0 is stopped, by SIGSTOP or another stop signal"
        assert told.evidence["pid"] == pids[1]
        node.agents[0].kill()
        node.agents[0].wait()
        node.start()
        await world.until(lambda: len(controller.hellos) == 2, "the next agent")
        await asyncio.sleep(3 * watch.PROCESSES_S)
        os.kill(pids[1], signal.SIGCONT)
        (over,) = await world.until(lambda: controller.observed("rank-continued"), "the end of it")
        assert (over.rank, over.severity) == (1, "info")
        assert len(controller.observed("rank-stopped")) == 1, "the next agent told nothing twice"
        os.kill(pids[0], signal.SIGSTOP)
        os.kill(pids[0], signal.SIGKILL)
        await world.until(lambda: controller.observed("rank-exited"), "the death")
        await asyncio.sleep(2 * watch.PROCESSES_S)
        assert len(controller.observed("rank-stopped")) == 1, "an end is the keeper's to tell of"

    test_capture.play(scenario, ranks=2)


def test_one_look_at_a_stop_is_not_enough_and_a_continued_rank_may_stop_again() -> None:
    watcher = processes.Watcher("n0")
    rank = processes.Process("j", 1, 3, 4242)

    def seen(state: str, at: float) -> list[str]:
        return [one.kind for one in watcher.judge({rank: processes.Look(state, at, started=5)}, at)]

    assert [seen("stopped", 1), seen("running", 2), seen("stopped", 3)] == [[], [], []]
    assert seen("stopped", 4) == ["rank-stopped"]
    assert watcher.stopped == {"j": 1}
    assert [seen("stopped", 5), seen("traced", 6), seen("unknown", 7)] == [[], [], []]
    assert seen("disk", 8) == ["rank-continued"]
    assert watcher.stopped == {"j": 0}
    assert [seen("stopped", 9), seen("stopped", 10)] == [[], ["rank-stopped"]]
    other = watcher.judge({rank: processes.Look("running", 11, started=6)}, 11)
    assert other == [], "the pid is another process's by now"
    assert seen("gone", 12) == []
    assert (watcher.stopped, watcher.told) == ({}, ())


def test_a_rank_in_a_frozen_control_group_is_stopped(tmp_path: Path) -> None:
    child = subprocess.Popen(["/bin/sleep", "600"])
    try:
        with _Frozen(child.pid):
            end = time.monotonic() + world.WAIT_S
            while (seen := processes.look(_process(child.pid), 0.0)).state != "stopped":
                assert time.monotonic() < end, seen
                time.sleep(0.01)
            assert seen.how == "a frozen control group"
        assert processes.look(_process(child.pid), 0.0).state in ("running", "sleeping"), "it may not sleep again yet"
    finally:
        child.kill()
        child.wait()


def test_states_of_real_processes_are_told_apart() -> None:
    spins = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    ended = subprocess.Popen(["/bin/true"])
    try:
        end = time.monotonic() + world.WAIT_S
        while processes.look(_process(ended.pid), 0.0).state != "zombie":
            assert time.monotonic() < end
        assert processes.look(_process(spins.pid), 0.0).state in ("running", "sleeping", "disk")
        assert processes.look(_process(spins.pid, parent=os.getpid()), 0.0).state != "gone"
        assert processes.look(_process(spins.pid, parent=1), 0.0).state == "gone", "it is no child of that keeper"
        ended.wait()
        assert processes.look(_process(ended.pid), 0.0).state == "gone"
        hidden = processes.look(_process(os.getpid()), 0.0, proc=Path("/nowhere"))
        assert (hidden.state, "hidepid" in hidden.error) == ("unknown", True), "hidden is not gone"
    finally:
        spins.kill()
        spins.wait()


# --- disks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 32 MiB and 64 inodes."""
    with world.short_directory() as folder:
        mount = folder / "small disk"
        mount.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", "size=32m,nr_inodes=64", "outrider-test", str(mount)]
        if os.geteuid() != 0 or subprocess.run(words, capture_output=True).returncode != 0:
            pytest.skip("this user may not mount a small file system")
        try:
            yield mount
        finally:
            subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_disk_that_fills_up_is_told_once_and_so_is_that_it_has_room_again(small_disk: Path) -> None:
    judge = disks.Disks("n0")
    place = disks.Place(str(small_disk / "not" / "made"), "checkpoints of job j", "j", 4)
    filler = small_disk / "filler"

    def look(now: float) -> list[Any]:
        return judge.judge({place: disks.measure(place.path)}, {}, now)

    assert look(1.0) == []
    filler.write_bytes(b"x" * 30 * MIB)
    (full,) = look(2.0)
    assert (full.kind, full.severity, full.device) == ("disk-full", "error", str(small_disk))
    assert (full.job, full.generation) == ("j", 4)
    assert full.text.startswith(f"{small_disk} on n0 has no room: 2.0 of 32.0 MiB left, ")
    assert full.text.endswith("; checkpoints of job j lies there")
    assert (full.evidence["free"], full.evidence["total"], full.evidence["inodes"]) == (2 * MIB, 32 * MIB, 64)
    assert full.evidence["lies_there"] == [{"path": place.path, "what": "checkpoints of job j", "job": "j"}]
    assert look(3.0) == [], "never twice"
    os.truncate(filler, 28 * MIB)
    assert look(4.0) == [], "a little room is not enough to say that it is over"
    again = disks.Disks("n0", judge.full)
    assert again.judge({place: disks.measure(place.path)}, {}, 5.0) == [], "nor does the next agent tell it again"
    filler.unlink()
    (clear,) = look(6.0)
    assert (clear.kind, clear.device, clear.evidence["since"]) == ("disk-clear", str(small_disk), 2.0)
    for number in range(64):
        try:
            (small_disk / str(number)).touch()
        except OSError:
            break
    (full,) = look(7.0)
    assert (full.evidence["why"], full.evidence["inodes_free"]) == ("inodes", 0)


def test_one_mount_is_told_once_whatever_lies_there_and_a_refused_write_counts(tmp_path: Path) -> None:
    room = disks.Room("/m", free=10**12, total=2 * 10**12, inodes_free=10**6, inodes=10**7)
    places = [disks.Place("/m/a", "logs of job b", "b", 2), disks.Place("/m/c", "Outrider's state")]
    judge = disks.Disks("n0")
    assert judge.judge(dict.fromkeys(places, room), {}, 1.0) == []
    (full,) = judge.judge(dict.fromkeys(places, room), {"/m/c": "database or disk is full"}, 2.0)
    assert "a write was refused: database or disk is full" in full.text
    assert (full.job, full.generation, len(full.evidence["lies_there"])) == ("b", 2, 2)
    assert judge.judge(dict.fromkeys(places), {}, 3.0) == [], "could not look is neither full nor clear"
    assert judge.rooms == {"/": None}
    assert [one.kind for one in judge.judge(dict.fromkeys(places, room), {}, 4.0)] == ["disk-clear"]


@pytest.mark.parametrize(
    ("free", "total", "lacking"),
    [
        (64 * MIB - 1, 1 << 40, "space"),
        ((1 << 40) // 1000 - MIB, 1 << 40, "space"),
        ((1 << 40) // 1000 + MIB, 1 << 40, ""),
        (63 * MIB, 10 << 30, "space"),
        (65 * MIB, 10 << 30, ""),
        (15 * MIB, 16 * MIB, ""),
        (1 * MIB, 16 * MIB, "space"),
        (0, 0, ""),
    ],
)
def test_no_room_is_little_in_bytes_and_in_share_but_small_is_not_full(free: int, total: int, lacking: str) -> None:
    assert disks.Room("/m", free, total, 0, 0).lacking == lacking


def test_mount_points_are_found_with_blanks_and_one_inside_another(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /my\\040disk rw - nfs s:/x rw\nshort\n")
    assert disks.mount_point("/my disk/logs", str(table)) == "/my disk"
    assert disks.mount_point("/my diskette", str(table)) == "/"
    assert disks.mount_point("/x", str(tmp_path / "none")) == "/"


def test_a_round_over_the_disks_is_not_held_up_by_a_dead_one(monkeypatch: pytest.MonkeyPatch, small_disk: Path) -> None:
    """The dead disk is a measurement that never returns; the living one is real, and fills up."""
    dead = threading.Event()
    real = disks.measure
    monkeypatch.setattr(watch, "LOOK_S", 0.2)
    monkeypatch.setattr(watch, "DISKS_S", 0.05)
    monkeypatch.setattr(disks, "measure", lambda path: dead.wait() if path == "/dead" else real(path))  # type: ignore[func-returns-value]

    async def scenario(node: world.Node) -> None:
        node.state.joinpath("r").mkdir()
        own = (disks.Place("/dead", "a dead disk"), disks.Place(str(small_disk), "a small one"))
        made, kept = _watch(node.state / "r", own)
        rounds = asyncio.create_task(made.watch_disks())
        try:
            await world.until(lambda: made.rooms.get(str(small_disk)), "the first round")
            assert made.rooms["/"] is None
            small_disk.joinpath("filler").write_bytes(b"x" * 31 * MIB)
            await world.until(lambda: kept.taken, "the observation")
            assert [one.kind for one in kept.after(0, 9, MIB)] == ["disk-full"]
        finally:
            dead.set()
            rounds.cancel()
            kept.close()

    with world.node() as node:
        asyncio.run(scenario(node))


def test_the_spool_that_finds_no_room_is_told_from_memory_and_written_later(
    monkeypatch: pytest.MonkeyPatch, small_disk: Path
) -> None:
    monkeypatch.setattr(watch, "DISKS_S", 0.05)

    async def scenario() -> None:
        made, kept = _watch(small_disk, (disks.Place(str(small_disk), "the agent's spool"),))
        rounds = asyncio.create_task(made.watch_disks())
        try:
            with pytest.raises(OSError, match="No space"):
                _fill(small_disk / "filler")
            await world.until(lambda: kept.taken, "the observation")
            (full,) = kept.after(0, 9, MIB)
            assert (full.kind, full.device) == ("disk-full", str(small_disk))
            assert kept.problem
            (small_disk / "filler").unlink()
            await world.until(lambda: kept.taken == 2, "the end of it")
            assert [one.kind for one in kept.after(0, 9, MIB)] == ["disk-full", "disk-clear"]
            assert kept.flush()
        finally:
            rounds.cancel()
            kept.close()
        again = spool.Spool(small_disk / "spool.db")
        assert again.waiting() == 2
        again.close()

    asyncio.run(scenario())


@pytest.mark.slow
def test_the_job_whose_checkpoints_lie_on_a_full_disk_is_named(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * 31 * MIB)

    async def scenario(node: world.Node, controller: world.Controller, args: dict[str, Any]) -> None:
        spec = {**args["spec"], "checkpoint_dir": str(small_disk / "ckpt")}
        node.start()
        started = await controller.order("start", {**args, "spec": spec})
        assert started.ok, started.error
        (full,) = await world.until(lambda: controller.observed("disk-full"), "the next round")
        assert (full.job, full.generation, full.device) == ("j", 1, str(small_disk))

    test_supervision.play(scenario)


def test_metrics_show_stopped_ranks_and_rooms_and_could_not_look() -> None:
    rooms: dict[str, disks.Room | None] = {"/a": disks.Room("/a", 7, 9, 3, 4), "/dead": None}
    reading = exporter.Reading(
        node="n0", simulated=False, version="1", connection="away", observations=0, observations_waiting=0,
        observations_lost=0, acked_seq=0, spool_on_disk=True, marks={}, orders={}, ranks_alive={}, keeper_warm={},
        ranks_stopped={"j": 2}, disks=rooms,
    )  # fmt: skip
    found = {
        (
            sample.name.removeprefix("outrider_agent_"),
            sample.labels.get("mount") or sample.labels.get("job"),
        ): sample.value
        for metric in exporter.Collector(lambda: reading).collect()
        for sample in metric.samples
    }
    assert found["ranks_stopped", "j"] == 2
    assert (found["disk_free_bytes", "/a"], found["disk_size_bytes", "/a"], found["disk_free_inodes", "/a"]) == (
        7,
        9,
        3,
    )
    assert (found["disk_looked", "/a"], found["disk_looked", "/dead"]) == (1, 0)
    assert ("disk_free_bytes", "/dead") not in found


def test_where_jobs_write_is_known_to_the_next_agent_until_the_job_is_over(tmp_path: Path) -> None:
    jobs.Book(tmp_path).note("a.b", jobs.Places(3, "/logs", "/ckpt"))
    (tmp_path / "jobs" / "torn.json").write_text("{")
    book = jobs.Book(tmp_path)
    assert book.of("a.b") == jobs.Places(3, "/logs", "/ckpt")
    assert book.of("torn") is None
    book.forget("a.b")
    assert jobs.Book(tmp_path).of("a.b") is None


def _watch(runtime: Path, own: tuple[disks.Place, ...]) -> tuple[watch.Watch, spool.Spool]:
    clock = test_capture._Clock()
    kept = spool.Spool(runtime / "spool.db")
    held = keepers.Keepers("n0", runtime, kept, ranks.Board(), clock, lambda: None)
    return watch.Watch("n0", own, runtime, kept, held, jobs.Book(runtime), clock, lambda: None), kept


def _process(pid: int, parent: int = 0) -> processes.Process:
    return processes.Process("j", 1, 0, pid, parent)


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass


class _Frozen:
    """A control group of version 2 or 1 that freezes one process while it is entered."""

    def __init__(self, pid: int) -> None:
        name = f"outrider-test-{os.getpid()}"
        roots = [processes.CGROUPS, processes.CGROUPS / "unified", processes.CGROUPS / "freezer"]
        self._root = next((r for r in roots if os.access(r / "cgroup.procs", os.W_OK)), None)
        if self._root is None:
            pytest.skip("this user may make no control group")
        self._group = self._root / name
        old = self._root.name == "freezer"
        self._file, self._on, self._off = ("freezer.state", "FROZEN", "THAWED") if old else ("cgroup.freeze", "1", "0")
        self._pid = pid

    def __enter__(self) -> None:
        self._group.mkdir()
        (self._group / "cgroup.procs").write_text(str(self._pid))
        (self._group / self._file).write_text(self._on)

    def __exit__(self, *_: object) -> None:
        assert self._root is not None
        (self._group / self._file).write_text(self._off)
        (self._root / "cgroup.procs").write_text(str(self._pid))
        self._group.rmdir()
