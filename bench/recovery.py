"""What a start costs over a long ledger, with and without its snapshot, and what a snapshot costs the turns.

Writes a ledger of a job on 2,048 nodes (nodes that join and fall silent, steps, checkpoints, timers), then starts over
it as a controller does: once from the newest snapshot, once from the first row. Beside the machine's load it prints the
seconds of each, the seconds that one snapshot holds the ledger's own thread up (the next write waits for that long),
and its size.

    python bench/recovery.py [--rows 200000] [--nodes 2048]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from outrider_controller import integrity, ledger, recovery, snapshots
from outrider_controller.core import evolve, jobs, records
from outrider_controller.core import state as states

AT_ONCE = 500
SNAPSHOTS_TIMED = 9
START = 1_800_000_000.0


def rows(nodes: int) -> Iterator[records.Row]:
    """A history without an end."""
    names = tuple(f"n{place}" for place in range(nodes))
    spec = jobs.JobSpec(name="job", command=("python", "train.py"), nodes=nodes, ranks_per_node=8)
    for name in names:
        yield records.NodeJoined(START, name, "b", "10.0.0.1", 8, True, False)
    yield records.JobSubmitted(START, "job", jobs.document(spec))
    yield records.AttemptPlanned(START, "job", 0, 1, names)
    step = 0
    while True:
        step += 1
        at, node = START + step, names[step % nodes]
        yield records.StepReached(at, "job", 1, step)
        yield records.CheckpointSaved(at, "job", 1, step, f"/checkpoints/step-{step:08d}", 0.1)
        yield records.TimerSet(at, "job", "settle", at + 10)
        yield records.TimerCancelled(at, "job", "settle")
        yield records.NodeSilent(at, node, at - 6, {"job": step})
        yield records.NodeJoined(at, node, "b", "10.0.0.1", 8, True, False, (), {"job": step})


def write(path: Path, count: int, nodes: int) -> tuple[states.State, int]:
    """A ledger of ``count`` rows with the snapshots that a controller would have left; its state and last row."""
    book, state, history = ledger.Ledger(path), states.State(), rows(nodes)
    book._db.execute("PRAGMA synchronous = OFF")  # only here: what is measured is reading
    epoch, seq, kept = book.take_epoch(), 0, 0
    while seq < count:
        batch = [next(history) for _ in range(min(AT_ONCE, count - seq))]
        seq = book.append(seq, epoch, batch)
        state = evolve.evolve_all(state, batch)
        if seq - kept >= snapshots.ROWS_BETWEEN and seq < count:
            book.keep_snapshot(snapshots.take(state, seq, book.row_sum(seq) or ""))
            kept = seq
    book.close()
    return state, seq


def start(path: Path) -> tuple[float, recovery.Recovered]:
    """Seconds of one start, and what it found."""
    began = time.perf_counter()
    book, cuts = integrity.open_ledger(path, time.time())
    found = recovery.recover(book, cuts, time.time())
    took = time.perf_counter() - began
    book.close()
    assert not cuts
    return took, found


def snapshot_cost(path: Path, state: states.State, seq: int) -> tuple[float, float, int]:
    """Median and worst seconds of one snapshot, confirmed by the disk, and its bytes."""
    book, took, size = ledger.Ledger(path), [], 0
    for _ in range(SNAPSHOTS_TIMED):
        began = time.perf_counter()
        made = snapshots.take(state, seq, book.row_sum(seq) or "")
        book.keep_snapshot(made)
        took.append(time.perf_counter() - began)
        size = len(made.data)
    book.close()
    return statistics.median(took), max(took), size


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--nodes", type=int, default=2_048)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="outrider-recovery-") as folder:
        path = Path(folder) / "ledger.db"
        state, seq = write(path, options.rows, options.nodes)
        with_s, found = start(path)
        assert found.state == state
        assert found.snapshot_seq > 0
        began = time.perf_counter()
        assert integrity.history(path, found.snapshot_seq) == ""
        history_s = time.perf_counter() - began
        median, worst, size = snapshot_cost(path, state, seq)
        book = ledger.Ledger(path)
        book._db.execute("DELETE FROM snapshots")
        book.close()
        without_s, found = start(path)
        assert found.state == state
        megabytes = path.stat().st_size / 1e6
    print(f"load {' '.join(f'{value:.1f}' for value in os.getloadavg())} on {os.cpu_count()} cores")
    print(f"{options.rows} rows ({megabytes:.0f} MB), {options.nodes} nodes")
    print(f"start from the newest snapshot  {with_s:8.3f} s")
    print(f"start from the first row        {without_s:8.3f} s")
    print(f"check of the history behind it  {history_s:8.3f} s, beside the work")
    print(f"one snapshot                    {median:8.4f} s median, {worst:.4f} s worst, {size} bytes")


if __name__ == "__main__":
    main()
