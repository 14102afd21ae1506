"""An older copy of the ledger is put back while the job runs on: what it forgot is ended, said, and never repeated."""

import shutil
import signal
from collections import Counter
from collections.abc import Iterator

import pytest

from outrider_controller.core import records
from tests.end_to_end import killing
from tests.end_to_end.killing import until

STEPS = 60


@pytest.fixture
def cluster() -> Iterator[killing.Cluster]:
    made = killing.Cluster()
    try:
        made.start()
        yield made
    finally:
        made.end()


@pytest.mark.slow
def test_an_attempt_that_the_ledger_forgot_is_ended_and_the_job_trained_to_the_end(cluster: killing.Cluster) -> None:
    job = cluster.submit(STEPS)
    hold = job.folder / "hold"  # the job must outlast what is done to its controller, however slow this machine is
    hold.touch()
    until(lambda: len(job.lines("steps")) >= 3)
    cluster.kill("controller")
    files = [path for path in cluster.state.iterdir() if path.name.startswith("ledger.db")]
    older = cluster.folder / "older"
    older.mkdir()
    for path in files:
        shutil.copy(path, older / path.name)
    cluster.start_controller()
    job.fault(signal.SIGKILL, 1)
    until(lambda: len(job.lines("starts")) == 4)
    until(lambda: "start-attempt" not in unfinished(job))  # it runs, and only the ledger will not know
    cluster.kill("controller")
    for path in cluster.state.glob("ledger.db*"):
        path.unlink()
    for path in older.iterdir():
        shutil.copy(path, cluster.state / path.name)
    cluster.start_controller()
    hold.unlink()
    until(job.completed)
    [cut] = [row for row in cluster.rows("") if isinstance(row, records.LedgerCut)]
    assert cut.rows > 10
    assert "an older copy put back" in cut.damage
    starts = Counter((generation, rank) for generation, _, rank, _ in job.lines("starts"))
    assert set(starts.values()) == {1}, "no generation is given out twice"
    assert len(starts) == 6
    last = job.lines("starts")[-1][0]
    assert last > 2 + 1
    assert [step for generation, step in job.lines("steps") if generation == last][-1] == STEPS
    assert (cluster.folder / "controller.out").read_text().count("rows are lost from row") >= 1
    job.assert_bins()


def unfinished(job: killing.Job) -> set[str]:
    rows = job.cluster.rows(job.name)
    done = {row.effect for row in rows if isinstance(row, records.EffectDone)}
    return {row.name for row in rows if isinstance(row, records.EffectRequested) and row.effect not in done}
