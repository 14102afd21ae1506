"""A decision worth arguing has a numbered page, and each page answers the same four questions."""

import pathlib
import re

import pytest

from tests.style import tree

PAGES = [path for path in tree.files(".md") if path.parent == tree.ROOT / "docs/decisions"]
SECTIONS = ["Context", "Decision", "Consequences", "Alternatives"]


def test_pages_are_numbered_without_gap_or_repeat() -> None:
    names = [path.name for path in PAGES]
    assert names
    assert all(re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", name) for name in names), names
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1)), names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_the_four_sections_in_order(page: pathlib.Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.name[:4]}: ")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    assert parts[0::2] == SECTIONS
    assert all(body.strip() for body in parts[1::2]), f"{tree.name(page)} has an empty section"
