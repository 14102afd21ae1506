"""A held-out evaluation, and faults that a file tells of while the job runs."""

import json
import pathlib

import pytest

import llama4d_options as options
from tests.examples import job

SHORT = ["--steps", "6", "--dropout", "0.1"]


@pytest.mark.parametrize(
    ("mesh", "ranks", "more"),
    [
        ("dp=2", 2, []),
        pytest.param("tp=2", 2, [], marks=pytest.mark.slow),
        ("pp=2", 2, ["--schedule", "interleaved"]),
        pytest.param("dp=2,pp=2,tp=2", 8, [], marks=pytest.mark.slow),
    ],
)
def test_an_evaluation_changes_no_bit_of_the_training(
    start: job.Starter, mesh: str, ranks: int, more: list[str], tmp_path: pathlib.Path
) -> None:
    plain = start(ranks, "--mesh", mesh, *SHORT, *more)
    saving = ["--checkpoint-dir", str(tmp_path), "--checkpoint-every", "3"]
    with_it = start(ranks, "--mesh", mesh, *SHORT, *more, *saving, "--eval-every", "2", "--eval-batches", "2")
    assert with_it.codes == [0] * ranks, with_it.errors
    assert with_it.bits() == plain.bits()
    assert with_it.output.count("held-out batches") == 3


def test_every_layout_evaluates_to_the_loss_of_one_process(start: job.Starter) -> None:
    found = [
        [float(line.split("loss ")[1].split()[0]) for line in ended.output.splitlines() if "held-out" in line]
        for ended in (
            start(n, "--mesh", mesh, "--steps", "4", "--eval-every", "2") for n, mesh in ((1, "dp=1"), (2, "pp=2"))
        )
    ]
    assert len(found[0]) == 2
    assert found[1] == pytest.approx(found[0], abs=2e-5)
    assert found[0][1] < found[0][0]


@pytest.mark.parametrize("kind", ["spin", "stop"])
def test_a_file_hangs_one_rank_at_the_point_it_names(start: job.Starter, kind: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / f"{kind}.1").write_text("evaluation")
    hanging = ["--faults-dir", str(tmp_path), "--eval-every", "3", "--timeout-s", "2"]
    ended = start(2, "--mesh", "dp=2", "--steps", "9", *hanging, survivors_s=0.0)
    assert ended.codes == [1, -9]
    assert [line["step"] for line in ended.metrics] == [1, 2, 3]
    taken = json.loads((tmp_path / f"{kind}.1.taken").read_text())
    assert (taken["rank"], taken["point"], taken["step"]) == (1, "evaluation", 3)
    assert not (tmp_path / f"{kind}.1").exists()


def test_a_file_turns_the_loss_of_one_step_into_nan(start: job.Starter, tmp_path: pathlib.Path) -> None:
    (tmp_path / "nan").touch()
    ended = start(2, "--mesh", "pp=2", "--steps", "2", "--faults-dir", str(tmp_path))
    assert ended.metrics[0]["loss_hex"] == "nan"
    again = start(2, "--mesh", "pp=2", "--steps", "2", "--faults-dir", str(tmp_path))
    assert again.metrics[0]["loss_hex"] != "nan"


def test_slow_points_and_slow_steps_take_longer_and_change_no_bit(start: job.Starter) -> None:
    plain = start(1, "--steps", "5")
    slow = start(1, "--steps", "5", "--slow", "step:0.4:3", "--slow", "before-load:0.1::0", "--slow-steps", "4:5:1.5")
    assert slow.bits() == plain.bits()
    seconds = [float(line.rsplit("step_s ", 1)[1]) for line in slow.output.splitlines() if " step_s " in line]
    assert seconds[2] > 0.4


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--slow", "lunch:3"], "'lunch:3' is not POINT:SECONDS[:STEP[:RANK]] with one of start"),
        (["--slow", "step:x"], "such as step:3:7:0"),
        (["--slow", "step:1:2:9"], "--slow or --slow-steps names rank 9"),
        (["--slow-steps", "1:2:3:9"], "--slow or --slow-steps names rank 9"),
        (["--slow-steps", "1:2:3:0:0"], "such as 20:40:3"),
        (["--slow-steps", "3:2:2"], "FROM must not be after TO"),
        (["--slow-steps", "3:4:0.5"], "FACTOR is at least 1"),
        (["--slow-steps", "3"], "such as 20:40:3"),
    ],
)
def test_a_bad_slowness_is_named_with_the_way_out(
    arguments: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options.parse(arguments, world_size=2)
    assert names in capsys.readouterr().err
