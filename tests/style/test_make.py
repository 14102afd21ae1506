"""The commands of the Makefile: what they run, and what they say when they cannot."""

import os
import pathlib
import subprocess

import pytest

from tests.style import tree


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ([], ""),
        (["HEADLESS=1"], "--headless"),
        (["HEADLESS=0"], ""),
        (["FAULTS=kill,stop", "STEPS=40"], "--steps '40' --faults 'kill,stop'"),
        (["MESH=dp=2,pp=2,cp=2,tp=2", "STATE=/tmp/a b"], "--mesh 'dp=2,pp=2,cp=2,tp=2' --state '/tmp/a b'"),
        (["NODES=2", "SEED=7", "JSON=out.json"], "--nodes '2' --seed '7' --json 'out.json'"),
    ],
)
def test_variables_of_the_demo_become_its_options(given: list[str], options: str) -> None:
    command = _make("--dry-run", "demo", *given).stdout.splitlines()[-1]
    assert command.split() == f".venv/bin/outrider demo {options}".split()


def test_pytest_speaks_last_when_the_tests_run() -> None:
    for target in ("test", "test-all"):
        commands = _make("--dry-run", target).stdout.splitlines()
        assert "-m pytest" in commands[-1]
        assert sum("-m pytest" in command for command in commands) == 1


def test_install_without_a_python_says_what_to_do(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    for given, words in (("PYTHON=", "none was found"), ("PYTHON=/absent/python3", "older or does not run")):
        done = _make("--file", str(tree.ROOT / "Makefile"), "--directory", str(tmp_path), "install", given)
        assert done.returncode == 2
        assert words in done.stderr
        assert not (tmp_path / ".venv").exists()


def test_the_reviewers_command_is_executable_and_calls_make_test() -> None:
    script = tree.ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().splitlines()[-1] == "exec make --no-print-directory test"


def _make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # A make that runs these tests hands its own options down; they would change what this one prints.
    quiet = {
        "MESH",
        "FAULTS",
        "STEPS",
        "NODES",
        "SEED",
        "STATE",
        "JSON",
        "HEADLESS",
        "MAKEFLAGS",
        "MFLAGS",
        "MAKELEVEL",
    }
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    return subprocess.run(["make", *arguments], cwd=tree.ROOT, env=environment, capture_output=True, text=True)
