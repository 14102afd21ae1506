"""Which checkpoint is trusted, and which is taken for a restart: what is whole is trusted, the rest has a reason."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outrider import clock
from outrider_analysis import checkpoints as analysis
from outrider_controller import checkpoint_effects, checkpoints, effects, finding, manifests, retention
from outrider_controller.core import jobs, records
from outrider_controller.launchers import agents, orders
from outrider_controller.verification import files
from tests import saves
from tests.saves import change, foreign, saved


def listing(directory: Path, layout: str = "dcp", **how: Any) -> dict[str, Any]:
    """The document of the list."""
    return asyncio.run(checkpoints.listing(directory, layout, **how))


def find(directory: Path, **wanted: Any) -> dict[str, Any]:
    """The answer to a restart."""
    return asyncio.run(finding.find(finding.Wanted(directory, **{"run": "demo", **wanted})))


def verdict(path: Path, **how: Any) -> dict[str, Any]:
    """The verdict on one checkpoint among its siblings."""
    seen = checkpoints.surroundings(path, how.pop("layout", "dcp"))
    return asyncio.run(checkpoints.verified(seen, str(path), **how))


def known(path: Path, **how: Any) -> dict[str, Any]:
    """What the core keeps of a verdict."""
    found = verdict(path, **how)
    return {str(path): {key: found[key] for key in ("trust", "fingerprint", "tree")}}


def untouched(path: Path, trust: str = "loadable") -> dict[str, Any]:
    """What the core would keep of one that was verified and is as it was then."""
    return {str(path): {"trust": trust, "fingerprint": files.fingerprint_of(path), "tree": ""}}


# ---------------------------------------------------------------- the list


def test_the_newest_trusted_checkpoint_is_the_one_to_resume_from(tmp_path: Path) -> None:
    saved(tmp_path, 8)
    newest = saved(tmp_path, 16, attempt=1)
    (tmp_path / ".tmp-step-00000024-attempt-001-2").mkdir()
    (tmp_path / "notes.txt").write_text("not a folder")
    found = listing(tmp_path)
    assert found["resume_from"] == str(newest)
    assert [(c["step"], c["attempt"], c["trust"], c["layout"]) for c in found["checkpoints"]] == [
        (16, 1, "loadable", "dcp"),
        (8, 0, "loadable", "dcp"),
    ]
    assert found["checkpoints"][0]["files"] == 4
    assert set(found["checkpoints"][0]) == {"path", "step", "attempt", "layout", "trust", "problems", "bytes", "files"}
    assert [c["trust"] for c in listing(tmp_path, quick=True)["checkpoints"]] == ["complete", "complete"]


def test_of_two_attempts_at_one_step_the_later_one_is_taken(tmp_path: Path) -> None:
    later = saved(tmp_path, 8, attempt=3)
    saved(tmp_path, 8, attempt=1)
    assert listing(tmp_path, quick=True)["resume_from"] == str(later)


def _zero(path: Path) -> None:
    data = (path / "__1_0.distcp").read_bytes()
    (path / "__1_0.distcp").write_bytes(data[:400] + bytes(100) + data[500:])


def _link(path: Path) -> None:
    (path / "__0_0.distcp").rename(path.parent / "elsewhere")
    (path / "__0_0.distcp").symlink_to(path.parent / "elsewhere")


def _pipe(path: Path) -> None:
    (path / "manifest.json").unlink()
    os.mkfifo(path / "manifest.json")


def _huge(path: Path) -> None:
    with (path / "manifest.json").open("wb") as file:
        file.truncate(manifests.MANIFEST_BYTES_MAX + 1)


def _linked_folder(path: Path) -> None:
    (path.parent / ".away").mkdir()
    (path / "sub").symlink_to(path.parent / ".away")


def _older_file_of_the_same_rank(path: Path) -> None:
    shutil.copy(path.parent / "step-00000008-attempt-000/__1_0.distcp", path / "__1_0.distcp")


def _torn_overwrite(path: Path) -> None:
    for name in ("__0_0.distcp", "__1_0.distcp"):
        (path / name).write_bytes(saves.content(99)[name])


def _replace(path: Path, text: bytes) -> None:
    (path / "manifest.json").write_bytes(text)


def _claim(path: Path, name: str, **about: Any) -> None:
    files = json.loads((path / "manifest.json").read_text())["files"]
    change(path, files={**files, name: {"bytes": 1, "sha256": "0" * 64, **about}})


def _strange_digest(path: Path) -> None:
    _replace(path, (path / "manifest.json").read_bytes()[:-1] + b', "digest": "' + b"1" * 64 + b'"}')


def _manifest_of(path: Path, step: int) -> None:
    shutil.copy(path.parent / f"step-{step:08d}-attempt-000/manifest.json", path / "manifest.json")


def _hostile_metadata(path: Path) -> None:
    (path / ".metadata").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    saves.describe(path, 16)


def _drop(path: Path, name: str) -> None:
    (path / name).unlink()


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "bit in the payload": (lambda p: saves.flip(p / "__1_0.distcp", 8 * 400), "sha256"),
    "bit in a header": (lambda p: saves.flip(p / "__0_0.distcp", 8 * 26), "sha256"),
    "bit in the padding": (lambda p: saves.flip(p / "__0_0.distcp", 8 * 55), "sha256"),
    "bit in the metadata": (lambda p: saves.flip(p / ".metadata", 8 * 300), ""),
    "zeroed": (_zero, "sha256"),
    "truncated": (lambda p: os.truncate(p / "__0_0.distcp", 700), "size"),
    "emptied": (lambda p: os.truncate(p / "__0_0.distcp", 0), "size"),
    "grown": (lambda p: os.truncate(p / "__0_0.distcp", 100_000), "size"),
    "missing": (lambda p: _drop(p, "__0_0.distcp"), "missing"),
    "extra": (lambda p: (p / "__7_0.distcp").write_bytes(b"x"), "extra"),
    "another rank's file": (lambda p: shutil.copy(p / "__0_0.distcp", p / "__1_0.distcp"), "size"),
    "older file of the same rank": (_older_file_of_the_same_rank, "sha256"),
    "torn overwrite": (_torn_overwrite, "sha256"),
    "no metadata": (lambda p: _drop(p, ".metadata"), "missing"),
    "hostile metadata": (_hostile_metadata, "pickle"),
    "no manifest": (lambda p: _drop(p, "manifest.json"), "missing"),
    "manifest of another step": (lambda p: _manifest_of(p, 8), "step"),
    "manifest of another attempt": (lambda p: change(p, attempt=5), "attempt"),
    "manifest of another run": (lambda p: change(p, run="another"), "run"),
    "not json": (lambda p: _replace(p, b"\xff\xfe{"), "not-a-manifest"),
    "nested": (lambda p: _replace(p, b"[" * 100_000), "not-a-manifest"),
    "list": (lambda p: _replace(p, b"[]"), "not-a-manifest"),
    "empty": (lambda p: _replace(p, b""), "not-a-manifest"),
    "negative size": (lambda p: _claim(p, "__0_0.distcp", bytes=-1), "size"),
    "size as text": (lambda p: _claim(p, "__0_0.distcp", bytes="16"), "not-a-manifest"),
    "size true": (lambda p: _claim(p, "__0_0.distcp", bytes=True), "not-a-manifest"),
    "parent": (lambda p: _claim(p, "../../etc/passwd"), "path"),
    "absolute": (lambda p: _claim(p, "/etc/passwd"), "path"),
    "nul": (lambda p: _claim(p, "a\0b"), "path"),
    "long name": (lambda p: _claim(p, "x" * 5000), "path"),
    "name of nothing": (lambda p: _claim(p, ""), "path"),
    "no hash": (lambda p: _claim(p, "__0_0.distcp", sha256=""), "no-sha256"),
    "strange key": (lambda p: change(p, stpe=16), "key"),
    "mesh of another world": (lambda p: change(p, mesh="dp=4"), "value"),
    "time that is none": (lambda p: change(p, saved_at="2026-13-31"), "value"),
    "digest of another": (
        lambda p: _replace(p, (p / "manifest.json").read_bytes()[:-1] + b', "digest": "1"}'),
        "sha256",
    ),
    "format": (lambda p: change(p, format=2), "format"),
    "step negative": (lambda p: change(p, step=-1), "step"),
    "step huge": (lambda p: change(p, step=10**18), "step"),
    "step as text": (lambda p: change(p, step="16"), "not-a-manifest"),
    "no files": (lambda p: change(p, files={}), "no-files"),
    "link": (_link, "symlink"),
    "linked folder": (_linked_folder, "symlink"),
    "pipe": (_pipe, "not-a-file"),
    "pipe beside": (lambda p: os.mkfifo(p / "pipe"), "not-a-file"),
    "huge manifest": (_huge, "too-large"),
    "hostile name": (lambda p: (p / "a\nb").write_bytes(b"x"), "name"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_or_hostile_checkpoint_is_rejected_with_its_reason_and_the_one_before_is_taken(
    tmp_path: Path, harm: str
) -> None:
    good, bad = saved(tmp_path, 8), saved(tmp_path, 16)
    before = untouched(good)
    do, kind = HARMS[harm]
    do(bad)
    answer = find(tmp_path, known=before)
    assert (answer["path"], answer["step"], answer["trust"]) == (str(good), 8, "loadable")
    assert [item["path"] for item in answer["rejected"]] == [str(bad)]
    [found] = answer["judged"]
    assert found["trust"] == "rejected"
    assert kind in ("", found["problems"][0]["kind"]), found["problems"]


def test_a_device_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, 8)
    (path / "__0_0.distcp").unlink()
    try:
        os.mknod(path / "__0_0.distcp", 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")
    assert [p["kind"] for p in verdict(path)["problems"]] == ["not-a-file"]


def test_a_link_in_the_place_of_a_checkpoint_is_turned_down(tmp_path: Path) -> None:
    real = saved(tmp_path / "other", 8)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/step-00000008-attempt-000").symlink_to(real)
    found = listing(tmp_path / "here")
    assert found["resume_from"] is None
    assert found["checkpoints"][0]["problems"][0]["kind"] == "symlink"


def test_many_missing_files_are_one_finding_with_a_count(tmp_path: Path) -> None:
    path = saved(tmp_path, 8)
    change(path, files={f"f{number}": {"bytes": 1, "sha256": "0" * 64} for number in range(500)})
    found = verdict(path)
    assert len(found["problems"]) == analysis.PROBLEMS_MAX + 1
    assert "483 more" in found["problems"][-1]["text"]  # and the three that the manifest does not name


# ---------------------------------------------------------------- checkpoints of others


def test_a_foreign_checkpoint_is_complete_at_first_and_proven_once_it_is_seen_again(tmp_path: Path) -> None:
    path = foreign(tmp_path, 100)
    first = verdict(path)
    assert (first["trust"], first["step"], first["attempt"]) == ("complete", 100, None)
    assert "no manifest" in first["notes"][0]
    assert verdict(path, tree=first["tree"])["trust"] == "loadable"


def test_a_foreign_checkpoint_that_changed_since_it_was_verified_is_rejected_though_it_is_whole(tmp_path: Path) -> None:
    path = foreign(tmp_path, 100)
    before = known(path)
    (path / "__1_0.distcp").write_bytes(saves.content(50)["__1_0.distcp"])
    os.utime(path / ".metadata")
    assert verdict(path)["trust"] == "complete"
    answer = find(tmp_path, known=before)
    assert answer["path"] == ""
    assert [p["kind"] for p in answer["judged"][0]["problems"]] == ["changed"]


FOREIGN_HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "bit in the payload": (lambda p: saves.flip(p / "__1_0.distcp", 8 * 400), "checksum"),
    "bit in a header": (lambda p: saves.flip(p / "__0_0.distcp", 8 * 26), "checksum"),
    "bit in the padding": (lambda p: saves.flip(p / "__0_0.distcp", 8 * 55), "checksum"),
    "truncated": (lambda p: os.truncate(p / "__0_0.distcp", 700), "size"),
    "missing": (lambda p: _drop(p, "__0_0.distcp"), "missing"),
    "no metadata": (lambda p: _drop(p, ".metadata"), "missing"),
    "metadata cut": (lambda p: os.truncate(p / ".metadata", 600), "pickle"),
    "torn": (lambda p: os.utime(p / ".metadata", (1e9, 1e9)), "torn"),
    "another rank's file": (lambda p: shutil.copy(p / "__0_0.distcp", p / "__1_0.distcp"), "size"),
}


@pytest.mark.parametrize("harm", FOREIGN_HARMS)
def test_without_a_manifest_sizes_checksums_and_times_tell(tmp_path: Path, harm: str) -> None:
    good, bad = foreign(tmp_path, 100), foreign(tmp_path, 200)
    before = untouched(good, "complete")
    do, kind = FOREIGN_HARMS[harm]
    do(bad)
    answer = find(tmp_path, known=before)
    assert (answer["path"], answer["trust"]) == (str(good), "complete")
    assert answer["judged"][0]["problems"][0]["kind"] == kind


def test_other_files_beside_a_foreign_checkpoint_are_no_reason_against_it(tmp_path: Path) -> None:
    path = foreign(tmp_path, 100)
    (path / "config.json").write_text("{}")
    (path / "__9_0.distcp").write_bytes(b"left by a larger world")
    found = verdict(path)
    assert found["trust"] == "complete"
    assert any("__9_0.distcp" in note for note in found["notes"])


def test_a_folder_without_a_step_is_no_checkpoint_to_resume_from(tmp_path: Path) -> None:
    foreign(tmp_path, 1, name="newest")
    assert listing(tmp_path)["checkpoints"][0]["problems"][0]["kind"] == "no-step"


def test_where_siblings_carry_manifests_one_without_is_rejected(tmp_path: Path) -> None:
    ours = saved(tmp_path, 50)
    bare = foreign(tmp_path, 100)
    answer = find(tmp_path)
    assert answer["path"] == str(ours)
    assert answer["rejected"] == [{"path": str(bare), "why": answer["rejected"][0]["why"]}]
    assert "manifest.json: is missing" in answer["rejected"][0]["why"]


def test_checkpoints_of_the_run_before_are_forerunners_and_later_ones_are_strangers(tmp_path: Path) -> None:
    before = saved(tmp_path, 8, run="before")
    assert find(tmp_path)["path"] == str(before)
    own = saved(tmp_path, 16)
    stranger = saved(tmp_path, 24, run="before")
    answer = find(tmp_path)
    assert answer["path"] == str(own)
    assert [item["path"] for item in answer["rejected"]] == [str(stranger)]
    shutil.rmtree(own)
    saved(tmp_path, 12, attempt=4)
    assert verdict(before)["trust"] == "loadable"


# ---------------------------------------------------------------- Megatron


def megatron(folder: Path, step: int, ranks: tuple[str, ...] = ("00", "01")) -> Path:
    """The format with a file a rank."""
    path = folder / f"iter_{step:07d}"
    for rank in ranks:
        (path / f"mp_rank_{rank}").mkdir(parents=True)
        (path / f"mp_rank_{rank}/model_optim_rng.pt").write_bytes(saves.entry(bytes([step % 251]) * 100))
    return path


def test_of_megatron_the_iteration_that_its_tracker_names_is_taken(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        megatron(tmp_path, step)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("200\n")
    found = listing(tmp_path, "megatron")
    assert [(c["step"], c["trust"]) for c in found["checkpoints"]] == [
        (300, "rejected"),
        (200, "complete"),
        (100, "rejected"),
    ]
    path = found["resume_from"]
    assert path == str(tmp_path / "iter_0000200")
    assert checkpoints.load_argument(path, "megatron") == str(tmp_path)
    assert checkpoints.load_argument(path, "dcp") == path
    assert "lists no files" in verdict(Path(path), layout="megatron")["notes"][0]


@pytest.mark.parametrize("tracker", [None, "release", "", "9" * 60, "١٢"])
def test_a_megatron_tracker_that_names_no_iteration_rejects_all(tmp_path: Path, tracker: str | None) -> None:
    megatron(tmp_path, 100)
    if tracker is not None:
        (tmp_path / "latest_checkpointed_iteration.txt").write_text(tracker)
    found = listing(tmp_path, "megatron")
    assert found["resume_from"] is None
    assert found["checkpoints"][0]["problems"][0]["file"] == "latest_checkpointed_iteration.txt"


@pytest.mark.parametrize(
    ("do", "kind"),
    [
        (lambda p: saves.flip(p / "mp_rank_01/model_optim_rng.pt", 8 * 300), "checksum"),
        (lambda p: os.truncate(p / "mp_rank_01/model_optim_rng.pt", 0), "size"),
        (lambda p: shutil.rmtree(p / "mp_rank_00"), "missing"),
        (lambda p: (p / "mp_rank_01/model_optim_rng.pt").rename(p / "mp_rank_01/other.pt"), "missing"),
        (lambda p: shutil.rmtree(p / "mp_rank_00") or shutil.rmtree(p / "mp_rank_01"), "empty"),
    ],
)
def test_a_damaged_megatron_checkpoint_is_rejected(tmp_path: Path, do: Callable[[Path], object], kind: str) -> None:
    path = megatron(tmp_path, 100)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("100")
    do(path)
    assert verdict(path, layout="megatron")["problems"][0]["kind"] == kind


def test_a_distributed_checkpoint_of_megatron_is_held_to_all_that_dcp_is(tmp_path: Path) -> None:
    path = tmp_path / "iter_0000100"
    saves.write(path, {**saves.content(100), "common.pt": saves.entry(b"args"), "metadata.json": b'{"a": 1}'})
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("100")
    assert verdict(path, layout="megatron")["trust"] == "complete"
    saves.flip(path / "common.pt", 8 * 300)
    assert verdict(path, layout="megatron")["problems"][0]["kind"] == "checksum"
    (path / "common.pt").unlink()
    assert verdict(path, layout="megatron")["problems"][0]["kind"] == "missing"


# ---------------------------------------------------------------- the choice for a restart


def test_what_is_known_and_untouched_is_trusted_without_reading_it(tmp_path: Path) -> None:
    saved(tmp_path, 8)
    newest = saved(tmp_path, 16)
    before = untouched(newest, "survived")
    answer = find(tmp_path, known=before)
    assert (answer["path"], answer["trust"], answer["judged"]) == (str(newest), "survived", [])
    os.utime(newest / "__0_0.distcp")
    answer = find(tmp_path, known=before)
    assert (answer["path"], answer["trust"]) == (str(newest), "loadable")
    assert [item["path"] for item in answer["judged"]] == [str(newest)]


def test_what_was_found_damaged_and_is_untouched_is_not_read_again(tmp_path: Path) -> None:
    good, bad = saved(tmp_path, 8), saved(tmp_path, 16)
    saves.flip(bad / "__0_0.distcp", 4000)
    answer = find(tmp_path, known=untouched(bad, "rejected"))
    assert answer["path"] == str(good)
    assert [item["path"] for item in answer["judged"]] == [str(good)]
    assert "has not changed since" in answer["rejected"][0]["why"]


def test_what_is_distrusted_or_too_new_is_not_taken(tmp_path: Path) -> None:
    paths = {step: saved(tmp_path, step) for step in (8, 16, 24, 32)}
    answer = find(tmp_path, before_step=30, distrusted={str(paths[24]): "the job crashed soon after loading it"})
    assert answer["path"] == str(paths[16])
    assert answer["rejected"] == [
        {"path": str(paths[32]), "why": "is not from before step 30"},
        {"path": str(paths[24]), "why": "the job crashed soon after loading it"},
    ]
    assert find(tmp_path, before_step=8)["path"] == ""
    assert find(tmp_path, before_step=9)["step"] == 8


def test_when_the_time_is_over_the_newest_that_is_known_is_taken_and_else_the_newest_complete(tmp_path: Path) -> None:
    paths = [saved(tmp_path, step) for step in (8, 16, 24)]
    answer = find(tmp_path, known=untouched(paths[0]), within_s=0.0)
    assert (answer["path"], answer["trust"]) == (str(paths[0]), "loadable")
    assert [item["path"] for item in answer["passed_over"]] == [str(paths[2]), str(paths[1])]
    os.truncate(paths[2] / "__0_0.distcp", 10)
    answer = find(tmp_path, within_s=0.0)
    assert (answer["path"], answer["trust"]) == (str(paths[1]), "complete")
    assert "not verified further" in answer["note"]
    assert [item["path"] for item in answer["rejected"]] == [str(paths[2])]


def test_one_that_cannot_be_looked_at_is_passed_over_and_never_leads_to_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, other = saved(tmp_path, 8), saved(tmp_path, 16)
    monkeypatch.setattr(sys, "executable", "/bin/false")  # a verifier that ends at once, as where memory is short
    answer = find(tmp_path, known=untouched(good))
    assert (answer["path"], answer["rejected"]) == (str(good), [])
    assert [item["path"] for item in answer["passed_over"]] == [str(other)]
    assert "exit status 1" in answer["passed_over"][0]["why"]
    with pytest.raises(checkpoints.CheckpointError, match="no checkpoint could be trusted"):
        find(tmp_path)


def test_a_directory_that_cannot_be_read_is_an_error_and_never_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(checkpoints.CheckpointError, match="cannot be looked for"):
        find(tmp_path / "file")
    with pytest.raises(checkpoints.CheckpointError, match="cannot be looked for"):
        find(tmp_path / "missing-mount" / "checkpoints")
    assert find(tmp_path / "not-made-yet")["path"] == ""


# ---------------------------------------------------------------- the effects


def performed(directory: Path, name: str, incident: str | None = None, **args: Any) -> records.EffectDone:
    """What an effect brings."""
    spec = jobs.parse({"name": "demo", "command": ["x"], "checkpoint_dir": str(directory)})
    wanted = records.EffectRequested(1.0, "demo", "demo-e1", name, args, incident)
    launcher = agents.AgentsLauncher(orders.Orders(clock.RealClock()), clock.RealClock(), "ledger")

    async def nobody(job: str, found: str) -> None:
        return None

    return asyncio.run(effects.Effects(launcher, clock.RealClock(), "ledger", (), nobody).perform(wanted, spec))


def found_for(directory: Path, generation: int, incident: str | None) -> records.EffectDone:
    return performed(directory, "find-checkpoint", incident, generation=generation)


def test_the_first_look_makes_the_directory_and_a_later_one_does_not_take_an_empty_place_for_it(tmp_path: Path) -> None:
    directory = tmp_path / "mount" / "run"
    first = found_for(directory, 1, None)
    assert first.ok, first.error
    assert first.result["path"] == ""
    saved(directory, 8)
    assert found_for(directory, 2, "demo-1").result["step"] == 8
    (tmp_path / "mount").rename(tmp_path / "elsewhere")
    directory.mkdir(parents=True)  # what is left when a file system is no longer mounted
    gone = found_for(directory, 3, "demo-2")
    assert not gone.ok
    assert "is gone" in (gone.error or "")
    (directory / checkpoint_effects.FENCE).touch()
    assert found_for(directory, 3, "demo-2").result["path"] == ""


def test_a_directory_that_cannot_be_made_fails_the_look(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = found_for(tmp_path / "file" / "run", 1, None)
    assert not done.ok
    assert "NotADirectoryError" in (done.error or "")


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


def test_a_relative_directory_of_checkpoints_counts_from_where_the_ranks_run() -> None:
    spec = jobs.parse({"name": "a", "command": ["x"], "cwd": "/data/run", "checkpoint_dir": "ckpt"})
    assert checkpoint_effects.checkpoint_dir(spec) == Path("/data/run/ckpt")
    assert checkpoint_effects.absolute(spec, "ckpt/../ckpt/step-8") == "/data/run/ckpt/step-8"
    assert checkpoint_effects.checkpoint_dir(jobs.parse({"name": "a", "command": ["x"]})) is None


def test_a_saved_checkpoint_is_verified_and_one_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    path = saved(tmp_path, 8)
    done = performed(tmp_path, "verify-checkpoint", path=str(path), step=8)
    assert done.ok, done.error
    expected = {"path", "step", "trust", "fingerprint", "tree", "problems", "bytes", "files", "seconds", "gone"}
    assert expected <= set(done.result)
    assert (done.result["trust"], done.result["gone"], done.result["step"]) == ("loadable", False, 8)
    other = performed(tmp_path, "verify-checkpoint", path=str(path), step=9)
    assert [p["kind"] for p in other.result["problems"]] == ["step"]
    shutil.rmtree(path)
    gone = performed(tmp_path, "verify-checkpoint", path=str(path), step=8)
    assert (gone.result["gone"], gone.result["problems"]) == (True, [])


def test_a_later_look_knows_the_content_of_the_first(tmp_path: Path) -> None:
    path = foreign(tmp_path, 8)
    first = performed(tmp_path, "verify-checkpoint", path=str(path), step=8).result
    again = performed(tmp_path, "verify-checkpoint", path=str(path), step=8, tree=first["tree"]).result
    assert (first["trust"], again["trust"]) == ("complete", "loadable")
    (path / "__1_0.distcp").write_bytes(saves.content(7)["__1_0.distcp"])
    changed = performed(tmp_path, "verify-checkpoint", path=str(path), step=8, tree=first["tree"]).result
    assert [p["kind"] for p in changed["problems"]] == ["changed"]


def test_old_checkpoints_go_and_protected_newest_and_strange_ones_stay(tmp_path: Path) -> None:
    paths = [saved(tmp_path, step) for step in (8, 16, 24, 32, 40)]
    (tmp_path / "notes-1").mkdir()
    (tmp_path / "step-00000001-attempt-000").symlink_to(paths[0])
    (tmp_path / ".removing-step-00000004-attempt-000").mkdir()
    protect = [str(paths[3]), str(paths[1])]
    done = performed(tmp_path, "prune-checkpoints", keep=2, protect=protect)
    assert done.ok, done.error
    assert done.result["removed"] == [str(paths[0])]
    assert {path.name for path in tmp_path.iterdir()} == {
        "notes-1",
        "step-00000001-attempt-000",
        *(path.name for path in paths[1:]),
    }
    assert performed(tmp_path, "prune-checkpoints", keep=1, protect=[]).result["removed"] == []


def test_the_choice_of_what_goes_spares_what_is_needed() -> None:
    newest_first = [f"step-{step}" for step in (50, 40, 30, 20, 10)]
    assert retention.choose(newest_first, 2, {"step-40"}) == ["step-10", "step-20"]
    assert retention.choose(newest_first, 1, {"step-40", "step-10"}) == ["step-20", "step-30"]
    assert retention.choose(newest_first, 9, {"step-40"}) == []
    assert retention.choose(newest_first, 0, {"step-40"}) == []
    assert retention.choose(newest_first, 1, {"step-60"}) == []
