"""Log directories of a job's user under an agent that runs as root: links that the user has laid give them nothing."""

import asyncio
import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_agent import keeper_process
from outrider_agent.keeper import home
from tests.agent import world

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes anything for somebody else")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder of root's with the agent's runtime and state, something precious and a home of the job's user."""
    with world.short_directory() as above:
        above.chmod(0o755)
        for name in ("run", "state", "precious", "home"):
            (above / name).mkdir(mode=0o755)
        os.chown(above / "home", NOBODY, NOBODY)
        yield above


def begin(place: Path, logs: Path) -> None:
    """What an agent does before it starts a keeper."""
    name = pwd.getpwuid(NOBODY).pw_name
    settings = keeper_process.Settings("j", "n0", place / "run", user=name, own=(logs,))
    asyncio.run(keeper_process._user(settings, home.of(place / "run", "j"), {}))


def test_what_a_link_leads_to_is_never_given_away(place: Path) -> None:
    for name, target in (("a", "precious"), ("b", "precious/new"), ("c", "precious")):
        (place / "home" / name).symlink_to(place / target)
    for logs in ("a", "b", "c/new"):
        with pytest.raises(PermissionError, match="for user nobody"):
            begin(place, place / "home" / logs)
    assert (place / "precious").stat().st_uid == 0
    assert not list((place / "precious").iterdir())


def test_a_directory_is_the_users_wherever_it_is_made_and_what_was_there_stays_as_it_was(place: Path) -> None:
    (place / "link").symlink_to("state")  # an administrator's
    (place / "home" / "far").symlink_to("near")
    (place / "home" / "near").mkdir()
    os.chown(place / "home" / "near", NOBODY, NOBODY)
    for logs in ("state/logs/j", "link/logs/k", "home/logs/j", "home/far/logs"):
        for _ in range(2):
            begin(place, place / logs)
        found = (place / logs).stat()
        assert (found.st_uid, found.st_mode & 0o777) == (NOBODY, 0o700)
    assert (place / "state" / "logs").stat().st_uid == 0
    shared = place / "precious" / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    begin(place, shared)
    assert shared.stat().st_uid == 0


def test_a_folder_where_everybody_lays_names_is_no_way_for_root(place: Path) -> None:
    (place / "state").chmod(0o777)
    (place / "state" / "logs").mkdir()
    with pytest.raises(PermissionError, match="because others than root may lay names on the way"):
        begin(place, place / "state" / "logs" / "j")


def test_a_keepers_log_that_its_user_made_a_link_of_is_not_written_to(place: Path) -> None:
    kept = home.of(place / "run", "j")
    begin(place, place / "state" / "logs")
    (place / "precious" / "file").write_text("mine")
    kept.log.symlink_to(place / "precious" / "file")
    settings = keeper_process.Settings("j", "n0", place / "run", user="nobody")
    assert "Too many levels of symbolic links" in asyncio.run(keeper_process.spawn("/bin/true", settings))
    assert keeper_process._log_tail(kept) == "it ended without a word"
    kept.log.unlink()
    shutil.copy(place / "precious" / "file", kept.log)
    assert keeper_process._log_tail(kept) == "mine"
