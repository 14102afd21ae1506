"""The demo's plan and its comparison, without running it."""

import json
from pathlib import Path

import pytest

from outrider import mesh, vocabulary
from outrider_cli import demo_faults, demo_job, errors


def test_the_same_seed_plans_the_same_faults() -> None:
    plans = [demo_faults.plan(("kill", "node"), seed, 40, 5, 8) for seed in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


@pytest.mark.parametrize("seed", range(50))
def test_faults_come_one_after_the_other_between_the_first_checkpoint_and_the_end(seed: int) -> None:
    first, second = demo_faults.plan(("kill", "node"), seed, 40, 5, 8)
    assert 5 < first.step < second.step < 38
    assert all(0 <= fault.rank < 8 for fault in (first, second))


def test_none_means_no_faults() -> None:
    assert demo_faults.parse("none") == ()
    assert demo_faults.plan((), 0, 1, 1, 8) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kil", "'kil' is not known; did you mean kill?"),
        ("kill,stop", "stop is not ready in this version; ready are kill, node"),
        ("kill,kill", "name each once"),
    ],
)
def test_a_wrong_fault_is_named_with_what_is_ready(text: str, words: str) -> None:
    with pytest.raises(errors.CommandError, match="--faults") as caught:
        demo_faults.parse(text)
    assert words in str(caught.value)


def test_faults_of_later_versions_are_refused_by_name() -> None:
    for kind in set(vocabulary.DEMO_FAULTS) - set(vocabulary.DEMO_FAULTS_READY):
        with pytest.raises(errors.CommandError, match=kind):
            demo_faults.parse(kind)


def test_too_few_steps_for_the_faults_are_refused_with_enough() -> None:
    with pytest.raises(errors.CommandError, match="give at least 14"):
        demo_faults.plan(("kill", "node"), 0, 10, 5, 8)
    assert len(demo_faults.plan(("kill", "node"), 0, 14, 5, 8)) == 2


def write(path: Path, *lines: tuple[int, float]) -> Path:
    rows = [{"step": step, "loss_hex": loss.hex(), "grad_norm_hex": (1.0).hex()} for step, loss in lines]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_repeated_steps_must_have_the_bits_of_the_reference_too(tmp_path: Path) -> None:
    reference = write(tmp_path / "a", (1, 0.1), (2, 0.2), (3, 0.3))
    same = write(tmp_path / "b", (1, 0.1), (2, 0.2), (2, 0.2), (3, 0.3))
    compared = demo_job.compare(same, reference, 3)
    assert compared.equal
    assert compared.lines == 4
    repeated = write(tmp_path / "c", (1, 0.1), (2, 0.2000001), (2, 0.2), (3, 0.3))
    assert demo_job.compare(repeated, reference, 3).different == (2,)


def test_a_missing_step_is_no_equality(tmp_path: Path) -> None:
    reference = write(tmp_path / "a", (1, 0.1), (2, 0.2))
    short = write(tmp_path / "b", (1, 0.1))
    compared = demo_job.compare(short, reference, 2)
    assert not compared.equal
    assert compared.missing == (2,)
    assert not demo_job.compare(tmp_path / "absent", reference, 2).equal


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    reference = write(tmp_path / "a", (1, 0.1), (2, 0.2))
    cut = tmp_path / "b"
    cut.write_text('{"step": 2, "loss_h\n' + reference.read_text())
    assert demo_job.compare(cut, reference, 2).equal


@pytest.mark.parametrize("text", ["dp=2,pp=2,cp=1,tp=2", "dp=2,pp=2,cp=2,tp=2", "dp=3", "pp=6", "tp=3,cp=3", "tp=8"])
def test_the_demos_model_is_divided_by_any_mesh(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(demo_job.TRAIN.parent))
    import llama4d_options

    wanted = mesh.parse(text)
    command = demo_job.DemoJob(wanted, 40, 0, 5).command(tmp_path / "checkpoints", tmp_path / "metrics")
    parsed = llama4d_options.parse(command[2:], wanted.world_size)
    assert llama4d_options.problems(parsed, wanted.world_size) == []
