"""Reads every byte of a checkpoint once: the SHA-256 of each file, and the CRC-32 of every member of its archives.

In: files, and where the archives within each lie. Out: hashes and problems. Several files are read at a time, because
hashing one is bound to one core; each thread holds one block.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from outrider_analysis.checkpoints import Problems, archives
from outrider_analysis.checkpoints.metadata import Entry
from outrider_controller.verification import files

THREADS_MAX: Final = 4
WHOLE_BYTES: Final = 8 * 1024 * 1024  # entries up to this are read many at a time and checked in memory

Tell = Callable[[int], None]


@dataclass
class Read:
    """What reading showed. ``unchecked``: entries whose content carries no checksum that could be compared."""

    hashes: dict[str, str] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)
    unchecked: int = 0


def read(folder: Path, found: Mapping[str, files.File], spans: Mapping[str, Sequence[Entry]], tell: Tell) -> Read:
    """Everything in ``found``. ``spans``: entries by file; ``tell`` is given the bytes read so far. Raises OSError."""
    result = Read()
    lock = threading.Lock()
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            tell(done)

    def one(file: files.File) -> None:
        reader = _Reader(folder / file.name, file, progress)
        digest, troubles, unchecked = reader.read(spans.get(file.name, ()))
        with lock:
            result.hashes[file.name] = digest
            result.unchecked += unchecked
            for kind, text in troubles:
                result.problems.add(file.name, kind, text)

    _each(one, sorted(found.values(), key=lambda file: file.size))
    return result


def _each(work: Callable[[files.File], None], waiting: list[files.File]) -> None:
    """Do all of it, the last first, a few at a time; raises what one of them raises, and begins no more then."""
    failed: list[BaseException] = []

    def thread() -> None:
        while waiting and not failed:
            try:
                work(waiting.pop())
            except IndexError:  # another thread took the last one
                return
            except BaseException as error:  # noqa: BLE001 - raised again below, where somebody waits for it
                failed.append(error)

    threads = [threading.Thread(target=thread) for _ in range(min(THREADS_MAX, os.cpu_count() or 1))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if failed:
        raise failed[0]


class _Reader:
    """One file, read from its first byte to its last."""

    def __init__(self, path: Path, file: files.File, progress: Tell) -> None:
        self._path = path
        self._file = file
        self._progress = progress
        self._sha = hashlib.sha256()
        self._at = 0  # bytes hashed so far
        self._block = b""  # several small entries, read at once
        self._block_at = 0

    def read(self, spans: Sequence[Entry]) -> tuple[str, list[tuple[str, str]], int]:
        """The SHA-256 in hex, problems as (kind, text), and how many entries had nothing to be checked by."""
        troubles: list[tuple[str, str]] = []
        unchecked = 0
        descriptor = files.open_plain(self._path)
        try:
            for offset, length, tensor, transformed in spans:
                self._hash_to(descriptor, offset)
                if transformed:
                    unchecked += 1
                else:
                    kind, text = self._archive(descriptor, offset, length, tensor)
                    unchecked += kind == "unchecked"
                    if kind not in ("", "unchecked"):
                        troubles.append((kind, text))
                self._hash_to(descriptor, offset + length)
            self._hash_to(descriptor, self._file.size)
        except OSError as error:
            error.filename = error.filename or str(self._path)
            raise
        finally:
            os.close(descriptor)
        return self._sha.hexdigest(), troubles, unchecked

    def _archive(self, descriptor: int, offset: int, length: int, tensor: bool) -> tuple[str, str]:
        def read(at: int, size: int) -> bytes:
            return self._bytes(descriptor, at, size)

        if length <= WHOLE_BYTES:
            self._fill(descriptor, offset, length)
        try:
            archives.check(read, offset, length, self._seen)
        except archives.NoArchiveError:
            if tensor:
                return "archive", f"the tensor at byte {offset} is no archive of torch.save"
            return "unchecked", ""
        except archives.NoChecksumError:
            return "unchecked", ""
        except archives.ArchiveError as error:
            return "checksum", f"in the entry at byte {offset}: {error}"
        return "", ""

    def _fill(self, descriptor: int, offset: int, length: int) -> None:
        """Have the entry in memory, and its followers with it."""
        if self._block_at <= offset and offset + length <= self._block_at + len(self._block):
            return
        size = min(max(length, WHOLE_BYTES), self._file.size - offset)
        self._block, self._block_at = files.read_at(descriptor, offset, size), offset

    def _bytes(self, descriptor: int, at: int, size: int) -> bytes:
        begin = at - self._block_at
        if begin >= 0 and begin + size <= len(self._block):
            return self._block[begin : begin + size]
        return files.read_at(descriptor, at, size)

    def _seen(self, block: bytes) -> None:
        self._sha.update(block)
        self._at += len(block)
        self._progress(len(block))

    def _hash_to(self, descriptor: int, end: int) -> None:
        """Hash what no archive has passed on: gaps, and the rest of a damaged one."""
        while self._at < end:
            self._seen(self._bytes(descriptor, self._at, min(archives.BLOCK_BYTES, end - self._at)))
