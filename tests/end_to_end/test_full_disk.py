"""The controller's disk takes nothing: the job trains on, no action is begun, and all of it is recorded afterwards."""

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from outrider_controller.core import records
from tests.end_to_end import killing
from tests.end_to_end.killing import until

STEPS = 120
DISK_BYTES = 16 * 1024 * 1024


@pytest.fixture
def cluster() -> Iterator[killing.Cluster]:
    made = killing.Cluster()
    try:
        yield made
    finally:
        made.end()


@contextlib.contextmanager
def small_disk(cluster: killing.Cluster) -> Iterator[None]:
    """A file system of its own for the state directory."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(cluster.state)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system can be mounted by root alone")
    try:
        yield
    finally:
        cluster.end_processes()
        subprocess.run(["umount", "--lazy", str(cluster.state)], check=True)


def fill(cluster: killing.Cluster) -> Callable[[], None]:
    """Fill the file system to the last byte; what makes room again."""
    path = cluster.state / "somebody-else's"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return path.unlink


def refuse(cluster: killing.Cluster) -> Callable[[], None]:
    """Have the controller's writes fail as on a failing disk; what ends that. Nothing needs to be mounted."""
    pid = cluster.processes["controller"].pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    return lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, before) and None


def test_a_job_trains_through_a_failing_disk_and_loses_no_second(cluster: killing.Cluster) -> None:
    cluster.start()
    trains_through(cluster, refuse)


def test_a_job_trains_through_a_full_disk_and_loses_no_second(cluster: killing.Cluster) -> None:
    with small_disk(cluster):
        cluster.start()
        trains_through(cluster, fill)


def trains_through(cluster: killing.Cluster, spoil: Callable[[killing.Cluster], Callable[[], None]]) -> None:
    job = cluster.submit(STEPS)
    until(lambda: len(job.lines("steps")) >= killing.FAULT_AFTER)
    clear = spoil(cluster)
    told = until(lambda: said(cluster))
    assert "nothing can be recorded and no action is begun" in told
    assert "Make room on its file system" in told
    steps = len(job.lines("steps"))
    until(lambda: len(job.lines("steps")) >= steps + 20)
    status = cluster.ask(f"/v1/jobs/{job.name}/status")
    assert "nothing can be recorded" in status["sentence"]
    assert status["step"] > steps  # agents are heard as ever
    assert {node["state"] for node in status["nodes"]} == {"healthy"}
    refused = cluster.ask(f"/v1/jobs/{job.name}/hold", 503, body={"by": "ada"})
    assert "nothing was recorded" in refused["error"]
    clear()
    until(lambda: not said(cluster))
    until(job.completed)
    rows = cluster.rows(job.name)
    failed = [row for row in rows if isinstance(row, records.RecordingFailed)]
    assert len(failed) == 1
    assert failed[0].at - failed[0].since > 0.5
    assert not [row for row in rows if isinstance(row, records.PersonAsked)]
    assert [step for _, step in job.lines("steps")] == list(range(1, STEPS + 1))
    assert len(job.lines("starts")) == 2
    assert max(row.step for row in rows if isinstance(row, records.CheckpointSaved)) == STEPS
    job.assert_bins()


def test_a_rank_that_dies_while_the_disk_is_failing_is_replaced_once_there_is_room(cluster: killing.Cluster) -> None:
    cluster.start()
    job = cluster.submit(60)
    until(lambda: len(job.lines("steps")) >= killing.FAULT_AFTER)
    clear = refuse(cluster)
    until(lambda: said(cluster))
    job.fault(signal.SIGKILL, 1)
    until(lambda: not alive(job.pid(0)))  # it could not go on alone
    assert len(job.lines("starts")) == 2  # nothing is begun that could not be recorded
    clear()
    until(job.completed)
    incidents = cluster.ask(f"/v1/jobs/{job.name}/incidents")["incidents"]
    [killed] = [incident for incident in incidents if incident["cause"] == "rank-killed"]
    assert killed["suspects"]["ranks"] == [1]
    assert {incident["action"] for incident in incidents} <= {killed["action"], "watch"}, job.story()
    assert len(job.lines("starts")) == 4
    assert killed["phases"]["detection_s"] > 0
    job.assert_bins()


def said(cluster: killing.Cluster) -> str:
    """What the controller says of itself while it can record nothing."""
    health = cluster.ask("/healthz", 503)
    return "" if health is None or health["ok"] else str(health["sentence"])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
