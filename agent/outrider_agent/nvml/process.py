"""A helper as the agent sees it: started, asked, heard, listened to while it is silent, and ended.

Nothing here waits longer than it is told to. A helper that does not die from SIGKILL (its call sits inside the kernel)
is kept in the books of its owner: ``ended`` says when the kernel has let go of it.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from outrider_agent.nvml import announce

PACKET_BYTES_MAX: Final = 1024 * 1024
LOOK_GAP_MAX_S: Final = (
    2.0  # of silence that one look may count: what is more is our own, of a machine that stood still
)
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
MODULE: Final = "outrider_agent.nvml.begin"
Message = dict[str, Any]
Kill = Callable[[int], None]


class Ended(Exception):
    """The helper is gone; the message says how."""


def kill_for_good(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)


class Silence:
    """How long a helper has been silent in one call, counted only where that is the call's doing.

    A look counts at most LOOK_GAP_MAX_S since the look before, so that an agent or a machine that stood still blames no
    GPU, and nothing while the helper waits for a processor: it is ready to run and has not run.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._seconds = 0.0
        self._at = 0.0
        self._ran = -1

    def look(self, call: announce.Call | None, now: float, state: str, ran: int) -> float:
        """Seconds. ``state`` and ``ran``: the process's state letter and its processor time so far."""
        number = call.number if call is not None else None
        if number != self._number:
            since = now if call is None else max(call.began, now - LOOK_GAP_MAX_S)
            self._number, self._seconds, self._at, self._ran = number, 0.0, since, -1
        if state != "R" or ran != self._ran:
            self._seconds += min(max(0.0, now - self._at), LOOK_GAP_MAX_S)
        self._at, self._ran = now, ran
        return self._seconds

    def heard(self, now: float) -> None:
        """It spoke: whatever was counted is over."""
        self._number, self._seconds, self._at, self._ran = None, 0.0, now, -1


class Helper:
    """One helper process. Not for use by two threads at a time."""

    def __init__(self, library: Path | None, begin: Message, events: bool = False, kill: Kill = kill_for_good) -> None:
        self._kill = kill
        self.started_at = time.monotonic()
        self._listener = announce.Listener()
        self._silence = Silence()
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lifeline, self._lifeline = os.pipe()
        inherited = (theirs.fileno(), self._listener.descriptor, lifeline)
        words = [sys.executable, "-S", "-P", "-s", "-m", MODULE, *map(str, inherited), "events" if events else "read"]
        words += [str(library)] if library is not None else []
        environment = os.environ | {"PYTHONPATH": _places()}
        silent = subprocess.DEVNULL  # what it has to say comes through the socket
        try:
            self._process = subprocess.Popen(
                words, pass_fds=inherited, stdin=silent, stdout=silent, stderr=silent, env=environment
            )
        finally:
            theirs.close()
            os.close(lifeline)
        self._poll = select.poll()
        self._poll.register(self._door, select.POLLIN)
        self._open = True
        self.say(begin)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def fileno(self) -> int:
        """Readable when it has spoken."""
        return self._door.fileno()

    def say(self, message: Message) -> None:
        """Ask. One that has gone is noticed when it is heard."""
        self._silence.heard(time.monotonic())
        try:
            self._door.send(msgspec.json.encode(message), socket.MSG_DONTWAIT)
        except OSError:
            pass

    def hear(self, within_s: float) -> Message | None:
        """What it says within that time, None for nothing. Raises Ended."""
        if not self._open:
            raise Ended(f"the NVML helper {self.pid} was ended")
        if not self._poll.poll(max(0.0, within_s) * 1000):
            return None
        try:
            packet = self._door.recv(PACKET_BYTES_MAX)
        except OSError:
            packet = b""
        if not packet:
            raise Ended(f"the NVML helper {self.pid} {self._how()}")
        self._silence.heard(time.monotonic())
        try:
            message: Message = _decode(packet)
        except msgspec.DecodeError as error:
            raise Ended(f"the NVML helper {self.pid} said what is no message: {error}") from error
        return message

    def call(self) -> announce.Call | None:
        """The call that it makes now, or that it died in."""
        return self._listener.call() if self._open else None

    def silent(self) -> tuple[float, announce.Call | None]:
        """For how long it has said nothing though it was asked, and in which call (none where somebody stopped it)."""
        state, ran = _state(self.pid)
        call = None if state in ("T", "t") else self.call()
        return self._silence.look(call, time.monotonic(), state, ran), call

    def end(self) -> None:
        """Kill it; ``ended`` tells when that has come about."""
        if self._process.poll() is None:
            try:
                self._kill(self.pid)
            except ProcessLookupError:
                pass

    def ended(self) -> bool:
        """Whether the kernel has let go of it; what it held is given back then."""
        if self._process.poll() is None:
            return False
        self.forget()
        return True

    def wait(self, within_s: float) -> bool:
        """Whether it ends within that time."""
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return self.ended()

    def forget(self) -> None:
        """Close our ends: it dies of that as soon as it can."""
        if self._open:
            self._open = False
            self._door.close()
            os.close(self._lifeline)
            self._listener.close()

    def resident_bytes(self) -> int:
        """Its resident memory, 0 where it has ended."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0

    def _how(self) -> str:
        try:
            status = self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            return "hung up"
        return f"died of signal {-status}" if status < 0 else f"ended with exit status {status}"


@functools.cache
def _places() -> str:
    """Where a helper finds its modules, as it starts without site and without the working directory: where we and
    pynvml lie.
    """
    found = importlib.util.find_spec("pynvml")
    theirs = [str(Path(found.origin).parent)] if found is not None and found.origin is not None else []
    return os.pathsep.join(dict.fromkeys([str(Path(__file__).parents[2]), *theirs]))


def _state(pid: int) -> tuple[str, int]:
    """State letter and clock ticks of processor time; ("", 0) for a process that is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return words[0], int(words[11]) + int(words[12])
    except (OSError, IndexError, ValueError):
        return "", 0
