"""Every command and option that the documents show is one that the program has."""

import functools
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tests.style import tree

FENCED = re.compile(r"^ *```([a-z]*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SHELLS = {"", "sh", "bash", "console"}
INLINE = re.compile(r"`(outrider [^`\n]+)`")
SHOWN = re.compile(r"^\s*(?:\$ )?(?:\.venv/bin/)?(outrider .*)$", re.MULTILINE)
SUBCOMMAND = re.compile(r"[a-z][a-z-]*")
# Pages under docs/decisions argue about the program as it was or will be; they show nothing to be typed.
PAGES = [path for path in tree.files(".md") if not path.is_relative_to(tree.ROOT / "docs/decisions")]


@pytest.mark.parametrize("page", [page for page in PAGES if "outrider " in page.read_text()], ids=tree.name)
def test_commands_in_a_page_are_known_to_the_program(page: pathlib.Path) -> None:
    unknown = [
        f"{tree.name(page)}: {shown} - {problem}"
        for shown in commands(page.read_text(encoding="utf-8"))
        if (problem := _problem(shown))
    ]
    assert not unknown, "\n".join(unknown)


def test_commands_are_found_in_blocks_and_in_lines() -> None:
    text = "Say `outrider status --json`.\n```toml\nx = 1\n```\n\n"
    text += "```\n$ outrider agent --node n17 \\\n    --slots 8\nmake demo\n```\n"
    assert commands(text) == ["outrider agent --node n17     --slots 8", "outrider status --json"]
    assert _parts("outrider agent --node n17     --slots 8") == (("agent",), ["--node", "--slots"])
    assert _parts("outrider run --nproc-per-node 8 train.py --lr 1") == (("run",), ["--nproc-per-node"])
    assert _parts("outrider job start llama.toml --job=x") == (("job", "start"), ["--job"])


def test_a_command_and_an_option_that_are_not_there_are_found() -> None:
    assert _problem("outrider dance")
    assert _problem("outrider demo --dance") == "no option --dance"


def commands(text: str) -> list[str]:
    blocks = [block.replace("\\\n", "") for language, block in FENCED.findall(text) if language in SHELLS]
    return [shown for block in blocks for shown in SHOWN.findall(block)] + INLINE.findall(FENCED.sub("", text))


def _problem(shown: str) -> str | None:
    words, options = _parts(shown)
    help_text = _help(words)
    if help_text is None:
        return f"no command {' '.join(words)}"
    missing = [option for option in options if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_text)]
    return f"no option {', '.join(missing)}" if missing else None


def _parts(shown: str) -> tuple[tuple[str, ...], list[str]]:
    """The sub-command's words, and the options before the name of a script, which has options of its own."""
    words = shlex.split(shown, comments=True)[1:]
    leading = next((place for place, word in enumerate(words) if not SUBCOMMAND.fullmatch(word)), len(words))
    ours = words[: next((place for place, word in enumerate(words) if word.endswith(".py")), len(words))]
    return tuple(words[:leading]), [word.split("=")[0] for word in ours if word.startswith("--")]


@functools.cache
def _help(words: tuple[str, ...]) -> str | None:
    command = [sys.executable, "-m", "outrider_cli", *words, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2), f"the program does not start:\n{done.stderr}"
    return done.stdout if done.returncode == 0 else None
