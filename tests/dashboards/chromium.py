"""A real browser that notes what nobody would forgive: console errors, failed requests, words to strangers."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 240.0  # a machine that is busy with other tests draws slowly; no test asks how quickly
# As root Chromium has no sandbox, and a container's /dev/shm is small.
OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]


class Seen:
    """One open page and what went wrong in it. ``expected``: words of complaints that the test brings about."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda said: said.type == "error" and self.complaints.append(f"console: {said.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        page.on(
            "response", lambda answer: answer.status >= 400 and self.complaints.append(f"{answer.status}: {answer.url}")
        )
        page.on("request", self._note)

    def _note(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1", "data:", "blob:")):
            self.complaints.append(f"asked a stranger: {request.url}")

    def wait(self, words: str, seconds: float = PATIENCE_S) -> None:
        """Until ``words`` are on the page."""
        self.page.get_by_text(words).first.wait_for(state="visible", timeout=seconds * 1000)

    def fits(self) -> bool:
        """Nothing has to be scrolled sideways."""
        script = """() => [document.documentElement, ...document.querySelectorAll('[data-testid="stMain"]')]
            .every(each => each.scrollWidth <= each.clientWidth)"""
        return bool(self.page.evaluate(script))


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium; skips the test where this machine has none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    from playwright import sync_api

    with sync_api.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=found, args=OPTIONS)
        try:
            yield made
        finally:
            made.close()


def open_page(made: Any, url: str, width: int = 1280, height: int = 900, scheme: str = "light") -> Seen:
    """A page of its own in ``made``, as somebody in Berlin sees it."""
    context = made.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, timezone_id="Europe/Berlin"
    )
    context.set_default_timeout(PATIENCE_S * 1000)
    seen = Seen(context.new_page())
    seen.page.goto(url)
    return seen
