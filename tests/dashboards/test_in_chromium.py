"""The page in a real Chromium, beside a real controller, real agents and real ranks that are really killed."""

import json
import os
import signal
import time
from typing import Any

import pytest

from outrider_cli import dashboard
from tests.dashboards import chromium
from tests.end_to_end.world import COUNTING_JOB, World, wait_for

# The counting job, whose later attempts wait for a word before their first step: an interruption can be looked at.
WAITING_TO_RETURN = COUNTING_JOB.replace(
    "for step in range(done + 1",
    "while attempt != '0' and not (folder / 'go').exists():\n    time.sleep(0.05)\nfor step in range(done + 1",
    1,
)
INTERRUPTIONS = '.st-key-interruptions [data-testid="stExpander"]'
HEADS = f"{INTERRUPTIONS} summary"
CHART = ".js-plotly-plot >> visible=true"
# Looks at every frame until the chart that is seen has grown twice: how often was there none?
WATCH = """patience => new Promise(done => {
  const shown = () => [...document.querySelectorAll('.js-plotly-plot')].filter(each =>
    getComputedStyle(each).visibility !== 'hidden'
    && each.querySelector('.main-svg')?.getBoundingClientRect().width > 50)
  const seen = {frames: 0, blank: 0, lengths: new Set()}, until = performance.now() + patience
  const look = () => {
    const charts = shown()
    seen.frames += 1
    seen.blank += charts.length === 0
    for (const chart of charts) seen.lengths.add(chart.data.find(trace => trace.name === 'Loss').x.length)
    performance.now() < until && seen.lengths.size < 3 ? requestAnimationFrame(look)
      : done({frames: seen.frames, blank: seen.blank, lengths: [...seen.lengths]})
  }
  requestAnimationFrame(look)
})"""


class House:
    """A standing controller with two simulated hosts, and the page on it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.agents = False
        self.start_controller()
        state = world.state
        token = (
            wait_for(lambda: (state / "tokens" / "read").exists()) and (state / "tokens" / "read").read_text().strip()
        )
        self.dashboard = dashboard.start(self.url, token, state=state, place=dashboard.Place(port=0))

    @property
    def url(self) -> str:
        return str(self._announced()["url"])

    def _announced(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(wait_for(lambda: _text(self.world.state / "controller.json")))
        return found

    def start_controller(self) -> None:
        self.controller = self.world.start("controller", "--listen", "127.0.0.1:0")
        wait_for(lambda: _text(self.world.state / "controller.json"))

    def start_job(self, steps: int = 100_000) -> None:
        if not self.agents:
            self.agents = True
            for node in ("n0", "n1"):
                assert self.world.run("token", "node", node).returncode == 0
                self.world.start("agent", "--node", node, "--slots", "1", "--simulated", "--supervise", "--allow-root")
        work = self.world.work
        command = [self.world.python, self.world.script(WAITING_TO_RETURN), str(steps), "0.1", str(work)]
        lines = [f"command = {json.dumps(command)}", 'name = "llama"', "nodes = 2", "ranks_per_node = 1"]
        (work / "job.toml").write_text("\n".join([*lines, f'checkpoint_dir = "{work / "checkpoints"}"']))
        done = self.world.run("job", "start", str(work / "job.toml"))
        assert done.returncode == 0, done.stderr

    def kill_a_rank(self) -> float:
        """The moment at which it was done."""
        pid = self.world.document("status")["ranks"][1]["pid"]
        os.kill(pid, signal.SIGKILL)
        return time.monotonic()


def _text(path: Any) -> str:
    try:
        return str(path.read_text())
    except OSError:
        return ""


@pytest.fixture
def house(world: World) -> Any:
    made = House(world)
    yield made
    made.dashboard.stop()


@pytest.mark.timeout(1800)
def test_the_page_follows_a_job_from_nothing_through_a_kill_and_a_hold_and_the_controllers_absence(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    with chromium.browser() as browser:
        wide = chromium.open_page(browser, house.dashboard.url)
        narrow = chromium.open_page(browser, house.dashboard.url, 360, 740, "dark")
        wide.wait("The controller answers, and has no job yet.")
        house.start_job()
        wide.wait("llama trains on n0, n1")
        wide.page.locator(CHART).first.wait_for()
        wide.page.get_by_text("simulated host").first.wait_for()
        _the_curves_grow_without_a_blink(wide, capsys)
        _an_interruption_appears_by_itself(house, wide, narrow, capsys)
        house.world.run("job", "hold", "--job", "llama")
        for seen in (wide, narrow):
            seen.wait("It waits for you")
            seen.wait(f"outrider job approve --job llama --state {house.world.state}")
            assert seen.fits()
        _the_controller_goes_and_comes_back(house, wide, narrow)
        assert house.world.run("job", "approve", "--job", "llama").returncode == 0
        wide.wait("llama trains")
        assert wide.complaints == []
        assert narrow.complaints == []


def _the_curves_grow_without_a_blink(seen: Any, capsys: Any) -> None:
    found = seen.page.evaluate(WATCH, chromium.PATIENCE_S * 1000)
    with capsys.disabled():
        print(f"\n[page] {found['blank']} of {found['frames']} frames had no chart (load {os.getloadavg()[0]:.1f})")
    assert len(found["lengths"]) == 3
    assert found["lengths"] == sorted(found["lengths"])
    # A machine that needs seconds to draw a chart may show none for a moment; one that has time shows one always.
    assert found["blank"] < found["frames"] / 4


def _an_interruption_appears_by_itself(house: House, wide: Any, narrow: Any, capsys: Any) -> None:
    heads = wide.page.locator(HEADS)
    assert heads.count() == 0
    killed_at = house.kill_a_rank()
    heads.first.wait_for(timeout=chromium.PATIENCE_S * 1000)
    took = time.monotonic() - killed_at
    with capsys.disabled():
        print(f"\n[page] a killed rank is on the open page after {took:.2f} s (load {os.getloadavg()[0]:.1f})")
    wide.wait("Interrupted")
    (house.world.work / "go").touch()
    wide.wait("llama trains")
    assert "rank-killed" in heads.first.inner_text()
    _open_first(wide)
    where = _scroll(wide, 250)
    step = wide.page.locator(".tile b").first.inner_text()
    wide.page.wait_for_function(
        "was => document.querySelector('.tile b').innerText !== was", arg=step, timeout=chromium.PATIENCE_S * 1000
    )
    assert wide.page.locator(f"{INTERRUPTIONS} details[open]").count() == 1, "what was opened stays open"
    assert _scrolled(wide) == where, "the page does not jump"
    narrow.page.locator(CHART).first.wait_for()
    _open_first(narrow)
    assert narrow.fits()


def _open_first(seen: Any) -> None:
    """As a person does: who clicks just as the list is drawn anew sees it still closed, and clicks again."""
    end = time.monotonic() + chromium.PATIENCE_S
    evidence = seen.page.get_by_text("was ended by SIGKILL").first
    while not evidence.is_visible():
        assert time.monotonic() < end, "an interruption opens"
        if seen.page.locator(f"{INTERRUPTIONS} details[open]").count() == 0:
            seen.page.locator(HEADS).first.click()
        seen.page.wait_for_timeout(2000)


def _scroll(seen: Any, pixels: int) -> float:
    seen.page.evaluate("by => document.querySelector('[data-testid=stMain]').scrollBy(0, by)", pixels)
    found = _scrolled(seen)
    assert found > 0, "there is something to scroll"
    return found


def _scrolled(seen: Any) -> float:
    return float(seen.page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop"))


def _the_controller_goes_and_comes_back(house: House, wide: Any, narrow: Any) -> None:
    house.controller.kill()
    house.controller.wait()
    for seen in (wide, narrow):
        seen.wait("Could not look")
        seen.wait("Everything below is the last picture")
        assert seen.fits()
    assert "healthy when last seen" in wide.page.locator(".nodes").inner_text()
    (house.world.state / "controller.json").unlink()
    house.start_controller()
    for seen in (wide, narrow):
        seen.wait("It waits for you")
