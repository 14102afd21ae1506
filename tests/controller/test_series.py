"""The series store: dense of late, sparse of old, bounded, and never in the way."""

import math
import sqlite3
from pathlib import Path

from outrider_controller import series


def samples(first: int, last: int, generation: int = 1) -> list[series.Sample]:
    return [series.Sample(generation, step, float(step), 1.0, 2.0, 64.0, 0.5) for step in range(first, last + 1)]


def test_windows_are_the_newest_samples_in_order_for_each_job(tmp_path: Path) -> None:
    store = series.Series(tmp_path / "series.db")
    store.add("a", samples(1, 10))
    store.add("b", samples(1, 3))
    assert [s.step for s in store.window("a", 4)] == [7, 8, 9, 10]
    assert store.latest("b") == samples(3, 3)[0]
    assert store.latest("c") is None
    store.add("a", samples(5, 6, generation=2))
    assert [(s.generation, s.step) for s in store.window("a", 3)] == [(1, 10), (2, 5), (2, 6)]


def test_a_job_keeps_a_bounded_number_dense_of_late_and_sparse_of_old(tmp_path: Path) -> None:
    store = series.Series(tmp_path / "series.db", samples_per_job_max=100)
    for first in range(1, 2000, 10):
        store.add("a", samples(first, first + 9))
    kept = [s.step for s in store.window("a", 10_000)]
    assert len(kept) <= 110
    assert kept[-50:] == list(range(1951, 2001))
    assert kept[0] < 200
    store.add("a", samples(2001, 2001))
    assert store.latest("a") == samples(2001, 2001)[0]


def test_the_number_of_jobs_is_bounded_and_the_oldest_goes(tmp_path: Path) -> None:
    store = series.Series(tmp_path / "series.db")
    for number in range(series.JOBS_MAX + 10):
        store.add(f"job-{number}", samples(number, number))
    assert store.latest("job-0") is None
    assert store.latest(f"job-{series.JOBS_MAX + 9}") is not None


def test_a_loss_that_is_no_number_stays_told_apart_from_none(tmp_path: Path) -> None:
    store = series.Series(tmp_path / "series.db")
    store.add("a", [series.Sample(1, 1, 1.0, math.nan, -math.inf), series.Sample(1, 2, 2.0, "nan")])
    first, second = store.window("a", 2)
    assert (first.loss, first.grad_norm, second.loss, second.grad_norm) == ("nan", "-inf", "nan", None)


def test_a_damaged_file_is_set_aside_and_nothing_raises(tmp_path: Path) -> None:
    path = tmp_path / "series.db"
    path.write_bytes(b"garbage " * 4096)
    store = series.Series(path)
    store.add("a", samples(1, 2))
    assert len(store.window("a", 9)) == 2
    assert (tmp_path / "series.damaged").exists()


def test_a_store_that_fails_while_it_runs_costs_curves_alone(tmp_path: Path) -> None:
    store = series.Series(tmp_path / "series.db")
    store.add("a", samples(1, 2))
    with sqlite3.connect(tmp_path / "series.db") as other:
        other.execute("DROP TABLE samples")
    store.add("a", samples(3, 4))
    assert store.window("a", 9) == []
    store.close()
    store.add("a", samples(5, 6))
    assert store.latest("a") is None


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    store = series.Series(tmp_path / "missing" / "series.db")
    store.add("a", samples(1, 2))
    assert store.window("a", 9) == []
