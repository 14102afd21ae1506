"""How a rank ended, from its exit and the last lines of its log. Recorded lines: torch 2.13.0 (CPU build), gloo."""

import dataclasses
import pathlib

import pytest

from outrider import records
from outrider_analysis import job_log
from outrider_analysis.job_log import exceptions, judgement, patterns

RECORDED = pathlib.Path(__file__).resolve().parents[1] / "recorded/job_log"
GLOO_CLOSED = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "/home/me/train.py", line 12, in <module>
[rank0]:     dist.all_reduce(t)
[rank0]:   File "/venv/site-packages/torch/distributed/c10d_logger.py", line 83, in wrapper
[rank0]:     return func(*args, **kwargs)
[rank0]:            ^^^^^^^^^^^^^^^^^^^^^
[rank0]:   File "/venv/site-packages/torch/distributed/distributed_c10d.py", line 3252, in all_reduce
[rank0]:     work.wait()
[rank0]: RuntimeError: [/__w/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer \
[127.0.0.1]:13477. This is typically caused by a remote worker crashing. Check the logs of the remote worker.
"""
GLOO_WAIT = GLOO_CLOSED.replace(
    "pair.cc:553] Connection closed by peer [127.0.0.1]:13477. This is typically",
    "unbound_buffer.cc:78] Timed out waiting 6000ms for recv operation to complete. Typically",
)
USER_ERROR = """\
step 6 loss 5.1
[rank3]: Traceback (most recent call last):
[rank3]:   File "/home/me/train.py", line 90, in <module>
[rank3]:     main()
[rank3]:   File "/home/me/train.py", line 41, in main
[rank3]:     raise ValueError(f"rank {rank}: bad batch at step {step}")
[rank3]: ValueError: rank 3: bad batch at step 7
[rank3]:[W1120 18:57:36.1 ProcessGroupNCCL.cpp:1168] Warning: process group has NOT been destroyed
"""
NCCL_REMOTE = """\
Traceback (most recent call last):
  File "train.py", line 8, in step
    dist.all_reduce(t)
torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited or network error
ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.
Last error:
socketPollConnect: connect returned Connection refused, retry count exceeded
"""


def ended(
    *, code: int | None = 1, signal: str | None = None, tail: str = "", asked: bool = False, oom_kills: int = 0
) -> records.RankExit:
    return records.RankExit(
        rank=3,
        local_rank=3,
        pid=41,
        order=0,
        code=None if signal else code,
        signal=signal,
        asked=asked,
        at=100.0,
        step=7,
        log_tail=tail,
        oom_kills=oom_kills,
    )


def python(text: str) -> str:
    return f'Traceback (most recent call last):\n  File "train.py", line 9, in step\n    work()\n{text}\n'


@pytest.mark.parametrize(
    ("exit_", "kind"),
    [
        (ended(code=0), "clean"),
        (ended(code=0, tail=USER_ERROR), "clean"),
        (ended(signal="SIGKILL"), "killed"),
        (ended(signal="SIGTERM", tail=GLOO_CLOSED), "killed"),
        (ended(signal="SIGTERM", asked=True, tail=USER_ERROR), "asked"),
        (ended(signal="SIGSEGV"), "native-crash"),
        (ended(signal="SIGABRT", tail="terminate called after throwing an instance of 'c10::Error'"), "native-crash"),
        (ended(signal="SIGKILL", oom_kills=1), "out-of-memory"),
        (ended(tail=USER_ERROR), "python-error"),
        (ended(tail=GLOO_CLOSED), "peer-lost"),
        (ended(tail=GLOO_WAIT), "peer-lost"),
        (ended(tail=NCCL_REMOTE), "peer-lost"),
        (ended(code=137, tail="sh: 3: Killed"), "killed"),
        (ended(code=139, tail="Segmentation fault (core dumped)"), "native-crash"),
        (ended(code=7, tail="nothing to read in /data"), "exit-code"),
        (ended(code=7), "exit-code"),
    ],
)
def test_the_kind_of_an_end(exit_: records.RankExit, kind: str) -> None:
    found = job_log.judge(exit_)
    assert found.kind == kind
    assert found.signature
    assert "rank 3" in found.text


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79 GiB", "device"),
        ("torch.cuda.OutOfMemoryError: CUDA out of memory.", "device"),
        ("RuntimeError: CUDA error: out of memory", "device"),
        ("MemoryError", "host"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.28 TiB", "host"),
        (
            (
                "RuntimeError: [enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: "
                "you tried to allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "host",
        ),
        ("RuntimeError: std::bad_alloc", "host"),
        ("OSError: [Errno 12] Cannot allocate memory", "host"),
        (
            (
                "torch.distributed.DistBackendError: NCCL error in: x.cpp:1, unhandled cuda error\n"
                "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
            ),
            "device",
        ),
    ],
)
def test_want_of_memory_is_known_in_its_many_words(text: str, pattern: str) -> None:
    found = job_log.judge(ended(tail=python(text)))
    assert (found.kind, found.pattern) == ("out-of-memory", pattern)


def test_a_native_abort_for_want_of_memory_is_told_from_a_crash() -> None:
    tail = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc"
    assert job_log.judge(ended(signal="SIGABRT", tail=tail)).kind == "out-of-memory"


def test_a_worker_killed_by_the_kernel_counts_as_memory_only_when_the_kernel_killed() -> None:
    tail = python("RuntimeError: DataLoader worker (pid 77) is killed by signal: Killed. ")
    assert job_log.judge(ended(tail=tail)).kind == "python-error"
    assert job_log.judge(ended(tail=tail, oom_kills=1)).kind == "out-of-memory"


def test_the_watchdogs_abort_is_an_echo_and_no_crash() -> None:
    tail = (
        "[rank3]:[E1120 ProcessGroupNCCL.cpp:683] [Rank 3] Watchdog caught collective operation timeout: "
        "WorkNCCL(SeqNum=12)\nterminate called after throwing an instance of 'c10::DistBackendError'"
    )
    assert job_log.judge(ended(signal="SIGABRT", tail=tail)).kind == "peer-lost"


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: Gloo connectFullMesh failed with [gloo/transport/tcp/pair.cc:144] no error",
        "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection reset by peer [10.0.0.4]:27811",
        "RuntimeError: [gloo/transport/tcp/pair.cc:598] writev [10.0.0.4]:27811: Broken pipe",
        "torch.distributed.DistNetworkError: failed to recv, got 0 bytes",
        "torch.distributed.DistStoreError: Timed out after 7 seconds waiting for clients. 1/2 clients joined.",
        "torch.distributed.DistStoreError: wait timeout after 300000ms, keys: /default_pg/0//cpu//0/0",
        "RuntimeError: Socket Timeout",
        "RuntimeError: Rank 2 failed to pass monitoredBarrier in 6000 ms",
        "RuntimeError: NCCL communicator was aborted on rank 3.",
    ],
)
def test_an_echo_of_a_lost_peer_is_no_error_of_this_rank(text: str) -> None:
    assert job_log.judge(ended(tail=python(text))).kind == "peer-lost"


@pytest.mark.parametrize(
    "text",
    [
        "ConnectionResetError: [Errno 104] Connection reset by peer",  # the user's own connection
        "BrokenPipeError: [Errno 32] Broken pipe",
        "requests.exceptions.ConnectionError: Connection refused",
        "RuntimeError: Caught RuntimeError in DataLoader worker process 0.\nOriginal: Broken pipe",
        (
            "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. "
            "port: 29500, code: -98, name: EADDRINUSE, message: address already in use"
        ),
        (
            "torch.distributed.DistBackendError: NCCL error in: x.cpp:1, invalid usage\nncclInvalidUsage: This usually "
            "reflects invalid usage of NCCL library.\nLast error:\nDuplicate GPU detected : rank 1 and rank 0"
        ),
    ],
)
def test_an_error_of_this_rank_is_no_echo(text: str) -> None:
    assert job_log.judge(ended(tail=python(text))).kind == "python-error"


def test_the_port_that_is_taken_is_named_as_such() -> None:
    tail = python("OSError: [Errno 98] Address already in use")
    assert job_log.judge(ended(tail=tail)).pattern == "address-in-use"


def test_common_words_in_plain_output_are_no_echo_unless_the_library_wrote_them() -> None:
    assert job_log.judge(ended(code=3, tail="curl: (7) Connection refused\ncat: Broken pipe")).kind == "exit-code"
    library = "[W1120 TCPStore.cpp:106] [c10d] sendBytes failed on SocketImpl(fd=5): Broken pipe"
    assert job_log.judge(ended(code=3, tail=library)).kind == "peer-lost"


@pytest.mark.parametrize(
    ("name", "kind", "signature"),
    [
        ("gloo-peer-killed", "peer-lost", "peer-lost:gloo-closed"),
        ("gloo-peer-stopped", "peer-lost", "peer-lost:gloo-wait"),
        ("key-error", "python-error", "python-error:KeyError:<module>:'layer.#'"),
        ("cpu-allocator", "out-of-memory", "out-of-memory:host:<module>"),
        ("torch-fingerprint", "collective-mismatch", "collective-mismatch:fingerprint:<module>"),
        ("dcp-metadata-missing", "checkpoint-torn", "checkpoint-torn:metadata"),
        ("dcp-metadata-truncated", "checkpoint-torn", "checkpoint-torn:metadata"),
        ("dcp-file-missing", "checkpoint-torn", "checkpoint-torn:file-missing"),
        ("dcp-file-truncated", "checkpoint-torn", "checkpoint-torn:cut-off"),
        ("dcp-file-zeroed", "checkpoint-damaged", "checkpoint-damaged:unreadable"),
        ("torch-load-zeroed", "checkpoint-damaged", "checkpoint-damaged:unreadable"),
        ("dcp-disk-full", "disk-full", "disk-full:short-write"),
        ("torch-save-disk-full", "disk-full", "disk-full:short-write"),
    ],
)
def test_recorded_ends_are_judged_for_what_they_were(name: str, kind: str, signature: str) -> None:
    found = job_log.judge(ended(tail=(RECORDED / f"{name}.txt").read_text(encoding="utf-8")))
    assert (found.kind, found.signature) == (kind, signature)


def test_a_rank_that_gloo_ended_for_a_size_tells_of_the_mismatch_and_of_its_line_in_the_job() -> None:
    tail = (RECORDED / "gloo-size-mismatch.txt").read_text(encoding="utf-8")
    for exit_ in (ended(signal="SIGABRT", tail=tail), ended(code=134, tail=tail)):
        found = job_log.judge(exit_)
        assert (found.kind, found.pattern) == ("collective-mismatch", "gloo-size")
        assert found.signature == "collective-mismatch:gloo-size:all_reduce:reduce"
        assert found.text.startswith(
            "rank 3 at step 7 got 8 bytes from a peer where its call takes 4 (all_reduce at train.py:14 in reduce): "
            "ranks of its group called different collectives or sizes; it "
        ), found.text
    assert "SIGABRT" in found.text
    without_stacks = tail.partition("Fatal Python error")[0]
    found = job_log.judge(ended(signal="SIGABRT", tail=without_stacks))
    assert (found.kind, found.signature) == ("collective-mismatch", "collective-mismatch:gloo-size")
    assert job_log.judge(ended(signal="SIGKILL", tail=tail)).kind == "killed"
    assert job_log.judge(ended(signal="SIGSEGV", tail=tail)).kind == "native-crash"
    said = "the docs say: Received data size doesn't match expected size\n"
    assert job_log.judge(ended(signal="SIGABRT", tail=said)).kind == "native-crash", "not what it died of"
    assert job_log.judge(ended(tail=python("ValueError: op.preamble.length <= op.nbytes"))).kind == "python-error"


def test_torchs_comparison_of_calls_tells_what_each_side_called() -> None:
    found = job_log.judge(ended(tail=(RECORDED / "torch-fingerprint.txt").read_text(encoding="utf-8")))
    assert found.text == (
        "rank 3 at step 7 called another collective than its peers at train.py:8 in <module>: rank 1 of the group "
        "called ALLREDUCE [9] Float and rank 0 of the group called ALLREDUCE [8] Float"
    )


def test_a_lost_peer_is_told_with_the_line_of_the_job_that_waited() -> None:
    found = job_log.judge(ended(tail=GLOO_CLOSED))
    assert "lost a peer in all_reduce at train.py:12 in <module>: " in found.text
    told = dataclasses.replace(
        ended(tail=GLOO_CLOSED),
        error_type="RuntimeError",
        error_message="Connection closed by peer",
        error_where="distributed_c10d.py:3252 in all_reduce",
    )
    assert "lost a peer in all_reduce at train.py:12 in <module>: " in job_log.judge(told).text
    elsewhere = dataclasses.replace(told, error_where="distributed_c10d.py:9 in barrier")
    assert "lost a peer in distributed_c10d.py:9 in barrier: " in job_log.judge(elsewhere).text


def test_what_was_thrown_below_python_outweighs_the_abort_that_followed() -> None:
    words = "terminate called after throwing an instance of 'c10::AcceleratorError'\n  what():  CUDA error: {}\n"
    dump = 'Fatal Python error: Aborted\n\nThread 0x1 (most recent call first):\n  File "/a.py", line 3 in f\n'
    one = job_log.judge(ended(signal="SIGABRT", tail=words.format("misaligned address") + dump))
    other = job_log.judge(ended(signal="SIGABRT", tail=words.format("an illegal memory access") + dump))
    assert one.kind == other.kind == "native-crash"
    assert one.text == "rank 3 at step 7 was ended by SIGABRT: c10::AcceleratorError: CUDA error: misaligned address"
    assert one.signature != other.signature
    alone = job_log.judge(ended(signal="SIGSEGV", tail="Fatal Python error: Segmentation fault\n" + dump[29:]))
    assert (alone.pattern, "Segmentation fault" in alone.text) == ("fatal-python", True)
    peer = words.replace("CUDA error: {}", "[Rank 3] Watchdog caught collective operation timeout")
    assert job_log.judge(ended(signal="SIGABRT", tail=peer + dump)).kind == "peer-lost"
    memory = job_log.judge(ended(signal="SIGABRT", tail=words.replace("CUDA error: {}", "std::bad_alloc") + dump))
    assert memory.kind == "out-of-memory"


@pytest.mark.parametrize("name", ["dcp-key-missing", "dcp-size-mismatch"])
def test_a_sound_checkpoint_of_another_model_is_the_scripts_own_error(name: str) -> None:
    found = job_log.judge(ended(tail=(RECORDED / f"{name}.txt").read_text(encoding="utf-8")))
    assert found.kind == "python-error"


@pytest.mark.parametrize(
    ("phase", "text", "kind"),
    [
        ("load", "EOFError: Ran out of input", "checkpoint-torn"),
        ("step", "EOFError: Ran out of input", "python-error"),
        ("load", "zipfile.BadZipFile: Bad CRC-32 for file 'data/0'", "checkpoint-damaged"),
        ("step", "zipfile.BadZipFile: Bad CRC-32 for file 'shard-7.npz'", "python-error"),
        ("load", "FileNotFoundError: [Errno 2] No such file or directory: '/data/vocab.txt'", "python-error"),
        ("load", "OSError: [Errno 116] Stale file handle: '/ckpt/step-8'", "python-error"),
        ("checkpoint", "OSError: [Errno 28] No space left on device: '/ckpt/x'", "disk-full"),
        ("step", "OSError: [Errno 122] Disk quota exceeded", "disk-full"),
    ],
)
def test_an_error_of_storage_is_told_by_its_words_and_by_what_the_rank_was_doing(
    phase: str, text: str, kind: str
) -> None:
    assert job_log.judge(dataclasses.replace(ended(tail=python(text)), phase=phase)).kind == kind


def test_the_checkpoint_exception_of_the_error_file_is_read_with_the_end_of_the_log() -> None:
    tail = (RECORDED / "dcp-file-missing.txt").read_text(encoding="utf-8")
    told = dataclasses.replace(
        ended(tail=tail), error_type="CheckpointException", error_message="CheckpointException ranks:dict_keys([0])"
    )
    found = job_log.judge(told)
    assert found.kind == "checkpoint-torn"
    assert "__0_0.distcp" in found.text


def test_the_error_file_outweighs_the_log() -> None:
    told = dataclasses.replace(
        ended(tail=GLOO_CLOSED), error_type="KeyError", error_message="'layer.17'", error_where="model.py:12 in load"
    )
    found = job_log.judge(told)
    assert found.signature == "python-error:KeyError:load:'layer.#'"
    assert found.text == "rank 3 at step 7 raised KeyError: 'layer.17' in model.py:12 in load"


def test_an_error_whose_clean_up_failed_for_lost_peers_keeps_its_own_name() -> None:
    tail = (
        python("KeyError: 'weights'")
        + "\nDuring handling of the above exception, another exception occurred:\n\n"
        + python("RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")
    )
    found = job_log.judge(ended(tail=tail))
    assert (found.kind, found.signature) == ("python-error", "python-error:KeyError:step:'weights'")


def test_a_lost_peer_that_the_script_wraps_in_its_own_error_stays_an_echo() -> None:
    tail = (
        python("RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")
        + "\nThe above exception was the direct cause of the following exception:\n\n"
        + python("TrainerError: step 12 failed")
    )
    assert job_log.judge(ended(tail=tail)).kind == "peer-lost"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ValueError: rank 3: bad batch at step 7", "ValueError: rank 11: bad batch at step 1500"),
        ("FileNotFoundError: no file /a/b/c-3.pt", "FileNotFoundError: no file /data/x/y.pt"),
        ("RuntimeError: object at 0x7f3a9c took 1.5e-3 s", "RuntimeError: object at 0x1 took 12 s"),
        ("RuntimeError: shape [1, 2, 3] is wrong", "RuntimeError: shape [4, 5] is wrong"),
        ("OSError: cannot reach http://a:80/x?y=1", "OSError: cannot reach https://b.example/z"),
        (
            "RuntimeError: run 123e4567-e89b-12d3-a456-426614174000",
            "RuntimeError: run 923e4567-e89b-12d3-a456-4266141740ff",
        ),
        ("RuntimeError: at 2026-11-20 18:57:36 on n17", "RuntimeError: at 2026-11-21T09:00:01Z on n3"),
    ],
)
def test_failures_that_look_alike_have_one_signature(one: str, other: str) -> None:
    first, second = (job_log.judge(ended(tail=python(text))).signature for text in (one, other))
    assert first == second


@pytest.mark.parametrize(
    "other",
    [
        python("ValueError: bad batch"),
        python("KeyError: 'a'").replace("in step", "in load"),
        python("KeyError: 'b'"),
    ],
)
def test_other_failures_have_other_signatures(other: str) -> None:
    first, second = (job_log.judge(ended(tail=text)).signature for text in (python("KeyError: 'a'"), other))
    assert first != second


def test_a_log_cut_within_a_deep_stack_still_gives_the_error() -> None:
    cut = "    deeper()\n" + python("RecursionError: maximum recursion depth exceeded").split("\n", 1)[1]
    (error,) = exceptions.find(cut)
    assert (error.name, error.frames[-1].where) == ("RecursionError", "train.py:9 in step")


def test_the_members_of_an_exception_group_are_found() -> None:
    text = (
        "  + Exception Group Traceback (most recent call last):\n"
        '  |   File "train.py", line 2, in main\n  |     run()\n  | ExceptionGroup: 1 failed (1 sub-exception)\n'
        "  +-+---------------- 1 ----------------\n    | Traceback (most recent call last):\n"
        '    |   File "train.py", line 7, in load\n    |     read()\n    | ValueError: no data\n'
        "    +------------------------------------\n"
    )
    assert [error.name for error in exceptions.find(text)][-1] == "ValueError"


def test_a_syntax_error_has_a_place_and_no_function() -> None:
    text = 'Traceback (most recent call last):\n  File "train.py", line 3\n    def\n       ^\nSyntaxError: bad\n'
    (error,) = exceptions.find(text)
    assert (error.name, error.frames[-1].where) == ("SyntaxError", "train.py:3")


def test_text_without_an_exception_has_none() -> None:
    assert exceptions.find("step 1\nstep 2\n") == ()
    assert exceptions.find("") == ()


def test_every_row_of_the_tables_says_where_it_comes_from_and_is_of_a_known_kind() -> None:
    tables = (
        patterns.MISMATCH,
        patterns.OUT_OF_MEMORY,
        patterns.PEER_LOST,
        patterns.OWN_FAULT,
        patterns.NATIVE_CRASH,
        patterns.DISK_FULL,
        patterns.NO_FAULT_OF_THE_CHECKPOINT,
        patterns.CHECKPOINT_TORN,
        patterns.CHECKPOINT_DAMAGED,
        patterns.PYTHON_ERRORS,
    )
    rows = [row for table in tables for row in table]
    assert all(row.source for row in rows)
    assert {row.kind for row in rows} <= set(judgement.KINDS)


def test_a_hostile_log_is_judged_in_bounded_time() -> None:
    tail = ("a" * 4000 + "\n") * 3 + "[" * 4000 + "/" * 4000 + "1." * 4000
    found = job_log.judge(ended(code=5, tail=tail))
    assert found.kind == "exit-code"
    assert len(found.signature) <= 300


def test_rank_whose_end_nobody_saw_was_lost_with_its_keeper() -> None:
    lost = records.RankExit(4, 0, 99, 0, code=None, signal=None, asked=False, at=1.0)
    found = job_log.judge(lost)
    assert (found.kind, found.signature) == ("killed", "killed:with-keeper")
    assert "lost together with its keeper" in found.text
