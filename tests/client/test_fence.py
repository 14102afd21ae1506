"""The fence: an older generation commits nothing, and not having been able to look is no permission."""

import json
import pathlib

import pytest

from outrider import fence


def environ(generation: object, *paths: pathlib.Path) -> dict[str, str]:
    return {"OUTRIDER_GENERATION": str(generation), "OUTRIDER_FENCE": ":".join(map(str, paths))}


def test_the_newest_generation_may_commit_and_an_older_one_may_not(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "fence"
    assert fence.raise_to(str(path), 4) == 4
    assert fence.may_commit(environ(4, path))
    assert fence.may_commit(environ(5, path))
    assert not fence.may_commit(environ(3, path))


def test_a_fence_never_falls(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "fence"
    fence.raise_to(str(path), 4)
    assert fence.raise_to(str(path), 2) == 4
    assert json.loads(path.read_text()) == {"generation": 4}
    assert list(tmp_path.iterdir()) == [path]


def test_every_listed_fence_must_allow_it(tmp_path: pathlib.Path) -> None:
    node, shared = tmp_path / "node", tmp_path / "shared"
    fence.raise_to(str(node), 4)
    fence.raise_to(str(shared), 5)
    assert not fence.may_commit(environ(4, node, shared))


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"generation": "4"}', '{"generation": true}', "\0"])
def test_a_fence_that_cannot_be_read_forbids_and_is_named_once(
    tmp_path: pathlib.Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fence"
    if content is not None:
        path.write_text(content)
    assert not fence.may_commit(environ(4, path))
    assert not fence.may_commit(environ(4, path))
    assert capsys.readouterr().err.count(str(path)) >= 1
    assert not fence.may_commit(environ(4, path))
    assert capsys.readouterr().err == ""
    assert fence.raise_to(str(path), 4) == 4
    assert fence.may_commit(environ(4, path))


def test_a_rank_that_does_not_know_its_generation_may_not_commit(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "fence"
    fence.raise_to(str(path), 4)
    assert not fence.may_commit({"OUTRIDER_FENCE": str(path)})
    assert not fence.may_commit(environ("four", path))


def test_without_a_fence_everyone_may_commit() -> None:
    assert fence.may_commit({})
    assert fence.may_commit({"OUTRIDER_FENCE": ""})
