"""The verifier on checkpoints that torch wrote: those of the example job are trusted, and no flipped bit of one is."""

import asyncio
import json
import pathlib
import shutil
import subprocess
import sys
import typing

import pytest

import llama4d_manifest as manifest
from outrider_analysis.checkpoints import metadata
from outrider_controller import checkpoints
from tests import saves
from tests.examples import job

SWEEP = pathlib.Path(__file__).resolve().parents[1] / "controller" / "sweep_flips.py"
SAVING = ["--checkpoint-every", "1", "--layers", "2"]


def listing(folder: pathlib.Path) -> list[dict[str, typing.Any]]:
    """Verdicts on all of a directory."""
    found: list[dict[str, typing.Any]] = asyncio.run(checkpoints.listing(folder))["checkpoints"]
    return found


@pytest.fixture(scope="module")
def saved(start: job.Starter, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Three checkpoints of two ranks, saved in the background."""
    folder = tmp_path_factory.mktemp("saved")
    mesh = ["--mesh", "dp=2", "--steps", "3", "--async-checkpoint"]
    ended = start(2, *mesh, *SAVING, "--checkpoint-dir", str(folder))
    assert ended.codes == [0, 0], ended.errors
    return folder


def test_what_the_job_saved_is_loadable(saved: pathlib.Path) -> None:
    found = listing(saved)
    assert [(item["step"], item["trust"], item["problems"]) for item in found] == [
        (3, "loadable", []),
        (2, "loadable", []),
        (1, "loadable", []),
    ]


def sweep(path: pathlib.Path, count: int, seed: int, how: str) -> list[typing.Any]:
    command = [sys.executable, str(SWEEP), str(path), str(count), str(seed), how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    missed: list[typing.Any] = json.loads(done.stdout)["missed"]
    return missed


@pytest.mark.parametrize(("count", "seed"), [(30, 1), pytest.param(300, 2, marks=pytest.mark.slow)])
def test_no_flip_of_a_bit_that_torch_wrote_goes_unnoticed(
    saved: pathlib.Path, tmp_path: pathlib.Path, count: int, seed: int
) -> None:
    whole = tmp_path / "whole" / "step-00000003-attempt-000"
    shutil.copytree(saved / whole.name, whole)
    (whole / "manifest.json").unlink()
    saves.describe(whole, 3, digest="", mesh="dp=2", world_size=2)
    assert sweep(whole, count, seed, "manifest") == []
    bare = tmp_path / "bare" / "step-3"
    shutil.copytree(whole, bare)
    (bare / "manifest.json").unlink()
    assert sweep(bare, count, seed, "bare") == []


def test_the_metadata_of_every_kind_of_state_is_read(tmp_path: pathlib.Path) -> None:
    script = (
        "import sys, torch, torch.distributed.checkpoint as dcp\n"
        "state = {'empty': torch.empty(0, 3), 'scalar': torch.tensor(1.0), 'half': torch.ones(3).bfloat16(),\n"
        "  'eight': torch.ones(4).to(torch.float8_e4m3fn), 'flag': torch.ones(2, dtype=torch.bool),\n"
        "  'strided': torch.ones(4, 6)[:, ::2], 'nested': {'list': [torch.ones(2), 3, 'text'], 'none': None},\n"
        "  'name \\u00e9\\n': torch.ones(1)}\n"
        "dcp.save(state, storage_writer=dcp.FileSystemWriter(sys.argv[1]), no_dist=True)\n"
        "torch.serialization.set_crc32_options(False)\n"
        "dcp.save(state, storage_writer=dcp.FileSystemWriter(sys.argv[2]), no_dist=True)\n"
    )
    folders = [tmp_path / "step-1", tmp_path / "step-2"]
    subprocess.run([sys.executable, "-c", script, *map(str, folders)], check=True, capture_output=True)
    summary = metadata.read((folders[0] / ".metadata").read_bytes())
    assert (summary.tensors, summary.problems) == (8, ())
    newest, first = listing(tmp_path)
    assert (first["trust"], newest["trust"]) == ("complete", "complete")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "ranks", "manner"),
    [
        ("dp=2,tp=2", 4, ["--async-checkpoint"]),
        ("pp=2,dp=2", 4, []),
        ("cp=2,dp=2", 4, ["--async-checkpoint"]),
        ("dp=3", 3, ["--global-batch", "9"]),
        ("dp=1", 1, ["--async-checkpoint"]),
    ],
)
def test_none_of_many_good_checkpoints_is_refused(
    start: job.Starter, tmp_path: pathlib.Path, mesh: str, ranks: int, manner: list[str]
) -> None:
    arguments = ["--mesh", mesh, "--steps", "10", *SAVING, *manner, "--checkpoint-dir", str(tmp_path)]
    ended = start(ranks, *arguments)
    assert ended.codes == [0] * ranks, ended.errors
    found = listing(tmp_path)
    assert len(found) == 10
    assert {item["trust"] for item in found} == {"loadable"}, found
    for item in found:
        (pathlib.Path(item["path"]) / manifest.MANIFEST).unlink()
        step = pathlib.Path(item["path"])
        step.rename(step.with_name(f"step-{item['step']}"))
    assert {item["trust"] for item in listing(tmp_path)} == {"complete"}
