"""Stacks read: what faulthandler and py-spy write, with many threads, without the main one, and damaged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outrider_agent.signals import host, stacks
from tests.agent import world

RECORDED = Path(__file__).parents[1] / "recorded" / "py-spy" / "dump.json"
DUMP = """Current thread 0x00007f62db7fe6c0 (most recent call first):
  <no Python frame>

Thread 0x00007f62d67f46c0 [loader] (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 982 in run
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Thread 0x00007f6301050b80 (most recent call first):
  File "/a b/\\xe4.py", line 3252 in all_reduce
  File "/job/train.py", line ??? in <module>
"""
MANY = """
import os, signal, sys, threading, time
from outrider_agent import rank_hook
rank_hook.prepare({"OUTRIDER_STACKS": sys.argv[1]})
def a_thread():
    time.sleep(600)
for _ in range(int(sys.argv[2])):
    threading.Thread(target=a_thread, daemon=True).start()
def main_waits():
    print("up", flush=True)
    time.sleep(600)
main_waits()
"""


def test_the_main_thread_is_the_last_of_a_dump_or_the_one_that_is_named() -> None:
    main = ("/a b/\\xe4.py:3252 in all_reduce", "/job/train.py:0 in <module>")
    assert stacks.of_faulthandler(DUMP) == main
    assert stacks.of_faulthandler(DUMP, "0x7f6301050b80") == main
    without = DUMP.rpartition("\nThread")[0]
    with pytest.raises(stacks.NoStack, match="not among the 2 threads"):
        stacks.of_faulthandler(without)
    with pytest.raises(stacks.NoStack, match="not among the 3 threads"):
        stacks.of_faulthandler(DUMP, "0x1")
    with pytest.raises(stacks.NoStack, match="no thread"):
        stacks.of_faulthandler("nonsense\n")


def test_the_answer_of_py_spy_is_read_and_what_is_none_is_refused() -> None:
    text = RECORDED.read_bytes()
    pid = int(text.partition(b'"pid": ')[2].partition(b",")[0])
    assert [frame.partition(" in ")[2] for frame in stacks.of_pyspy(text, pid)] == ["spin_here", "<module>"]
    with pytest.raises(stacks.NoStack, match="not among the 2 threads"):
        stacks.of_pyspy(text, pid + 1_000_000)
    for garbage in (b"", b"{}", b"[[[[", b'[{"frames": 1}]', b"\xff"):
        with pytest.raises(stacks.NoStack, match="cannot be read"):
            stacks.of_pyspy(garbage, pid)


def test_a_loop_that_goes_round_does_not_move_and_a_rank_at_other_work_does() -> None:
    first = ("/job/a.py:10 in spin", "/job/a.py:30 in <module>")
    assert not stacks.moved(first, ("/job/a.py:11 in spin", "/job/a.py:30 in <module>"))
    assert stacks.moved(first, ("/job/a.py:10 in spin", "/job/a.py:31 in <module>"))
    assert stacks.moved(first, ("/job/a.py:10 in step", "/job/a.py:30 in <module>"))
    assert stacks.moved(first, ("/job/b.py:1 in load", *first))
    assert not stacks.moved((), ())


@pytest.mark.parametrize(("threads", "found"), [(20, True), (150, False)])
def test_a_rank_with_more_threads_than_a_dump_holds_is_not_mistaken(threads: int, found: bool) -> None:
    with world.short_directory() as folder:
        path = folder / "0.stacks"
        child = subprocess.Popen([sys.executable, "-c", MANY, str(path), str(threads)], stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            started = host.start_ticks(child.pid)
            assert started is not None
            for _ in range(2):
                dump = stacks.ask_by_signal(child.pid, started, path, world.WAIT_S)
                if found:
                    assert "main_waits" in stacks.of_faulthandler(dump.text, dump.main)[0]
                else:
                    with pytest.raises(stacks.NoStack, match="not among the 100 threads"):
                        stacks.of_faulthandler(dump.text, dump.main)
            assert child.poll() is None
        finally:
            child.kill()
            child.wait()


def test_a_file_of_stacks_that_has_grown_is_cut_off_and_another_file_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stacks, "FILE_BYTES_MAX", 100)
    with world.short_directory() as folder:
        path = folder / "0.stacks"
        child = subprocess.Popen([sys.executable, "-c", MANY, str(path), "3"], stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            child.stdout.readline()
            started = host.start_ticks(child.pid) or 0
            sizes = []
            for _ in range(3):
                assert "main_waits" in stacks.ask_by_signal(child.pid, started, path, world.WAIT_S).text
                sizes.append(path.stat().st_size)
            assert len(set(sizes)) == 1, "it does not grow for ever"
            with pytest.raises(stacks.NoStack, match="not prepared"):
                stacks.ask_by_signal(child.pid, started + 1, path, 0.1)
            copy = folder / "copy"
            copy.write_bytes(path.read_bytes())
            path.unlink()
            os.link(copy, path)
            with pytest.raises(stacks.NoStack, match="has closed the file"):
                stacks.ask_by_signal(child.pid, started, path, 0.1)
            assert child.poll() is None
        finally:
            child.kill()
            child.wait()
