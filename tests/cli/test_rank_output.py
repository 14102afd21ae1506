"""What the ranks say reaches the terminal once, in order, attempt after attempt."""

import io
from pathlib import Path

from outrider_cli import rank_output


def log(folder: Path, attempt: int, rank: int) -> Path:
    path = folder / f"attempt-{attempt}" / f"rank_{rank}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_file_that_grows_is_shown_line_by_line(tmp_path: Path) -> None:
    out = io.StringIO()
    output = rank_output.RankOutput(tmp_path, (0,), out)
    output.poll()
    with log(tmp_path, 0, 0).open("w") as file:
        for piece, shown in (("one\ntw", "one\n"), ("o\n", "one\ntwo\n"), ("end", "one\ntwo\n")):
            file.write(piece)
            file.flush()
            output.poll()
            assert out.getvalue() == shown
    output.flush()
    assert out.getvalue() == "one\ntwo\nend\n"


def test_the_next_attempt_follows_the_one_before(tmp_path: Path) -> None:
    out = io.StringIO()
    output = rank_output.RankOutput(tmp_path, (0,), out)
    log(tmp_path, 0, 0).write_text("first")
    output.poll(0)
    log(tmp_path, 1, 0).write_text("second\n")
    output.poll(2)
    assert out.getvalue() == "first\nsecond\n"


def test_several_ranks_carry_their_numbers(tmp_path: Path) -> None:
    out = io.StringIO()
    output = rank_output.RankOutput(tmp_path, (0, 3), out)
    log(tmp_path, 0, 0).write_text("a\nb\n")
    log(tmp_path, 0, 3).write_bytes(b"\xff\n")
    output.poll()
    assert out.getvalue() == "[rank 0] a\n[rank 0] b\n[rank 3] \ufffd\n"


def test_the_past_of_an_adopted_job_is_not_shown_again(tmp_path: Path) -> None:
    out = io.StringIO()
    output = rank_output.RankOutput(tmp_path, (0,), out, first=1)
    log(tmp_path, 0, 0).write_text("old\n")
    log(tmp_path, 1, 0).write_text("old too\n")
    output.skip_what_is_there()
    with log(tmp_path, 1, 0).open("a") as file:
        file.write("new\n")
    output.poll()
    assert out.getvalue() == "new\n"
