"""The judge of checkpoints: what is whole is trusted, the rest is turned down with a reason, and no byte is obeyed."""

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from outrider import clock
from outrider_controller import checkpoint_effects, checkpoints, effects, manifests
from outrider_controller.core import jobs, records
from outrider_controller.launchers import agents, orders


def saved(folder: Path, step: int, attempt: int = 0, name: str = "", **changes: Any) -> Path:
    """A committed checkpoint."""
    path = folder / (name or f"step-{step:08d}-attempt-{attempt:03d}")
    path.mkdir(parents=True)
    content = {".metadata": b"meta", "__0_0.distcp": b"x" * step}
    for file, data in content.items():
        (path / file).write_bytes(data)
    files = {f: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for f, d in content.items()}
    about = {"run": "demo", "attempt": attempt, "generation": attempt + 1, "mesh": "dp=2", "world_size": 2}
    whole = {"format": 1, "step": step, **about, "saved_at": "2026-01-31T03:00:00+00:00", "files": files, **changes}
    (path / "manifest.json").write_text(json.dumps(whole))
    return path


def test_the_newest_complete_checkpoint_is_the_one_to_resume_from(tmp_path: Path) -> None:
    saved(tmp_path, 8)
    newest = saved(tmp_path, 16, attempt=1)
    (tmp_path / ".tmp-step-00000024-attempt-001-2").mkdir()
    (tmp_path / "notes.txt").write_text("not a folder")
    found = checkpoints.listing(tmp_path)
    assert found["resume_from"] == str(newest)
    assert [(c["step"], c["attempt"], c["trust"], c["layout"]) for c in found["checkpoints"]] == [
        (16, 1, "complete", "dcp"),
        (8, 0, "complete", "dcp"),
    ]
    assert found["checkpoints"][0]["bytes"] > 16
    assert found["checkpoints"][0]["files"] == 3
    assert set(found["checkpoints"][0]) == {"path", "step", "attempt", "layout", "trust", "problems", "bytes", "files"}


def test_of_two_attempts_at_one_step_the_later_one_is_taken(tmp_path: Path) -> None:
    later = saved(tmp_path, 8, attempt=3)
    saved(tmp_path, 8, attempt=1)
    assert checkpoints.listing(tmp_path)["resume_from"] == str(later)


def _shorten(path: Path) -> None:
    (path / "__0_0.distcp").write_bytes(b"x" * 15)


def _remove(path: Path) -> None:
    (path / "__0_0.distcp").unlink()


def _no_metadata(path: Path) -> None:
    change(path, files={"__0_0.distcp": {"bytes": 16}})
    (path / ".metadata").unlink()


def change(path: Path, **changes: Any) -> None:
    """Give the manifest other values."""
    whole = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**whole, **changes}))


def _replace(path: Path, text: bytes) -> None:
    (path / "manifest.json").write_bytes(text)


def _link(path: Path) -> None:
    (path / "__0_0.distcp").rename(path.parent / "elsewhere")
    (path / "__0_0.distcp").symlink_to(path.parent / "elsewhere")


def _pipe(path: Path) -> None:
    (path / "manifest.json").unlink()
    os.mkfifo(path / "manifest.json")


def _huge(path: Path) -> None:
    with (path / "manifest.json").open("wb") as file:
        file.truncate(manifests.MANIFEST_BYTES_MAX + 1)


def _linked_manifest(path: Path) -> None:
    (path / "manifest.json").rename(path.parent / "other.json")
    (path / "manifest.json").symlink_to(path.parent / "other.json")


def _through_a_link(path: Path) -> None:
    (path.parent / ".away").mkdir()
    (path.parent / ".away/file").write_bytes(b"x")
    (path / "sub").symlink_to(path.parent / ".away")
    change(path, files={"sub/file": {"bytes": 1}})


HARMS: dict[str, tuple[Any, str]] = {
    "shortened": (_shorten, "size"),
    "missing": (_remove, "missing"),
    "no-metadata": (_no_metadata, "missing"),
    "not-json": (lambda p: _replace(p, b"\xff\xfe{"), "not-a-manifest"),
    "nested": (lambda p: _replace(p, b"[" * 100_000), "not-a-manifest"),
    "list": (lambda p: _replace(p, b"[]"), "not-a-manifest"),
    "empty": (lambda p: _replace(p, b""), "not-a-manifest"),
    "negative-size": (lambda p: change(p, files={"__0_0.distcp": {"bytes": -1}}), "size"),
    "size-text": (lambda p: change(p, files={"__0_0.distcp": {"bytes": "16"}}), "not-a-manifest"),
    "size-true": (lambda p: change(p, files={"__0_0.distcp": {"bytes": True}}), "not-a-manifest"),
    "parent": (lambda p: change(p, files={"../../etc/passwd": {"bytes": 1}}), "path"),
    "absolute": (lambda p: change(p, files={"/etc/passwd": {"bytes": 1}}), "path"),
    "nul": (lambda p: change(p, files={"a\0b": {"bytes": 1}}), "path"),
    "surrogate": (lambda p: _replace(p, (p / "manifest.json").read_bytes().replace(b"__0", b"\\ud800")), ""),
    "long-name": (lambda p: change(p, files={"x" * 5000: {"bytes": 1}}), "path"),
    "folder": (lambda p: change(p, files={"": {"bytes": 1}}), "path"),
    "format": (lambda p: change(p, format=2), "format"),
    "step-negative": (lambda p: change(p, step=-1), "step"),
    "step-huge": (lambda p: change(p, step=10**18), "step"),
    "step-text": (lambda p: change(p, step="16"), "not-a-manifest"),
    "no-files": (lambda p: change(p, files={}), "no-files"),
    "link": (_link, "symlink"),
    "through-a-link": (_through_a_link, "symlink"),
    "linked-manifest": (_linked_manifest, "symlink"),
    "pipe": (_pipe, "not-a-file"),
    "huge": (_huge, "too-large"),
    "no-manifest": (lambda p: (p / "manifest.json").unlink(), "missing"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_or_hostile_checkpoint_is_rejected_with_its_reason_and_the_one_before_is_taken(
    tmp_path: Path, harm: str
) -> None:
    good = saved(tmp_path, 8)
    bad = saved(tmp_path, 16)
    do, kind = HARMS[harm]
    do(bad)
    found = checkpoints.listing(tmp_path)
    judged = {item["path"]: item for item in found["checkpoints"]}
    assert found["resume_from"] == str(good)
    assert judged[str(bad)]["trust"] == "rejected"
    assert kind in ("", judged[str(bad)]["problems"][0]["kind"])
    answer = checkpoints.find(tmp_path)
    assert (answer["path"], answer["step"], answer["trust"]) == (str(good), 8, "complete")
    assert [item["path"] for item in answer["rejected"]] == ([str(bad)] if judged[str(bad)]["step"] == 16 else [])


def test_many_missing_files_are_one_finding_with_a_count(tmp_path: Path) -> None:
    path = saved(tmp_path, 8)
    change(path, files={f"f{number}": {"bytes": 1} for number in range(500)})
    [item] = checkpoints.listing(tmp_path)["checkpoints"]
    assert len(item["problems"]) == manifests.PROBLEMS_MAX + 1
    assert "480 more" in item["problems"][-1]["text"]


def test_a_link_in_the_place_of_a_checkpoint_is_turned_down(tmp_path: Path) -> None:
    real = saved(tmp_path / "other", 8)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/step-00000008-attempt-000").symlink_to(real)
    found = checkpoints.listing(tmp_path / "here")
    assert found["resume_from"] is None
    assert found["checkpoints"][0]["problems"][0]["kind"] == "symlink"


def test_a_foreign_checkpoint_is_written_and_taken_when_none_is_complete(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        (tmp_path / f"step-{step}").mkdir()
        (tmp_path / f"step-{step}/__0_0.distcp").write_bytes(b"x")
    for step in (100, 200):
        (tmp_path / f"step-{step}/.metadata").write_bytes(b"x")
    found = checkpoints.listing(tmp_path)
    assert [(c["step"], c["trust"]) for c in found["checkpoints"]] == [
        (300, "rejected"),
        (200, "written"),
        (100, "written"),
    ]
    assert found["resume_from"] == str(tmp_path / "step-200")
    ours = saved(tmp_path, 50)
    assert checkpoints.listing(tmp_path)["resume_from"] == str(ours)


def test_of_megatron_the_iteration_that_its_tracker_names_is_taken(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        (tmp_path / f"iter_{step:07d}/mp_rank_00").mkdir(parents=True)
        (tmp_path / f"iter_{step:07d}/mp_rank_00/model.pt").write_bytes(b"x")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("200\n")
    found = checkpoints.listing(tmp_path, "megatron")
    assert [(c["step"], c["trust"]) for c in found["checkpoints"]] == [
        (300, "rejected"),
        (200, "written"),
        (100, "rejected"),
    ]
    path = found["resume_from"]
    assert path == str(tmp_path / "iter_0000200")
    assert checkpoints.load_argument(path, "megatron") == str(tmp_path)
    assert checkpoints.load_argument(path, "dcp") == path


@pytest.mark.parametrize("tracker", [None, "release", "", "9" * 100, "١٢"])
def test_a_megatron_tracker_that_names_no_iteration_rejects_all(tmp_path: Path, tracker: str | None) -> None:
    (tmp_path / "iter_0000100").mkdir()
    (tmp_path / "iter_0000100/x").write_bytes(b"x")
    if tracker is not None:
        (tmp_path / "latest_checkpointed_iteration.txt").write_text(tracker)
    found = checkpoints.listing(tmp_path, "megatron")
    assert found["resume_from"] is None
    assert found["checkpoints"][0]["problems"][0]["file"] == "latest_checkpointed_iteration.txt"


def test_a_directory_that_cannot_be_read_is_an_error_and_never_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(checkpoints.CheckpointError, match="cannot be looked for"):
        checkpoints.find(tmp_path / "file")
    with pytest.raises(checkpoints.CheckpointError, match="cannot be looked for"):
        checkpoints.find(tmp_path / "missing-mount" / "checkpoints")
    assert checkpoints.find(tmp_path / "not-made-yet") == {"path": "", "step": 0, "trust": "", "rejected": []}


def test_the_fence_of_one_ledger_only_rises_and_another_ledgers_is_replaced(tmp_path: Path) -> None:
    fence = tmp_path / "new" / checkpoint_effects.FENCE
    fence.parent.mkdir()
    checkpoint_effects.raise_fence(fence.parent, 3, "a")
    checkpoint_effects.raise_fence(fence.parent, 2, "a")
    assert json.loads(fence.read_text())["generation"] == 3
    checkpoint_effects.raise_fence(fence.parent, 1, "b")
    assert json.loads(fence.read_text()) == {"generation": 1, "ledger": "b"}
    fence.write_text("[" * 1000)
    checkpoint_effects.raise_fence(fence.parent, 2, "b")
    assert json.loads(fence.read_text())["generation"] == 2
    assert [path.name for path in fence.parent.iterdir()] == [checkpoint_effects.FENCE]


def find(directory: Path, generation: int, incident: str | None) -> records.EffectDone:
    """What the effect brings."""
    spec = jobs.parse({"name": "demo", "command": ["x"], "checkpoint_dir": str(directory)})
    wanted = records.EffectRequested(1.0, "demo", "demo-e1", "find-checkpoint", {"generation": generation}, incident)
    launcher = agents.AgentsLauncher(orders.Orders(clock.RealClock()), clock.RealClock(), "ledger")

    async def nobody(job: str, found: str) -> None:
        return None

    return asyncio.run(effects.Effects(launcher, clock.RealClock(), "ledger", (), nobody).perform(wanted, spec))


def test_the_first_look_makes_the_directory_and_a_later_one_does_not_take_an_empty_place_for_it(tmp_path: Path) -> None:
    directory = tmp_path / "mount" / "run"
    first = find(directory, 1, None)
    assert first.ok
    assert first.result["path"] == ""
    saved(directory, 8)
    assert find(directory, 2, "demo-1").result["step"] == 8
    (tmp_path / "mount").rename(tmp_path / "elsewhere")
    directory.mkdir(parents=True)  # what is left when a file system is no longer mounted
    gone = find(directory, 3, "demo-2")
    assert not gone.ok
    assert "is gone" in (gone.error or "")
    (directory / checkpoint_effects.FENCE).touch()
    assert find(directory, 3, "demo-2").result["path"] == ""


def test_a_directory_that_cannot_be_made_fails_the_look(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = find(tmp_path / "file" / "run", 1, None)
    assert not done.ok
    assert "NotADirectoryError" in (done.error or "")


def test_a_relative_directory_of_checkpoints_counts_from_where_the_ranks_run() -> None:
    spec = jobs.parse({"name": "a", "command": ["x"], "cwd": "/data/run", "checkpoint_dir": "ckpt"})
    assert checkpoint_effects.checkpoint_dir(spec) == Path("/data/run/ckpt")
    assert checkpoint_effects.checkpoint_dir(jobs.parse({"name": "a", "command": ["x"]})) is None
