"""The view of the flight recorder in a real Chromium, from the first empty page over verdicts to a controller gone.

The controller's answers are made up; the verdicts in them are the real analysis over generated dumps.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from outrider_cli import dashboard
from tests.dashboards import chromium, verdicts
from tests.dashboards.answers import TOKEN, Answers, report

VIEW = "/?view=flight-recorder"
# Nothing that is drawn lies outside of its box or upon another.
OVERLAPS = """() => {
  const boxes = [...document.querySelectorAll('.net .box')].map(each => each.getBoundingClientRect())
  return boxes.filter((a, n) => boxes.slice(n + 1).some(b =>
    a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)).length
}"""


@pytest.fixture
def served(answers: Answers) -> Iterator[str]:
    made = dashboard.start(answers.url, TOKEN, place=dashboard.Place(port=0))
    yield made.url
    made.stop()


@pytest.mark.timeout(1800)
def test_the_view_shows_hangs_as_they_come_at_every_width_and_in_the_dark(served: str, answers: Answers) -> None:
    with chromium.browser() as browser:
        wide = chromium.open_page(browser, served + VIEW)
        narrow = chromium.open_page(browser, served + VIEW, 360, 740, "dark")
        wall = chromium.open_page(browser, served + VIEW, 2560, 1440, "dark")
        every = (wide, narrow, wall)
        _all_see(every, "There is no job whose ranks could hang")
        answers.give(verdicts.status())
        _all_see(every, "No hang has been seen in this job")

        first = verdicts.record("stuck-tp")
        answers.give(verdicts.status(open_incident="demo-1"), report=report(incidents=[verdicts.hang(first)]))
        _all_see(every, first["sentence"])
        _drawn(every, first)

        second = verdicts.record("killed-node", lost=tuple(range(8, 12)))
        hangs = [verdicts.hang(first), verdicts.hang(second, 2)]
        answers.give(verdicts.status(open_incident="demo-2"), report=report(incidents=hangs))
        _all_see(every, "the records do not tell which")
        assert wide.page.locator(".net .culprit").count() == 0
        wide.page.locator('.st-key-earlier [data-testid="stExpander"] summary').first.click()
        wide.page.locator(".st-key-earlier .net .culprit").first.wait_for()

        healthy = [*hangs, verdicts.hang(verdicts.record("idle"), 3)]
        answers.give(verdicts.status(open_incident="demo-3"), report=report(incidents=healthy))
        _all_see(every, "none waits for a rank")

        wide.page.get_by_text("Overview", exact=True).click()
        wide.wait("demo trains on n0")
        assert "view=overview" in wide.page.url
        wide.page.get_by_text("Flight recorder", exact=True).click()
        wide.wait("none waits for a rank")

        answers.stop()
        _all_see(every, "Everything below is the last picture")
        answers.start()
        for seen in every:
            seen.page.get_by_text("Everything below is the last picture").first.wait_for(state="detached")
            assert seen.complaints == []


def _all_see(every: tuple[Any, ...], words: str) -> None:
    for seen in every:
        seen.wait(words)
        assert seen.fits()


def _drawn(every: tuple[Any, ...], record: Any) -> None:
    """Boxes and arrows where there is room, the list where there is none."""
    wide, narrow, wall = every
    nodes = len(record["graph"]["nodes"])
    for seen in (wide, wall):
        assert seen.page.locator(".net .box >> visible=true").count() == nodes
        assert seen.page.locator(".net .tip >> visible=true").count() > 0
        assert seen.page.evaluate(OVERLAPS) == 0
        assert "culprit" in seen.page.locator(".net .culprit").inner_text(), "colour is not the only sign"
    assert narrow.page.locator(".net-list li >> visible=true").count() == nodes
    assert narrow.page.locator(".net .box >> visible=true").count() == 0
    assert "culprit" in narrow.page.locator(".net-list .culprit").inner_text()
