"""The mesh's arithmetic, and what a bad command line is told."""

import itertools

import pytest

import llama4d_mesh as mesh
import llama4d_options as options
import llama4d_supervisor as supervisor
from tests.examples import job


def test_ranks_run_outermost_axis_first() -> None:
    layout = mesh.parse("dp=2,pp=3,cp=2,tp=4")
    for dp, pp, cp, tp in itertools.product(range(2), range(3), range(2), range(4)):
        rank = ((dp * 3 + pp) * 2 + cp) * 4 + tp
        assert layout.coords(rank) == {"dp": dp, "pp": pp, "cp": cp, "tp": tp}
        assert layout.rank({"dp": dp, "pp": pp, "cp": cp, "tp": tp}) == rank


def test_another_order_puts_another_axis_outermost() -> None:
    layout = mesh.parse("tp=2,cp=2,pp=2")
    assert layout.text == "tp=2,cp=2,pp=2,dp=1"
    assert layout.coords(4) == {"tp": 1, "cp": 0, "pp": 0, "dp": 0}
    assert layout.groups("tp") == [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize("order", list(itertools.permutations(["dp=2", "pp=2", "cp=3", "tp=2"])))
def test_groups_of_an_axis_hold_every_rank_once(order: tuple[str, ...]) -> None:
    layout = mesh.parse(",".join(order))
    for axes in (["dp"], ["pp"], ["cp"], ["tp"], ["dp", "cp"]):
        members = list(itertools.chain(*layout.groups(*axes)))
        assert sorted(members) == list(range(24))
        for ranks in layout.groups(*axes):
            others = [{name: at for name, at in layout.coords(rank).items() if name not in axes} for rank in ranks]
            assert all(other == others[0] for other in others)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--mesh", "dp=2,xp=2"], "'xp=2' is not one of dp=N, pp=N, cp=N, tp=N"),
        (["--mesh", "dp=2,dp=2"], "each at most once"),
        (["--mesh", "dp=0"], "dp=0 must be a whole number from 1"),
        (["--mesh", "dp=-1"], "dp=-1 must be a whole number from 1"),
        (["--mesh", "dp=4"], "has 4 ranks and the launcher started 2; start 4 processes or change --mesh"),
        (["--mesh", ""], "--width 65 must be a multiple of 8"),
        (["--mesh", "tp=2", "--kv-heads", "1"], "--kv-heads 1 must be a multiple of 2 (tp)"),
        (["--mesh", "cp=2", "--sequence", "66"], "--sequence 66 must be a multiple of 4"),
        (["--microbatches", "3"], "--global-batch 8 must be a multiple of 6 (dp times --microbatches)"),
        (["--mesh", "pp=2", "--microbatches", "1"], "--microbatches 1 is fewer than pp=2; raise it or lower pp"),
        (["--mesh", "pp=2", "--layers", "1"], "--layers 1 is fewer than the 2 pipeline stages"),
        (["--schedule", "zigzag"], "choose from"),
        (["--checkpoint-every", "5"], "--checkpoint-every 5 has nowhere to write; add --checkpoint-dir DIR"),
        (["--steps", "0"], "0 is less than 1"),
        (["--steps", "many"], "invalid whole number value: 'many'"),
        (["--timeout-s", "0"], "0 must be more than zero"),
        (["--timeout-s", "nan"], "nan must be zero or more, and finite"),
        (["--slow-rank", "1"], "'1' is not RANK:SECONDS, such as 3:0.5"),
        (["--slow-rank", "7:1"], "--slow-rank names rank 7"),
        (["--raise-at", "x:1"], "'x:1' is not STEP or STEP:RANK, such as 7:3"),
        (["--raise-at", "3:9"], "--raise-at names rank 9"),
        (["--dropout", "1.5"], "1.5 must be less than 1"),
        (["--seed", str(2**31)], "--seed 2147483648 must be less than 2147483648"),
        (["--checkpoint-dir", __file__], "is a file"),
        (["--metrics", "/"], "--metrics / is a directory; name a file in it"),
        (["--step", "3"], "unrecognized arguments"),
    ],
)
def test_a_bad_value_is_named_with_the_way_out(
    arguments: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    width = ["--width", "65"] if arguments == ["--mesh", ""] else []
    with pytest.raises(SystemExit) as ended:
        options.parse([*arguments, *width], world_size=2)
    assert ended.value.code == 2
    assert names in capsys.readouterr().err


def test_ranks_given_no_mesh_are_all_data_parallel() -> None:
    assert options.parse([], world_size=4).mesh.text == "dp=4,pp=1,cp=1,tp=1"


def test_microbatches_follow_from_the_mesh_when_none_are_asked_for() -> None:
    meshes = {"dp=2,pp=2": 2, "pp=3": 4, "pp=4": 4, "dp=8": 1, "dp=2,pp=4": 4}
    found = {text: options.parse(["--mesh", text], mesh.parse(text).world).microbatches for text in meshes}
    assert found == meshes


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"RANK": "two"}, "RANK='two' must be a whole number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 must be less than WORLD_SIZE=2"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 needs MASTER_ADDR and MASTER_PORT"),
        ({"OUTRIDER_GENERATION": "-1"}, "OUTRIDER_GENERATION='-1' must be a whole number"),
    ],
)
def test_an_environment_that_makes_no_sense_is_named(
    environment: dict[str, str], names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OUTRIDER_GENERATION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=names):
        supervisor.launch()


def test_a_bad_argument_ends_every_rank_with_status_two(start: job.Starter) -> None:
    ended = start(2, "--mesh", "dp=4")
    assert ended.codes == [2, 2]
    assert "start 4 processes or change --mesh" in ended.errors
