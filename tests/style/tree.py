"""The files of this repository, for the tests that judge them.

Flow: git's list of files (or, in an unpacked source archive, a walk) -> paths, texts and syntax trees.
Files that are new and not yet committed count too, so that a rule speaks before the commit and not after it.
"""

import ast
import functools
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Each of these folders holds exactly one package, and its name stays out of site-packages.
PACKAGES = {
    "outrider": ROOT / "client/outrider",
    "outrider_analysis": ROOT / "analysis/outrider_analysis",
    "outrider_agent": ROOT / "agent/outrider_agent",
    "outrider_controller": ROOT / "controller/outrider_controller",
    "outrider_simulator": ROOT / "simulator/outrider_simulator",
    "outrider_dashboards": ROOT / "dashboards/outrider_dashboards",
    "outrider_cli": ROOT / "cli/outrider_cli",
}
CORE = PACKAGES["outrider_controller"] / "core"
JUDGEMENT = PACKAGES["outrider_agent"] / "judgement"


@functools.cache
def files(suffix: str = "") -> tuple[pathlib.Path, ...]:
    """Every file of the repository whose name ends with `suffix`; symbolic links are left out."""
    listed = _from_git() if (ROOT / ".git").exists() else _from_walk()
    return tuple(sorted(path for path in listed if path.name.endswith(suffix) and _is_own_file(path)))


def name(path: pathlib.Path) -> str:
    """The path as a reader of a failure wants to see it."""
    return path.relative_to(ROOT).as_posix()


def is_test(path: pathlib.Path) -> bool:
    return name(path).startswith("tests/")


def modules(*places: pathlib.Path) -> list[pathlib.Path]:
    """The Python files at or below each of `places`; a place may be a package, or a module without its `.py`."""
    return [
        path
        for path in files(".py")
        if any(path.is_relative_to(place) or path == place.with_suffix(".py") for place in places)
    ]


@functools.cache
def syntax(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=name(path))


def _from_git() -> list[pathlib.Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    return [ROOT / line.decode() for line in listed.split(b"\0") if line]


def _from_walk() -> list[pathlib.Path]:
    return [path for path in ROOT.rglob("*") if not {".venv", "__pycache__"} & set(path.parts)]


def _is_own_file(path: pathlib.Path) -> bool:
    return path.is_file() and not path.is_symlink()
