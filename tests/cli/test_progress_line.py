"""The line that says how it goes, in a file: what changed is said now and then, what did not change hardly ever."""

import io

import pytest

from outrider_cli import progress_line


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    at = [100.0]
    monkeypatch.setattr(progress_line.time, "monotonic", lambda: at[0])
    return at


def test_a_line_that_says_the_same_is_not_repeated(now: list[float]) -> None:
    out = io.StringIO()
    line = progress_line.ProgressLine(out)
    for _ in range(60):
        line.show("training attempt 0")
        now[0] += 2.0
    assert out.getvalue() == "training attempt 0\n"
    now[0] += progress_line.UNCHANGED_S
    line.show("training attempt 0")
    assert out.getvalue() == "training attempt 0\n" * 2, "a sign of life, once in a long while"


def test_news_come_now_and_then_and_another_state_at_once(now: list[float]) -> None:
    out = io.StringIO()
    line = progress_line.ProgressLine(out)
    for step in range(11):
        line.show(f"training step {step}")
        now[0] += 1.0
    line.show("interrupted step 11")
    assert out.getvalue().splitlines() == ["training step 0", "training step 10", "interrupted step 11"]
