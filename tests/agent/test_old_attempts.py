"""What former attempts left is removed within bounds: real folders and processes, links that lead elsewhere, files of
others, nodes that share a disk, an agent that runs as root.
"""

import asyncio
import dataclasses
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outrider import clock
from outrider_agent import old_attempts, pruning
from tests.agent import world

PLAN = {"job": "j", "node": "n0", "attempt": 9, "generation": 10, "keep_from": 9, "attempts": 3, "bytes": 0}


def attempt(logs: Path, number: int, size: int = 4096, age_s: float = 3600.0, node: str = "n0", job: str = "j") -> Path:
    """What an attempt leaves: a log, an error file, and a dump of torch's."""
    folder = logs / f"attempt-{number}"
    dumps = folder / "fr" / node / f"generation-{number + 1}"
    dumps.mkdir(parents=True, exist_ok=True)
    (folder / f"{old_attempts.MARK}{job}").touch()
    for path in (folder / "rank_0.log", folder / "rank_0.error.json", dumps / "rank_0"):
        path.write_bytes(b"x" * size)
        os.utime(path, (time.time() - age_s, time.time() - age_s))
    return folder


def prune(logs: Path, **changed: object) -> old_attempts.Told:
    """Another round: whoever laid a claim before has been long ago."""
    for path in logs.glob(f"{old_attempts.CLAIM}*"):
        path.unlink()
    return old_attempts.prune({**PLAN, "logs": str(logs), **changed})


def left(logs: Path) -> list[int]:
    """Attempts that are there."""
    return sorted(int(path.name.removeprefix("attempt-")) for path in logs.glob("attempt-*"))


def test_the_newest_attempts_stay_and_the_oldest_go_first(tmp_path: Path) -> None:
    for number in range(10):
        attempt(tmp_path, number)
    (tmp_path / "flight-records" / "n0").mkdir(parents=True)
    told = prune(tmp_path)
    assert left(tmp_path) == [7, 8, 9]
    assert [one.number for one in told.removed] == [0, 1, 2, 3, 4, 5, 6]
    assert {one.files for one in told.removed} == {3}
    assert (tmp_path / "flight-records" / "n0").is_dir(), "what the agent keeps is bounded where it is kept"
    assert prune(tmp_path).removed == []
    assert prune(tmp_path, attempts=0).removed == [], "no bound, nothing goes"
    prune(tmp_path, attempts=1)
    assert left(tmp_path) == [9], "the attempt that runs stays whatever the bound is"


def test_bytes_are_counted_from_the_newest_on(tmp_path: Path) -> None:
    for number in range(10):
        attempt(tmp_path, number, size=100_000 if number == 6 else 4096)
    each = old_attempts._measure(os.open(tmp_path, os.O_RDONLY), 9).bytes
    prune(tmp_path, attempts=0, bytes=4 * each)
    assert left(tmp_path) == [7, 8, 9], "where the bound is passed all older ones go"
    attempt(tmp_path, 9, size=1_000_000)
    prune(tmp_path, attempts=0, bytes=4 * each)
    assert left(tmp_path) == [9]


def test_what_an_open_incident_may_need_and_what_is_written_to_stays(tmp_path: Path) -> None:
    for number in range(10):
        attempt(tmp_path, number)
    attempt(tmp_path, 12)  # of a life of the job before this one, or of one that is ahead of this node
    attempt(tmp_path, 2, age_s=1.0)
    prune(tmp_path, attempts=1, keep_from=6)
    assert left(tmp_path) == [2, 6, 7, 8, 9, 12]


def test_a_job_removes_nothing_of_another_job_that_logs_to_the_same_directory(tmp_path: Path) -> None:
    for number in range(10):
        attempt(tmp_path, number, job="other" if number in (1, 3) else "j")
    attempt(tmp_path, 4, job="other")  # both wrote there
    attempt(tmp_path, 5)
    (tmp_path / "attempt-5" / f"{old_attempts.MARK}j").unlink()
    old_attempts.prune({**PLAN, "logs": str(tmp_path), "job": "third"})
    assert len(left(tmp_path)) == 10
    told = old_attempts.prune({**PLAN, "logs": str(tmp_path), "attempts": 2})
    assert left(tmp_path) == [1, 3, 4, 5, 8, 9]
    assert [one.number for one in told.removed] == [0, 2, 6, 7]
    prune(tmp_path, job="other", attempts=1)
    assert left(tmp_path) == [3, 4, 5, 8, 9]


def test_no_link_is_followed_and_what_others_have_laid_there_stays_and_is_told(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    attempt(outside, 1)
    logs = tmp_path / "logs"
    for number in range(10):
        attempt(logs, number)
    (logs / "attempt-0" / "notes.txt").write_text("mine")
    (logs / "attempt-1" / "fr" / "n0" / "generation-2" / "rank_1").symlink_to("/nowhere")
    (logs / "attempt-1" / "rank_7.log").symlink_to(outside / "attempt-1" / "rank_0.log")
    (logs / "attempt-1" / "fr" / "n1").symlink_to(outside / "attempt-1" / "fr" / "n0")
    (logs / "attempt-2" / "fr" / "n0" / "generation-3" / "rank_0").unlink()
    (logs / "attempt-2" / "fr" / "n0" / "generation-3").rmdir()
    (logs / "attempt-2" / "fr" / "n0" / "generation-3").symlink_to(outside)
    os.mkfifo(logs / "attempt-3" / "rank_8.log")
    for path in logs.rglob("*"):
        os.utime(path, (time.time() - 3600, time.time() - 3600), follow_symlinks=False)
    (logs / "attempt-4").rename(tmp_path / "away")
    (logs / "attempt-4").symlink_to(tmp_path / "away")
    (logs / "attempt-05").mkdir()
    told = prune(logs)
    assert sorted(path.name for path in outside.rglob("rank_*")) == [
        "rank_0",
        "rank_0.error.json",
        "rank_0.log",
    ]
    assert len(list((tmp_path / "away").rglob("rank_*"))) == 3
    assert (logs / "attempt-0" / "notes.txt").read_text() == "mine"
    assert not list((logs / "attempt-0").glob("rank_*"))
    assert "attempt-0/notes.txt: Directory not empty" in told.left
    assert [one.number for one in told.removed] == [0, 1, 2, 3, 5, 6]
    assert (logs / "attempt-05").is_dir()
    assert not (logs / "attempt-3").exists()


def test_of_nodes_that_share_a_disk_the_first_does_it_for_all(tmp_path: Path) -> None:
    for number in range(10):
        attempt(tmp_path, number)
        attempt(tmp_path, number, node="n1")
    plan = {**PLAN, "logs": str(tmp_path)}
    told = old_attempts.prune(plan)
    assert told.shared
    assert len(told.removed) == 7
    attempt(tmp_path, 0)
    again = old_attempts.prune({**plan, "node": "n1"})
    assert again.claimed
    assert not again.removed
    assert left(tmp_path) == [0, 7, 8, 9]
    assert [one.number for one in old_attempts.prune({**plan, "generation": 11}).removed] == [0]
    assert len(list(tmp_path.glob(f"{old_attempts.CLAIM}*"))) == 1, "claims do not grow in number"


def test_a_full_disk_that_takes_no_claim_is_made_room_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        attempt(tmp_path, number)
    really = os.open

    def full(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", full)
    assert len(old_attempts.prune({**PLAN, "logs": str(tmp_path)}).removed) == 7
    assert left(tmp_path) == [7, 8, 9]


def test_a_log_directory_that_is_gone_is_said() -> None:
    line = json.dumps({**PLAN, "logs": "/nowhere/at/all"}) + "\n"
    words = [sys.executable, "-m", "outrider_agent.old_attempts"]
    done = subprocess.run(words, input=line, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"error": "/nowhere/at/all: No such file or directory"}


class Spool:
    """Takes what is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def add(self, one: Any) -> None:
        """Take one."""
        self.told.append(one)


def run(logs: Path, user: str = "", **changed: int) -> Any:
    """One round of an agent's part, and what it told."""
    kept: Any = Spool()

    async def scenario() -> None:
        pruner = pruning.Pruner("n0", kept, clock.RealClock(), lambda: None)
        bounds = dataclasses.replace(pruning.Bounds(2, 1 << 40, 9), **changed)
        pruner.begin(pruning.Current("j", 10, 9, logs, user), bounds)
        await world.until(lambda: not pruner._tasks.running("j"), "the end of it")
        await pruner.close()

    asyncio.run(scenario())
    return kept.told


def test_an_agent_tells_what_it_has_removed(tmp_path: Path) -> None:
    for number in range(10):
        attempt(tmp_path, number)
    (one,) = run(tmp_path)
    assert (one.kind, one.severity, one.job, one.generation, one.node) == ("logs-removed", "info", "j", 10, "n0")
    assert one.evidence["paths"] == [str(tmp_path / f"attempt-{number}") for number in range(8)]
    assert one.evidence["why"] == "removed after 2 attempts or 1.02e+03 GiB"
    assert (one.evidence["files"], one.evidence["shared"]) == (24, False)
    assert "attempt-7 and 7 more; removed after 2 attempts" in one.text
    assert left(tmp_path) == [8, 9]
    assert run(tmp_path, attempts=0, bytes=0) == []
    assert run(tmp_path / "none") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_an_agent_of_root_has_no_more_rights_there_than_the_jobs_user() -> None:
    with world.short_directory() as above:
        above.chmod(0o755)
        logs = above / "logs"
        for number in range(10):
            attempt(logs, number)
        for path in (logs, *logs.rglob("*")):
            os.lchown(path, 65534, 65534)
        theirs = logs / "attempt-3"
        os.chown(theirs, 0, 0)
        theirs.chmod(0o755)
        assert run(logs) == [], "of a job that runs as root these are not"
        assert len(left(logs)) == 10
        run(logs, "nobody")
        assert left(logs) == [3, 8, 9], "what is closed to them stays"
        assert (theirs / "rank_0.log").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize("user", ["nobody", ""])
def test_an_agent_of_root_removes_nothing_of_others_through_a_link_of_the_jobs_user(user: str) -> None:
    with world.short_directory() as above:
        above.chmod(0o755)
        other, home = above / "other", above / "home"
        for number in range(10):
            attempt(other, number)
        for path in (other, *other.rglob("*")):
            os.lchown(path, 1234, 1234)
        home.mkdir()
        os.chown(home, 65534, 65534)
        (home / "logs").symlink_to(other)
        os.lchown(home / "logs", 65534, 65534)
        assert run(home / "logs", user) == []
        assert len(list(other.rglob("rank_0"))) == 10
        for path in (other, *other.rglob("*")):
            os.lchown(path, 65534, 65534)
        os.lchown(home / "logs", 1234, 1234)
        assert run(home / "logs", user) == [], "theirs, and somebody else says that it is of this job"
        os.lchown(home / "logs", 65534, 65534)
        assert len(run(home / "logs", user)) == (1 if user else 0)


def test_what_went_is_told_also_where_the_agent_ends_in_the_middle_of_it(tmp_path: Path) -> None:
    for number in range(40):
        folder = attempt(tmp_path, number)
        for rank in range(1, 300):
            os.link(folder / "rank_0.log", folder / f"rank_{rank}.log")

    def gone() -> set[int]:
        return set(range(40)) - set(left(tmp_path))

    current = pruning.Current("j", 41, 39, tmp_path)
    kept: Any = Spool()

    async def scenario(end: Callable[[], Any]) -> None:
        pruner = pruning.Pruner("n0", kept, clock.RealClock(), lambda: None)
        pruner.begin(current, pruning.Bounds(2, 0, 39))
        await world.until(lambda: not pruner._tasks.running("j") or end(), "some of it")
        await pruner.close()

    asyncio.run(scenario(gone))
    assert gone()
    (one,) = kept.told
    assert {str(tmp_path / f"attempt-{number}") for number in gone()} <= set(one.evidence["paths"])
    asyncio.run(scenario(lambda: False))
    still = {path.parent.name for path in tmp_path.glob("attempt-*/rank_*")}
    assert still == {"attempt-38", "attempt-39"}, "the same order goes on with it"


def test_a_round_that_was_ended_leaves_no_claim_and_tells_of_what_it_was_at(tmp_path: Path) -> None:
    for number in range(10):
        attempt(tmp_path, number)
    lines: list[dict[str, Any]] = []

    def tell(line: dict[str, Any]) -> None:
        lines.append(line)
        if line.get("begun") == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        old_attempts.prune({**PLAN, "logs": str(tmp_path)}, tell)
    assert [line["removed"][0]["attempt"] for line in lines if "removed" in line] == [0, 1]
    assert not list(tmp_path.glob(f"{old_attempts.CLAIM}*"))
    said = pruning._Said()
    for line in lines:
        said.take(json.dumps(line).encode() + b"\n")
    said.take(b'{"removed": [{"att')
    assert ([one.attempt for one in said.removed], said.begun) == ([0, 1], 2)
    for path in (tmp_path / "attempt-2").rglob("rank_*"):
        path.unlink()  # what was ended had come so far
    assert [one.number for one in prune(tmp_path).removed] == [3, 4, 5, 6]
    assert left(tmp_path) == [7, 8, 9]


def test_what_cannot_be_looked_through_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        attempt(tmp_path, number)

    def failing(logs: int, number: int) -> set[str]:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(old_attempts, "_nodes", failing)
    assert prune(tmp_path).removed == []
    assert left(tmp_path) == list(range(10))


def test_a_name_that_is_no_text_is_told_as_it_can_be(tmp_path: Path) -> None:
    for number in range(10):
        attempt(tmp_path, number)
    Path(os.fsdecode(os.fsencode(tmp_path / "attempt-0") + b"/core\xff")).touch()
    (one,) = run(tmp_path)
    assert one.evidence["left"] == ["attempt-0/core\\udcff: Directory not empty"]
    assert len(one.evidence["paths"]) == 8


def test_nodes_share_a_directory_where_their_keepers_made_folders_whether_or_not_a_dump_came(tmp_path: Path) -> None:
    for number in range(10):
        attempt(tmp_path, number)
        for node in ("n0", "n1"):
            folder = tmp_path / f"attempt-{number}" / "fr" / node / f"generation-{number + 1}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "rank_0").unlink(missing_ok=True)
    (one,) = run(tmp_path)
    assert (one.evidence["shared"], one.evidence["files"]) == (True, 16)
    assert left(tmp_path) == [8, 9]
