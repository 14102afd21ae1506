"""The process that verifies: whatever lies in a checkpoint, the worst that comes of it is a verdict against it."""

import asyncio
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outrider_controller import verifier
from tests import saves
from tests.saves import saved

SWEEP = Path(__file__).with_name("sweep_flips.py")


def verify(path: Path, within_s: float | None = 120.0, **how: Any) -> dict[str, Any]:
    """The verdict on one checkpoint."""
    return asyncio.run(verifier.verify(verifier.Request(str(path), **how), within_s))


def with_metadata(folder: Path, data: bytes) -> Path:
    """A checkpoint whose manifest vouches for this metadata."""
    path = saved(folder, 8)
    (path / ".metadata").write_bytes(data)
    saves.describe(path, 8)
    return path


def copies(count: int) -> bytes:
    """A long list, and that list again and again as a tuple of its own."""
    return b"\x80\x04](" + b"K\x01" * 1_000_000 + b"eq\x000ctorch\nSize\nq\x010(" + b"h\x01h\x00\x85R" * count + b"t."


def nested(depth: int) -> bytes:
    """Tuples within tuples, used as a key: computing its hash descends as deep."""
    return b"\x80\x04})" + b"\x85" * depth + b"K\x01s."


def colliding(count: int) -> bytes:
    """Numbers of one hash, each a key: every further one is compared with all before it."""
    numbers = (pickle.dumps((2**61 - 1) * (place + 1), 2)[2:-1] for place in range(count))
    return b"\x80\x04}(" + b"".join(number + b"N" for number in numbers) + b"u."


BOMBS = {
    "a huge memo index": (b"\x80\x04K\x01r\xff\xff\xff\x7f.", "memory"),
    "a list copied for ever": (copies(2000), "memory"),
    "nesting that breaks the stack": (nested(3_000_000), "crash"),
    "a number of four gigabytes": (b"\x80\x04\x8b\xff\xff\xff\x7f" + bytes(100) + b".", "pickle"),
    "a frame of exabytes": (b"\x80\x04\x95" + (2**60).to_bytes(8, "little") + b"N.", "pickle"),
    "deep but harmless": (b"\x80\x04" + b"]" * 500_000 + b"a" * 499_999 + b".", "pickle"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_that_eats_memory_or_breaks_its_reader_is_a_verdict(tmp_path: Path, bomb: str) -> None:
    data, kind = BOMBS[bomb]
    found = verify(with_metadata(tmp_path, data))
    assert found["trust"] == "rejected"
    assert [(p["file"], p["kind"]) for p in found["problems"]] == [(".metadata", kind)]


@pytest.mark.slow
def test_a_pickle_that_never_ends_is_a_verdict_once_its_processor_time_is_over(tmp_path: Path) -> None:
    found = verify(with_metadata(tmp_path, colliding(400_000)), None)
    assert [p["kind"] for p in found["problems"]] == ["endless"]


def test_a_pickle_that_calls_the_system_is_refused_and_nothing_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    found = verify(with_metadata(tmp_path, f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()))
    assert [p["kind"] for p in found["problems"]] == ["pickle"]
    assert "os.system" in found["problems"][0]["text"]
    assert not mark.exists()


def test_time_that_runs_out_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(verifier.OutOfTimeError, match="was not verified within"):
        verify(saved(tmp_path, 8), 0.001)


UNPRIVILEGED = """
import asyncio, ctypes, os, sys
from outrider_controller import verifier
if os.geteuid() == 0:  # not even root may pass over the permissions of a file then, in what it starts
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
try:
    print(asyncio.run(verifier.verify(verifier.Request(sys.argv[1]))))
except verifier.CouldNotLookError as error:
    print("could not look:", error)
"""


@pytest.mark.parametrize("closed", [".", "__0_0.distcp", ".metadata"])
def test_what_may_not_be_read_is_no_verdict(tmp_path: Path, closed: str) -> None:
    path = saved(tmp_path, 8)
    (path / closed).chmod(0)
    command = [sys.executable, "-c", UNPRIVILEGED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (path / closed).chmod(0o700)
    assert done.stdout.startswith(f"could not look: {path}: {path / closed}: Permission denied"), done.stdout


def test_a_verifier_that_is_killed_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(verifier.CouldNotLookError, match="ended by SIGKILL; is the machine out of memory"):
        verify(saved(tmp_path, 8))


def children() -> list[int]:
    """Verifiers that this process has started and that are still there."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                about = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                command = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if int(about[1]) == os.getpid() and b"verification.child" in command and about[0] != "Z":
                found.append(int(name))
    return found


def limit(pid: int, name: str) -> str:
    """A process's limit, the soft one."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line[len(name) :].split()[0] for line in lines if line.startswith(name))


def large(folder: Path) -> Path:
    """A foreign checkpoint that takes a while: half a gigabyte that is nowhere on the disk."""
    path = saves.foreign(folder, 8)
    with (path / "extra.bin").open("wb") as file:
        file.truncate(1 << 30)
    return path


def test_a_look_that_is_cancelled_leaves_no_process_behind_and_takes_the_lowest_priority(tmp_path: Path) -> None:
    path = large(tmp_path)

    async def scenario() -> None:
        task = asyncio.create_task(verifier.verify(verifier.Request(str(path))))
        while not children():
            await asyncio.sleep(0.01)
        [pid] = children()
        while limit(pid, "Max core file size") != "0":
            await asyncio.sleep(0.01)
        while os.getpriority(os.PRIO_PROCESS, pid) != 19:
            await asyncio.sleep(0.01)
        assert int(limit(pid, "Max address space")) < 2 << 30
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert children() == []


def test_a_look_dies_with_whoever_asked_for_it(tmp_path: Path) -> None:
    path = large(tmp_path)
    script = (
        "import asyncio, sys; from outrider_controller import verifier\n"
        "asyncio.run(verifier.verify(verifier.Request(sys.argv[1])))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)]) as parent:
        pid = None
        while pid is None:
            assert parent.poll() is None
            kids = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
            pid = next((int(kid) for kid in kids if b"child" in Path(f"/proc/{kid}/cmdline").read_bytes()), None)
        while limit(pid, "Max core file size") != "0":
            pass  # once it is, the process is tied to its parent
        parent.kill()
    for _ in range(1000):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                break
        except OSError:
            break
        subprocess.run(["sleep", "0.01"], check=True)
    else:
        raise AssertionError("the verifier outlived its parent")


@pytest.mark.slow
def test_progress_is_told_and_a_hole_of_a_gigabyte_is_read_in_bounded_memory(tmp_path: Path) -> None:
    told: list[int] = []
    found = asyncio.run(verifier.verify(verifier.Request(str(large(tmp_path)), urgent=True), None, told.append))
    assert found["trust"] == "complete"
    assert told == sorted(told)
    assert found["bytes"] > 1 << 30


# ---------------------------------------------------------------- flips, many


def sweep(path: Path, count: int, seed: int, manifest: bool) -> dict[str, Any]:
    """Flip one bit at a time in one process that looks as the verifier does; what was not found."""
    command = [sys.executable, str(SWEEP), str(path), str(count), str(seed), "manifest" if manifest else "bare"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_no_flip_of_a_bit_anywhere_in_any_file_goes_unnoticed(tmp_path: Path) -> None:
    found = sweep(saved(tmp_path, 8, digest=""), 300, 1, True)
    assert found["flips"] == 300
    assert found["missed"] == []
    assert set(found["files"]) == {".metadata", "__0_0.distcp", "__1_0.distcp", "manifest.json"}


def test_without_a_manifest_no_flip_in_a_data_file_goes_unnoticed(tmp_path: Path) -> None:
    found = sweep(saves.foreign(tmp_path, 8), 300, 2, False)
    assert found["missed"] == []
    assert set(found["files"]) == {"__0_0.distcp", "__1_0.distcp"}
