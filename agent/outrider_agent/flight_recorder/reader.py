"""Reads what was kept of each rank, the best file first, and makes one bounded digest of a node.

    rank -> files, best first -> (NodeDigest as JSON or None, rank -> the file that counts)

A file that cannot be read gives way to the next of its rank; one that is still being written is read again when it has
changed, while there is time. A record in which nothing was recorded counts only where there is no other.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from outrider_agent.flight_recorder import pool
from outrider_agent.flight_recorder.files import Source
from outrider_analysis.flight_recorder import fitting, model

WORKERS: Final = 2  # beside ranks that may still train
FILE_SHARE: Final = 0.7  # of the time that is left, for one file
SPARE_S: Final = 0.2  # for saying what was found
AGAIN_S: Final = 0.2
BYTES_MIN: Final = 4 * 1024

Again = Callable[[int], bool | None]


class Reading:
    """One node's files, read until ``time.monotonic()`` is ``until``."""

    def __init__(self, plan: Mapping[str, Any], until: float, note: Callable[[str], None], ahead: pool.Ahead) -> None:
        self._ahead = ahead
        self._rank_bytes, self._bytes_max = plan["rank_bytes"], plan["bytes_max"]
        self._folder = plan["folder"]  # that the files are named within
        self._until = until - SPARE_S
        self._note = note
        self._nodes: list[model.NodeDigest] = []
        self._found: dict[int, tuple[model.RankDigest, str]] = {}
        self._empty: dict[int, tuple[model.RankDigest, str]] = {}
        self._unreadable: dict[int, tuple[str, str]] = {}

    def all(self, copies: Mapping[int, Sequence[str]], again: Again) -> tuple[dict[str, Any] | None, dict[int, str]]:
        """Read. ``again`` says of a rank whether it has a new file to be read at its first place (None: not yet)."""
        left = {rank: list(paths) for rank, paths in copies.items() if paths}
        waiting: set[int] = set()
        while (left or waiting) and time.monotonic() < self._until:
            self._read(left)
            left = {rank: paths[1:] for rank, paths in left.items() if rank not in self._found}
            waiting |= {rank for rank, paths in left.items() if not paths}
            left = {rank: paths for rank, paths in left.items() if paths}
            for rank in sorted(waiting):
                changed = again(rank)
                if changed:
                    left[rank] = list(copies[rank][:1])
                if changed is not None:
                    waiting.discard(rank)
            if not left and waiting:
                time.sleep(AGAIN_S)
        return self._digest(), self._files(copies)

    def _read(self, left: Mapping[int, Sequence[str]]) -> None:
        room = self._until - time.monotonic()
        if not left or room <= 0:
            return
        limits = pool.Limits(file_s=room * FILE_SHARE, workers=WORKERS, all_s=room)
        sources = [Source(paths[0], rank) for rank, paths in sorted(left.items())]
        found = pool.read(sources, limits, ahead=self._ahead)
        ranks = {source.file: source.rank for source in sources}
        for file, why in found.unreadable:
            self._unreadable.setdefault(ranks[file], (os.path.join(self._folder, file), why))
        self._nodes += found.nodes
        for node in found.nodes:
            for rank in node.ranks:
                told = (rank, left[rank.rank][0])
                if rank.groups:
                    self._found[rank.rank] = told
                else:
                    self._empty.setdefault(rank.rank, told)

    def _chosen(self) -> dict[int, tuple[model.RankDigest, str]]:
        return {**self._empty, **self._found}

    def _digest(self) -> dict[str, Any] | None:
        chosen = self._chosen()
        joined = model.join(self._nodes)
        unreadable = tuple(why for rank, why in sorted(self._unreadable.items()) if rank not in chosen)
        for file, why in unreadable:
            self._note(f"{file}: {why}")
        if not chosen:
            return None
        ranks = tuple(digest for _, (digest, _) in sorted(chosen.items()))
        node = dataclasses.replace(joined, ranks=ranks, unreadable=unreadable)
        most = max(BYTES_MIN, min(self._bytes_max, self._rank_bytes * len(ranks)))
        node, notes = fitting.fit(node, most)
        for text in notes:
            self._note(text)
        return model.to_json(node)

    def _files(self, copies: Mapping[int, Sequence[str]]) -> dict[int, str]:
        """The file that counts; of a rank of which none could be read, the first, for whoever wants to look."""
        first = {rank: paths[0] for rank, paths in copies.items() if paths}
        return first | {rank: path for rank, (_, path) in self._chosen().items()}
