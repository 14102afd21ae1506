"""A rank's list of its process groups: true to torch's tables, whatever these do meanwhile, and no burden to it."""

import json
import os
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest

from outrider_agent.keeper import rank_groups

Json = dict[str, typing.Any]


class Group:
    """A process group as far as it is looked at. ``description`` None: torch refuses to say."""

    def __init__(self, description: str | None) -> None:
        self._description = description

    @property
    def group_desc(self) -> str:
        if self._description is None:
            raise RuntimeError("no backend")
        return self._description


class Tables:
    """What stands for torch.distributed.distributed_c10d."""

    def __init__(self) -> None:
        self._world = types.SimpleNamespace(pg_names={}, pg_group_ranks={})

    def make(self, name: str, ranks: list[int], description: str | None = "undefined") -> Group:
        group = Group(description)
        self._world.pg_names[group] = name
        self._world.pg_group_ranks[group] = {rank: at for at, rank in enumerate(ranks)}
        return group

    def end(self, group: Group) -> None:
        del self._world.pg_names[group]
        del self._world.pg_group_ranks[group]


def written(path: Path) -> Json:
    found: Json = json.loads(path.read_text())
    return found


def test_groups_are_written_when_they_change_and_not_else(tmp_path: Path) -> None:
    tables, path = Tables(), tmp_path / "0.groups"
    found = rank_groups.Groups(tables, str(path))
    assert not found.look()
    assert not path.exists()
    tables.make("0", [0, 1, 2, 3], "default_pg")
    assert found.look()
    assert written(path) == {"0": {"desc": "default_pg", "ranks": [0, 1, 2, 3]}}
    assert path.stat().st_mode & 0o777 == 0o600
    assert not found.look()
    second = tables.make("1", [2, 0], None)
    assert found.look()
    assert written(path)["1"] == {"desc": "", "ranks": [2, 0]}
    tables.end(second)
    tables.make("1", [1, 0])
    assert found.look(), "the same name, and another group"
    assert written(path)["1"]["ranks"] == [1, 0]
    assert os.listdir(tmp_path) == ["0.groups"]


def test_a_group_that_is_being_made_is_told_once_it_is_whole(tmp_path: Path) -> None:
    tables, path = Tables(), tmp_path / "0.groups"
    found = rank_groups.Groups(tables, str(path))
    tables.make("0", [0, 1])
    group = tables.make("1", [0])
    ranks = tables._world.pg_group_ranks.pop(group)
    assert found.look()
    assert set(written(path)) == {"0"}
    tables._world.pg_group_ranks[group] = ranks
    assert found.look()
    assert set(written(path)) == {"0", "1"}


def test_a_group_that_never_gets_members_is_not_written_about_each_second(tmp_path: Path) -> None:
    tables = Tables()
    found = rank_groups.Groups(tables, str(tmp_path / "0.groups"))
    del tables._world.pg_group_ranks[tables.make("0", [0, 1])]
    assert found.look()
    assert written(tmp_path / "0.groups") == {}
    assert not found.look()


def test_the_interpreter_is_let_go_of_between_large_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the step would wait until all of them are written: making text of a group does not let go of the lock."""
    really, sizes = json.dumps, [0]  # members since the last rest

    def dumps(value: typing.Any, **how: typing.Any) -> str:
        sizes[-1] += len(value["ranks"]) if isinstance(value, dict) else 0
        return really(value, **how)

    monkeypatch.setattr(json, "dumps", dumps)
    monkeypatch.setattr(rank_groups, "time", types.SimpleNamespace(sleep=lambda _: sizes.append(0)))
    tables, path = Tables(), tmp_path / "0.groups"
    for number in range(40):
        tables.make(str(number), list(range(1_000)))
    tables.make("large", list(range(10_000)))
    assert rank_groups.Groups(tables, str(path)).look()
    assert sizes == [*[4_000] * 10, 10_000]
    assert len(written(path)) == 41


def test_what_was_known_stays_when_torch_is_taken_down(tmp_path: Path) -> None:
    tables, path = Tables(), tmp_path / "0.groups"
    found = rank_groups.Groups(tables, str(path))
    group = tables.make("0", [0, 1])
    assert found.look()
    tables.end(group)
    assert not found.look()
    assert set(written(path)) == {"0"}
    rank_groups.forget(str(path))
    rank_groups.forget(str(path))
    assert not path.exists()


def test_the_list_is_bounded_and_the_order_within_a_group_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_groups, "MEMBERS_MAX", 10)
    tables, path = Tables(), tmp_path / "0.groups"
    tables.make("a", [3, 1, 2])
    tables.make("b", list(range(9)))
    tables.make("c", [0, 7], "d" * 1000)
    tables.make("n" * 1000, [0])
    assert rank_groups.Groups(tables, str(path)).look()
    assert written(path) == {"a": {"desc": "undefined", "ranks": [3, 1, 2]}, "c": {"desc": "d" * 256, "ranks": [0, 7]}}


def test_a_disk_that_takes_nothing_and_a_torch_with_other_tables_cost_the_rank_nothing(tmp_path: Path) -> None:
    tables = Tables()
    tables.make("0", [0, 1])
    with pytest.raises(OSError, match="gone"):
        rank_groups.Groups(tables, str(tmp_path / "gone" / "0.groups")).look()
    with pytest.raises(AttributeError):
        rank_groups.Groups(types.SimpleNamespace(), str(tmp_path / "0.groups")).look()
    code = """
import sys, time, types
from outrider_agent import rank_hook
from outrider_agent.keeper import rank_groups
rank_groups.LOOK_S = 0.01
sys.modules["torch.distributed"] = sys.modules[rank_groups.TABLES] = types.ModuleType("torch of another kind")
rank_hook.prepare({"OUTRIDER_GROUPS": sys.argv[1]})
time.sleep(0.3)
print("trained")
"""
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "0.groups")], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "trained\n", "")
    assert not (tmp_path / "0.groups").exists()


def test_nothing_is_looked_at_in_a_job_without_torch(tmp_path: Path) -> None:
    old = tmp_path / "0.groups"
    old.write_text("{}")
    code = """
import sys, threading
from outrider_agent import rank_hook
rank_hook.prepare({"OUTRIDER_GROUPS": sys.argv[1]})
assert threading.active_count() == 1 and "torch" not in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", code, str(old)], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not old.exists(), "what another generation told is gone"
