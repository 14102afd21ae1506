"""Every link in a Markdown file leads somewhere: to a file that is here, and to a heading that it has."""

import functools
import pathlib
import re

from tests.style import tree

FENCE = re.compile(r"^( {0,3})(```+|~~~+).*?^ {0,3}\2[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^)>\s]+)>?(?:\s+[\"'][^)]*[\"'])?\s*\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^>\s]+)>?", re.MULTILINE)
HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*$", re.MULTILINE)
EXPLICIT_ANCHOR = re.compile(r"<a\s+(?:id|name)=[\"']([^\"']+)[\"']")
ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def test_links_in_markdown_resolve() -> None:
    broken = [
        f"{tree.name(path)}: {target} - {problem}"
        for path in tree.files(".md")
        for target in _targets(path.read_text(encoding="utf-8"))
        if (problem := _problem(path, target))
    ]
    assert not broken, "\n".join(broken)


def test_a_missing_file_and_a_missing_heading_are_found(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `thing`, twice\n\n```\n# not a heading\n[x](not-a-link.md)\n```\n# Same\n# Same\n")
    assert _problem(page, "absent.md") == "no such file"
    assert _problem(page, "#not-a-heading") == "no such heading"
    assert _problem(page, "#one-thing-twice") is None
    assert _problem(page, "page.md#same-1") is None
    assert _targets(page.read_text() + "`[a](b.md)` [c](d.md 'title') ![e](f.png)\n[g]: h.md\n") == [
        "d.md",
        "f.png",
        "h.md",
    ]


def _targets(text: str) -> list[str]:
    prose = INLINE_CODE.sub("", FENCE.sub("", text))
    return [target for pattern in (LINK, REFERENCE) for target in pattern.findall(prose)]


def _problem(page: pathlib.Path, target: str) -> str | None:
    if ELSEWHERE.match(target):
        return None
    where, _, anchor = target.partition("#")
    if where.startswith("/"):
        return "an absolute path leads nowhere in a checkout; write it relative to this page"
    file = page.parent / where if where else page
    if not file.exists():
        return "no such file"
    if anchor and file.suffix == ".md" and anchor not in _anchors(file):
        return "no such heading"
    return None


@functools.cache
def _anchors(page: pathlib.Path) -> frozenset[str]:
    """The anchors a page offers: lower case, punctuation dropped, spaces to hyphens, repeats numbered."""
    text = page.read_text(encoding="utf-8")
    anchors = set(EXPLICIT_ANCHOR.findall(text))
    seen: dict[str, int] = {}
    for heading in HEADING.findall(FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        anchors.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
        seen[slug] = seen.get(slug, 0) + 1
    return frozenset(anchors)
