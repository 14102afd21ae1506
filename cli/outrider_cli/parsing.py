"""The parser of every sub-command: argparse with errors that name the wrong word and the nearest right ones.

Flow: an argument list in; a namespace, or a CommandError of one or two lines. ``--help`` stays argparse's own.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from outrider_cli import errors

MATCHES_MAX: Final = 3

Handler = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that never abbreviates, never prints its usage for an error, and offers near matches."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise errors.CommandError(f"{self.prog}: {message}\nSee: {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but what is not known is refused here, where the options that exist are known."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(_unknown(rest[0], self.option_words()))
        return found, rest

    def option_words(self) -> list[str]:
        """Every spelling of every option."""
        return [word for action in self._actions for word in action.option_strings]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = action.metavar if isinstance(action.metavar, str) else "/".join(action.option_strings) or action.dest
            choices = [str(choice) for choice in action.choices]
            self.error(f"{name} {value!r} is not known{near(str(value), choices)}; there are {', '.join(choices)}")


def _unknown(word: str, known: Sequence[str]) -> str:
    name = word.split("=", 1)[0]
    if not name.startswith("-"):
        return f"{word!r} is one argument too many"
    return f"unknown option {name}{near(name, known)}"


def near(word: str, known: Sequence[str]) -> str:
    """``; did you mean ...?`` with the nearest of ``known``, empty where none is near."""
    words = [each for each in known if "_" not in each]
    begun = [each for each in words if len(word) > 2 and each.startswith(word)]
    matches = begun or difflib.get_close_matches(word.replace("_", "-"), words, n=MATCHES_MAX, cutoff=0.6)
    return f"; did you mean {' or '.join(matches[:MATCHES_MAX])}?" if matches else ""


def at_least(lowest: int) -> Callable[[str], int]:
    """An argparse type: a whole number not below ``lowest``."""

    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < lowest:
            raise argparse.ArgumentTypeError(f"{value} is below {lowest}")
        return value

    return whole_number


def seconds(text: str) -> float:
    """An argparse type: a finite number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds, 0 or more")
    return value


def add_places(parser: argparse.ArgumentParser, controller: bool = True) -> None:
    """Options that find the running controller (or only the state directory)."""
    group = parser.add_argument_group("where")
    group.add_argument(
        "--state",
        metavar="DIR",
        help="state directory (default: OUTRIDER_STATE, else ~/.local/state/outrider)",
    )
    if controller:
        group.add_argument(
            "--controller",
            metavar="URL",
            help="the controller's address (default: OUTRIDER_CONTROLLER, else the one of the state directory)",
        )
        group.add_argument(
            "--token-file",
            metavar="FILE",
            help="file that holds the token (default: OUTRIDER_TOKEN_FILE, else the state directory's)",
        )
        group.add_argument("--ca-file", metavar="FILE", help="certificates to trust in place of the system's (PEM)")
