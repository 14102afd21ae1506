"""The command as people and programs meet it: help, errors, exit statuses, and JSON alone on standard output."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from outrider_cli import main, parsing
from tests import saves
from tests.style import tree

PARSER = main.build()


def sub_commands(parser: parsing.Parser, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every sub-command, as the words that name it."""
    found = [words] if words else []
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for name, child in action.choices.items():
                found += sub_commands(child, (*words, name))
    return found


@pytest.mark.parametrize("words", [(), *sub_commands(PARSER)], ids=" ".join)
def test_every_command_has_help_that_says_what_it_does(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([*words, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: outrider")
    assert len(said.splitlines()) > 4
    assert max(map(len, said.splitlines())) <= 130


@pytest.mark.parametrize("words", [words for words in sub_commands(PARSER) if len(words) == 1], ids=" ".join)
def test_every_sub_command_shows_an_example(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    main.main([*words, "--help"])
    assert f"outrider {words[0]}" in capsys.readouterr().out.split("example", 1)[-1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["statsu"], "COMMAND 'statsu' is not known; did you mean status?"),
        ([], "the following arguments are required: COMMAND"),
        (["status", "--jbo", "x"], "outrider status: unknown option --jbo; did you mean --job"),
        (["status", "--jso"], "did you mean --json?"),
        (["run", "--nproc", "2", "x.py"], "unknown option --nproc; did you mean --nproc-per-node?"),
        (["run", "--nodes", "0", "x.py"], "argument --nodes: 0 is below 1"),
        (["job", "strat"], "ACTION 'strat' is not known; did you mean start?"),
        (["job", "stop", "extra"], "'extra' is one argument too many"),
        (["explain"], "the following arguments are required: INCIDENT"),
        (["controller", "--listen", "everywhere"], "--listen 'everywhere' is not HOST:PORT"),
        (["controller", "--listen", "0.0.0.0:0"], "without TLS"),
        (["agent", "--node", "a/b"], "--node 'a/b'"),
        (["agent", "--controller", "http://10.1.2.3:1", "--token-file", "x"], "unencrypted"),
        (["token", "node", "a/b"], "node 'a/b'"),
        (["status"], "no controller runs on"),
        (["job", "list"], "no controller runs on"),
        (["status", "--controller", "http://127.0.0.1:1"], "http://127.0.0.1:1: no controller answers"),
        (["status", "--controller", "ftp://x"], "'ftp://x': is not an address such as"),
        (["status", "--controller", "http://10.1.2.3:1"], "would carry the token unencrypted"),
        (["status", "--controller", "https://127.0.0.1:1", "--ca-file", "/no/file"], "--ca-file /no/file"),
        (["runbook", "check", "/no/such/place"], "/no/such/place"),
        (["checkpoint", "list", "/no/such/place"], "/no/such/place: is not a directory"),
    ],
)
def test_a_mistake_is_named_in_two_lines_with_the_way_out(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OUTRIDER_STATE", str(tmp_path / "state"))
    for name in ("OUTRIDER_CONTROLLER", "OUTRIDER_TOKEN_FILE", "OUTRIDER_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    assert main.main(words) == 2
    said = capfd.readouterr()
    assert sentence in said.err
    assert said.out == ""
    assert 1 <= len(said.err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('name = "a"\ncommand = ["x"\n', "is not TOML: "),
        ('name = "a"\ncommand = ["x"]\nnods = 2\n', "nods: is not a key of a job; the keys are"),
        ('name = "a"\ncommand = "x"\n', "command: 'x' is"),
        ('name = "a"\ncommand = ["x"]\n[limits]\ngrace = 2\n', "limits.grace: is not a key"),
        ('name = "a"\ncommand = ["x"]\nmesh = "dp=3"\n', "mesh: dp=3 has 3 ranks"),
    ],
)
def test_a_wrong_job_file_is_refused_with_the_offending_key(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.toml"
    file.write_text(text)
    assert main.main(["job", "start", str(file), "--state", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"{file}: " in said
    assert sentence in said


def test_a_job_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for file, sentence in ((tmp_path / "absent.toml", "cannot be read"), (binary, "is not UTF-8 text")):
        assert main.main(["job", "start", str(file)]) == 2
        assert f"{file}: {sentence}" in capsys.readouterr().err


def test_a_state_directory_that_cannot_be_used_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "file"
    place.write_text("")
    script = tmp_path / "job.py"
    script.write_text("")
    for words in (["run", "--state", str(place / "below"), str(script)], ["controller", "--state", str(place)]):
        assert main.main(words) == 2
        assert f"{place}" in capsys.readouterr().err


def test_runbook_check_names_file_and_line_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for runbook in (tree.ROOT / "runbooks").glob("*.md"):
        (tmp_path / runbook.name).write_text(runbook.read_text().replace("severity:", "sverity:", 1))
    assert main.main(["runbook", "check", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {"file", "line", "text"} == set(found["problems"][0])
    assert any("sverity" in problem["text"] and problem["line"] > 1 for problem in found["problems"])
    assert main.main(["runbook", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []


def test_checkpoint_list_exits_1_when_one_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = saves.foreign(tmp_path, 10)
    assert main.main(["checkpoint", "list", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resume_from"] == str(good)
    (tmp_path / "step-20").mkdir()
    assert main.main(["checkpoint", "list", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "rejected" in said
    assert f"resume from: {good}" in said


def test_the_tokens_of_a_node_are_made_once_and_private(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for _ in range(2):
        assert main.main(["token", "node", "n17", "--state", str(tmp_path)]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] == (tmp_path / "tokens" / "nodes" / "n17").read_text()
    assert (tmp_path / "tokens" / "nodes" / "n17").stat().st_mode & 0o077 == 0


def bare(*words: str) -> subprocess.CompletedProcess[str]:
    """The command where nothing but the standard library can be imported."""
    sources = os.pathsep.join(str(package.parent) for package in tree.PACKAGES.values())
    environment = {"PYTHONPATH": sources, "PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    command = [sys.executable, "-S", "-m", "outrider_cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["run", __file__], "controller,agent"),
        (["demo"], "controller,agent"),
        (["controller"], "controller"),
        (["agent"], "agent"),
        (["runbook", "check"], "controller"),
        (["checkpoint", "list", "/tmp"], "controller"),
    ],
)
def test_a_missing_extra_is_named_with_the_line_that_installs_it(words: list[str], extra: str) -> None:
    done = bare(*words)
    assert done.returncode == 2
    assert done.stderr.endswith(f"pip install 'outrider[{extra}]'\n")
    assert len(done.stderr.splitlines()) == 1


def test_help_and_version_need_nothing_installed() -> None:
    assert bare("--help").returncode == 0
    assert bare("run", "--help").returncode == 0
    assert bare("--version").stdout.startswith("outrider ")


@pytest.mark.parametrize("words", [["status"], ["job", "list"], ["explain", "a-1"]])
def test_a_state_directory_that_may_not_be_read_is_no_empty_one(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    for name in ("OUTRIDER_CONTROLLER", "OUTRIDER_TOKEN_FILE", "OUTRIDER_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    assert main.main([*words, "--state", str(tmp_path)]) == 2
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert f"{tmp_path}/controller.json: Permission denied" in said
    assert "unexpected" not in said


def test_a_controller_of_the_other_scheme_is_told_apart_from_none(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:

        def hang_up() -> None:
            for _ in range(2):
                peer, _ = door.accept()
                hello = peer.recv(4096)
                if not hello.startswith(b"GET"):
                    peer.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
                peer.close()

        threading.Thread(target=hang_up, daemon=True).start()
        address = f"127.0.0.1:{door.getsockname()[1]}"
        for scheme, words in (("http", "does it expect https://?"), ("https", "is it http://?")):
            assert main.main(["status", "--controller", f"{scheme}://{address}"]) == 2
            assert words in capsys.readouterr().err


def test_an_unforeseen_error_is_one_sentence_and_a_traceback_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "build", lambda: 1 / 0)
    monkeypatch.delenv("OUTRIDER_DEBUG", raising=False)
    assert main.main([]) == 2
    assert capsys.readouterr().err.splitlines()[0] == "outrider: unexpected ZeroDivisionError: division by zero"
    monkeypatch.setenv("OUTRIDER_DEBUG", "1")
    assert main.main([]) == 2
    assert "Traceback" in capsys.readouterr().err
