"""The keeper's parts that need no process: journal, commands, what to import ahead, fork gate."""

import json
import pathlib
import select
import sys

import pytest

from outrider_agent.keeper import command, environment, exits, gate, journal, preload


def test_a_journal_tells_unacknowledged_events_again_after_its_keeper_died(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "events.jsonl"
    first = journal.Journal(path)
    assert [n for n, _ in first.add([{"kind": "a"}, {"kind": "b"}, {"kind": "c"}])] == [1, 2, 3]
    first.ack(2)
    second = journal.Journal(path)
    assert (second.identity, second.next_event) == (first.identity, 4)
    assert (3, {"kind": "c"}) in second.since(3)


def test_a_torn_last_line_is_left_out_and_its_number_used_again(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "events.jsonl"
    journal.Journal(path).add([{"kind": "a"}, {"kind": "b"}])
    path.write_bytes(path.read_bytes()[:-7])
    again = journal.Journal(path)
    assert again.since(0) == [(1, {"kind": "a"})]
    assert again.add([{"kind": "c"}]) == [(2, {"kind": "c"})]
    assert journal.Journal(path).since(0) == [(1, {"kind": "a"}), (2, {"kind": "c"})]


def test_a_journal_that_is_no_journal_is_set_aside_and_a_new_one_has_another_name(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "events.jsonl"
    old = journal.Journal(path)
    path.write_bytes(b"\x00garbage")
    new = journal.Journal(path)
    assert new.identity != old.identity
    assert path.with_suffix(".damaged").read_bytes() == b"\x00garbage"


def test_an_acknowledged_journal_does_not_grow(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "events.jsonl"
    kept = journal.Journal(path)
    for _ in range(100):
        numbered = kept.add([{"kind": "a", "text": "x" * 1000} for _ in range(10)])
        kept.ack(numbered[-1][0])
    assert kept.empty
    assert path.stat().st_size < 2 * journal.TRIM_BYTES
    assert journal.Journal(path).next_event == 1001


def test_a_full_disk_loses_no_event(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = journal.Journal(tmp_path / "events.jsonl")
    with monkeypatch.context() as broken:
        broken.setattr(journal.os, "fdatasync", _full)
        assert kept.add([{"kind": "a"}]) == [(1, {"kind": "a"})]
    kept.add([{"kind": "b"}])
    assert journal.Journal(tmp_path / "events.jsonl").since(0) == [(1, {"kind": "a"}), (2, {"kind": "b"})]


def _full(fd: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("words", "kind", "target", "arguments", "flags"),
    [
        ("python train.py --lr 1", "script", "train.py", ("--lr", "1"), ()),
        ("/opt/x/bin/python3.12 -u train.py", "script", "train.py", (), ()),
        ("python3 -m pkg.train -m x", "module", "pkg.train", ("-m", "x"), ()),
        ("python -O -W error -X dev train.py", "script", "train.py", (), ("-O", "-W", "error", "-X", "dev")),
        ("python -c print()", "other", "", (), ()),
        ("python", "other", "", (), ()),
        ("python -m", "other", "", (), ()),
        ("pythonic train.py", "other", "", (), ()),
        ("bash run.sh", "other", "", (), ()),
    ],
)
def test_a_command_is_read(
    words: str, kind: str, target: str, arguments: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    program = command.read(tuple(words.split()))
    assert (program.kind, program.target, program.arguments, program.flags) == (kind, target, arguments, flags)


def test_what_to_import_ahead_is_read_off_the_script_and_its_siblings(tmp_path: pathlib.Path) -> None:
    (tmp_path / "train.py").write_text("import json, model\nfrom torch import nn\nraise SystemExit('never run')")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").write_text("from .layers import rope\nfrom model import train_loop")
    (tmp_path / "model" / "layers.py").write_text("def f():\n    import torch.distributed.fsdp\nimport torch_extras\n")
    (tmp_path / "model" / "train_loop.py").write_text("import numpy as np\nimport train")
    (tmp_path / "broken.py").write_text("import torch\ndef (")
    assert preload.scan(str(tmp_path / "train.py"), str(tmp_path)) == (
        ("torch", "nn"),
        ("torch.distributed.fsdp", ""),
        ("numpy", ""),
    )
    assert preload.scan(str(tmp_path / "broken.py"), str(tmp_path)) == ()


def test_what_is_missing_is_left_to_the_script(tmp_path: pathlib.Path) -> None:
    (tmp_path / "train.py").write_text("try:\n    import numpy.not_there\nexcept ImportError:\n    pass")
    program = command.read((sys.executable, "train.py"))
    assert preload.load(("auto",), program, str(tmp_path)) in (None, gate.why_not_fork())


def test_a_threaded_process_is_not_forked() -> None:
    import threading

    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="loader")
    thread.start()
    try:
        reason = gate.why_not_fork()
    finally:
        stop.set()
        thread.join()
    assert reason is not None
    assert "loader" in reason


def test_a_module_hidden_by_the_scripts_folder_is_found(tmp_path: pathlib.Path) -> None:
    (tmp_path / "json.py").write_text("")
    (tmp_path / "pathlib").mkdir()
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "select").mkdir()
    (tmp_path / "select" / "__init__.py").write_text("")
    assert select.__name__ == "select"
    assert gate.hidden_modules(str(tmp_path)) == {"json": "json.py", "select": "select/__init__.py"}


def test_the_keepers_own_thread_settings_are_not_the_ranks(tmp_path: pathlib.Path) -> None:
    from outrider_agent.keeper import home

    place = home.Home(tmp_path)
    keeper = environment.of_keeper({"A": "1"}, place, ranks=8)
    assert (keeper["OPENBLAS_NUM_THREADS"], keeper["OMP_NUM_THREADS"]) == ("1", "1")
    assert environment.base(keeper).keys() == {"A", "OMP_NUM_THREADS", "OUTRIDER_KEEPER"}
    chosen = environment.of_keeper({"OPENBLAS_NUM_THREADS": "4"}, place, ranks=1)
    assert environment.base(chosen) == {"OPENBLAS_NUM_THREADS": "4", "OUTRIDER_KEEPER": str(tmp_path)}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"message": 3}', '{"message": {}}', '{"message": {"message": 3, "extraInfo": []}}', "\xff"],
)
def test_a_damaged_error_file_says_nothing(tmp_path: pathlib.Path, content: str) -> None:
    (tmp_path / "e.json").write_text(content)
    assert exits.error(str(tmp_path / "e.json")).get("error_type") is None


def test_a_log_tail_is_whole_lines_and_bounded(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "rank_0.log"
    log.write_text("".join(f"line {n} é\n" for n in range(2000)))
    tail = exits.log_tail(str(log))
    assert len(tail.encode()) <= 4096
    assert tail.startswith("line ")
    assert tail.endswith("line 1999 é\n")
    log.write_text("x" * 10_000)
    assert exits.log_tail(str(log)) == "x" * 4096
    assert exits.log_tail(str(tmp_path / "none")) == ""


def test_why_a_process_crashed_stands_before_stacks_that_are_longer_than_a_log_tail(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "rank_0.log"
    words = "terminate called after throwing an instance of 'gloo::EnforceNotMet'\n  what():  8 vs 4\n"
    fatal = "Fatal Python error: Aborted\n"
    stacks = "".join(f'  File "/job/train.py", line {line} in step\n' for line in range(400))
    log.write_text("step 7\n" * 9 + words + fatal + stacks)
    tail = exits.log_tail(str(log))
    assert tail.startswith(words + fatal + '  File "/job/train.py", line ')
    assert tail.endswith(stacks[-200:])
    assert len(tail) <= 4096
    log.write_text("step 7\n" * 9 + fatal + stacks)
    assert exits.log_tail(str(log)).startswith(fatal + "  File")
    log.write_text(words + fatal + stacks[:900])
    assert exits.log_tail(str(log)) == words + fatal + stacks[:900], "what is there is not said twice"
    log.write_text(words + "step 8\n" * 2000)
    assert exits.log_tail(str(log)).startswith("step 8"), "a crash of another process, long ago"
    log.write_text(words[:-1] + "x" * 3000 + "\n" + fatal + stacks)
    tail = exits.log_tail(str(log))
    assert tail.startswith(words[:-1] + "x" * 900)
    assert tail.endswith(stacks[-2000:]), "words that would fill the tail are cut"
    assert len(tail) <= 4096


def test_signals_have_names(tmp_path: pathlib.Path) -> None:
    assert [exits.signal_name(number) for number in (9, 11, 40)] == ["SIGKILL", "SIGSEGV", "SIG40"]
    assert json.dumps(exits.signal_name(6)) == '"SIGABRT"'
