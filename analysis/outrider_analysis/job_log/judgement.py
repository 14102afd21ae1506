"""One rank's end, judged: what kind of end, which failure it is the same as, and a sentence for people.

In: ``records.RankExit``. Where the agent could read no error file, the exception is found in the log's last lines. The
kind speaks of this rank alone; who is to blame among several is for the diagnosis.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Final

from outrider import records
from outrider_analysis.job_log import exceptions, mismatch, native, patterns, storage
from outrider_analysis.job_log import signature as signatures

KINDS: Final = (
    "clean",
    "asked",
    "killed",
    "native-crash",
    "out-of-memory",
    "disk-full",
    "checkpoint-damaged",
    "checkpoint-torn",
    "collective-mismatch",
    "python-error",
    "peer-lost",
    "exit-code",
)

# The processor or the runtime ends a process by these; all other signals come from somebody who sent them.
NATIVE_SIGNALS: Final = frozenset(
    {"SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS", "SIGSTKFLT"}
)
# A shell reports a child ended by signal n as exit status 128 + n.
_SHELL_SIGNALS: Final = {
    129: "SIGHUP",
    130: "SIGINT",
    131: "SIGQUIT",
    132: "SIGILL",
    133: "SIGTRAP",
    134: "SIGABRT",
    135: "SIGBUS",
    136: "SIGFPE",
    137: "SIGKILL",
    139: "SIGSEGV",
    143: "SIGTERM",
}
_STORED: Final = {
    "disk-full": "found no room to write",
    "checkpoint-torn": "loaded a checkpoint of which something is missing",
    "checkpoint-damaged": "loaded a checkpoint that is not what was written",
}
TEXT_CHARS_MAX: Final = 240  # of a line of the log, for people
# A line that torch's communication wrote, by the source file or the class that it names.
_LIBRARY_LINE: Final = re.compile(r"gloo|c10d|NCCL|ProcessGroup|TCPStore|torch[./]distributed")


@dataclass(frozen=True)
class ExitJudgement:
    """``kind``: one of KINDS. ``pattern``: the table row that decided, if one did; likewise ``error``."""

    kind: str
    signature: str
    text: str
    pattern: str = ""
    error: exceptions.PythonError | None = None


@dataclass(frozen=True)
class _Evidence:
    exit: records.RankExit
    signal: str | None
    chain: tuple[exceptions.PythonError, ...]  # root cause first
    tail: str

    @property
    def last(self) -> exceptions.PythonError | None:
        return self.chain[-1] if self.chain else None


def judge(exit: records.RankExit) -> ExitJudgement:  # noqa: A002 - the word of the records, and nothing exits here
    """Judge one rank's end. An end that we asked for, or a clean one, is believed before any text in the log."""
    if exit.asked:
        return ExitJudgement("asked", "asked", f"rank {exit.rank} ended as it was told to ({_ending(exit)})")
    if exit.code == 0 and exit.signal is None:
        return ExitJudgement("clean", "clean", f"rank {exit.rank} ended by itself with status 0")
    if exit.code is None and exit.signal is None:  # its keeper died, and the kernel ends a rank with its keeper
        return ExitJudgement("killed", "killed:with-keeper", f"rank {exit.rank} was lost together with its keeper")
    evidence = _gather(exit)
    found = _out_of_memory(evidence) or (_signalled(evidence) if evidence.signal else _exited(evidence))
    step = f" at step {exit.step}" if exit.step is not None else f" in phase {exit.phase}" if exit.phase else ""
    sentence = f"rank {exit.rank}{step} {found.text}"
    return ExitJudgement(found.kind, found.signature, sentence, found.pattern, found.error)


def _gather(exit_: records.RankExit) -> _Evidence:
    chain = exceptions.find(exit_.log_tail)
    if exit_.error_type:
        told = _told(exit_)
        # The error file tells how it ended, the log how it came to that: keep the log's chain if it ends likewise.
        chain = (*chain[:-1], _whole(told, chain[-1])) if chain and chain[-1].name == told.name else (told,)
    signal = exit_.signal or (None if chain else _SHELL_SIGNALS.get(exit_.code or 0))
    return _Evidence(exit_, signal, chain, "\n".join(exceptions.clean(exit_.log_tail)))


def _whole(told: exceptions.PythonError, logged: exceptions.PythonError) -> exceptions.PythonError:
    """The error file's exception with the log's frames, of which that file has the innermost alone."""
    same = told.innermost and logged.innermost and told.innermost.where == logged.innermost.where
    return dataclasses.replace(told, frames=logged.frames) if same else told


def _told(exit_: records.RankExit) -> exceptions.PythonError:
    frame = exceptions.innermost_from_where(exit_.error_where)
    return exceptions.PythonError(exit_.error_type or "", exit_.error_message or "", (frame,) if frame else ())


def _out_of_memory(seen: _Evidence) -> ExitJudgement | None:
    for error in reversed(seen.chain):
        where = patterns.OUT_OF_MEMORY_TYPES.get(error.name, "")
        row = patterns.first(patterns.OUT_OF_MEMORY, error.message, error.name)
        if where or row:
            return _memory(row.name if row else where, f"ran out of memory: {error.text}", error)
    if seen.signal == "SIGKILL" and seen.exit.oom_kills > 0:
        return _memory(
            "kernel", f"was killed by SIGKILL while the host's kernel killed {seen.exit.oom_kills} for want of memory"
        )
    if seen.last is not None:
        worker = patterns.first(patterns.PYTHON_ERRORS, seen.last.message)
        if seen.exit.oom_kills and worker and worker.name == "worker-died":
            return _memory("kernel", f"lost a worker process to want of memory: {seen.last.text}", seen.last)
        return None  # an exception that speaks of something else outweighs what was printed before it
    row = patterns.first(patterns.OUT_OF_MEMORY, seen.tail)
    if row and (seen.signal in ("SIGKILL", "SIGABRT", "SIGBUS") or not seen.signal):
        return _memory(row.name, f"ran out of memory ({_ending(seen.exit)}): {_line(seen.tail, row)}")
    return None


def _memory(where: str, text: str, error: exceptions.PythonError | None = None) -> ExitJudgement:
    return ExitJudgement(
        "out-of-memory", signatures.signature("out-of-memory", where, _function(error)), text, where, error
    )


def _signalled(seen: _Evidence) -> ExitJudgement:
    signal = seen.signal or ""
    told = (
        f"was ended by {signal}"
        if seen.exit.signal
        else f"ended with status {seen.exit.code}, a shell's word for {signal}"
    )
    if signal not in NATIVE_SIGNALS:
        return ExitJudgement("killed", signatures.signature("killed", signal), told)
    different = mismatch.of_abort(seen.tail) if signal == "SIGABRT" else None
    if different:
        return _mismatch(different, f"{different.text}; it {told}")
    if signal == "SIGABRT":  # NCCL's watchdog ends its process this way once a peer has been lost
        row = _echo_in_output(seen.tail)
        if row:
            return _peer(row, f"{told} after it lost a peer: {_line(seen.tail, row)}", seen.last)
    row = patterns.first(patterns.NATIVE_CRASH, seen.tail)
    detail, sign = _crash(seen.tail, row) if row else ("", "")
    name = row.name if row else ""
    sign = signatures.signature("native-crash", signal, name, sign)
    return ExitJudgement("native-crash", sign, told + detail, name)


def _crash(tail: str, row: patterns.Pattern) -> tuple[str, str]:
    """What a crash says of itself, and what of that tells it from others: the exception of C++ where there was one."""
    thrown = native.thrown(tail) if row.name == "cpp-terminate" else None
    if thrown is None or not thrown.what:
        return f": {_line(tail, row)}", ""
    return f": {thrown.text[:TEXT_CHARS_MAX]}", signatures.normalise(thrown.text)


def _mismatch(found: mismatch.Mismatch, text: str, error: exceptions.PythonError | None = None) -> ExitJudgement:
    return ExitJudgement(mismatch.KIND, found.signature, text, found.name, error)


def _exited(seen: _Evidence) -> ExitJudgement:
    if seen.last is not None:
        return _raised(seen, seen.last)
    told = f"ended with status {seen.exit.code}"
    row = _echo_in_output(seen.tail)
    if row:
        return _peer(row, f"{told} after it lost a peer: {_line(seen.tail, row)}", None)
    crash = patterns.first(patterns.NATIVE_CRASH, seen.tail)
    if crash:
        detail, sign = _crash(seen.tail, crash)
        sign = signatures.signature("native-crash", crash.name, sign)
        return ExitJudgement("native-crash", sign, told + detail, crash.name)
    words = _last_line(seen.tail)
    sign = signatures.signature("exit-code", str(seen.exit.code), signatures.normalise(words))
    return ExitJudgement("exit-code", sign, f"{told}; its last words: {words}" if words else told)


def _raised(seen: _Evidence, last: exceptions.PythonError) -> ExitJudgement:
    """The root of the chain tells whether a peer was lost: clean-up after an error of one's own often says so too."""
    root = seen.chain[0]
    different = mismatch.of_error(root)
    if different:
        return _mismatch(different, different.text, last)
    row = _peer_row(root)
    where = f" in {last.innermost.where}" if last.innermost else ""
    if row:
        name, words = row
        where = f" in {last.innermost.function} at {last.users.where}" if last.users and last.innermost else where
        sign = signatures.signature("peer-lost", name)
        return ExitJudgement("peer-lost", sign, f"lost a peer{where}: {words}", name, last)
    blamed = root if _peer_row(last) else last
    if blamed is root and root.innermost:
        where = f" in {root.innermost.where}"
    stored = storage.find(seen.chain, seen.tail, seen.exit.phase)
    if stored:
        sign = signatures.signature(stored.kind, stored.name)
        return ExitJudgement(stored.kind, sign, f"{_STORED[stored.kind]}{where}: {stored.text}", stored.name, blamed)
    rows = (*patterns.PYTHON_ERRORS, *patterns.NO_FAULT_OF_THE_CHECKPOINT)
    known = patterns.first(rows, blamed.message, blamed.name)
    sign = signatures.signature("python-error", blamed.name, _function(blamed), signatures.normalise(blamed.message))
    return ExitJudgement("python-error", sign, f"raised {blamed.text}{where}", known.name if known else "", blamed)


def _peer_row(error: exceptions.PythonError) -> tuple[str, str] | None:
    # torch hands a DataLoader worker's exception on as "Caught X in DataLoader worker": that is the user's own error.
    if error.message.startswith("Caught ") or patterns.first(patterns.OWN_FAULT, error.message):
        return None
    row = patterns.first(patterns.PEER_LOST, error.message, error.name)
    if row is None and _inside_torch_distributed(error):
        row = patterns.first(patterns.PEER_LOST, f"{error.name}: {error.message}", "RuntimeError")
    name = row.name if row else patterns.PEER_LOST_TYPES.get(error.name, "")
    return (name, error.text) if name else None


def _echo_in_output(text: str) -> patterns.Pattern | None:
    """A lost peer in plain output. Words as common as "Broken pipe" count only on a line of the library itself."""
    for line in text.splitlines():
        row = patterns.first(patterns.PEER_LOST, line, "RuntimeError" if _LIBRARY_LINE.search(line) else "")
        if row:
            return row
    return None


def _inside_torch_distributed(error: exceptions.PythonError) -> bool:
    return error.innermost is not None and "/torch/distributed/" in error.innermost.file


def _peer(row: patterns.Pattern, text: str, error: exceptions.PythonError | None) -> ExitJudgement:
    return ExitJudgement("peer-lost", signatures.signature("peer-lost", row.name), text, row.name, error)


def _function(error: exceptions.PythonError | None) -> str:
    return error.innermost.function if error and error.innermost else ""


def _line(text: str, row: patterns.Pattern) -> str:
    """The line that the row was found in, for people."""
    return next((line.strip()[:240] for line in text.splitlines() if row.regex.search(line)), "")


def _last_line(text: str) -> str:
    return next((line.strip()[:240] for line in reversed(text.splitlines()) if line.strip()), "")


def _ending(exit_: records.RankExit) -> str:
    return exit_.signal if exit_.signal else f"status {exit_.code}"
