"""What is installed: packages of our own names, real files, and nothing that anyone else wrote."""

import os
import pathlib
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests.style import tree

EXTRA_MARKER = "extra =="
# Where the symbolic links of the tree point to, and where their files stand once installed.
LINKED = {"runbooks": "outrider_controller/runbooks", "examples": "outrider_cli/examples"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """The source archive, the wheel made from the tree, and the wheel made from the source archive."""
    folder = tmp_path_factory.mktemp("built")
    _build(tree.ROOT, folder / "tree", "wheel")
    _build(tree.ROOT, folder / "source", "sdist")
    source = next((folder / "source").glob("*.tar.gz"))
    with tarfile.open(source) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    _build(next((folder / "unpacked").iterdir()), folder / "again", "wheel")
    return {
        "source": source,
        "wheel": next((folder / "tree").glob("*.whl")),
        "wheel from source": next((folder / "again").glob("*.whl")),
    }


def test_only_our_own_names_reach_site_packages(built: dict[str, pathlib.Path]) -> None:
    top = {name.split("/")[0] for name in _contents(built["wheel"])}
    assert {name for name in top if not name.endswith(".dist-info")} == set(tree.PACKAGES)


def test_runbooks_and_examples_are_real_files_in_the_wheel(built: dict[str, pathlib.Path]) -> None:
    contents = _contents(built["wheel"])
    for folder, place in LINKED.items():
        expected = {
            f"{place}/{path.relative_to(tree.ROOT / folder).as_posix()}": path.read_bytes()
            for path in tree.files()
            if path.is_relative_to(tree.ROOT / folder)
        }
        assert {name: data for name, data in contents.items() if name.startswith(f"{place}/")} == expected


def test_a_wheel_from_the_source_archive_is_the_same_wheel(built: dict[str, pathlib.Path]) -> None:
    assert _contents(built["wheel from source"]) == _contents(built["wheel"])


def test_the_source_archive_holds_the_linked_folders_under_both_names(built: dict[str, pathlib.Path]) -> None:
    with tarfile.open(built["source"]) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    names = {member.name.split("/", 1)[1] for member in members}
    for folder in LINKED:
        expected = {tree.name(path) for path in tree.files() if path.is_relative_to(tree.ROOT / folder)}
        assert {name for name in names if name.startswith(f"{folder}/")} == expected


def test_the_base_install_depends_on_nothing(built: dict[str, pathlib.Path]) -> None:
    metadata = next(data for name, data in _contents(built["wheel"]).items() if name.endswith("/METADATA")).decode()
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    assert needed
    assert not [line for line in needed if EXTRA_MARKER not in line]


@pytest.mark.parametrize("package", ["outrider", "outrider_analysis"])
def test_client_and_analysis_import_in_a_bare_interpreter(built: dict[str, pathlib.Path], package: str) -> None:
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import {package}; print(*sys.modules)"
    done = _run(sys.executable, "-I", "-S", "-c", code, str(built["wheel"]))
    loaded = {name.split(".")[0] for name in done.split()}
    assert loaded <= sys.stdlib_module_names | set(tree.PACKAGES) | {"__main__"}


def test_a_fresh_environment_gets_a_working_command_and_no_library(
    built: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    _run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python = str(tmp_path / "venv/bin/python")
    before = set(_run(python, "-m", "pip", "list", "--format=freeze").split())
    # Without an index there is nowhere to take a library from, so a dependency would end this with an error.
    _run(python, "-m", "pip", "install", "--quiet", "--no-index", str(built["wheel"]))
    after = set(_run(python, "-m", "pip", "list", "--format=freeze").split())
    assert {line.split("==")[0] for line in after - before} == {"outrider"}
    assert "usage: outrider" in _run(str(tmp_path / "venv/bin/outrider"), "--help")


def _build(root: pathlib.Path, folder: pathlib.Path, target: str) -> None:
    _run(sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder), cwd=root)


def _run(*command: str, cwd: pathlib.Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def _contents(wheel: pathlib.Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
