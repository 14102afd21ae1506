"""Progress of ranks that send no marks: their logs are followed, whatever becomes of the files."""

import asyncio
import os
import pathlib
import re
import signal
import sys
from typing import Any

import pytest

from outrider import records
from outrider_agent.signals import job_log, ranks
from outrider_analysis.job_log import progress
from tests.agent import world

MEGATRON = (
    " iteration {step:8d}/     500 | consumed samples:          320 | elapsed time per iteration (ms): 100.0 | learning"
    " rate: 3.0E-04 | global batch size:     4 | lm loss: {loss:.6E} | loss scale: 1.0 | grad norm: 1.500 | number of "
    "skipped iterations:   0 | number of nan iterations:   0 |\n"
)
TITAN = (
    "[titan] 2026-08-21 21:30:21,123 - root - INFO - \x1b[31mstep: {step:2}  \x1b[32mloss: {loss:8.5f}  \x1b[38;2;180;"
    "60;0mgrad_norm:  1.5000  \x1b[34mmemory: 12.34GiB(15.43%)  \x1b[34mtps: 1,000  \x1b[36mtflops: 1.00  mfu: N/A\n"
)
INFO = "[titan] 2026-08-21 21:30:21,123 - root - INFO - "
# Two ranks of a job in Megatron-LM's form: settings and checkpoints on the first, steps on the last.
SCRIPT = f"""
import os, sys, time
rank, tag = int(os.environ["RANK"]), sys.argv[1]
if rank == 0:
    print("  seq_length " + "." * 38 + " 512", flush=True)
step = 0
while True:
    step += 1
    time.sleep(0.1)
    if rank == 1:
        print("no line of ours", tag)
        print({MEGATRON!r}.format(step=step, loss=1 / step), end="", flush=True)
    elif step % 5 == 0:
        print(f"saving checkpoint at iteration {{step:7d}} to ckpt in torch_dist format", flush=True)
        print(f"  successfully saved checkpoint from iteration {{step:7d}} to ckpt [ t 1/1, p 1/1 ]", flush=True)
    if tag == "attaches" and step == 10:
        import outrider
        run = outrider.attach(mesh="dp=2")
    if tag == "attaches" and step >= 10:
        run.step(1000 + step)
"""


def steps(chunk: job_log.Chunk) -> list[int]:
    return [one.step for one in chunk.found if isinstance(one, progress.Step)]


def lines(*numbers: int, form: str = MEGATRON) -> str:
    return "".join(form.format(step=number, loss=2.5) for number in numbers)


# --- one file -------------------------------------------------------------------------------------------------------


def test_a_log_is_read_on_from_where_it_was(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rank_0.log"
    tail = job_log.Tail(path)
    assert tail.read() == job_log.Chunk(), "it is not there yet"
    with path.open("a") as log:
        log.write(lines(1, 2))
        log.flush()
        assert steps(tail.read()) == [1, 2]
        assert steps(tail.read()) == []
        log.write(lines(3)[:40])
        log.flush()
        assert steps(tail.read()) == [], "the rest of the line has not come"
        log.write(lines(3)[40:] + "progress 10%\rprogress 20%\r" + lines(4).replace("\n", "\r\n"))
        log.flush()
        assert steps(tail.read()) == [3, 4]
    assert tail.read().written_at == 0.0
    assert tail.inode == path.stat().st_ino


def test_a_log_of_an_earlier_run_at_the_same_place_is_passed_over(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rank_0.log"
    path.write_text(lines(998, 999))
    tail = job_log.Tail(path, path.stat().st_size)
    with path.open("a") as log:
        log.write(lines(1))
    assert steps(tail.read()) == [1]


def test_a_log_that_is_cut_off_or_replaced_is_read_from_its_beginning(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rank_0.log"
    path.write_text(lines(1, 2, 3))
    tail = job_log.Tail(path)
    tail.read()
    path.write_text(lines(4))  # copied away and truncated
    assert steps(tail.read()) == [4]
    path.rename(tmp_path / "rank_0.log.1")
    assert steps(tail.read()) == []
    path.write_text(lines(5, 6))
    assert steps(tail.read()) == [5, 6]


def test_who_prints_too_much_is_caught_up_with_and_the_settings_are_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rank_0.log"
    noise = "x" * 199 + "\n"
    many = noise * (3 * job_log.BEHIND_BYTES_MAX // len(noise))
    path.write_text(f"  seq_length {'.' * 38} 512\n" + lines(1) + many + lines(900))
    tail = job_log.Tail(path)
    chunk = tail.read()
    assert chunk.found == (progress.Sequence(512), progress.read_line(lines(900).rstrip()))
    assert chunk.skipped > job_log.BEHIND_BYTES_MAX
    with path.open("a") as log:
        log.write(many + lines(901))
    assert steps(tail.read()) == [901]


def test_a_line_without_an_end_uses_no_memory(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rank_0.log"
    tail = job_log.Tail(path)
    with path.open("a") as log:
        for _ in range(5):
            log.write("y" * 100_000)
            log.flush()
            tail.read()
            assert len(tail.rest) <= job_log.LINE_BYTES_MAX
        log.write(lines(1) + lines(2))
        log.flush()
        assert steps(tail.read()) == [2], "the first ends the endless line"


@pytest.mark.parametrize("what", ["pipe", "link", "folder"])
def test_what_is_no_file_is_not_opened_and_nobody_waits_for_it(tmp_path: pathlib.Path, what: str) -> None:
    path = tmp_path / "rank_0.log"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "link":
        (tmp_path / "elsewhere").write_text(lines(1))
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
    with pytest.raises(OSError, match=re.escape(str(path))):
        job_log.Tail(path).read()


# --- what it comes to -----------------------------------------------------------------------------------------------


PIDS = {rank: 100 + rank for rank in range(4)}


def board_of(*numbers: int) -> ranks.Board:
    made = ranks.Board()
    made.expect("j", 1, list(numbers))
    return made


def hear(board: ranks.Board, rank: int, text: str, at: float, tokens: float | None = None) -> None:
    for line in text.splitlines():
        found = progress.read_line(line)
        assert found is not None, line
        board.take_line(ranks.Line("j", 1, rank, PIDS, at), found, tokens)


def stands(board: ranks.Board) -> dict[int, tuple[int | None, str, float]]:
    return {one.rank: (one.step, one.phase, one.at) for one in board.progress()}


def test_the_last_rank_tells_the_steps_and_the_first_the_checkpoints() -> None:
    made = board_of(0, 1, 2, 3)
    hear(made, 0, " loading distributed checkpoint from /c at iteration 4", 1.0)
    assert stands(made) == {0: (None, "load", 1.0)}
    assert [one.attached for one in made.flush()] == [False], "nothing tells yet that steps will be told"
    hear(made, 0, "  successfully loaded checkpoint from /c [ t 1/2, p 1/2 ] at iteration 4", 2.0)
    hear(made, 3, lines(5), 3.0, tokens=8.0)
    assert stands(made) == dict.fromkeys(range(4), (5, "step", 3.0))
    hear(made, 0, "saving checkpoint at iteration       5 to /c in torch_dist format", 4.0)
    assert stands(made) == dict.fromkeys(range(3), (5, "checkpoint", 4.0)) | {3: (5, "step", 3.0)}
    hear(made, 0, "  successfully saved checkpoint from iteration       5 to /c [ t 1/2, p 1/2 ]", 6.5)
    (told,) = made.flush()
    assert told.attached
    assert told.checkpoints == (records.CheckpointMark("/c/iter_0000005", 5, 6.5, 0, 2.5),)
    assert told.steps == (records.StepSample(5, 3.0, 3, 8.0, 2.5, 1.5),)
    assert stands(made)[0] == (5, "step", 6.5)
    assert [(one.source, one.local_rank, one.pid) for one in told.ranks] == [("log", n, 100 + n) for n in range(4)]


def test_of_many_ranks_that_print_the_same_one_speaks_and_one_more_for_the_loss() -> None:
    made = board_of(*range(4))
    for rank in range(4):
        hear(made, rank, INFO + "Saving the checkpoint.", 1.0)
        hear(made, rank, INFO + "Finished saving the checkpoint in 1.00 seconds.", 2.0)
    for rank in range(4):
        hear(made, rank, TITAN.format(step=7, loss=-1.0 if rank < 2 else 3.0), 3.0 + rank / 10)
    (told,) = made.flush()
    assert [(one.rank, one.loss) for one in told.steps] == [(0, None), (2, 3.0)]
    assert stands(made) == {rank: (7, "step", 3.0 + rank / 10) for rank in range(4)}


def test_marks_go_before_lines_from_the_first_one_on() -> None:
    made = board_of(0, 1)
    hear(made, 1, lines(5), 1.0)
    made.take(b'{"v":1,"kind":"step","rank":0,"local_rank":0,"pid":4,"job":"j","gen":1,"at":2.0,"step":3}', 2.0)
    assert not made.wants_lines("j", 1)
    hear(made, 1, lines(6), 3.0)
    assert {one.rank: (one.step, one.source) for one in made.progress()} == {0: (3, "marks"), 1: (5, "log")}


def test_a_counter_moves_a_rank_that_tells_nothing_else_and_none_that_does() -> None:
    made = board_of(0, 1)
    hear(made, 1, "Evaluating on 320 samples", 1.0)
    for at, count in ((2.0, 7), (3.0, 7), (4.0, 9)):
        made.take_collectives("j", 1, 0, 100, count, at)
        made.take_collectives("j", 1, 1, 101, count, at)
        if at == 3.0:
            assert stands(made)[0] == (None, "start", 2.0)
    told = {one.rank: (one.source, one.collectives, one.phase, one.at) for one in made.progress()}
    assert told == {0: ("collectives", 9, "step", 4.0), 1: ("log", 9, "evaluation", 1.0)}
    assert [one.attached for one in made.flush()] == [False]
    made.take_collectives("j", 2, 0, 100, 50, 5.0)
    assert made.progress()[0].collectives == 9, "of another attempt"


# --- real agents and ranks ------------------------------------------------------------------------------------------


def arguments(state: pathlib.Path, tag: str, **spec: Any) -> dict[str, Any]:
    script = state / "train.py"
    script.write_text(SCRIPT)
    document = {
        "name": "j",
        "command": [sys.executable, str(script), tag],
        "cwd": str(script.parent),
        "ranks_per_node": 2,
        "preload": ["none"],
        **spec,
    }
    place = {"attempt": 0, "world_size": 2, "nnodes": 1, "node_rank": 0, "ranks": [0, 1]}
    return {"spec": document, **place, "master_addr": "127.0.0.1", "master_port": 29999, "resume_path": "", "fence": []}


def newest(controller: world.Controller, rank: int = 1) -> records.RankProgress | None:
    told = [one for message in controller.marks for one in message.ranks if one.rank == rank]
    return told[-1] if told else None


def samples(controller: world.Controller) -> list[records.StepSample]:
    return [one for message in controller.marks for one in message.steps]


def test_a_job_that_calls_nothing_is_followed_through_its_log_by_every_agent() -> None:
    async def scenario() -> None:
        with world.node() as node:
            left = node.state / "logs" / "j" / "attempt-0" / "rank_1.log"
            left.parent.mkdir(parents=True)
            left.write_text(lines(400))  # of a job of this name that ran here before
            async with world.Controller(node.state) as controller:
                node.start()
                started = await controller.order("start", arguments(node.state, "plain"))
                assert started.ok, started.error
                await world.until(lambda: len(samples(controller)) >= 6, "steps")
                first = samples(controller)
                assert [one.step for one in first] == list(range(1, len(first) + 1))
                assert (first[3].loss, first[3].grad_norm, first[3].rank) == (0.25, 1.5, 1)
                assert first[3].tokens == 4 * 512, "samples of a step times tokens of a sequence"
                saved = await world.until(lambda: [m for n in controller.marks for m in n.checkpoints], "a checkpoint")
                assert (saved[0].step, saved[0].path) == (5, f"{node.state}/ckpt/iter_0000005")
                pid = int(started.result["pids"]["1"])
                known = newest(controller)
                assert known is not None
                assert (known.source, known.phase, known.pid, known.local_rank) == ("log", "step", pid, 1)
                node.agents[0].kill()
                node.agents[0].wait()
                before = len(controller.marks)
                node.start()
                await world.until(lambda: any(m.steps for m in controller.marks[before:]), "steps by the next agent")
                again = [one for message in controller.marks[before:] for one in message.steps]
                assert again[-1].step > first[-1].step
                assert again[-1].tokens == 4 * 512
                os.kill(pid, signal.SIGKILL)
                (died,) = await world.until(lambda: controller.observed("rank-exited"), "the death")
                assert died.evidence["step"] >= first[-1].step

    asyncio.run(scenario())


def test_lines_count_no_longer_once_the_script_attaches() -> None:
    async def scenario() -> None:
        with world.node() as node:
            async with world.Controller(node.state) as controller:
                node.start()
                assert (await controller.order("start", arguments(node.state, "attaches"))).ok
                await world.until(lambda: samples(controller), "steps by the log")
                await world.until(lambda: [s for s in samples(controller) if s.step > 1012], "steps by marks")
                told = [one.step for one in samples(controller)]
                first = next(n for n, step in enumerate(told) if step > 1000)
                assert all(step > 1000 for step in told[first:])
                known = newest(controller)
                assert known is not None
                assert known.source == "marks"

    asyncio.run(scenario())
