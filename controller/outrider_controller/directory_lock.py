"""One controller per state directory, whatever else goes wrong: a lock that the kernel lets go with its process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from outrider_controller import ledger


class DirectoryLock:
    """One controller per state directory: a lock that ends with the process, whatever ends the process."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "controller.lock"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._file, 64).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise ledger.BusyError(
                f"{state_dir}: another controller (pid {holder}) runs on this state directory; "
                "stop it, or give another directory with --state DIR"
            ) from None
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let the next controller in."""
        os.close(self._file)
