"""Words that stay out of the repository, and words that have to keep their promise."""

import pathlib
import re

import pytest

from tests.style import tree

# In pieces, so that this file passes its own test. These name the place where a file was written, which says
# nothing to whoever reads it elsewhere.
PLACES = re.compile(
    "|".join(
        [
            r"(?<![\w.-])/wo" + r"rk/",
            r"(?<![\w)\]])\.lib" + r"rary\b",
            r"\.\./sha" + r"red\b",
            r"farm-" + r"studio",
            r"/opt/py" + r"pi",
        ]
    ).encode()
)
# A thing left undone is an issue or it is done; a note in the code is neither.
LEFTOVERS = re.compile("|".join([r"\bTO" + r"DO\b", r"\bFIX" + r"ME\b", r"\bX" + r"XX\b"]).encode())
MAKE_COMMAND = re.compile(r"(?:^|`|\n\s*|\$ )make ([a-z][a-z-]*)", re.MULTILINE)


def test_no_file_names_the_place_where_it_was_written() -> None:
    assert not (found := _found(PLACES, tree.files())), "\n".join(found)


def test_nothing_is_marked_as_left_over() -> None:
    # Recorded output of other programs is kept as it was.
    own = [path for path in tree.files() if not tree.name(path).startswith("tests/recorded/")]
    own = [path for path in own if path.suffix != ".png"]  # packed bytes spell anything
    assert not (found := _found(LEFTOVERS, own)), "\n".join(found)


@pytest.mark.parametrize("text", ["see /wo" + "rk/main", "ls .lib" + "rary/x", "from ../sha" + "red/a", "TO" + "DO: x"])
def test_a_forbidden_word_is_found(text: str) -> None:
    assert PLACES.search(text.encode()) or LEFTOVERS.search(text.encode())


@pytest.mark.parametrize("text", ["settings.library", "mktemp -d /tmp/x.XXXXXX", "sched/work/3"])
def test_an_innocent_word_passes(text: str) -> None:
    assert not PLACES.search(text.encode())
    assert not LEFTOVERS.search(text.encode())


def test_every_make_command_in_the_documents_exists() -> None:
    rules = re.compile(r"^([a-z][a-z-]*):(?!=)", re.MULTILINE).findall((tree.ROOT / "Makefile").read_text())
    unknown = [
        f"{tree.name(path)}: make {target}; the Makefile has {', '.join(sorted(rules))}"
        for path in tree.files(".md")
        for target in MAKE_COMMAND.findall(path.read_text(encoding="utf-8"))
        if target not in rules
    ]
    assert not unknown, "\n".join(unknown)


def _found(pattern: re.Pattern[bytes], files: tuple[pathlib.Path, ...] | list[pathlib.Path]) -> list[str]:
    return [
        f"{tree.name(path)}:{number}: {line.strip()[:120].decode(errors='replace')}"
        for path in files
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        if pattern.search(line)
    ]
