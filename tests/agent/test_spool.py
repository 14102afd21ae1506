"""Observations are numbered once, kept until acknowledged, and survive what can happen to a disk."""

import sqlite3
from pathlib import Path

import pytest

from outrider import records, wire
from outrider_agent import spool, spool_rows

BYTES = 1 << 20


def observation(text: str = "x", severity: str = "info") -> records.Observation:
    return records.Observation(0, "rank-exited", severity, 1.0, "n0", text)


LARGE = "y" * 9000  # needs pages of its own, which a full disk does not have


def texts(kept: spool.Spool, after: int = 0) -> list[str]:
    return [one.text for one in kept.after(after, 1000, BYTES)]


def test_observations_stay_until_acknowledged_and_over_a_restart(tmp_path: Path) -> None:
    first = spool.Spool(tmp_path / "spool.db")
    numbers = [first.add(observation(text)) for text in "abc"]
    first.acknowledge(numbers[0] or 0)
    first.close()
    again = spool.Spool(tmp_path / "spool.db")
    assert again.spool_id == first.spool_id
    assert texts(again) == ["b", "c"]
    assert [one.seq for one in again.after(0, 1000, BYTES)] == numbers[1:]


def test_an_event_taken_twice_is_one_observation_even_once_it_is_acknowledged(tmp_path: Path) -> None:
    kept = spool.Spool(tmp_path / "spool.db")
    number = kept.add(observation("a"), "keeper/k", 7)
    assert number is not None
    assert kept.add(observation("a"), "keeper/k", 7) is None
    kept.acknowledge(number)
    kept.close()
    again = spool.Spool(tmp_path / "spool.db")
    assert again.last_of("keeper/k") == 7
    assert again.add(observation("a"), "keeper/k", 7) is None
    assert again.add(observation("b"), "keeper/k", 8) is not None
    assert texts(again) == ["b"]


def test_numbers_are_never_given_twice_and_always_rise(tmp_path: Path) -> None:
    seen: list[int] = []
    for _ in range(4):
        kept = spool.Spool(tmp_path / "spool.db")
        seen += [kept.add(observation()) or 0 for _ in range(3)]
        del kept  # as if killed: nothing is closed
    assert seen == sorted(set(seen))
    assert min(seen) > 0


def test_a_full_disk_keeps_observations_in_memory_and_they_reach_it_later(tmp_path: Path) -> None:
    kept = spool.Spool(tmp_path / "spool.db")
    kept.add(observation("before"))
    _fill(kept, True)
    number = kept.add(observation("during" + LARGE), "keeper/k", 1)
    assert "full" in kept.problem
    assert texts(kept) == ["before", "during" + LARGE]
    assert kept.add(observation("during"), "keeper/k", 1) is None
    assert kept.last_of("keeper/k") == 0, "the keeper must not be told to forget what is not on disk"
    _fill(kept, False)
    assert kept.flush()
    assert kept.problem == ""
    assert kept.last_of("keeper/k") == 1
    kept.close()
    again = spool.Spool(tmp_path / "spool.db")
    assert texts(again) == ["before", "during" + LARGE]
    assert (again.add(observation("after")) or 0) > (number or 0)


def test_memory_is_bounded_while_the_disk_is_full(tmp_path: Path) -> None:
    kept = spool.Spool(tmp_path / "spool.db")
    _fill(kept, True)
    for _ in range(spool.HELD_MAX + 10):
        kept.add(observation(LARGE))
    assert kept.waiting() == spool.HELD_MAX
    assert kept.dropped == 10


def test_acknowledging_what_is_only_in_memory_forgets_it(tmp_path: Path) -> None:
    kept = spool.Spool(tmp_path / "spool.db")
    _fill(kept, True)
    number = kept.add(observation(LARGE), "keeper/k", 1) or 0
    _fill(kept, False)
    kept.acknowledge(number)
    assert kept.waiting() == 0
    assert kept.last_of("keeper/k") == 1


@pytest.mark.parametrize("garbage", [b"this is no database, but long enough to look like one" * 100, b"\0" * 4096])
def test_a_damaged_spool_is_set_aside_and_a_new_one_begun(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "spool.db"
    first = spool.Spool(path)
    first.add(observation())
    first.close()
    path.write_bytes(garbage)
    again = spool.Spool(path)
    assert again.damage
    assert again.spool_id != first.spool_id
    assert again.add(observation("new")) is not None
    assert (tmp_path / "spool.db.damaged").exists()


def test_a_spool_in_a_place_that_takes_no_file_still_works_in_memory(tmp_path: Path) -> None:
    kept = spool.Spool(tmp_path / "no" / "such" / "folder" / "spool.db")
    assert kept.problem
    assert kept.add(observation("a")) is not None
    assert texts(kept) == ["a"]


def test_a_batch_keeps_to_its_bounds_but_holds_at_least_one(tmp_path: Path) -> None:
    kept = spool.Spool(tmp_path / "spool.db")
    for _ in range(5):
        kept.add(observation("y" * 1000))
    assert len(kept.after(0, 3, BYTES)) == 3
    assert len(kept.after(0, 100, 2500)) == 2
    assert len(kept.after(0, 100, 1)) == 1


def test_evidence_that_is_too_large_gives_way_and_the_text_stays(tmp_path: Path) -> None:
    kept = spool.Spool(tmp_path / "spool.db")
    log_tail = "z" * spool_rows.OBSERVATION_BYTES_MAX
    large = records.Observation(0, "rank-exited", "error", 1.0, "n0", "died", evidence={"log_tail": log_tail, "pid": 7})
    kept.add(large)
    found = kept.after(0, 1, BYTES)[0]
    assert found.text == "died"
    assert found.evidence["pid"] == 7
    assert "clipped" in found.evidence
    assert "log_tail" not in found.evidence


def test_the_spool_is_bounded_and_the_least_severe_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "SPOOL_ROWS_MAX", 3)
    kept = spool.Spool(tmp_path / "spool.db")
    for text, severity in (("a", "error"), ("b", "info"), ("c", "warning"), ("d", "error"), ("e", "info")):
        kept.add(observation(text, severity))
    assert texts(kept) == ["a", "c", "d"]
    assert kept.dropped == 2


def test_results_of_the_last_orders_are_remembered_over_a_restart(tmp_path: Path) -> None:
    kept = spool.Spool(tmp_path / "spool.db")
    for number in range(spool.ORDERS_KEPT_MAX + 5):
        kept.keep_order_result(wire.OrderResult(f"o{number}", True, result={"n": number}))
    kept.close()
    again = spool.Spool(tmp_path / "spool.db")
    assert again.order_result("o4") is None
    known = again.order_result("o5")
    assert known is not None
    assert known.result == {"n": 5}


def test_what_ran_is_known_to_the_next_agent(tmp_path: Path) -> None:
    kept = spool.Spool(tmp_path / "spool.db")
    kept.remember_alive("j", spool.Alive(3, {0: 100, 1: 101}))
    kept.remember_alive("k", spool.Alive(1, {5: 7}))
    kept.remember_alive("k", None)
    kept.close()
    assert spool.Spool(tmp_path / "spool.db").alive() == {"j": spool.Alive(3, {0: 100, 1: 101})}


def _fill(kept: spool.Spool, full: bool) -> None:
    """Let SQLite itself find its disk full (or not), through the bound on its pages."""
    db: sqlite3.Connection = kept._db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages if full else 1 << 20}")
    if full:  # use up what is free within the last pages
        try:
            with db:
                db.execute("CREATE TABLE IF NOT EXISTS filler (data BLOB)")
            for _ in range(10_000):
                with db:
                    db.execute("INSERT INTO filler VALUES (zeroblob(64))")
        except sqlite3.OperationalError:
            pass
    else:
        db.execute("DROP TABLE IF EXISTS filler")


def test_what_was_seen_for_another_ledger_is_forgotten_and_for_the_same_one_kept(tmp_path: Path) -> None:
    kept = spool.Spool(tmp_path / "spool.db")
    kept.add(observation("before any controller"))
    assert kept.serve("first") == 0
    assert texts(kept) == ["before any controller"]
    assert kept.serve("first") == 0
    kept.close()
    again = spool.Spool(tmp_path / "spool.db")
    assert again.serve("second") == 1
    assert texts(again) == []
    number = again.add(observation("after"))
    assert number is not None
    assert [one.seq for one in again.after(0, 9, BYTES)] == [number]
