"""What known messages mean: one row each, with where the message comes from.

Rows are tried in order, the first that fits is taken. ``kind`` is a word of ``judgement.KINDS``. Most rows stand for
*echoes*: a rank that ends because another one went away says so in the words of its communication library, and whoever
reads only those words blames the wrong rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Pattern:
    """One known message. ``types``: exception classes it is believed from (empty: any, and plain output as well)."""

    name: str
    kind: str
    regex: re.Pattern[str]
    source: str
    types: frozenset[str] = frozenset()


def first(patterns: Iterable[Pattern], text: str, type_name: str | None = None) -> Pattern | None:
    """The first row that fits ``text``. With ``type_name``, rows bound to other exception classes are passed over."""
    for pattern in patterns:
        if type_name is not None and pattern.types and type_name not in pattern.types:
            continue
        if pattern.regex.search(text):
            return pattern
    return None


def _memory(name: str, regex: str, source: str) -> Pattern:
    return Pattern(name, "out-of-memory", re.compile(regex), source)


def _echo(name: str, regex: str, source: str) -> Pattern:
    return Pattern(name, "peer-lost", re.compile(regex), source)


def _torch_echo(name: str, regex: str, source: str) -> Pattern:
    return Pattern(name, "peer-lost", re.compile(regex), source, COMMUNICATION_TYPES)


def _crash(name: str, regex: str, source: str) -> Pattern:
    return Pattern(name, "native-crash", re.compile(regex, re.MULTILINE), source)


def _mismatch(name: str, regex: str, source: str) -> Pattern:
    return Pattern(name, "collective-mismatch", re.compile(regex), source, COMMUNICATION_TYPES)


def _python(name: str, regex: str, source: str) -> Pattern:
    return Pattern(name, "python-error", re.compile(regex), source)


def _disk(name: str, regex: str, source: str, types: frozenset[str] = frozenset()) -> Pattern:
    return Pattern(name, "disk-full", re.compile(regex), source, types)


def _torn(name: str, regex: str, source: str) -> Pattern:
    return Pattern(name, "checkpoint-torn", re.compile(regex), source)


def _damaged(name: str, regex: str, source: str) -> Pattern:
    return Pattern(name, "checkpoint-damaged", re.compile(regex), source)


# Classes that torch's communication raises. A ConnectionResetError out of the user's own HTTP call is not an echo.
COMMUNICATION_TYPES: Final = frozenset(
    {"RuntimeError", "DistError", "DistBackendError", "DistNetworkError", "DistStoreError", "DistQueueEmptyError"}
)

MISMATCH: Final = (
    _mismatch(
        "gloo-size",
        r"Received data size doesn't match expected size|op\.preamble\.length <= op\.nbytes",
        "gloo tcp/pair.cc: a peer sent more than this rank's call takes; recorded with torch 2.13.0",
    ),
    _mismatch(
        "fingerprint",
        r"Detected mismatch between collectives on ranks",
        "torch's ProcessGroupWrapper, with TORCH_DISTRIBUTED_DEBUG=DETAIL; recorded with torch 2.13.0",
    ),
)

OUT_OF_MEMORY: Final = (
    _memory(
        "device",
        r"(?:CUDA|HIP|XPU|MPS backend) out of memory",
        "torch's caching allocator: 'CUDA out of memory. Tried to allocate ...'",
    ),
    _memory(
        "device",
        r"CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|Cuda failure 2\b",
        "the driver's and NCCL's own words: memory taken outside the caching allocator",
    ),
    _memory("device", r"CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED", "cuBLAS and cuDNN could not take their workspace"),
    _memory(
        "host",
        r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)",
        "torch's CPU allocator; recorded with 2.13.0",
    ),
    _memory("host", r"std::bad_alloc", "an allocation in C++ failed"),
    _memory(
        "shared-memory",
        r"Bus error.*shared memory|out of shared memory|insufficient shared memory",
        "torch's DataLoader names a full /dev/shm when a worker dies of SIGBUS",
    ),
    _memory("host", r"Cannot allocate memory|\[Errno 12\]|\bENOMEM\b", "the kernel refused memory (ENOMEM)"),
    _memory(
        "host",
        r"Out of memory: Killed process|\boom-kill:|Memory cgroup out of memory|\boom_reaper\b",
        "the kernel log's words, where a container mixes them into its output",
    ),
    _memory("host", r"Detected \d+ oom[-_]kill event", "slurmstepd tells of the kernel's kill in the step's output"),
)
# Exception classes that mean want of memory, whatever the message.
OUT_OF_MEMORY_TYPES: Final = {"OutOfMemoryError": "device", "MemoryError": "host", "_ArrayMemoryError": "host"}

PEER_LOST: Final = (
    _torch_echo(
        "gloo-closed",
        r"Connection closed by peer",
        "gloo tcp/pair.cc: the peer's process ended; recorded with torch 2.13.0",
    ),
    _torch_echo(
        "connection-reset",
        r"Connection reset by peer",
        "gloo, c10d and NCCL sockets: the peer's kernel answers for a dead process",
    ),
    _torch_echo("broken-pipe", r"Broken pipe", "gloo and c10d sockets: writing to a peer that is gone"),
    _torch_echo(
        "gloo-connect",
        r"connectFullMesh failed",
        "gloo rendezvous: a member never came, or died while the mesh was made",
    ),
    _torch_echo(
        "gloo-pair-closed",
        r"Application timeout caused pair closure|Socket closed \[|(?:Read|Write) (?:error|timeout) \[",
        "gloo tcp/pair.cc: an earlier operation on this pair failed",
    ),
    _torch_echo(
        "gloo-wait",
        r"Timed out waiting \d+ ?ms for (?:recv|send) operation",
        "gloo unbound_buffer.cc: the group's time-out, and the peer may live and hang; recorded with torch 2.13.0",
    ),
    _echo(
        "nccl-remote",
        r"remote process exit(?:ing|ed)|ncclRemoteError",
        "NCCL: 'A call failed possibly due to a network error or a remote process exiting prematurely'",
    ),
    _echo(
        "nccl-closed",
        r"Connection closed by remote peer",
        "NCCL's socket transport, as the last error of ncclSystemError",
    ),
    _echo(
        "nccl-watchdog",
        r"Watchdog caught collective operation timeout|Received a dump signal due to a collective timeout",
        "ProcessGroupNCCL's watchdog: somebody did not arrive",
    ),
    _echo(
        "nccl-aborted",
        r"NCCL communicator (?:was|has been) aborted|Some NCCL operations have failed or timed out",
        "ProcessGroupNCCL: the communicator was taken down after an error of another rank",
    ),
    _echo(
        "store-gone",
        r"Failed to recv, got \d+ bytes|maybe TCPStore server has shut down"
        r"|(?:recvValue|recvVector|recvBytes|sendBytes)\w* failed on SocketImpl",
        "c10d TCPStore: the rank that serves the store is gone",
    ),
    _echo(
        "store-wait",
        r"wait timeout after \d+ ?ms, keys:|Socket Timeout",
        "c10d TCPStore: a key that another rank had to set never came",
    ),
    _echo(
        "store-join",
        r"Timed out after \d+ seconds waiting for clients",
        "c10d TCPStore: not all ranks joined; recorded with torch 2.13.0",
    ),
    _torch_echo(
        "store-connect",
        r"client socket has (?:timed out|failed to connect)|[Cc]onnection refused",
        "c10d and gloo sockets: nobody listens where a peer should",
    ),
    _echo(
        "barrier",
        r"failed to pass monitoredBarrier|monitoredBarrier.*[Tt]ime",
        "torch names who is missing at a monitored barrier",
    ),
    _torch_echo(
        "collective-timeout",
        r"(?:NCCL|[Cc]ollective|[Gg]loo|ProcessGroup).{0,80}[Tt]ime(?:d out|-?out)",
        "time-outs of communication in other words",
    ),
)
# Exception classes that only communication raises, whatever the message.
PEER_LOST_TYPES: Final = {"DistBackendError": "backend", "DistNetworkError": "network", "DistStoreError": "store"}

# Words of the communication library about this very rank: no peer need have gone.
OWN_FAULT: Final = (
    _python("address-in-use", r"[Aa]ddress already in use|EADDRINUSE", "c10d could not listen"),
    _python(
        "device-error",
        r"ncclUnhandledCudaError|unhandled cuda error",
        "NCCL: a CUDA call of this rank failed, often from an earlier kernel",
    ),
    _python(
        "nccl-usage",
        r"ncclInvalid(?:Usage|Argument)|ncclInternalError|Duplicate GPU detected",
        "NCCL: called wrongly, as with two ranks on one device",
    ),
)

NATIVE_CRASH: Final = (
    _crash("cpp-terminate", r"^terminate called ", "an exception left a C++ thread"),  # its what() is the cause
    _crash("fatal-python", r"^Fatal Python error: ", "CPython or its faulthandler, before the process dies"),
    _crash(
        "heap",
        r"double free or corruption|corrupted size vs\. prev_size|^malloc(?:_consolidate)?\(\): |^free\(\): "
        r"|munmap_chunk\(\): |stack smashing detected",
        "glibc found its heap or stack damaged",
    ),
    _crash("segmentation-fault", r"Segmentation fault|\bSIGSEGV\b", "a shell or a runtime tells of it"),
    _crash("bus-error", r"^Bus error|\bSIGBUS\b", "a shell or a runtime tells of it"),
    _crash("illegal-instruction", r"^Illegal instruction|\bSIGILL\b", "a shell or a runtime tells of it"),
)

DISK_FULL: Final = (
    _disk(
        "no-space",
        r"No space left on device|\[Errno 28\]|Disk quota exceeded|\[Errno 122\]",
        "the kernel's words for ENOSPC and EDQUOT",
    ),
    _disk(
        "short-write",
        r"inline_container\.cc:\d+\] \. (?:unexpected pos \d+ vs \d+|PytorchStreamWriter failed writing)"
        r"|basic_ios::clear: iostream error",
        "torch's zip writer got fewer bytes onto the disk than it gave; recorded with 2.13.0 on a full file system",
        frozenset({"RuntimeError", "CheckpointException"}),
    ),
)

# What a loader may say of a checkpoint that is as good as it was written.
NO_FAULT_OF_THE_CHECKPOINT: Final = (
    _python(
        "other-model",
        r"Missing key in checkpoint|[Ss]ize mismatch|Missing key\(s\) in state_dict|Unexpected key\(s\) in state_dict",
        "the checkpoint is of another model; recorded with torch 2.13.0",
    ),
    _python(
        "storage",
        r"Stale file handle|\[Errno 116\]|Input/output error|\[Errno 5\]"
        r"|Transport endpoint is not connected|\[Errno 107\]|Permission denied|\[Errno 13\]",
        "storage or its mount is ill (ESTALE, EIO, ENOTCONN), or the file is not ours (EACCES)",
    ),
)
CHECKPOINT_TORN: Final = (
    _torn(
        "metadata",
        r"metadata is None|pickle data was truncated|Ran out of input",
        "its .metadata is missing or cut off: it was never finished; recorded with torch 2.13.0",
    ),
    _torn(
        "file-missing",
        r"\[Errno 2\] No such file or directory: '[^']*'",
        "a file that the checkpoint names is not there; recorded with torch 2.13.0",
    ),
    _torn(
        "cut-off",
        r"failed finding central directory|\bEOFError\b|[Uu]nexpected end of (?:file|data)|File is not a zip file",
        "an entry ends before its end; recorded with torch 2.13.0",
    ),
)
CHECKPOINT_DAMAGED: Final = (
    _damaged(
        "unreadable",
        r"\bUnpicklingError\b|Weights only load failed|[Ii]nvalid magic number|Unsupported operand",
        "the bytes are no pickle that torch wrote; recorded with torch 2.13.0",
    ),
    _damaged(
        "zip",
        r"PytorchStreamReader|Bad CRC-32|\bBadZipFile\b|invalid header or archive is corrupted",
        "the entry is no zip archive that torch wrote",
    ),
)

# Known errors that stay "python-error"; the name lets a diagnosis say more than "an exception".
PYTHON_ERRORS: Final = (
    _python(
        "address-in-use",
        r"[Aa]ddress already in use|EADDRINUSE|\[Errno 98\]",
        "another process has the port (EADDRINUSE); a new attempt takes a new one",
    ),
    _python(
        "device-error",
        r"CUDA error: |device-side assert|CU(?:BLAS|DNN)_STATUS_|cudaError|ncclUnhandledCudaError",
        "the device or its driver refused; the script and the hardware can both be behind it",
    ),
    _python("nccl-usage", r"ncclInvalid(?:Usage|Argument)|Duplicate GPU detected", "NCCL was called wrongly"),
    _python(
        "storage",
        r"Stale file handle|\[Errno 116\]|Input/output error|\[Errno 5\]"
        r"|Transport endpoint is not connected|\[Errno 107\]",
        "storage or its mount is ill (ESTALE, EIO, ENOTCONN)",
    ),
    _python(
        "worker-died",
        r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is killed by signal|exited unexpectedly)",
        "torch's DataLoader lost a worker process",
    ),
)
