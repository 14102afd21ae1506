"""Checkpoints: what is on disk, who may commit it, and that going on from one changes nothing."""

import hashlib
import json
import pathlib

import pytest

import llama4d_manifest as manifest
from tests.examples import job

GAP_MAX = 5e-6
MESH = "dp=2,pp=2,cp=1,tp=1"  # four ranks
NOISY = ["--mesh", MESH, "--dropout", "0.1", "--checkpoint-every", "3"]
LABEL = manifest.Label(step=6, run="r", attempt=1, generation=7, mesh="dp=1", world_size=1)


def save_by_hand(folder: pathlib.Path, label: manifest.Label = LABEL, text: str = "weights") -> pathlib.Path:
    temporary = manifest.make_fresh(folder, label)
    (temporary / "data").write_text(text)
    manifest.write(temporary, label, {"data": manifest.describe(temporary / "data")})
    return manifest.commit(temporary, label)


# ---------------------------------------------------------------- going on as if nothing had happened


@pytest.fixture(scope="module")
def uninterrupted(start: job.Starter, tmp_path_factory: pytest.TempPathFactory) -> tuple[job.Ended, pathlib.Path]:
    """Ten steps with dropout on four ranks, saved in the background."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    ended = start(4, *NOISY, "--steps", "10", "--checkpoint-dir", str(folder), "--async-checkpoint")
    assert ended.codes == [0] * 4, ended.errors
    return ended, folder


@pytest.fixture(scope="module")
def killed(start: job.Starter, tmp_path_factory: pytest.TempPathFactory) -> tuple[job.Ended, pathlib.Path]:
    """The same with saves in the foreground, until a rank is killed."""
    folder = tmp_path_factory.mktemp("killed")
    slow = ["--step-floor-s", "0.5"]  # so that the kill comes before the next save
    ended = start(4, *NOISY, *slow, "--steps", "10", "--checkpoint-dir", str(folder), kill=(3, "step 4/10"))
    return ended, folder


def test_one_killed_rank_takes_the_others_down(killed: tuple[job.Ended, pathlib.Path]) -> None:
    assert killed[0].codes[3] == -9
    assert 0 not in killed[0].codes


def test_a_killed_job_goes_on_equal_in_every_bit_with_dropout_too(
    start: job.Starter, uninterrupted: tuple[job.Ended, pathlib.Path], killed: tuple[job.Ended, pathlib.Path]
) -> None:
    environment = {"TORCHELASTIC_RESTART_COUNT": "1"}
    resumed = start(4, *NOISY, "--steps", "10", "--checkpoint-dir", str(killed[1]), environment=environment)
    assert resumed.codes == [0] * 4, resumed.errors
    assert "resumed at step 3 from" in resumed.output
    expected = uninterrupted[0].bits()
    assert killed[0].bits().items() <= expected.items()
    assert resumed.bits() == {step: bits for step, bits in expected.items() if step > 3}
    assert [path.name for path in manifest.committed(killed[1])] == [
        "step-00000009-attempt-001",
        "step-00000006-attempt-001",
        "step-00000003-attempt-000",
    ]


def test_a_save_in_the_background_holds_the_same_bytes_as_one_in_the_foreground(
    uninterrupted: tuple[job.Ended, pathlib.Path], killed: tuple[job.Ended, pathlib.Path]
) -> None:
    digests = []
    for _, folder in (uninterrupted, killed):
        files = (manifest.read(folder / "step-00000003-attempt-000") or {})["files"]
        assert isinstance(files, dict)
        digests.append({name: about["sha256"] for name, about in files.items() if name.endswith(".distcp")})
    assert len(digests[0]) == 4
    assert digests[0] == digests[1]


@pytest.fixture(scope="module")
def saved(start: job.Starter, tmp_path_factory: pytest.TempPathFactory) -> tuple[job.Ended, pathlib.Path]:
    """Eight steps on four ranks without dropout, saved once after the fourth."""
    folder = tmp_path_factory.mktemp("saved")
    mesh = ["--mesh", "pp=2,tp=2", "--steps", "8"]
    ended = start(4, *mesh, "--checkpoint-dir", str(folder), "--checkpoint-every", "4")
    assert ended.codes == [0] * 4, ended.errors
    return ended, folder / "step-00000004-attempt-000"


def assert_goes_on_alike(start: job.Starter, saved: tuple[job.Ended, pathlib.Path], mesh: str, *more: str) -> None:
    ranks = 1
    for part in mesh.split(","):
        ranks *= int(part.partition("=")[2])
    ended = start(ranks, "--mesh", mesh, "--steps", "8", "--resume", str(saved[1]), *more)
    assert ended.codes == [0] * ranks, ended.errors
    assert [line["step"] for line in ended.metrics] == [5, 6, 7, 8]
    assert ended.gap(saved[0]) <= GAP_MAX


@pytest.mark.parametrize("mesh", ["dp=1", "cp=2"])
def test_a_checkpoint_loads_under_another_mesh(
    start: job.Starter, saved: tuple[job.Ended, pathlib.Path], mesh: str
) -> None:
    assert_goes_on_alike(start, saved, mesh)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["dp=2,tp=2", "tp=2,pp=2,cp=2", "dp=4", "cp=2,dp=2,tp=2", "pp=4"])
def test_a_checkpoint_loads_under_any_mesh(
    start: job.Starter, saved: tuple[job.Ended, pathlib.Path], mesh: str
) -> None:
    assert_goes_on_alike(start, saved, mesh)


@pytest.mark.slow
def test_a_checkpoint_loads_under_another_schedule(start: job.Starter, saved: tuple[job.Ended, pathlib.Path]) -> None:
    assert_goes_on_alike(start, saved, "pp=2,cp=2", "--schedule", "interleaved")


def test_a_step_is_in_the_metrics_before_it_can_be_in_a_checkpoint(
    start: job.Starter, tmp_path: pathlib.Path, client: pathlib.Path
) -> None:
    # The fence is asked right before a commit; here it is closed, so the process ends at that moment.
    environment = {"SAID": str(tmp_path / "said"), "MAY_COMMIT": "no"}
    saving = ["--checkpoint-dir", str(tmp_path / "saves"), "--checkpoint-every", "2"]
    ended = start(1, "--steps", "4", *saving, environment=environment, path=[client])
    assert [line["step"] for line in ended.metrics] == [1, 2]


# ---------------------------------------------------------------- what is on disk


def test_the_manifest_names_every_file_and_what_it_belongs_to(
    uninterrupted: tuple[job.Ended, pathlib.Path],
) -> None:
    path = uninterrupted[1] / "step-00000009-attempt-000"
    record = json.loads((path / "manifest.json").read_text())
    expected = {"format": 1, "step": 9, "run": "none", "attempt": 0, "generation": 0, "mesh": MESH, "world_size": 4}
    assert {name: record[name] for name in expected} == expected
    assert record["saved_at"].endswith("+00:00")
    files = {file.name: file for file in path.iterdir() if file.name != "manifest.json"}
    assert set(record["files"]) == set(files) == {".metadata", *(f"__{rank}_0.distcp" for rank in range(4))}
    for name, about in record["files"].items():
        content = files[name].read_bytes()
        assert about == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_nothing_temporary_is_left_beside_the_checkpoints(uninterrupted: tuple[job.Ended, pathlib.Path]) -> None:
    names = sorted(path.name for path in uninterrupted[1].iterdir())
    assert names == [f"step-{step:08d}-attempt-000" for step in (3, 6, 9)]


def test_a_flipped_bit_is_refused_by_name_and_passed_over_otherwise(start: job.Starter, tmp_path: pathlib.Path) -> None:
    saving = ["--checkpoint-dir", str(tmp_path), "--checkpoint-every", "2"]
    assert start(1, "--steps", "4", *saving).codes == [0]
    data = tmp_path / "step-00000004-attempt-000" / "__0_0.distcp"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    named = start(1, "--steps", "5", "--resume", str(data.parent))
    assert named.codes == [2]
    assert "__0_0.distcp is" in named.errors
    ended = start(1, "--steps", "5", *saving)
    assert ended.codes == [0], ended.errors
    assert "resumed at step 2" in ended.output
    assert "skipping a damaged checkpoint" in ended.errors


def test_a_checkpoint_that_is_named_and_missing_ends_with_status_two(start: job.Starter) -> None:
    ended = start(2, "--mesh", "pp=2", "--resume", "/nowhere/step-00000004-attempt-000")
    assert ended.codes == [2, 2]
    assert "/nowhere/step-00000004-attempt-000 has no readable manifest.json" in ended.errors
    assert "name another checkpoint, or none" in ended.errors


def test_saving_goes_to_an_empty_directory_whatever_an_interrupted_save_left(tmp_path: pathlib.Path) -> None:
    (tmp_path / LABEL.temporary_name).mkdir()
    (tmp_path / LABEL.temporary_name / "torn").write_text("half")
    assert list(manifest.make_fresh(tmp_path, LABEL).iterdir()) == []


def test_a_file_that_nobody_described_keeps_the_manifest_from_being_written(tmp_path: pathlib.Path) -> None:
    temporary = manifest.make_fresh(tmp_path, LABEL)
    (temporary / "stray").write_text("?")
    with pytest.raises(ValueError, match="stray"):
        manifest.write(temporary, LABEL, {})
    assert not (temporary / "manifest.json").exists()


def test_saving_a_step_again_replaces_the_checkpoint_of_that_name(tmp_path: pathlib.Path) -> None:
    save_by_hand(tmp_path, text="before")
    path = save_by_hand(tmp_path, text="after")
    assert (path / "data").read_text() == "after"
    assert manifest.problem(path) is None
    assert [path.name for path in tmp_path.iterdir()] == [LABEL.name]


def test_a_replacement_interrupted_between_two_renames_is_undone_at_the_next_start(tmp_path: pathlib.Path) -> None:
    path = save_by_hand(tmp_path)
    path.rename(tmp_path / f".replaced-{LABEL.name}")
    manifest.sweep(tmp_path, generation=None)
    assert manifest.problem(path) is None


def test_what_older_generations_left_is_removed_and_newer_work_is_not(tmp_path: pathlib.Path) -> None:
    for generation in (6, 7, 8):
        (tmp_path / f".tmp-step-00000006-attempt-001-{generation}").mkdir()
    manifest.sweep(tmp_path, generation=7)
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-step-00000006-attempt-001-8"]


def test_pruning_keeps_the_newest_saved_and_not_the_highest_step(tmp_path: pathlib.Path) -> None:
    for step, attempt in ((4, 0), (8, 0), (12, 0), (6, 1)):  # attempt 1 went back to step 4
        save_by_hand(tmp_path, manifest.Label(step, "r", attempt, 1, "dp=1", 1))
    assert manifest.prune(tmp_path, keep=2) == ["step-00000004-attempt-000", "step-00000008-attempt-000"]
    assert manifest.committed(tmp_path)[0].name == "step-00000006-attempt-001"
    assert manifest.prune(tmp_path, keep=0) == []


def test_pruning_leaves_what_was_resumed_from_and_nothing_goes_while_all_that_stay_are_damaged(
    tmp_path: pathlib.Path,
) -> None:
    saved = [save_by_hand(tmp_path, manifest.Label(step, "r", 0, 1, "dp=1", 1)) for step in (4, 8, 12, 16)]
    for path in saved[2:]:
        (path / "data").write_text("weighty")
    assert manifest.prune(tmp_path, keep=2) == []
    assert manifest.prune(tmp_path, keep=3, resumed_from=str(saved[0])) == []
    assert manifest.prune(tmp_path, keep=3) == [saved[0].name]


def test_only_as_many_checkpoints_are_kept_as_asked(start: job.Starter, tmp_path: pathlib.Path) -> None:
    saving = ["--checkpoint-dir", str(tmp_path), "--checkpoint-every", "1", "--keep-checkpoints", "2"]
    assert start(1, "--steps", "5", *saving).codes == [0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000004-attempt-000",
        "step-00000005-attempt-000",
    ]


# ---------------------------------------------------------------- the supervisor's say

CLIENT = """
import contextlib, json, os
class Run:
    def __init__(self, **about): self.say("attach", **about)
    def say(self, what, **more):
        with open(os.environ["SAID"] + os.environ["RANK"], "a") as file: file.write(json.dumps([what, more]) + "\\n")
    def step(self, step, *, tokens, loss, grad_norm):
        self.say("step", step=step, tokens=tokens, loss=loss, grad_norm=grad_norm)
    @contextlib.contextmanager
    def phase(self, name):
        self.say("begin", name=name)
        yield
        self.say("end", name=name)
    def checkpoint_saved(self, path, step): self.say("saved", path=path, step=step)
    def may_commit(self):
        self.say("may")
        return os.environ["MAY_COMMIT"] == "yes"
def attach(**about): return Run(**about)
"""


@pytest.fixture
def client(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with a client that writes down what it is told."""
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "outrider.py").write_text(CLIENT)
    return tmp_path / "client"


@pytest.mark.parametrize("manner", [[], ["--async-checkpoint"]])
def test_a_closed_fence_leaves_nothing_committed_and_ends_with_status_three(
    start: job.Starter, tmp_path: pathlib.Path, client: pathlib.Path, manner: list[str]
) -> None:
    environment = {"SAID": str(tmp_path / "said"), "MAY_COMMIT": "no", "OUTRIDER_GENERATION": "5"}
    saving = ["--checkpoint-dir", str(tmp_path / "saves"), "--checkpoint-every", "2", *manner]
    ended = start(2, "--mesh", "dp=2", "--steps", "4", *saving, environment=environment, path=[client])
    assert ended.codes == [3, 3], ended.errors
    assert "generation 5 may no longer commit checkpoints, so step 2 was not saved" in ended.errors
    assert list((tmp_path / "saves").iterdir()) == []


def test_the_supervisor_hears_of_steps_phases_and_checkpoints(
    start: job.Starter, tmp_path: pathlib.Path, client: pathlib.Path
) -> None:
    environment = {"SAID": str(tmp_path / "said"), "MAY_COMMIT": "yes", "OUTRIDER_ATTEMPT": "4"}
    saving = ["--checkpoint-dir", str(tmp_path / "saves"), "--checkpoint-every", "2"]
    ended = start(2, "--mesh", "tp=2", "--steps", "2", *saving, environment=environment, path=[client])
    assert ended.codes == [0, 0], ended.errors
    said = [[json.loads(line) for line in (tmp_path / f"said{rank}").read_text().splitlines()] for rank in (0, 1)]
    marks = [what for what, _ in said[0]]
    assert marks == ["attach", "step", "step", "begin", "may", "saved", "end"]
    assert said[0][0][1] == {"mesh": "tp=2,dp=1,pp=1,cp=1", "flops_per_token": 1_474_560.0}
    assert said[0][5][1] == {"path": str(tmp_path / "saves" / "step-00000002-attempt-004"), "step": 2}
    steps = [[more for what, more in marks if what == "step"] for marks in said]
    assert steps[0] == steps[1]
    assert steps[0][1]["tokens"] == 512
    assert steps[0][1]["loss"] == ended.metrics[1]["loss"]


def test_the_supervisor_says_where_to_start_and_empty_is_a_fresh_start(
    start: job.Starter, saved: tuple[job.Ended, pathlib.Path]
) -> None:
    folder = ["--checkpoint-dir", str(saved[1].parent)]
    fresh = start(1, "--steps", "1", *folder, environment={"OUTRIDER_RESUME_FROM": ""})
    assert fresh.metrics[0]["step"] == 1
    environment = {"OUTRIDER_RESUME_FROM": str(saved[1]), "OUTRIDER_ATTEMPT": "2", "OUTRIDER_GENERATION": "3"}
    later = start(1, "--steps", "5", "--resume", "none", environment=environment)
    assert [line["step"] for line in later.metrics] == [5]
    assert later.metrics[0]["attempt"] == 2
    gone = start(1, environment={"OUTRIDER_RESUME_FROM": "/nowhere"})
    assert gone.codes == [2]
    assert "OUTRIDER_RESUME_FROM=/nowhere holds no .metadata" in gone.errors
