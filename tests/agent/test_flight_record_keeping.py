"""What an agent takes for a dump of a job's rank and where it keeps it, on a disk where the job's user may do as they
please: links, pipes, devices, folders that are moved away, disks that are full or dead.
"""

import asyncio
import contextlib
import os
import socket
import tempfile
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider import clock
from outrider_agent.flight_recorder import ask, collect, family, find, keep, room, written
from outrider_agent.keeper import recorder
from tests.agent import world


def test_the_oldest_captures_go_and_the_newest_never(tmp_path: Path) -> None:
    went: list[str] = []

    def made(name: str) -> Path:
        path, held = keep.folder(tmp_path, "n0", name, went)
        os.close(held)
        return Path(path)

    for number in range(12):
        (made(f"2026-{number:02d}") / "rank_0").write_bytes(b"x" * 1000)
    left = sorted(path.name for path in (tmp_path / keep.FOLDER / "n0").iterdir())
    assert left == [f"2026-{number:02d}" for number in range(12 - keep.CAPTURES_MAX, 12)]
    assert [Path(path).name for path in went] == [f"2026-{number:02d}" for number in range(12 - keep.CAPTURES_MAX)]
    big = tmp_path / keep.FOLDER / "n0" / "2026-11" / "rank_0"
    os.truncate(big, keep.BYTES_MAX + 1)
    made("2026-12")
    left = sorted(path.name for path in (tmp_path / keep.FOLDER / "n0").iterdir())
    assert left == ["2026-11", "2026-12"], "the newest stays however large"


def _captured(above: Path, name: str, size: int, went: list[str]) -> None:
    path, held = keep.folder(above, "n0", name, went)
    os.close(held)
    (Path(path) / "rank_0").touch()
    os.truncate(Path(path) / "rank_0", size)


def test_the_first_capture_of_a_start_of_the_ranks_stays_beside_its_newest(tmp_path: Path) -> None:
    """An incident that is looked at again and again keeps the look that is nearest to the fault."""
    went: list[str] = []
    for number in range(12):
        _captured(tmp_path, f"2026-{number:02d}-generation-{2 if number else 12}", 1000, went)
    first, last = "2026-01-generation-2", "2026-11-generation-2"
    left = sorted(path.name for path in (tmp_path / keep.FOLDER / "n0").iterdir())
    assert (left[0], left[-1], len(left)) == (first, last, keep.CAPTURES_MAX)
    for number in range(12, 15):
        _captured(tmp_path, f"2026-{number}-generation-2", keep.BYTES_MAX - 100, went)
    left = sorted(path.name for path in (tmp_path / keep.FOLDER / "n0").iterdir())
    assert left == [first, "2026-13-generation-2", "2026-14-generation-2"]
    assert len(went) == len({*went}) == 12


def test_old_captures_go_while_the_disk_is_too_full_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    went: list[str] = []
    for number in range(5):
        _captured(tmp_path, f"2026-{number}", 1000, went)
    folder = tmp_path / keep.FOLDER / "n0"
    most = [4_000]

    def check(_: int, size: int = 0) -> None:
        if 1_000 * len(os.listdir(folder)) + size >= most[0]:
            raise room.NoRoom("not enough room")

    monkeypatch.setattr(room, "check", check)
    _captured(tmp_path, "2026-5", 1000, went)
    assert sorted(os.listdir(folder)) == ["2026-2", "2026-3", "2026-4", "2026-5"]
    most[0] = 1_000
    with pytest.raises(room.NoRoom):
        keep.folder(tmp_path, "n0", "2026-6", went)
    assert len(os.listdir(folder)) == 4, "where even that would not do, nothing goes"
    most[0] = 1_001
    monkeypatch.setattr(os, "mkdir", lambda name, *_, **__: (_ for _ in ()).throw(FileExistsError(name)))
    with pytest.raises(FileExistsError, match="2026-6"):
        keep.folder(tmp_path, "n0", "2026-6", went)
    assert os.listdir(folder) == ["2026-5"], "the newest is left"
    assert [Path(path).name for path in went] == [f"2026-{number}" for number in range(5)], "told though it is refused"


def test_a_folder_of_somebody_elses_is_not_written_to_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / keep.FOLDER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=keep.FOLDER):
        keep.folder(tmp_path / "logs", "n0", "now", [])
    assert not list((tmp_path / "elsewhere").iterdir())
    secret = tmp_path / "rank_0"
    secret.write_bytes(b"secret.")
    with pytest.raises(keep.NotKept, match="not of the job's"):
        keep.copy(str(secret), str(tmp_path / "copy"), os.geteuid() + 1, room.Room())
    assert not (tmp_path / "copy").exists()


def test_a_folder_that_is_moved_away_beneath_the_agent_leads_it_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # so that it is undone
    (tmp_path / "logs").mkdir()
    (tmp_path / "elsewhere" / "n0" / "now").mkdir(parents=True)
    (tmp_path / "dump").write_bytes(b"}.")
    plan = {"until": time.monotonic() + 60, "keep": [str(tmp_path / "logs")], "node": "n0", "name": "now"}
    collection = collect.Collection({**plan, "control": ""})
    assert collection._make_folder()
    (tmp_path / "logs" / keep.FOLDER).rename(tmp_path / "aside")  # whom the logs belong to may do that at any moment
    (tmp_path / "logs" / keep.FOLDER).symlink_to(tmp_path / "elsewhere")
    spot = find.Spot(recorder.Place(()), os.geteuid(), 0)
    assert collection._copy(collect.Rank(0), str(tmp_path / "dump"), spot)
    assert [path.name for path in (tmp_path / "aside" / "n0" / "now").iterdir()] == ["rank_0"]
    assert not list((tmp_path / "elsewhere" / "n0" / "now").iterdir())


def test_what_is_no_plain_file_of_the_jobs_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    really = os.open

    def watched(path: str, flags: int, mode: int = 0o777) -> int:
        if not flags & os.O_PATH:
            opened.append(path)
        return really(path, flags, mode)

    monkeypatch.setattr(os, "open", watched)
    with pytest.raises(keep.NotKept, match="no regular file"):
        keep.copy(os.devnull, str(tmp_path / "copy"), os.geteuid(), room.Room())
    assert not opened, "to open a device, as a watchdog, is to do something to it"


def test_a_job_on_a_dead_disk_hides_no_other_jobs_dumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = tmp_path / "rank_0"
    dump.write_bytes(b"}.")
    place = recorder.Place((f"{tmp_path}/rank_",))
    before = written.Seen(find.Job([find.Spot(place, os.geteuid(), 0)]), {}, restless=1)
    jobs = [written.Wanted(job, 1, str(tmp_path), (0,), before) for job in ("dead", "well")]
    really, thaw = written.look, threading.Event()
    monkeypatch.setattr(written, "look", lambda one: thaw.wait(60) if one.job == "dead" else really(one))
    monkeypatch.setattr(written.Written, "_wanted", lambda _: jobs)
    monkeypatch.setattr(written, "WITHIN_S", 0.5)
    told: list[str] = []
    notice: Any = types.SimpleNamespace(kept=dict, add_all=lambda news, _: told.extend(one.job for one in news))
    looks = written.Written("n0", tmp_path, notice, notice, clock.RealClock(), lambda: None)

    async def twice() -> None:
        for _ in range(2):
            await looks.look()

    asyncio.run(twice())
    thaw.set()
    assert told == ["well"]


def test_nothing_is_copied_where_the_disk_has_no_room_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dump").write_bytes(b"}.")
    monkeypatch.setattr(room, "LEFT_BYTES_MIN", 1 << 62)
    with pytest.raises(keep.NotKept, match="would be left on its disk"):
        keep.copy(str(tmp_path / "dump"), str(tmp_path / "copy"), os.geteuid(), room.Room())
    assert [path.name for path in tmp_path.iterdir()] == ["dump"]


def test_what_is_no_plain_file_of_the_jobs_is_never_taken(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "cut").write_bytes(b"\x80\x02}(X")
    (tmp_path / "whole").write_bytes(b"\x80\x02}.")
    (tmp_path / "link").symlink_to(tmp_path / "whole")
    into = str(tmp_path / "copy")
    for name, why in {
        "pipe": "no regular file",
        "folder": "no regular file",
        "link": "no regular file",
        "none": "No such file",
    }.items():
        with pytest.raises(keep.NotKept, match=why):
            keep.copy(str(tmp_path / name), into, os.geteuid(), room.Room())
    for name in ("empty", "cut"):
        with pytest.raises(keep.NotYet):
            keep.copy(str(tmp_path / name), into, os.geteuid(), room.Room())
    assert not Path(into).exists()
    os.utime(tmp_path / "whole", ns=(7, 7))
    assert keep.copy(str(tmp_path / "whole"), into, os.geteuid(), room.Room()).written_ns == 7
    assert os.stat(into).st_mtime_ns == 7, "when it was written is when the dump was taken"


class Watched:
    """Looks at one job whose folder holds ``others`` more files, with what each look has asked the disk for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, others: int = 0) -> None:
        self.folder = folder
        folder.mkdir()
        for number in range(others):
            (folder / f"rank_{number + 1_000}").touch()
        place = recorder.Place((f"{folder}/rank_",))
        self.known = find.Job([find.Spot(place, os.geteuid(), 0)], str(folder))
        self.before = written.Seen(None, {})
        self.asked: list[str] = []
        stat_of, entries_of = os.stat, os.scandir
        monkeypatch.setattr(written.find, "noted", lambda *_: self.known)
        monkeypatch.setattr(os, "stat", lambda path, **how: (self.asked.append(str(path)), stat_of(path, **how))[1])
        monkeypatch.setattr(os, "scandir", lambda path: (self.asked.append(f"list {path}"), entries_of(path))[1])

    def look(self) -> list[str]:
        """One look more; what it asked for."""
        del self.asked[:]
        self.before = written.look(written.Wanted("j", 1, "", tuple(range(8)), self.before))
        return list(self.asked)

    def calm(self) -> None:
        """Look until nothing is on the way any more."""
        for _ in range(written.RESTLESS_LOOKS + 2):
            self.look()
        assert self.before.restless == 0


def test_a_calm_folder_costs_one_question_however_much_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path / "fr", monkeypatch, others=50)
    assert len(watched.look()) > 8, "the first look asks for each rank's file"
    watched.known.own = ""  # a folder of the job's own, where other nodes write too
    watched.before = written.Seen(None, {})
    watched.calm()
    assert watched.look() == [str(watched.folder)]


def test_a_new_dump_and_one_that_is_written_anew_are_both_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(tmp_path / "fr", monkeypatch)
    (watched.folder / "rank_2").write_bytes(b"}.")
    watched.calm()
    assert set(watched.before.files) == {2}
    assert watched.look() == [str(watched.folder), str(watched.folder / "rank_2")]
    with (watched.folder / "rank_2").open("ab") as file:  # as torch does: the name stays, and so does the folder's time
        file.write(b"}.")
    watched.look()
    assert watched.before.files[2][1].size == 4
    (watched.folder / "rank_5").write_bytes(b"}.")
    watched.look()
    assert set(watched.before.files) == {2, 5}
    watched.calm()
    (watched.folder / "rank_5").unlink()
    watched.look()
    assert set(watched.before.files) == {2}


def test_a_job_where_nothing_changes_is_looked_at_seldom_until_it_is_asked_for_dumps_or_a_rank_ends() -> None:
    now = [100.0]
    times: Any = types.SimpleNamespace(monotonic=lambda: now[0], now=lambda: now[0])
    notice: Any = types.SimpleNamespace(kept=dict)
    looks = written.Written("n0", Path("/nowhere"), notice, notice, times, lambda: None)
    calm = written.Seen(find.Job(), {})

    def looked_at(seconds: int, gone: int = 0, seen: written.Seen = calm) -> int:
        count = 0
        for _ in range(seconds):
            now[0] += written.LOOK_S
            count += looks._is_due(written.Wanted("j", 1, "", (0,), seen, (), gone))
        return count

    looked_at(60)
    assert looked_at(80) == 80 / written.SELDOM_S
    looks.asked("j", 5.0)
    assert looked_at(3) >= 2
    looked_at(60)
    assert looked_at(1, gone=1) == 1
    looked_at(60, gone=1)
    assert looked_at(5, gone=1, seen=written.Seen(find.Job(), {}, restless=1)) == 5


@contextlib.contextmanager
def answering(folder: Path, body: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A control socket that answers everything with ``body``; its path, and what it was asked."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(folder / "0.sock")
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    one, _ = listener.accept()
                    with one, contextlib.suppress(OSError):
                        asked.append(one.recv(65536))
                        one.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + body)

        threading.Thread(target=serve, daemon=True).start()
        yield path, asked
        listener.shutdown(socket.SHUT_RDWR)


def test_a_rank_is_not_asked_for_what_there_is_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with world.short_directory() as folder, answering(folder, b"x" * 3_000_000) as (path, asked):
        into = str(folder / "answer")
        until = time.monotonic() + 60
        with monkeypatch.context() as patched:
            patched.setattr(room, "LEFT_BYTES_MIN", 1 << 62)
            with pytest.raises(ask.NotAsked, match="not enough room: less than"):
                ask.by_socket(path, ask.PICKLE, into, until, room.Room())
        assert not asked
        space = room.Room(4_000_000)
        ask.by_socket(path, ask.PICKLE, into, until, space)
        assert Path(into).stat().st_size == 3_000_000
        with pytest.raises(ask.NotAsked, match="not enough room: one capture keeps at most"):
            ask.by_socket(path, ask.PICKLE, into + "2", until, space)
        assert sorted(each.name for each in folder.iterdir()) == ["0.sock", "answer"]
        (folder / "dump").write_bytes(b"}." * 400_000)
        keep.copy(str(folder / "dump"), str(folder / "copy"), os.geteuid(), space)  # what did not come takes no room
        with pytest.raises(keep.NotKept, match="one capture keeps at most"):
            keep.copy(str(folder / "dump"), str(folder / "copy2"), os.geteuid(), space)


def test_where_the_disk_is_memory_the_machines_memory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("this machine has no /dev/shm")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    1024 kB\n")
    monkeypatch.setattr(room, "MEMORY", tmp_path / "meminfo")
    with tempfile.TemporaryFile(dir="/dev/shm") as file, pytest.raises(room.NoRoom, match="its disk is memory"):
        room.check(file.fileno())


def test_an_answer_that_breaks_off_once_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    came = []

    def answer(listener: socket.socket) -> None:
        for said in (b"", b"HTTP/1.1 200 OK\r\n\r\nwhole"):
            connection, _ = listener.accept()
            with connection:
                came.append(connection.recv(4096).split()[1])
                connection.sendall(said)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("r_0.sock")
        listener.listen()
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        collection = collect.Collection({"control": "r_", "no_stacks": [], "until": time.monotonic() + 60})
        collection._ask_twice("r_0.sock", ask.PICKLE, "rank_0.answer", time.monotonic() + 30)
        thread.join(30)
    assert came == [b"/handler/dump_nccl_trace_pickle"] * 2
    assert Path("rank_0.answer").read_bytes() == b"whole"


def test_a_full_line_before_a_control_socket_is_waited_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind("r.sock")
        listener.listen(0)
        for _ in range(64):  # until no more fit
            before = stack.enter_context(socket.socket(socket.AF_UNIX))
            before.setblocking(False)
            try:
                before.connect("r.sock")
            except BlockingIOError:
                break
        else:
            pytest.fail("the line is never full here")

        def answer() -> None:
            time.sleep(0.2)
            while True:
                connection, _ = listener.accept()
                connection.settimeout(1)
                with connection, contextlib.suppress(TimeoutError):
                    if b"POST" in connection.recv(4096):
                        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nwhole")
                        return

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        ask.by_socket("r.sock", ask.PICKLE, "answer", time.monotonic() + 30, room.Room())
        thread.join(30)
    assert Path("answer").read_bytes() == b"whole"


def test_a_rank_that_a_look_holds_for_a_moment_is_asked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: dict[int, int] = {}

    def held(pid: int) -> bool:
        looks[pid] = looks.get(pid, 0) + 1
        return pid == 12 or (pid == 11 and looks[pid] < 3)

    monkeypatch.setattr(family, "stopped", held)
    collection = collect.Collection({"control": "r_", "no_stacks": [], "until": time.monotonic() + 60})
    collection.ranks = {0: collect.Rank(0, 10), 1: collect.Rank(1, 11), 2: collect.Rank(2, 12), 3: collect.Rank(3)}
    assert [rank.rank for rank in collection._able_to_answer()] == [0, 1]
    assert collection.notes == ["rank 2 is stopped and was not asked"]
