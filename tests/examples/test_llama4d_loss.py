"""Every layout trains as one process does."""

import pytest

from tests.examples import job

STEPS = "12"
GAP_MAX = 5e-6  # one or two units in the last place of a loss near 5 are 5e-7 to 1e-6


@pytest.fixture(scope="module")
def one_process(start: job.Starter) -> job.Ended:
    ended = start(1, "--steps", STEPS)
    assert ended.codes == [0], ended.errors
    return ended


def assert_trains_alike(start: job.Starter, reference: job.Ended, mesh: str, ranks: int, *arguments: str) -> None:
    ended = start(ranks, "--mesh", mesh, "--steps", STEPS, *arguments)
    assert ended.codes == [0] * ranks, ended.errors
    assert len(ended.metrics) == int(STEPS)
    assert ended.gap(reference) <= GAP_MAX


def test_one_process_learns_the_frequencies(one_process: job.Ended) -> None:
    assert one_process.metrics[0]["loss"] == pytest.approx(5.545, abs=0.05)  # ln 256: it knows nothing yet
    assert one_process.metrics[-1]["loss"] < one_process.metrics[0]["loss"] - 0.4


@pytest.mark.parametrize("mesh", ["dp=2", "pp=2", "cp=2", "tp=2"])
def test_each_axis_alone_trains_as_one_process_does(start: job.Starter, one_process: job.Ended, mesh: str) -> None:
    assert_trains_alike(start, one_process, mesh, 2)


def test_matrix_products_train_as_the_fused_kernel_does(start: job.Starter, one_process: job.Ended) -> None:
    assert_trains_alike(start, one_process, "cp=2", 2, "--attention", "matmul")


def test_eight_ranks_train_as_one_process_does(start: job.Starter, one_process: job.Ended) -> None:
    assert_trains_alike(start, one_process, "dp=2,pp=2,cp=1,tp=2", 8)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["tp=2,cp=2,pp=2,dp=1", "cp=2,tp=2,dp=2"])
def test_eight_ranks_in_another_order_train_as_one_process_does(
    start: job.Starter, one_process: job.Ended, mesh: str
) -> None:
    assert_trains_alike(start, one_process, mesh, 8)


@pytest.mark.slow
def test_sixteen_ranks_in_all_four_axes_train_as_one_process_does(start: job.Starter, one_process: job.Ended) -> None:
    assert_trains_alike(start, one_process, "dp=2,pp=2,cp=2,tp=2", 16)


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "ranks"), [("pp=2", 2), ("tp=2,pp=2", 4)])
def test_the_interleaved_schedule_trains_as_one_process_does(
    start: job.Starter, one_process: job.Ended, mesh: str, ranks: int
) -> None:
    assert_trains_alike(start, one_process, mesh, ranks, "--schedule", "interleaved")


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "ranks"), [("cp=3,tp=2", 6), ("dp=3", 3), ("pp=3", 3)])
def test_sizes_other_than_two_train_as_one_process_does(start: job.Starter, mesh: str, ranks: int) -> None:
    sizes = ["--global-batch", "6", "--sequence", "48", "--layers", "3"]
    reference = start(1, "--steps", STEPS, *sizes)
    assert_trains_alike(start, reference, mesh, ranks, *sizes)
