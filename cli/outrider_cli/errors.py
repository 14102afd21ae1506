"""What ends a command early: one sentence for a person, and an exit status for a program.

Every sub-command raises ``CommandError``; ``main`` prints it. A missing extra becomes one too, with the line that
installs it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from outrider import vocabulary


class CommandError(Exception):
    """The command could not be done. The text names the thing, the value and the way out."""

    def __init__(self, text: str, code: int = vocabulary.EXIT_COULD_NOT) -> None:
        super().__init__(text)
        self.code = code


@contextlib.contextmanager
def extra(*names: str) -> Iterator[None]:
    """Around the import of a part whose libraries the base install lacks; ``names`` are the extras that bring them."""
    try:
        yield
    except ModuleNotFoundError as error:
        wanted = ",".join(names)
        raise CommandError(
            f"this command needs the package {error.name!r}, which is not installed: pip install 'outrider[{wanted}]'"
        ) from error
