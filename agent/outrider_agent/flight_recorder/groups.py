"""Which ranks are in which process group, where dumps do not tell (gloo's never do): taken from the ranks' own lists,
kept beside their dumps, and read from there by whoever reads these, now or later.

Flow: what each rank left in its file (keeper.rank_groups) -> one ``groups.json`` in the folder of the capture -> the
reading process, which completes each digest. All of these files are strangers': they are bounded, and checked by
``outrider_analysis.flight_recorder.memberships``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Final

from outrider_agent.flight_recorder import ask, plain
from outrider_analysis.flight_recorder import digest, memberships, model

PROBLEM_CHARS_MAX: Final = 240
MEMBERS_MAX: Final = 2**20  # of all groups that are kept together, 8 MB of text


def keep(control: str, ranks: Iterable[int], note: Callable[[str], None]) -> None:
    """Write what ``ranks`` told into this folder. ``control``: prefix of their files. Raises nothing."""
    found: dict[memberships.Group, None] = {}
    refused: list[tuple[int, str]] = []
    left = MEMBERS_MAX
    for rank in ranks:
        if left < 0:
            break
        try:
            data = plain.contents(f"{control}{rank}.groups", memberships.RANK_BYTES_MAX + 1)
            told = memberships.groups(data, memberships.RANK_BYTES_MAX)
        except FileNotFoundError:
            continue  # no torch, no groups yet, or no program of Python
        except (OSError, memberships.NoGroups) as error:
            refused.append((rank, str(error)))
            continue
        for group in told:
            if rank not in group.ranks or group in found:  # of groups that it is not in it knows nothing
                continue
            left -= len(group.ranks)
            if left < 0 or len(found) >= memberships.GROUPS_MAX:
                refused.append((rank, f"{len(found)} groups with {MEMBERS_MAX} members are kept at most"))
                break
            found[group] = None
    if refused:
        rank, why = refused[0]
        note(f"what {len(refused)} ranks tell of their groups is left out; rank {rank}: {why}")
    if not found:
        return
    try:
        descriptor = os.open(memberships.FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            ask.write(descriptor, memberships.text(found).encode("ascii"))
        finally:
            os.close(descriptor)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(memberships.FILE)
        note(f"the members of groups could not be kept: {error.strerror or error}")


class Beside:
    """Completes digests with what lies beside their dumps. Each folder's file is read once."""

    def __init__(self) -> None:
        self._folders: dict[str, memberships.Told | str | None] = {}

    def fill(self, file: str, digested: model.RankDigest, digester: digest.Digester) -> model.RankDigest:
        """The digest of ``file``, with the members that its dump does not tell. A damaged file of groups is said."""
        if not digested.gloo and digested.groups:
            return digested
        folder = os.path.dirname(file)
        if folder not in self._folders:
            self._folders[folder] = _told(os.path.join(folder, memberships.FILE))
        known = self._folders[folder]
        if isinstance(known, str):
            problems = (*digested.problems, known[:PROBLEM_CHARS_MAX])[: model.PROBLEMS_MAX]
            return dataclasses.replace(digested, problems=problems)
        return memberships.fill(digested, known, digester.memberships) if known is not None else digested


def _told(path: str) -> memberships.Told | str | None:
    """What a file of groups tells, None where there is none, and why it cannot be read."""
    try:
        return memberships.told(memberships.groups(plain.contents(path, memberships.BYTES_MAX + 1)))
    except FileNotFoundError:
        return None
    except (OSError, memberships.NoGroups) as error:
        return f"{memberships.FILE} beside it: {error}"
