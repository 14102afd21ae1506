"""Small files of strangers, read whole: neither a link is followed nor a pipe waited for."""

from __future__ import annotations

import os
import stat


def contents(path: str, most: int) -> bytes:
    """The first ``most`` bytes of a file, which is no link and no pipe. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path}: is no regular file")
        parts: list[bytes] = []
        while most > 0 and (part := os.read(descriptor, most)):
            parts.append(part)
            most -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)
