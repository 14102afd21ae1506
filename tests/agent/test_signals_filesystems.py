"""File systems: real mounts that are full, read-only or gone, a server that never answers, and recorded tables."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_agent.signals import filesystems, waits
from tests.agent import trees
from tests.agent.looking import states, values

RECORDED = Path(__file__).parents[1] / "recorded/host"
PROC = Path("/proc")
ROOM = filesystems.Room(100, 50, 50.0, 10, 5, 0.0)


@pytest.fixture
def host(tmp_path: Path) -> trees.Node:
    return trees.healthy(tmp_path, hardware=False)


@pytest.fixture
def ram(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB; whoever may not mount skips."""
    point = tmp_path / "a small disk"
    point.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=64", "outrider-test", point], check=False)
    if made.returncode:
        pytest.skip("this user may not mount")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=False)


def mount(*options: str) -> None:
    if subprocess.run(["mount", "-o", *options], check=False).returncode:
        pytest.skip(f"mount -o {' '.join(options)} is refused here")


# --- real ones --------------------------------------------------------------------------------------------------------


def test_this_machines_root_is_measured() -> None:
    found = values(filesystems.Filesystems(PROC, expected=["/"]).read())
    size, free = found["/", "fs_size"], found["/", "fs_free"]
    assert isinstance(size, float)
    assert isinstance(free, float)
    assert 0 <= free <= size
    assert found["/", "fs_mounted"] is True


def test_a_real_file_system_runs_full(ram: Path) -> None:
    signal = filesystems.Filesystems(PROC, expected=[str(ram)])
    before = values(signal.read())
    assert before[str(ram), "fs_size"] == before[str(ram), "fs_free"] == 2.0**20
    with pytest.raises(OSError, match="No space"):
        (ram / "big").write_bytes(bytes(2 * 2**20))
    found = values(signal.read())
    assert (found[str(ram), "fs_free"], found[str(ram), "fs_used"]) == (0.0, 100.0)
    assert found[str(ram), "fs_turned_readonly"] is False


def test_a_real_file_system_runs_out_of_inodes(ram: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        [(ram / str(number)).touch() for number in range(100)]
    found = values(filesystems.Filesystems(PROC, expected=[str(ram)]).read())
    assert (found[str(ram), "fs_inodes_free"], found[str(ram), "fs_inodes_used"]) == (0.0, 100.0)


def test_a_real_file_system_that_was_written_to_turns_read_only(ram: Path) -> None:
    signal = filesystems.Filesystems(PROC, expected=[str(ram)], probed=[str(ram)])
    before = signal.read()
    assert values(before)[str(ram), "fs_readonly"] is False
    assert states(before)[str(ram), "fs_probe_s"] == "value"
    assert not list(ram.iterdir()), "nothing of the probe stays"
    mount("remount,ro", str(ram))
    found = signal.read()
    assert values(found)[str(ram), "fs_readonly"] is True
    assert values(found)[str(ram), "fs_turned_readonly"] is True
    assert states(found)[str(ram), "fs_probe_s"] == "unreadable"
    assert "Read-only file system" in found.error


def test_what_the_kernel_does_at_an_error_is_told_from_what_a_person_mounted(ram: Path) -> None:
    """The superblock read-only below a mount for writing: what errors=remount-ro leaves behind, seen at first sight."""
    mount("remount,ro", str(ram))
    by_hand = values(filesystems.Filesystems(PROC, expected=[str(ram)]).read())
    assert (by_hand[str(ram), "fs_readonly"], by_hand[str(ram), "fs_turned_readonly"]) == (True, False)
    mount("remount,bind,rw", str(ram))
    by_error = values(filesystems.Filesystems(PROC, expected=[str(ram)]).read())
    assert (by_error[str(ram), "fs_readonly"], by_error[str(ram), "fs_turned_readonly"]) == (True, True)


def test_a_real_mount_that_goes_is_missed_where_it_is_expected(ram: Path) -> None:
    signal = filesystems.Filesystems(PROC, expected=[str(ram)])
    signal.read()
    subprocess.run(["umount", str(ram)], check=True)
    found = values(signal.read())
    assert found[str(ram), "fs_mounted"] is False
    assert (str(ram), "fs_size") not in found


# --- one that never answers -------------------------------------------------------------------------------------------


def test_a_dead_file_server_costs_one_thread_and_its_own_readings(
    host: trees.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in for a dead server is a question that does not come back; which it does in the end."""
    monkeypatch.setattr(filesystems, "ANSWER_WITHIN_S", 0.3)
    alive = threading.Event()
    asked: list[str] = []

    def stat(point: str) -> filesystems.Room:
        asked.append(point)
        if point == "/ckpt":
            alive.wait()
        return ROOM

    signal = filesystems.Filesystems(host.procfs, expected=["/ckpt"], stat=stat)
    for _ in range(3):
        sweep = signal.read()
        assert sweep.state == "partial"
        assert states(sweep)["/ckpt", "fs_answer_s"] == "unreadable"
        assert values(sweep)["/ckpt", "fs_mounted"] is True
        assert values(sweep)["/raid", "fs_size"] == 100.0
        assert sweep.context["stuck"] == ["/ckpt"]
    assert asked.count("/ckpt") == 1, "it is not asked again while it hangs"
    alive.set()
    while states(sweep)["/ckpt", "fs_answer_s"] != "value":
        sweep = signal.read()
    assert sweep.context["stuck"] == []


def test_many_dead_servers_are_waited_for_together_and_bounded() -> None:
    alive = threading.Event()
    asking: waits.Waits[bool] = waits.Waits()
    found = asking.ask({str(number): alive.wait for number in range(waits.THREADS_MAX + 5)}, 0.2)
    assert len(found) == waits.THREADS_MAX + 5
    assert sum("have not come back" in str(answer) for answer in found.values()) == 5
    assert len(asking.asking) == waits.THREADS_MAX
    alive.set()
    while asking.asking:
        asking.ask({}, 0.0)


def test_a_question_that_raises_answers_with_what_it_raised() -> None:
    asking: waits.Waits[int] = waits.Waits()

    def fail() -> int:
        raise PermissionError(13, "Permission denied")

    found = asking.ask({"good": lambda: 7, "bad": fail}, 10.0)
    assert found["good"] == 7
    assert isinstance(found["bad"], PermissionError)


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_recorded_table_is_read_with_its_servers_layers_and_blanks() -> None:
    mounts = {one.point: one for one in filesystems.parse((RECORDED / "mountinfo.txt").read_text())}
    assert mounts["/mnt/my data"].source == "nas 1:/export/my data"
    assert (mounts["/var/log"].readonly, mounts["/var/log"].turned_readonly) == (True, True)
    assert (mounts["/snap/core20/2015"].readonly, mounts["/snap/core20/2015"].turned_readonly) == (True, False)
    chosen = filesystems.chosen(list(mounts.values()), ["/dev/shm", "/lost"])
    assert set(chosen) == {"/dev/shm", "/", "/var/log", "/raid", "/mnt/my data", "/lustre"}


def test_a_mount_is_watched_once_however_often_it_is_bound(host: trees.Node) -> None:
    lines = (host.procfs / "self/mountinfo").read_text()
    again = lines.splitlines()[1].replace(" /raid ", " /var/lib/kubelet/pods/7/volumes/raid ")
    host.put(host.procfs / "self/mountinfo", f"{lines}{again}")
    found = values(filesystems.Filesystems(host.procfs).read())
    assert {device for device, name in found if name == "fs_mounted"} == {"/", "/raid", "/ckpt"}


def test_the_made_node_runs_full_turns_read_only_and_loses_a_mount(host: trees.Node) -> None:
    signal = filesystems.Filesystems(host.procfs, expected=["/ckpt", "/raid"])
    assert values(signal.read())["/raid", "fs_free"] == 20_000.0 * trees.GB
    host.room("/raid", 28_000 * trees.GB, 28 * trees.GB)
    host.mount("/", "ext4", "/dev/md0", "rw", "ro")
    host.unmount("/ckpt")
    found = values(signal.read())
    assert found["/raid", "fs_used"] == pytest.approx(99.9)
    assert found["/", "fs_turned_readonly"] is True
    assert found["/ckpt", "fs_mounted"] is False


def test_an_autofs_point_that_nobody_has_used_is_not_mounted(host: trees.Node) -> None:
    host.mount("/ckpt", "autofs", "systemd-1")
    assert values(filesystems.Filesystems(host.procfs, expected=["/ckpt"]).read())["/ckpt", "fs_mounted"] is False


def test_a_table_with_broken_lines_gives_the_whole_ones() -> None:
    broken = "x\n1 2 3\n31 1 259:1 / /raid rw - xfs\n32 1 259:2 / /a rw,noatime master:1 - ext4 /dev/sda1 rw,errors=x\n"
    assert [one.point for one in filesystems.parse(broken)] == ["/a"]


def test_without_a_table_the_look_failed(tmp_path: Path) -> None:
    sweep = filesystems.Filesystems(tmp_path).read()
    assert (sweep.state, sweep.readings) == ("failed", ())
    assert "mountinfo" in sweep.error
