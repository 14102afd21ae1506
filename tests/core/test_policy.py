"""Runbooks are the policy: a number changed in front matter changes what the core does; a typing error is refused."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

from outrider import vocabulary
from outrider_controller import runbook_files
from outrider_controller.core import policy
from tests.core.world import World


@pytest.fixture
def documents() -> dict[str, dict[str, Any]]:
    return copy.deepcopy(runbook_files.read().documents)


def test_shipped_runbooks_have_no_problem() -> None:
    assert runbook_files.check() == (len(vocabulary.CAUSES), ())


def test_changed_limit_changes_what_the_core_does(documents: dict[str, dict[str, Any]]) -> None:
    end = {"code": 1, "error_type": "ValueError", "error_message": "no", "error_where": "t.py:1 in f"}
    assert World().submit().die(0, **end).decision == "restart"
    documents["user-error.md"]["limits"]["restarts"] = 0
    documents["user-error.md"]["action"] = "hold-for-person"
    assert World(policy=policy.load(documents)).submit().die(0, **end).decision == "hold-for-person"


def test_raised_same_failure_limit_allows_another_try(documents: dict[str, dict[str, Any]]) -> None:
    end = {"code": 1, "error_type": "ValueError", "error_message": "no", "error_where": "t.py:1 in f"}
    documents["user-error.md"]["limits"]["same_failure"] = 2
    world = World(policy=policy.load(documents)).submit().die(0, **end).die(0, **end)
    assert world.decision == "restart"
    assert world.die(0, **end).decision == "hold-for-person"


def test_longer_silence_in_the_runbook_makes_the_core_wait_longer(documents: dict[str, dict[str, Any]]) -> None:
    documents["node-lost.md"]["limits"]["silence_s"] = 60
    world = World(policy=policy.load(documents)).submit().train(3).vanish("n0").wait(9)
    assert world.job.incident is not None
    assert world.job.incident.diagnosis is None


def test_match_in_the_runbook_names_the_cause(documents: dict[str, dict[str, Any]]) -> None:
    documents["rank-killed.md"]["match"]["exit"] = []
    documents["rank-crashed.md"]["match"]["exit"].append("killed")
    world = World(policy=policy.load(documents)).submit().train(3).die(0, signal="SIGKILL")
    assert world.cause == "rank-crashed"


def test_one_failure_with_two_runbooks_is_refused_with_both_names(documents: dict[str, dict[str, Any]]) -> None:
    documents["rank-crashed.md"]["match"]["exit"].append("killed")
    with pytest.raises(policy.PolicyError, match=r"match.exit: 'killed' is what rank-crashed.md speaks for") as caught:
        policy.load(documents)
    assert [problem.file for problem in caught.value.problems] == ["rank-killed.md"]


def test_runbooks_that_leave_some_failure_without_one_are_refused(documents: dict[str, dict[str, Any]]) -> None:
    documents["unknown.md"]["match"] = {"exit": ["clean"]}
    with pytest.raises(policy.PolicyError, match="no runbook says anything: true"):
        policy.load(documents)


def test_a_key_that_is_given_twice_is_named_with_its_line(tmp_path: Path) -> None:
    shutil.copytree(runbook_files.BUILT_IN, tmp_path / "books")
    file = tmp_path / "books" / "rank-killed.md"
    file.write_text(file.read_text().replace("  restarts: 20\n", "  restarts: 20\n  restarts: 2\n", 1))
    _, problems = runbook_files.check(tmp_path / "books")
    line = file.read_text().splitlines().index("  restarts: 2") + 1
    assert runbook_files.Located("rank-killed.md", line, "limits.restarts: is given twice") in problems


def test_hash_changes_with_every_rule_and_not_with_the_order(documents: dict[str, dict[str, Any]]) -> None:
    before = policy.load(documents).hash
    assert policy.load(dict(reversed(documents.items()))).hash == before
    documents["unknown.md"]["limits"]["restarts"] += 1
    assert policy.load(documents).hash != before


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("colour", "blue", ("colour", "action", "cause_group", "limits")),
        ("limits.retries", 3, ("limits.retries", "restarts", "same_failure")),
        ("match.exits", ["killed"], ("match.exits", "attempts_without_checkpoint")),
        ("action", "pray", ("'pray'", "restart-without-suspect")),
        ("action", "reset-gpu", ("'reset-gpu'", "hold-for-person")),
        ("severity", "bad", ("'bad'", "fatal, error, warning, info")),
        ("match.exit", ["kiled"], ("'kiled'", "killed")),
        ("match.exit", "killed", ("a list of words",)),
        ("limits.restarts", -1, ("0 or more",)),
        ("limits.restarts", "three", ("'three'", "whole number")),
        ("limits.restarts", True, ("whole number",)),
        ("limits.window_s", float("inf"), ("a number",)),
        ("limits", 3, ("not a table",)),
        ("cause_group", "Gremlins", ("'Gremlins'", "Faulty GPU")),
        ("page", "sometimes", ("when-held",)),
        ("id", "rank-kiled", ("not a cause", "rank-killed")),
        ("match", {}, ("empty",)),
    ],
)
def test_wrong_front_matter_is_refused_with_the_good_words(
    documents: dict[str, dict[str, Any]], path: str, value: object, words: tuple[str, ...]
) -> None:
    target: Any = documents["rank-killed.md"]
    *parents, last = path.split(".")
    for parent in parents:
        target = target[parent]
    target[last] = value
    with pytest.raises(policy.PolicyError) as caught:
        policy.load(documents)
    text = " | ".join(p.text for p in caught.value.problems if p.file == "rank-killed.md")
    for word in words:
        assert word in text


def test_missing_key_and_missing_runbook_are_named(documents: dict[str, dict[str, Any]]) -> None:
    del documents["rank-killed.md"]["action"]
    del documents["unknown.md"]
    texts = [f"{p.file}: {p.text}" for p in policy.check(documents)]
    assert "rank-killed.md: action: is missing" in texts
    assert any("no runbook for the cause unknown" in text for text in texts)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("# no front matter\n", "first line must be ---"),
        ("---\nid: rank-killed\n", "second line of ---"),
        ("---\nid: [\n---\ntext\n", "not YAML"),
        ("---\n- a\n- b\n---\ntext\n", "table of keys"),
        ("---\nid: !!python/object/apply:os.system [ls]\n---\ntext\n", "not YAML"),
        ("---\nid: rank-killed\n---\n\n", "no text below"),
        (b"---\nid: \xff\xfe\n---\ntext\n", "cannot be read"),
        ("x" * (runbook_files.RUNBOOK_BYTES_MAX + 1), "larger than"),
    ],
)
def test_unreadable_runbook_is_named_with_its_file_and_the_others_are_still_checked(
    tmp_path: Path, content: str | bytes, word: str
) -> None:
    directory = tmp_path / "runbooks"
    shutil.copytree(runbook_files.BUILT_IN, directory)
    file = directory / "rank-killed.md"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    count, problems = runbook_files.check(directory)
    assert count == len(vocabulary.CAUSES)
    assert any(p.file == "rank-killed.md" and word in p.text for p in problems)
    with pytest.raises(runbook_files.RunbookError, match=r"rank-killed\.md"):
        runbook_files.load(directory)


def test_problem_carries_the_line_of_its_key(tmp_path: Path) -> None:
    directory = tmp_path / "runbooks"
    shutil.copytree(runbook_files.BUILT_IN, directory)
    file = directory / "node-lost.md"
    file.write_text(file.read_text().replace("  silence_s: 4\n", "  silense_s: 4\n"))
    _, problems = runbook_files.check(directory)
    line = file.read_text().splitlines().index("  silense_s: 4") + 1
    assert [(p.file, p.line) for p in problems] == [("node-lost.md", line)]
    assert "silence_s" in problems[0].text


def test_missing_directory_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(runbook_files.RunbookError, match="--runbooks"):
        runbook_files.read(tmp_path / "nowhere")
