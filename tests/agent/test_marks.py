"""Marks: where ranks stand, what checkpoints cost, and garbage that harms nothing."""

import asyncio
import json
import os
import socket
from typing import Any

import pytest

import outrider
from outrider import records
from outrider_agent.signals import rank, ranks
from tests.agent import world


def mark(kind: str, rank: int = 0, at: Any = 100.0, gen: int = 1, job: str = "j", **more: Any) -> bytes:
    known = {"v": 1, "kind": kind, "rank": rank, "local_rank": rank, "pid": 10 + rank, "job": job, "gen": gen, "at": at}
    return json.dumps(known | more).encode()


def board(*marks: bytes) -> ranks.Board:
    made = ranks.Board()
    made.expect("j", 1, [0, 1])
    for number, datagram in enumerate(marks):
        made.take(datagram, 1000.0 + number)
    return made


def stands(made: ranks.Board, rank: int = 0) -> records.RankProgress:
    return next(one for one in made.progress() if one.rank == rank)


def test_a_rank_goes_from_start_to_steps_to_done() -> None:
    made = board(mark("attach", mesh="dp=2", flops=5.0))
    assert (stands(made).phase, stands(made).step) == ("start", None)
    made.take(mark("step", step=1, loss=2.5, tokens=64), 1001.0)
    assert (stands(made).phase, stands(made).step, stands(made).at) == ("step", 1, 1001.0)
    made.take(mark("done"), 1002.0)
    assert stands(made).phase == "done"
    flushed = made.flush()[0]
    assert (flushed.attached, flushed.mesh, flushed.flops_per_token) == (True, "dp=2", 5.0)
    assert flushed.steps[0] == records.StepSample(1, 100.0, 0, 64.0, 2.5)
    assert made.flush() == []


def test_phases_nest_and_an_end_closes_what_was_left_open_inside() -> None:
    made = board(mark("step", step=3), mark("begin", phase="evaluation"), mark("begin", phase="load"))
    assert stands(made).phase == "load"
    made.take(mark("begin", phase="a word of the user's own"), 1.0)
    assert stands(made).phase == "load"
    made.take(mark("end", phase="evaluation"), 1.0)
    assert stands(made).phase == "step"
    made.take(mark("end", phase="never begun"), 1.0)
    assert stands(made).phase == "step"


def test_a_finished_step_ends_a_phase_whose_end_was_lost() -> None:
    made = board(mark("begin", phase="checkpoint", at=100.0), mark("step", step=3, at=101.0))
    assert stands(made).phase == "step"
    made.take(mark("end", phase="checkpoint", at=150.0), 1.0)
    made.take(mark("checkpoint", path="/c/1", step=3, at=160.0), 1.0)
    assert made.flush()[0].checkpoints[0].stall_s == 1.0


def test_a_checkpoint_carries_the_seconds_that_were_spent_on_it() -> None:
    made = board(
        mark("begin", phase="checkpoint", at=100.0),
        mark("end", phase="checkpoint", at=102.0),
        mark("begin", phase="checkpoint", at=110.0),
        mark("checkpoint", path="/c/1", step=5, at=111.5),
        mark("end", phase="checkpoint", at=112.0),
        mark("checkpoint", path="/c/2", step=9, at=120.0),
    )
    first, second = made.flush()[0].checkpoints
    assert (first.path, first.step, first.stall_s) == ("/c/1", 5, 3.5)
    assert (second.step, second.stall_s) == (9, 0.5)


def test_the_lowest_rank_speaks_and_so_does_the_lowest_that_knows_the_loss() -> None:
    made = board(
        mark("step", rank=1, step=1, loss=3.0),
        mark("step", rank=0, step=1),
        mark("step", rank=0, step=2),
        mark("step", rank=1, step=2, loss="nan", grad_norm="inf"),
    )
    steps = made.flush()[0].steps
    assert [(one.rank, one.step, one.loss) for one in steps] == [(1, 1, 3.0), (0, 1, None), (0, 2, None), (1, 2, None)]
    assert steps[-1].not_finite == ("loss=nan", "grad_norm=inf")


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\xfe\x00",
        b"[" * 2000,
        b'{"v":1}',
        b"{" + b" " * ranks.MARK_BYTES_MAX + b"}",
        mark("attach", v=2),
        mark("explode"),
        mark("step", rank=-1),
        mark("step", at="soon"),
        mark("step", step=1.5),
        mark("step", rank=7),
        mark("step", gen=99),
    ],
)
def test_garbage_is_counted_and_changes_nothing(garbage: bytes) -> None:
    made = board(mark("step", step=4))
    assert not made.take(garbage, 2000.0)
    assert made.refused == 1
    assert made.refusal
    assert [one.step for one in made.progress()] == [4]


def test_marks_of_an_older_generation_or_another_job_are_passed_over() -> None:
    made = board(mark("step", step=4))
    made.expect("j", 2, [0, 1])
    made.take(mark("step", step=9), 1.0)
    made.take(mark("step", step=9, job="k"), 1.0)
    assert (made.stale, made.refused, made.progress()) == (2, 0, ())
    made.take(mark("step", step=5, gen=2), 1.0)
    assert stands(made).step == 5


def test_what_nobody_fetches_stays_within_bounds_and_the_newest_is_kept() -> None:
    made = board()
    for step in range(ranks.SAMPLES_PENDING_MAX + 50):
        made.take(mark("step", step=step), 1.0)
    steps = made.flush()[0].steps
    assert len(steps) == ranks.SAMPLES_PENDING_MAX
    assert steps[-1].step == ranks.SAMPLES_PENDING_MAX + 49
    assert made.dropped == 50


def test_phases_that_never_end_use_no_more_memory() -> None:
    made = board(*[mark("begin", phase="load")] * 1000)
    assert stands(made).phase == "load"
    assert all(len(one.nested) <= rank.PHASES_NESTED_MAX for one in made._attempts["j"].ranks.values())


def test_the_client_is_understood_over_a_real_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> ranks.Board:
        with world.short_directory() as place:
            made = board()
            woken = asyncio.Event()
            listener = ranks.Listener(place / "marks.sock", made, lambda: 5.0, woken.set)
            environ = {
                "OUTRIDER_MARKS": str(place / "marks.sock"),
                "OUTRIDER_JOB": "j",
                "OUTRIDER_GENERATION": "1",
                "RANK": "1",
                "LOCAL_RANK": "1",
            }
            run = outrider.attach(mesh="dp=2", flops_per_token=2.0, environ=environ)
            with run.phase("checkpoint"):
                run.checkpoint_saved("/c/1", 3)
            run.step(4, tokens=8, loss=float("nan"), grad_norm=1.0)
            await world.until(lambda: made.received == 5, "five marks")
            assert woken.is_set()
            listener.close()
            run.step(5)
            assert run.dropped == 1
            return made

    made = asyncio.run(scenario())
    assert made.refused == 0
    assert (stands(made, 1).step, stands(made, 1).pid) == (4, os.getpid())
    flushed = made.flush()[0]
    assert (flushed.mesh, flushed.flops_per_token) == ("dp=2", 2.0)
    assert [one.step for one in flushed.checkpoints] == [3]
    assert flushed.steps[0].not_finite == ("loss=nan",)


def test_a_new_listener_takes_over_the_path_of_one_that_was_killed() -> None:
    async def scenario() -> int:
        with world.short_directory() as place:
            made, path = board(), place / "marks.sock"
            dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            dead.bind(str(path))
            dead.close()
            listener = ranks.Listener(path, made, lambda: 5.0, lambda: None)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(mark("step", step=1), str(path))
            await world.until(lambda: made.received, "a mark")
            listener.close()
            return made.received

    assert asyncio.run(scenario()) == 1
