"""``outrider fr``: dumps or digests in; a document for programs, or a page for people, out."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outrider_agent.flight_recorder import files, pool, times
from outrider_analysis.flight_recorder import digest, merge, reading, verdict
from outrider_analysis.flight_recorder.verdict import drawing
from outrider_cli import fr_answer, fr_words, main
from outrider_simulator import flight_recorder

MESH = "dp=2,pp=4,cp=1,tp=4"
SETTINGS = flight_recorder.Settings(ring=100)
KEYS = {"verdict", "culprits", "confidence", "where", "victims", "findings", "absent", "unreadable", "ranks_read"}
KEYS |= {"seconds", "sentence"}
CAMPAIGN = Path(__file__).resolve().parents[1] / "recorded" / "flight_recorder" / "campaign"


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    """Exit status, the document and what was said beside it."""
    status = main.main(["fr", *arguments, "--json"])
    said = capsys.readouterr()
    return status, json.loads(said.out) if said.out else None, said.err


def made(folder: Path, name: str = "stuck-tp", seed: int = 5) -> tuple[Path, flight_recorder.Truth]:
    """A folder of dumps, and what is true of them."""
    case = flight_recorder.make(seed, name=name, mesh=MESH, settings=SETTINGS)
    flight_recorder.write(case, folder)
    return folder / "dumps", case.truth


def test_a_stuck_rank_is_named_with_everything_the_contract_promises(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dumps, truth = made(tmp_path)
    status, document, said = asked(capsys, "analyze", str(dumps), "--mesh", MESH)
    assert (status, said) == (1, "")
    assert set(document) >= KEYS
    assert (document["verdict"], document["culprits"]) == ("rank-missing", list(truth.culprits))
    assert document["verdict"] in verdict.VERDICTS
    assert set(document["where"]) >= {"group", "description", "ranks", "collective_seq_id", "op"}
    assert set(document["seconds"]) == {"read", "digest", "merge"}
    assert (document["ranks_read"], document["absent"], document["unreadable"]) == (32, [], [])
    assert document["victims"]["count"] == len(document["victims"]["ranks"])
    assert set(document["victims"]["waits"][0]) == {"rank", "on_group", "for_ranks"}
    assert document["findings"][0]["culprits"] == list(truth.culprits)


def test_a_job_at_rest_is_no_problem_and_no_dump_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dumps, _ = made(tmp_path, "idle", seed=6)
    status, document, _ = asked(capsys, "analyze", str(dumps))
    assert (status, document["verdict"], document["culprits"]) == (0, "none", [])
    (tmp_path / "empty").mkdir()
    for nothing in (str(tmp_path / "empty"), str(tmp_path / "gone")):
        status, document, said = asked(capsys, "analyze", nothing)
        assert (status, document["verdict"], document["ranks_read"]) == (2, "unknown", 0)
        assert "no dump could be read" in said
        assert any("as in rank_5" in note for note in document["notes"]), "what was expected is said"
    assert document["unreadable"] == [{"file": str(tmp_path / "gone"), "error": "there is no such file"}]


def test_without_any_digest_it_speaks_of_digests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, document, said = asked(capsys, "merge", str(tmp_path))
    assert (status, document["sentence"], document["ranks_read"]) == (2, "No digest could be read.", 0)
    assert document["notes"][0] == f"there is no digest in {tmp_path}"
    assert "dump could be read" not in json.dumps(document) + said
    assert main.main(["fr", "merge", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert f"Note: there is no digest in {tmp_path}." in " ".join(printed.out.split())
    assert "no digest could be read" in printed.err


def test_digests_of_nodes_give_the_answer_that_their_dumps_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dumps, _ = made(tmp_path, "wrong-size")
    (dumps / "rank_31").write_bytes(b"")
    _, whole, _ = asked(capsys, "analyze", str(dumps), "--world", "32")
    digests = tmp_path / "digests"
    digests.mkdir()
    for node in range(4):
        ranks = [str(dumps / f"rank_{rank}") for rank in range(node * 8, node * 8 + 8)]
        assert main.main(["fr", "digest", *ranks, "-o", str(digests / f"node-{node}.json")]) == 0
        assert ("rank_31: empty" in capsys.readouterr().err) == (node == 3)
    status, merged, _ = asked(capsys, "merge", str(digests), "--world", "32")
    assert status == 1
    assert whole["unreadable"] == [{"file": str(dumps / "rank_31"), "error": "empty: the file is empty"}]
    for document in (whole, merged):
        del document["seconds"]
    assert merged == whole
    (digests / "node-4.json").write_text("{}")
    status, merged, _ = asked(capsys, "merge", str(digests), "--world", "32")
    assert (status, merged["culprits"]) == (1, whole["culprits"])
    assert [os.path.basename(item["file"]) for item in merged["unreadable"]] == ["node-4.json", "rank_31"]


def test_a_digest_of_nothing_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rank_0").write_bytes(b"junk")
    assert main.main(["fr", "digest", str(tmp_path / "rank_0"), "-o", str(tmp_path / "out.json")]) == 2
    assert "no digest was written" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
    dumps, _ = made(tmp_path)
    assert main.main(["fr", "digest", str(dumps), "-o", str(tmp_path / "gone" / "out.json")]) == 2
    assert "-o" in capsys.readouterr().err


def test_of_two_dumps_of_a_rank_the_newest_counts_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dumps, truth = made(tmp_path)
    _, before, _ = asked(capsys, "analyze", str(dumps))
    older = tmp_path / "older"
    older.mkdir()
    for rank in truth.culprits[0], 0:
        found = pickle.loads((dumps / f"rank_{rank}").read_bytes())
        found["entries"] = found["entries"][:-5]
        (older / f"rank_{rank}").write_bytes(pickle.dumps(found, 2))
    status, document, said = asked(capsys, "analyze", str(older), str(dumps))
    assert (status, document["culprits"], document["ranks_read"]) == (1, before["culprits"], 32)
    ranks = ", ".join(map(str, sorted({truth.culprits[0], 0})))
    assert document["notes"] == [f"ranks {ranks} were given more than once; the newest dump of each counts"]
    assert "more than once" in said


def test_gloos_groups_come_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = json.loads(gzip.decompress((CAMPAIGN / "wrong-dtype.json.gz").read_bytes()))
    for rank, data in case["dumps"].items():
        (tmp_path / f"rank_{rank}").write_bytes(base64.b64decode(data))
    groups = tmp_path / "told.json"
    groups.write_text(json.dumps(case["groups"]))
    status, document, said = asked(capsys, "analyze", str(tmp_path), "--groups", str(groups))
    assert (status, document["verdict"]) == (1, "dtype-mismatch")
    assert set(document["culprits"]) >= set(case["truth"]["culprits"])  # who else: tests of the verdict
    where = document["where"]
    assert where["ranks"] == case["groups"][where["group"]]["ranks"]  # of one of them there is no dump
    assert set(where["ranks"]) & set(document["absent"])
    assert document["notes"] == ["1 file names no rank and looks like no dump; it was passed over"]
    assert document["notes"][0] in said


def test_groups_beside_dumps_count_as_those_of_the_option_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = json.loads(gzip.decompress((CAMPAIGN / "wrong-op.json.gz").read_bytes()))
    dumps = tmp_path / "dumps"
    dumps.mkdir()
    for rank, data in case["dumps"].items():
        (dumps / f"rank_{rank}").write_bytes(base64.b64decode(data))
        os.utime(dumps / f"rank_{rank}", ns=(0, case["taken_ns"][rank]))
    told = tmp_path / "told.json"
    told.write_text(json.dumps(case["groups"]))
    _, guessed, _ = asked(capsys, "analyze", str(dumps))
    _, by_option, _ = asked(capsys, "analyze", str(dumps), "--groups", str(told))
    assert (guessed["culprits"], by_option["culprits"]) == (case["truth"]["culprits"],) * 2
    assert guessed["confidence"] < 0.7 < by_option["confidence"]

    same = ("verdict", "culprits", "confidence", "where", "victims", "sentence", "notes", "unreadable", "absent")
    told.rename(dumps / "groups.json")
    _, beside, _ = asked(capsys, "analyze", str(dumps))
    assert {key: beside[key] for key in same} == {key: by_option[key] for key in same}
    named = [str(dumps / f"rank_{rank}") for rank in case["dumps"]]
    _, beside, _ = asked(capsys, "analyze", *named)
    assert beside["confidence"] == by_option["confidence"]
    digest = tmp_path / "digest.json"
    assert main.main(["fr", "digest", str(dumps), "-o", str(digest)]) == 0
    _, merged, _ = asked(capsys, "merge", str(digest))
    assert {key: merged[key] for key in same} == {key: by_option[key] for key in same}

    (dumps / "groups.json").write_text('{"0": {"desc"')
    _, without, _ = asked(capsys, "analyze", str(dumps))
    assert {key: without[key] for key in same} == {key: guessed[key] for key in same}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mesh", "dp=2,xp=2"], "xp=2"),
        (["--mesh", "dp=2", "--world", "3"], "has 2 ranks"),
        (["--world", "0"], "below 1"),
        (["--groups", "/nowhere/groups.json"], "No such file"),
        (["--groups", "LIST"], "was expected, not list"),
        (["--groups", "NAMES"], """the "ranks" of 'tp' are no list of ranks"""),
        (["--mesh", ""], "is not AXIS=SIZE"),
        (["--mesh", "dp=99999999999,tp=8"], "at most 1048576 are judged"),
        (["--world", "99999999999"], "at most 1048576 ranks are judged"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "names.json").write_text('{"0": {"desc": "", "ranks": []}, "tp": {"desc": "tp", "ranks": ["0"]}}')
    places = {"LIST": str(tmp_path / "list.json"), "NAMES": str(tmp_path / "names.json")}
    words = [places.get(word, word) for word in arguments]
    assert main.main(["fr", "analyze", str(tmp_path), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_digest_and_a_dump_that_are_taken_for_each_other_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dumps, _ = made(tmp_path)
    digest = tmp_path / "node-7.json"
    assert main.main(["fr", "digest", str(dumps), "-o", str(digest)]) == 0
    status, document, _ = asked(capsys, "analyze", str(digest))
    assert (status, document["ranks_read"]) == (2, 0)
    assert "`outrider fr merge` judges those" in document["unreadable"][0]["error"]
    status, document, _ = asked(capsys, "merge", str(dumps / "rank_0"))
    assert (status, document["ranks_read"]) == (2, 0)
    assert "`outrider fr digest` makes one of dumps" in document["unreadable"][0]["error"]


@pytest.mark.parametrize(
    "pattern", ["rank_{}", "host-a17_trace_rank_{}", "h{}.local.trace_{}", "rank_{}.json", "rank{}.pkl"]
)
def test_the_rank_is_at_the_end_of_the_name(tmp_path: Path, pattern: str) -> None:
    names = {pattern.format(*[rank] * pattern.count("{}")): rank for rank in (0, 7, 16383)}
    for name in names:
        (tmp_path / name).write_bytes(b"")
    found = files.find([str(tmp_path)])
    assert {os.path.basename(source.file): source.rank for source in found.files} == names


def test_names_that_end_with_something_else_are_told_apart_together(tmp_path: Path) -> None:
    for rank in range(16):
        (tmp_path / f"rank_{rank}_host{rank // 8}").write_bytes(b"")
    assert [source.rank for source in files.find([str(tmp_path)]).files] == list(range(16))
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    for rank in range(16):
        (tmp_path / f"{rank}_fr_trace.txt").write_bytes(b"")
    (tmp_path / "README.md").write_text("dumps of the run before")
    (tmp_path / ".hidden_3").write_text("")
    (tmp_path / "host-a").write_bytes(pickle.dumps({"version": "2.10", "pg_config": {}}, 2))
    found = files.find([str(tmp_path)])
    assert [source.rank for source in found.files] == list(range(16))
    assert (found.passed_over, [file for file, _ in found.unreadable]) == (1, [str(tmp_path / "host-a")])


def test_the_page_is_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dumps, truth = made(tmp_path)
    (dumps / "rank_9").unlink()
    assert main.main(["fr", "analyze", str(dumps), "--mesh", MESH]) == 1
    page = capsys.readouterr().out
    lines = page.splitlines()
    assert max(map(len, lines)) <= fr_words.WIDTH
    (culprit,) = truth.culprits
    assert lines[0].startswith(f"Rank {culprit} (")
    assert f"culprit    {culprit} (" in page
    assert re.search(rf"^  absent +1  {culprit} \(", page, re.MULTILINE)
    assert re.search(r"^  waits +3  ", page, re.MULTILINE)
    root = lines.index(next(line for line in lines if line.startswith("Who waits for whom"))) + 1
    assert lines[root].startswith(f"rank {culprit} (")
    assert "CULPRIT" in lines[root]
    assert lines[root + 1].startswith("  <- ")
    assert "31 of 32 ranks read" in page
    assert "No dump of rank 9." in page


@pytest.mark.parametrize("name", flight_recorder.NAMES)
def test_every_kind_of_case_makes_a_page(name: str) -> None:
    case = flight_recorder.make(3, 32, name, flight_recorder.Settings(ring=64))
    judged = judged_case(case)
    lines = page_of(judged)
    assert max(map(len, lines)) <= fr_words.WIDTH
    text = "\n".join(lines)
    assert all(finding.kind in text for finding in judged.findings)
    assert "Who waits for whom" in text or not judged.victims


def judged_case(case: flight_recorder.Case) -> verdict.Verdict:
    """The verdict over all dumps of a case."""
    digester = digest.Digester()
    read = [(rank, reading.read(data)) for rank, data in case.dumps()]
    node = digester.node(digester.rank(rank, dump) for rank, dump in read if isinstance(dump, reading.Dump))
    return verdict.judge(merge.merge([node]))


def page_of(judged: verdict.Verdict, colour: bool = False) -> list[str]:
    """Lines of the page."""
    beside: dict[str, Any] = {"seconds": {}, "notes": [], "unreadable": []}
    return list(fr_answer.lines(judged, judged.to_json() | drawing.draw(judged) | beside, colour))


def test_a_large_job_takes_no_more_lines_than_a_small_one() -> None:
    case = flight_recorder.make(
        3, name="stuck-dp", mesh="dp=8,pp=4,cp=1,tp=8", settings=flight_recorder.Settings(ring=64)
    )
    lines = page_of(judged_case(case))
    assert len(lines) <= 50
    assert max(map(len, lines)) <= fr_words.WIDTH
    assert lines[0].startswith(f"Rank {case.truth.culprits[0]} (")
    assert "255 ranks wait" in "\n".join(lines)


def test_a_place_has_all_its_axes_the_usual_ones_first() -> None:
    assert fr_words.place({"tp": 0, "ep": 1, "dp": 2, "expert": 3}) == " (dp=2, tp=0, ep=1, expert=3)"


def test_colours_are_for_terminals_and_tell_nothing_by_themselves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    judged = judged_case(flight_recorder.make(3, 32, "stuck-tp", flight_recorder.Settings(ring=64)))
    coloured = page_of(judged, colour=True)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == page_of(judged)
    assert coloured[0].startswith("\x1b[1;31m")
    dumps, _ = made(tmp_path)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    main.main(["fr", "analyze", str(dumps)])
    assert "\x1b[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main.main(["fr", "analyze", str(dumps)])
    assert "\x1b" not in capsys.readouterr().out


def test_a_files_time_is_that_of_its_dump_unless_it_was_copied(tmp_path: Path) -> None:
    dumps, _ = made(tmp_path)

    def taken(copied: bool = False) -> set[int]:
        nodes = times.checked(pool.read(files.find([str(dumps)]).files).nodes, copied)
        return {rank.taken_ns for node in nodes for rank in node.ranks}

    written = {path.stat().st_mtime_ns for path in dumps.iterdir()}
    assert taken() == written  # the generator gives files the time of the dump
    assert taken(copied=True) == {0}
    (dumps / "rank_7").touch()  # years after the stamps
    assert taken() == {0}
    os.utime(dumps / "rank_7", ns=(0, min(written) - 7200 * 10**9))
    assert taken() == {0}


def test_a_terminal_is_told_nothing_by_a_dump(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dumps, _ = made(tmp_path)
    for path in dumps.iterdir():
        found = pickle.loads(path.read_bytes())
        for entry in found["entries"]:
            entry["process_group"] = (entry["process_group"][0], "\x1b[2Jmesh_tp\r\n\x9b")
            entry["profiling_name"] = entry["profiling_name"].replace("all_gather", "all\x1b]0;gather")
        path.write_bytes(pickle.dumps(found, 2))
    (dumps / "rank_3\x1b[1m_3").write_bytes(b"")
    assert main.main(["fr", "analyze", str(dumps)]) == 1
    said = capsys.readouterr()
    assert all(char.isprintable() or char == "\n" for char in said.out + said.err)


def test_progress_is_shown_on_standard_error_alone(tmp_path: Path) -> None:
    case = flight_recorder.make(1, name="idle", mesh="dp=4,pp=2,cp=1,tp=8", settings=SETTINGS)
    flight_recorder.write(case, tmp_path)
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "outrider_cli", "fr", "analyze", str(tmp_path / "dumps"), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=follower, check=False)
    os.close(follower)
    shown = os.read(leader, 1 << 16)
    os.close(leader)
    assert json.loads(done.stdout)["ranks_read"] == 64
    assert b"reading dumps: 64 of 64" in shown
    assert shown.endswith(b"\x1b[K")


def test_the_number_of_ranks_tells_who_is_in_gloos_group_of_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gloo's dumps name no members; where only those are counted who mention the group, nobody is named for sure."""
    for rank in range(4):
        call = "gloo:broadcast" if rank == 2 else "gloo:all_reduce"
        entry = {"record_id": 0, "pg_id": 0, "process_group": ["0", "default_pg"], "collective_seq_id": 1}
        entry |= {"p2p_seq_id": 0, "op_id": 1, "profiling_name": call, "time_created_ns": 10**18, "is_p2p": False}
        entry |= {"input_sizes": [[64]], "input_dtypes": ["Float"], "output_sizes": [[64]], "output_dtypes": ["Float"]}
        entry |= {"state": "scheduled", "retired": False, "timeout_ms": 1000}
        text = json.dumps({"version": "2.10", "entries": [entry]})
        (tmp_path / f"rank_{rank}.json").write_text(text)
    _, guessed, _ = asked(capsys, "analyze", str(tmp_path))
    status, told, _ = asked(capsys, "analyze", str(tmp_path), "--world", "4")
    assert (status, told["verdict"], told["culprits"]) == (1, "collective-mismatch", [2])
    assert guessed["confidence"] < 0.7 < told["confidence"]
    _, wrong, _ = asked(capsys, "analyze", str(tmp_path), "--world", "3")
    assert "rank 3 left a dump, and the job was said to have 3 ranks" in wrong["notes"][0]
