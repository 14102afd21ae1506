"""Every command line in the documents exists: its sub-command, and each of its options."""

import re
import shlex

import pytest

from outrider_cli import main, parsing
from tests.style import tree

INLINE = re.compile(r"`(outrider [^`\n]+)`")
BLOCK_LINE = re.compile(r"^\s*(?:\$ )?(?:sudo )?((?:\.venv/bin/)?outrider .+?)(?:\s+#.*)?$", re.MULTILINE)
PARSER = main.build()


def documented() -> list[tuple[str, str]]:
    """File and command line of every `outrider ...` in the documents."""
    found = []
    for path in tree.files(".md"):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = "\n".join(re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        found += [(tree.name(path), line) for line in INLINE.findall(text) + BLOCK_LINE.findall(blocks)]
    return sorted(set(found))


def problem(line: str) -> str | None:
    """What is wrong with a command line, None when nothing is."""
    try:
        words = shlex.split(line)[1:]
    except ValueError:
        return "it cannot be read as a shell would"
    parser = PARSER
    while words and (children := sub_commands(parser)):
        if words[0].startswith("-"):
            break
        names = [name for name in words.pop(0).split("|") if name.isalpha()]
        if missing := [name for name in names if name not in children]:
            return f"there is no sub-command {missing[0]}; there are {', '.join(children)}"
        parser = children[names[0]] if names else parser
        if not names:
            break
    known = [*parser.option_words(), *PARSER.option_words()]
    for word in words:
        option = word.strip("[]").split("=", 1)[0]
        if parser.prog.endswith(" run") and not word.startswith("-") and re.search(r"\.py|\.sh|SCRIPT", word):
            return None  # what follows are the script's own words
        if re.fullmatch(r"--[a-z][a-z-]*", option) and option not in known:
            return f"there is no option {option}"
    return None


def sub_commands(parser: parsing.Parser) -> dict[str, parsing.Parser]:
    return next((action.choices for action in parser._actions if isinstance(action.choices, dict)), {})


def test_every_documented_command_exists() -> None:
    wrong = [f"{file}: {line}: {why}" for file, line in documented() if (why := problem(line))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line", ["outrider statsu", "outrider status --jsn", "outrider job begin x", "outrider run --np 2 x.py"]
)
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    assert problem(line)


@pytest.mark.parametrize(
    "line", ["outrider job start|stop", "outrider run --nproc_per_node 2 x.py --np 2", "outrider --help"]
)
def test_a_command_that_exists_passes(line: str) -> None:
    assert problem(line.replace("_", "-", 2) if "run" in line else line) is None
