"""Are the files that were found those that a manifest claims, byte for byte?

In: what is claimed and what was found, by name. Out: problems. ``claimed`` and ``found`` hold (bytes, SHA-256 in hex);
an empty hash is one that was not computed, or not claimed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Final

from outrider_analysis.checkpoints.metadata import plain_path
from outrider_analysis.checkpoints.problems import Problem, Problems

File = tuple[int, str]

NAME_CHARS_MAX: Final = 1024
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def differences(
    claimed: Mapping[str, File], found: Mapping[str, File], whole: str, own: Iterable[str]
) -> list[Problem]:
    """Files missing, extra, of another size or of another content. ``own``: names that nobody needs to claim;
    ``whole``: what a last line with the number of further problems is said of.
    """
    problems = Problems()
    for name, (size, digest) in claimed.items():
        if size < 0:
            problems.add(name, "size", f"is claimed to have {size} bytes")
        elif len(name) > NAME_CHARS_MAX or not plain_path(name):
            problems.add(name, "path", "is not a plain path within the checkpoint")
        elif name not in found:
            problems.add(name, "missing", "is missing")
        elif found[name][0] != size:
            problems.add(name, "size", f"has {found[name][0]} bytes, the manifest says {size}")
        elif found[name][1] and digest and found[name][1] != digest:
            text = f"has SHA-256 {found[name][1][:16]}..., the manifest says {digest[:16]}..."
            problems.add(name, "sha256", text)
    passed = set(own)
    for name in found:
        if name not in claimed and name not in passed:
            problems.add(name, "extra", "is not a file of this checkpoint: its manifest does not name it")
    return list(problems.listed(whole))


def unhashed(claimed: Mapping[str, File]) -> list[str]:
    """Names that are claimed without a SHA-256, so that nothing proves their content."""
    return [name for name, (_, digest) in claimed.items() if not _SHA256.fullmatch(digest)]


def tree(files: Mapping[str, str]) -> str:
    """One hash over the content of all files. ``files``: SHA-256 in hex by name."""
    return _over(f"{name}\0{digest}" for name, digest in files.items())


def fingerprint(files: Iterable[tuple[str, int, int, int, int]]) -> str:
    """One hash over (name, size, mtime_ns, ctime_ns, inode) of all files: it changes whenever one is written to."""
    return _over("\0".join([name, *map(str, numbers)]) for name, *numbers in files)


def _over(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
