"""A rank's control socket: torch's worker server, which answers from a C++ thread while the rank's main thread hangs.

In: the socket's path below the keeper's directory (``rank_hook`` opens it as soon as the job has torch). Out: the body
of one handler's answer. Seen with torch 2.13: ``ping`` and ``fr_trace_json`` need no interpreter lock and always
answer; ``dump_traceback`` takes the lock, so that it waits for ever beside a C function that never lets go of it, and
each such question holds a thread of the rank until then. A stopped rank takes the connection and never answers.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

TRACEBACK: Final = "dump_traceback"
FLIGHT_RECORDER: Final = "fr_trace_json"
NCCL_RECORDER: Final = "dump_nccl_trace_json"  # its record is one of its own, in builds that have NCCL
# 2,000 entries of a flight recorder take about 1 MiB, and ten times that once they are read; longer ones are read where
# memory is nobody's (flight_recorder.collect).
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
_RECORDED: Final = b'"entries"'  # left out where there are none
_READ_BYTES: Final = 64 * 1024


class ControlError(OSError):
    """The control socket gave no answer; the message says whether it is absent, silent, or said no."""


class NoSocket(ControlError):
    """Nobody listens there: the rank has not loaded torch.distributed, or has ended."""


class Silent(ControlError):
    """The connection was taken, and the answer did not come in time."""


async def ask(path: Path, handler: str, within_s: float) -> bytes:
    """The body of ``handler``'s answer on the socket at ``path``. Raises ControlError, within ``within_s`` seconds."""
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                head = (
                    f"POST /handler/{handler} HTTP/1.1\r\nHost: rank\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
                writer.write(head.encode())
                return _body(handler, await _all(reader))
            finally:
                writer.close()
    except TimeoutError:
        raise Silent(f"{handler} on {path.name} gave no answer within {within_s:g} s") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise NoSocket("no control socket (the rank has not loaded torch.distributed)") from None
    except ControlError:
        raise
    except BlockingIOError:
        raise Silent(f"{path.name} takes no further connection") from None
    except OSError as error:
        raise ControlError(f"{handler} on {path.name}: {error.strerror or error}") from None


async def flight_record(path: Path, within_s: float) -> bytes:
    """What a rank has recorded, as JSON: of NCCL where the recorder of the other backends is empty. As ``ask``."""
    answer = await ask(path, FLIGHT_RECORDER, within_s)
    if _RECORDED in answer:
        return answer
    try:
        of_nccl = await ask(path, NCCL_RECORDER, within_s)
    except ControlError:
        return answer  # a build without NCCL
    return of_nccl if _RECORDED in of_nccl else answer


async def _all(reader: asyncio.StreamReader) -> bytes:
    answer = bytearray()
    while block := await reader.read(_READ_BYTES):
        answer += block
        if len(answer) > ANSWER_BYTES_MAX:
            raise ControlError(f"an answer of more than {ANSWER_BYTES_MAX} bytes, which is too long to be read here")
    return bytes(answer)


def _body(handler: str, answer: bytes) -> bytes:
    head, found, body = answer.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(None, 2)
    if not found or len(words) < 2 or not words[0].startswith(b"HTTP/"):
        raise ControlError(f"{handler}: what answered speaks no HTTP")
    if words[1] != b"200":
        said = body[:200].decode(errors="replace")
        raise ControlError(f"{handler}: status {words[1].decode(errors='replace')}: {said}")
    return body
