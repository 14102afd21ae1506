"""The page run as Streamlit runs it, without a browser."""

import json
import pathlib
import re
from typing import Any

import pytest
import streamlit
from streamlit.testing.v1 import AppTest

import outrider_dashboards
from outrider_dashboards import looking
from tests.dashboards.answers import TOKEN, Answers

PAGE = pathlib.Path(outrider_dashboards.__file__).parent / "page.py"


class Page:
    """The page of one served controller."""

    def __init__(self, answers: Answers, monkeypatch: pytest.MonkeyPatch, view: str = "", **settings: str) -> None:
        given = {"controller_url": answers.url, "token": TOKEN, **settings}
        monkeypatch.setenv("OUTRIDER_DASHBOARD", json.dumps(given))
        monkeypatch.setattr(looking, "LOOK_EVERY_S", 0.0)
        streamlit.cache_resource.clear()
        self.app = AppTest.from_file(str(PAGE), default_timeout=30)
        if view:
            self.app.query_params["view"] = view
        self.run()

    def run(self) -> "Page":
        self.app.run()
        assert not self.app.exception, self.app.exception
        return self

    @property
    def html(self) -> str:
        """Everything that is given to the page as HTML, but the style sheet."""
        bodies = [str(getattr(one.proto, "body", "")) for one in self.app.get("html")]
        return "\n".join(body for body in bodies if not body.startswith("<style>"))

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", self.html))

    def heads(self) -> list[str]:
        return [one.label for one in self.app.expander]


@pytest.fixture
def page(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda **settings: Page(answers, monkeypatch, **settings)
