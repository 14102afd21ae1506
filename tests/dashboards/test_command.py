"""`outrider dashboard`: where it may be served, what nobody may see, and how it ends."""

import os
import pathlib
import signal
import sys
import urllib.request

import pytest

from outrider_cli import dashboard, errors, main
from outrider_cli import processes as processes_module
from tests.dashboards.answers import TOKEN, Answers, status
from tests.end_to_end.world import World, processes


def served(world: World, answers: Answers, *options: str) -> tuple[object, str]:
    """A running command and the address that it said."""
    token = world.work / "token"
    token.write_text(TOKEN)
    given = ["--controller", answers.url, "--token-file", str(token), *options]
    process = world.start("dashboard", *given)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "the page is at " in line, process.communicate()[1]
    return process, line.split("the page is at ")[1].split(";")[0]


def test_it_is_served_until_told_to_stop_and_its_token_is_on_no_command_line(world: World, answers: Answers) -> None:
    answers.give(status())
    process, url = served(world, answers, "--listen", "127.0.0.1:0")
    children = processes_module.children(process.pid)  # type: ignore[attr-defined]
    assert len(children) == 1
    with urllib.request.urlopen(f"{url}/_stcore/health") as answer:
        assert answer.status == 200
    assert not [words for _, words in processes(TOKEN) if "pytest" not in " ".join(words)]
    process.send_signal(signal.SIGTERM)  # type: ignore[attr-defined]
    assert process.wait(30) == 0  # type: ignore[attr-defined]
    assert not processes_module.wait_gone(children, 10.0)
    assert TOKEN not in str(process.stderr.read())  # type: ignore[attr-defined]


def test_the_page_ends_with_a_command_that_was_killed(world: World, answers: Answers) -> None:
    process, _ = served(world, answers, "--listen", "127.0.0.1:0")
    children = processes_module.children(process.pid)  # type: ignore[attr-defined]
    process.kill()  # type: ignore[attr-defined]
    process.wait()  # type: ignore[attr-defined]
    assert not processes_module.wait_gone(children, 20.0)


def test_a_taken_port_is_left_and_the_next_one_taken(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "PORT_DEFAULT", answers.port)
    found = dashboard.start(answers.url, TOKEN)
    try:
        assert found.url.startswith("http://127.0.0.1:")
        assert found.url != answers.url
    finally:
        found.stop()
        found.stop()
    assert not found.log.exists()
    with pytest.raises(errors.CommandError, match="in use; give another with --listen"):
        dashboard.start(answers.url, TOKEN, place=dashboard.Place(port=answers.port))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--listen", "0.0.0.0:0"], "without TLS and a token everybody"),
        (["--listen", "192.0.2.1:8471"], "--behind-proxy"),
        (["--listen", "8471x"], "is not HOST:PORT"),
        (["--tls-cert", "chain.pem"], "give both or neither"),
        (["--viewer-token-file", "/nowhere"], "cannot be read"),
        (["--behind-proxy", "--public-url", "page.example"], "is not an address such as"),
    ],
)
def test_an_unsafe_or_unclear_place_is_refused_with_the_way_out(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["dashboard", "--controller", "http://127.0.0.1:1", *options]) == 2
    assert words in capsys.readouterr().err


def test_without_a_controller_it_says_how_to_start_one(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OUTRIDER_CONTROLLER", raising=False)
    assert main.main(["dashboard", "--state", str(tmp_path)]) == 2
    assert "start one with outrider controller" in capsys.readouterr().err


def test_without_streamlit_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dashboard.importlib.util, "find_spec", lambda name: None)
    assert main.main(["dashboard", "--controller", "http://127.0.0.1:1"]) == 2
    assert "pip install 'outrider[dashboard]'" in capsys.readouterr().err


def test_a_place_off_loopback_needs_tls_and_a_token_or_a_proxy(tmp_path: pathlib.Path) -> None:
    pem = tmp_path / "x.pem"
    pem.write_text("")
    everything = {"tls_cert": str(pem), "tls_key": str(pem), "viewer_token": "t"}
    assert dashboard.checked(dashboard.Place("10.0.0.5", 8471, **everything)).host == "10.0.0.5"
    assert dashboard.checked(dashboard.Place("0.0.0.0", 8471, behind_proxy=True)).host == "0.0.0.0"
    for missing in everything:
        with pytest.raises(errors.CommandError):
            dashboard.checked(dashboard.Place("10.0.0.5", 8471, **{**everything, missing: ""}))
    with pytest.raises(errors.CommandError, match="--public-url"):
        dashboard.checked(dashboard.Place("0.0.0.0", 8471, **everything))


def test_streamlit_is_told_to_keep_to_itself() -> None:
    from outrider_dashboards import __main__ as serving
    from outrider_dashboards import settings

    words = serving.options(settings.Settings("http://127.0.0.1:1", "secret-token", viewer_token="secret-too"))
    assert "--browser.gatherUsageStats=false" in words
    assert "--client.toolbarMode=minimal" in words
    assert "--server.allowedHosts=localhost" in words
    assert not [word for word in words if "secret" in word]
    assert sys.executable
    assert os.environ.get("OUTRIDER_DASHBOARD") is None
