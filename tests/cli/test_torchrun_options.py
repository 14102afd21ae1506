"""A command line that works with torchrun works with `outrider run`."""

import argparse
import os
from pathlib import Path

import pytest

from outrider_cli import errors, job_from_options, parsing, run, torchrun


def options(*words: str) -> argparse.Namespace:
    parser = parsing.Parser(prog="outrider run")
    run.add_options(parser)
    return parser.parse_args(list(words))


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "My Script.py"
    path.write_text("print('hello')\n")
    return str(path)


@pytest.mark.parametrize(
    "words",
    [
        ("--nproc-per-node", "4", "--nnodes", "2"),
        ("--nproc_per_node=4", "--nnodes=1:2"),
        ("--nproc-per-node=4", "--nodes", "2", "--nnodes", "2:2"),
    ],
)
def test_both_spellings_give_ranks_and_hosts(words: tuple[str, ...], script: str) -> None:
    spec = job_from_options.spec(options(*words, script))
    assert (spec.nodes, spec.ranks_per_node) == (2, 4)


@pytest.mark.parametrize("option", torchrun.OPTIONS, ids=lambda option: option.name)
def test_every_option_is_taken_in_dash_and_underscore_spelling(option: torchrun.Option, script: str) -> None:
    value = [] if option.flag else ["1"]
    for spelling in (option.name, option.dest):
        found = options(f"--{spelling}", *value, script)
        assert getattr(found, option.dest) == (True if option.flag else "1")
        assert found.script == script
        said = torchrun.notes(found)
        assert len(said) == bool(option.why_not)
        assert all(f"--{option.name} has no meaning here" in note for note in said)


def test_every_option_of_the_installed_torchrun_is_known() -> None:
    torch_run = pytest.importorskip("torch.distributed.run")
    theirs = {
        word
        for action in torch_run.get_args_parser()._actions
        for word in action.option_strings
        if word not in ("-h", "--help")
    }
    parser = parsing.Parser()
    torchrun.add_to(parser)
    assert not theirs - set(parser.option_words())


def test_the_script_keeps_its_own_options(script: str) -> None:
    found = options("--nproc-per-node", "2", script, "--nnodes", "9", "--", "-m", "x")
    assert found.arguments == ["--nnodes", "9", "--", "-m", "x"]
    assert job_from_options.spec(found).command[1:] == (script, "--nnodes", "9", "--", "-m", "x")


def test_a_job_is_named_after_its_script_unless_told_otherwise(script: str) -> None:
    assert job_from_options.spec(options(script)).name == "my-script"
    assert job_from_options.spec(options("--rdzv-id", "Run_7", script)).name == "run_7"
    assert job_from_options.spec(options("--rdzv-id", "Run_7", "--job", "mine", script)).name == "mine"


def test_what_torchrun_takes_from_the_environment_is_taken_here(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_NPROC_PER_NODE", "3")
    monkeypatch.setenv("PET_MAX_RESTARTS", "5")
    spec = job_from_options.spec(options(script))
    assert (spec.ranks_per_node, spec.max_restarts) == (3, 5)


def test_cpu_means_as_many_ranks_as_there_are_cores(script: str) -> None:
    assert job_from_options.spec(options("--nproc-per-node", "cpu", script)).ranks_per_node == len(
        os.sched_getaffinity(0)
    )


def test_a_mesh_says_how_many_ranks_each_host_has(script: str) -> None:
    spec = job_from_options.spec(options("--mesh", "dp=2,pp=2,tp=2", "--nodes", "2", script))
    assert (spec.nodes, spec.ranks_per_node, spec.mesh) == (2, 4, "dp=2,pp=2,tp=2")


def test_modules_and_programs_are_run_as_such(script: str) -> None:
    assert job_from_options.spec(options("-m", "json.tool", "x")).command[1:] == ("-m", "json.tool", "x")
    assert job_from_options.spec(options("--no-python", "sh", "-c", "exit 0")).command[1:] == ("-c", "exit 0")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--nproc-per-node", "many", "S"], "--nproc-per-node 'many' is not a number"),
        (["--nproc-per-node", "0", "S"], "--nproc-per-node '0' is not a number from 1 on"),
        (["--nnodes", "2:1", "S"], "--nnodes '2:1'"),
        (["--nodes", "2", "--nnodes", "3", "S"], "--nodes 2 and --nnodes 3 differ"),
        (["--max-restarts", "-3", "S"], "--max-restarts: -3 is below 0"),
        (["--master-port", "99999", "S"], "master_port: 99999 is not a port"),
        (["--mesh", "dp=3", "--nodes", "2", "S"], "3 ranks, which 2 hosts cannot share evenly"),
        (["--mesh", "dp=3", "--nproc-per-node", "2", "S"], "mesh: dp=3 has 3 ranks"),
        (["--mesh", "xp=3", "S"], "'xp=3' is not AXIS=SIZE"),
        (["--resume", "--load", "S"], "expected one argument"),
        (["--resume=--load x", "S"], "nowhere says {checkpoint}"),
        (["--env", "9=x", "S"], "--env '9=x' is not NAME=VALUE"),
        (["--job", "A B", "S"], "name: 'A B'"),
        (["--local-ranks-filter", "0,7", "S"], "--local-ranks-filter '0,7'"),
        (["-m", "--no-python", "S"], "exclude each other"),
        (["-m", "no_such_module_anywhere"], "there is no module 'no_such_module_anywhere'"),
        (["--no-python", "no-such-program"], "no-such-program: is neither a program"),
        (["absent.py"], "absent.py: there is no such script"),
        (["."], "is a directory"),
        ([], "SCRIPT"),
        (["--nproc-per-nod", "2", "S"], "unknown option --nproc-per-nod; did you mean --nproc-per-node"),
    ],
)
def test_a_wrong_value_is_named_with_the_way_out(words: list[str], sentence: str, script: str) -> None:
    def read() -> None:
        found = options(*[script if word == "S" else word for word in words])
        torchrun.shown_ranks(found, job_from_options.spec(found).world_size)

    with pytest.raises(errors.CommandError) as caught:
        read()
    assert sentence in str(caught.value)
    assert caught.value.code == 2


def test_rank_zero_is_shown_and_others_on_request(script: str) -> None:
    assert torchrun.shown_ranks(options(script), 4) == (0,)
    assert torchrun.shown_ranks(options("--tee", "3", script), 4) == (0, 1, 2, 3)
    assert torchrun.shown_ranks(options("--local-ranks-filter", "2,1", script), 4) == (1, 2)
