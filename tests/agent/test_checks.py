"""The checks of a node: what is wrong is named, what hangs or crashes is a verdict, what was not run is not passed."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from outrider_agent.checks import (
    children,
    collectives,
    judge,
    judge_collectives,
    machine,
    pairing,
    results,
    run,
    sweeping,
)
from outrider_agent.checks.results import Result
from outrider_agent.checks.work import (
    device_memory,
    file_system,
    host_memory,
    matmul,
    torch_device,
    transfers,
)
from tests.agent import check_breakers

H100 = "NVIDIA H100 80GB HBM3"
BREAKERS = str(Path(check_breakers.__file__))
SMALL = matmul.Size(16, 64)


def silent(where: str) -> None:
    """Nobody is told."""


def broken(way: str) -> list[str]:
    return [sys.executable, BREAKERS, way]


# --- children ---------------------------------------------------------------------------------------------------------


def test_a_child_does_its_work_and_says_where_it_is(tmp_path: Path) -> None:
    told: list[str] = []
    task = {"work": "file_system", "path": str(tmp_path), "bytes": 1 << 20, "small": 2}
    outcome = children.run(task, 60, told.append)
    assert (outcome.state, outcome.value["same"]) == (children.DONE, True)
    assert told[0] == "asking for its room"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("way", "state", "text", "verdict"),
    [
        ("crash", children.CRASHED, "crashed by SIGSEGV at core 3", results.FAIL),
        ("killed", children.CRASHED, "killed by SIGKILL", results.COULD_NOT_LOOK),
        ("status", children.ENDED, "ended with status 7: cannot open libcuda.so.1 at core 3", results.FAIL),
        ("garbage", children.ENDED, "ended with status 0", results.FAIL),
    ],
)
def test_a_child_that_breaks_is_a_verdict(way: str, state: str, text: str, verdict: str) -> None:
    outcome = children.run({}, 60, begin=broken(way))
    assert outcome.state == state
    assert outcome.text.startswith(text)
    assert judge.ended("matmul", "cpu", outcome).verdict == verdict


def test_a_child_that_hangs_is_ended_and_fails() -> None:
    pids: list[int] = []
    outcome = children.run({}, 1.0, lambda where: pids.extend(_children()), begin=broken("hang"))
    assert outcome.state == children.HUNG
    assert "no answer within 1 s at core 3" in outcome.text
    assert judge.ended("memory", "gpu0", outcome).verdict == results.FAIL
    assert pids
    assert not set(pids) & set(_children())


def test_what_a_child_raises_decides_whether_its_device_is_blamed() -> None:
    verdicts = {
        error: judge.ended("memory", "gpu0", children.Outcome(children.RAISED, 1.0, text="x", error=error)).verdict
        for error in ("AcceleratorError", "OutOfMemoryError", "ModuleNotFoundError")
    }
    assert verdicts == {
        "AcceleratorError": results.FAIL,
        "OutOfMemoryError": results.COULD_NOT_LOOK,
        "ModuleNotFoundError": results.SKIPPED,
    }


def test_a_child_that_cannot_be_started_could_not_look(tmp_path: Path) -> None:
    outcome = children.run({"work": "gpus"}, 5, python=str(tmp_path / "python"))
    assert judge.ended("gpus", "", outcome).verdict == results.COULD_NOT_LOOK
    assert "No such file" in outcome.text


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


# --- products ---------------------------------------------------------------------------------------------------------


def product(precision: matmul.Precision, size: matmul.Size = SMALL) -> tuple[Any, matmul.Problem]:
    torch, device = torch_device.of({"index": None})
    return torch, matmul.Problem(torch, device, precision, size, exact=True)


@pytest.mark.parametrize("precision", [*matmul.ON_GPU, *matmul.ON_CPU], ids=lambda one: one.name)
def test_a_sound_device_gives_the_exact_product_in_every_precision(precision: matmul.Precision) -> None:
    torch, problem = product(precision, matmul.Size(16, 64, tiles=3))
    torch.set_num_threads(1)
    found = problem.tried(3)
    assert (found["wrong"], found["elements"]) == (0, [])
    assert found["tflops"] > 0


@pytest.mark.parametrize("bit", [0, 3, 15])
def test_one_flipped_bit_in_one_of_five_products_is_found(bit: int) -> None:
    torch, problem = product(matmul.ON_CPU[0])
    calls = []

    def flipping(left: Any, right: Any, out: Any) -> None:
        torch.mm(left, right, out=out)
        calls.append(1)
        if len(calls) == 8:  # the first products are for warming up and for timing
            words = out.view(torch.int32)
            words[5, 9] ^= 1 << bit

    found = problem.tried(5, flipping)
    assert found["wrong"] == 1
    assert found["elements"][0].startswith("1 elements, the first at 5,9")
    whole = {"model": "CPU", "found": [{"where": "core 1", **found}, {"where": "core 0", **found, "wrong": 0}]}
    verdict = judge.cores(whole)
    assert verdict.verdict == results.FAIL
    assert "wrong results on core 1: fp32 1 elements" in verdict.text


def test_a_product_that_was_never_written_is_found() -> None:
    torch, problem = product(matmul.ON_CPU[0])
    calls = []

    def lazy(left: Any, right: Any, out: Any) -> None:
        calls.append(1)
        if len(calls) < 5:
            torch.mm(left, right, out=out)

    assert problem.tried(3, lazy)["wrong"] == 2


def test_the_sums_of_the_large_products_fit_into_sixteen_bits() -> None:
    torch, device = torch_device.of({"index": None})
    size = matmul.Size(matmul.GPU.side // 4, matmul.GPU.depth)
    for precision in (one for one in matmul.ON_GPU if one.most == 1):
        matmul.Problem(torch, device, precision, size, exact=False)  # asserts it


def measured(**tflops: float) -> dict[str, Any]:
    sound = {"repeats": 10, "wrong": 0, "elements": [], "where": ""}
    return {"model": H100, "found": [{"precision": name, "tflops": value, **sound} for name, value in tflops.items()]}


def test_a_gpu_is_held_against_its_peak() -> None:
    assert judge.matmul("gpu0", measured(bf16=690, fp32=50)).verdict == results.PASS
    assert judge.matmul("gpu0", measured(bf16=500)).verdict == results.WARN
    slow = judge.matmul("gpu0", measured(bf16=300))
    assert (slow.verdict, slow.value, slow.unit) == (results.FAIL, 300, "TFLOP/s")
    assert slow.bound == pytest.approx(0.45 * 989.4)
    assert slow.text.startswith("30% of its bf16 peak")
    unknown = judge.matmul("gpu0", {**measured(bf16=1), "model": "Voodoo 2"})
    assert (unknown.verdict, unknown.bound) == (results.PASS, None)
    assert "no bound is known" in unknown.text


def test_a_gpu_far_below_the_others_of_its_node_fails() -> None:
    speeds = (700, 705, 695, 480, 560)
    found = judge.siblings([judge.matmul(f"gpu{at}", measured(bf16=speed)) for at, speed in enumerate(speeds)])
    assert [one.verdict for one in found] == ["pass", "pass", "pass", "fail", "warn"]
    assert found[3].text.startswith("69% of what the node's other GPUs do")


def test_a_gpu_is_measured_once_its_clocks_have_risen(monkeypatch: pytest.MonkeyPatch) -> None:
    device, done = torch_device.of({"index": None})[1], list[float]()
    monkeypatch.setattr(device, "index", 0)
    monkeypatch.setattr(device, "timed", lambda work, times: done.append(times) or 0.001)
    assert device.steady(lambda: None, 10) == 0.001
    assert done == [10, 300, 300]


def test_a_slow_core_is_a_warning_that_names_it() -> None:
    sound = {"precision": "fp32", "repeats": 5, "wrong": 0, "elements": []}
    speeds = {"core 0": 0.07, "core 1": 0.071, "core 2": 0.02, "core 3": 0.069}
    found = judge.cores({"found": [{"where": where, "tflops": tflops, **sound} for where, tflops in speeds.items()]})
    assert (found.verdict, found.value) == (results.WARN, 20.0)
    assert "below half of it: core 2" in found.text


# --- memory and copies ------------------------------------------------------------------------------------------------


def test_a_word_of_device_memory_that_changes_is_found_with_its_place_and_bits() -> None:
    torch, device = torch_device.of({"index": None})

    def stuck(chunks: list[Any]) -> None:
        chunks[1][3] |= 1 << 17

    sound = device_memory.verified(torch, device, 1 << 16, 2, silent)
    assert (sound["wrong"], sound["bytes"]) == (0, 1 << 16)
    found = device_memory.verified(torch, device, 1 << 16, 1, silent, stuck)
    assert found["wrong"] == 1  # the bit is set in one of a pattern and its complement
    words = (1 << 16) // 8
    assert found["places"][0].startswith(f"byte {(words // 4 + 3) * 8}, bits 0x20000, pattern")
    verdict = judge.memory("gpu3", {"model": H100, "gb_s": 2900.0, **found})
    assert (verdict.verdict, verdict.device) == (results.FAIL, "gpu3")


def test_two_lines_of_memory_that_answer_for_each_other_are_found() -> None:
    torch, device = torch_device.of({"index": None})

    def aliased(chunks: list[Any]) -> None:
        chunks[0][64:72] = chunks[0][:8]

    assert device_memory.verified(torch, device, 1 << 16, 1, silent, aliased)["wrong"] == 16


def test_a_byte_of_host_memory_that_changes_is_found() -> None:
    def stuck(memory: Any) -> None:
        memory[host_memory.BLOCK + 17] = 0

    assert host_memory.verified(3 << 20, silent)["wrong"] == 0
    found = host_memory.verified(3 << 20, silent, stuck)
    assert found["wrong"] == 2
    assert found["places"][0].startswith(f"byte {host_memory.BLOCK + 17}: 0x00 for")
    verdict = judge.host_memory({"copies": [{"where": "NUMA node 0", "gb_s": 9.0}], **found})
    assert verdict.verdict == results.FAIL


def test_copies_are_measured_and_compared() -> None:
    torch, device = torch_device.of({"index": None})
    host = transfers.with_host(torch, device, 1 << 16, silent)
    assert host["wrong"] == 0
    assert min(host["to_device_gb_s"], host["from_device_gb_s"]) > 0
    assert transfers.between(torch, device, device, 1 << 16)["wrong"] == 0
    half = judge.host_copies("gpu0", {**host, "model": H100, "to_device_gb_s": 55.0, "from_device_gb_s": 25.0})
    assert (half.verdict, half.value) == (results.FAIL, 25.0)
    assert "40% of its PCIe link" in half.text


def peers(bad: dict[tuple[int, int], dict[str, Any]], count: int = 4, model: str = H100) -> list[Result]:
    pairs = [
        {"from": a, "to": b, "p2p": True, "gb_s": 370.0, "wrong": 0, **bad.get((a, b), {})}
        for a in range(count)
        for b in range(count)
        if a != b
    ]
    return judge.peer_copies([f"gpu{at}" for at in range(count)], {"models": [model] * count, "pairs": pairs})


def test_a_pair_of_gpus_that_copies_slowly_or_wrongly_is_named() -> None:
    (good,) = peers({})
    assert (good.verdict, good.bound) == (results.PASS, 225.0)
    (slow,) = peers({(1, 2): {"gb_s": 50.0}})
    assert (slow.verdict, slow.device) == (results.FAIL, "gpu1-gpu2")
    (wrong,) = peers({(3, 0): {"wrong": 4}})
    assert wrong.text == "4 bytes arrived wrong"
    (apart,) = peers({(3, 0): {"p2p": False, "gb_s": 20.0}})
    assert "this board has NVLink" in apart.text
    assert [one.verdict for one in peers({(0, 1): {"p2p": False, "gb_s": 20.0}}, model="NVIDIA H100 PCIe")] == ["pass"]


def test_a_gpu_that_is_slow_with_every_other_is_named_itself() -> None:
    slow = {(a, b): {"gb_s": 60.0} for a in range(4) for b in range(4) if a != b and 2 in (a, b)}
    (found,) = peers(slow)
    assert (found.device, found.verdict) == ("gpu2", results.FAIL)
    assert "every one of the 6 pairs that fail has it" in found.text


# --- file systems -----------------------------------------------------------------------------------------------------


class SlowDisk:
    """A clock, and a disk that lets it go on with every write."""

    def __init__(self, write_s: float) -> None:
        self.now, self._write_s = 0.0, write_s

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def write(self, fd: int, piece: bytes) -> int:
        self.now += self._write_s
        return os.write(fd, piece)


ROOM = {"free_bytes": 1 << 40, "size_bytes": 1 << 41, "free_inodes": 0, "inodes": 0}


@pytest.mark.parametrize(
    ("write_s", "verdict", "text"),
    [
        (0.001, "pass", "8 MiB written"),
        (2.0, "warn", "a small write took 2.0 s and 2.1 MB/s"),
        (6.0, "fail", "a small"),
    ],
)
def test_a_slow_file_system_is_told_by_its_numbers(tmp_path: Path, write_s: float, verdict: str, text: str) -> None:
    disk = SlowDisk(write_s)
    found = file_system.examined(tmp_path, 8 << 20, 3, silent, disk, disk.write)
    assert found["same"]
    judged = judge.file_system("/ckpt", {**ROOM, **found})
    assert judged.verdict == verdict
    assert judged.text.startswith(text)


def test_a_file_system_that_reads_back_something_else_fails(tmp_path: Path) -> None:
    def lying(fd: int, piece: bytes) -> int:
        return os.write(fd, piece[:-1] + b"\0")

    found = file_system.examined(tmp_path, 4 << 20, 0, silent, write=lying)
    assert judge.file_system("/ckpt", {**ROOM, **found}).text.startswith("what was read is not what was written")


def test_a_file_system_that_takes_nothing_is_told_as_it_is(tmp_path: Path) -> None:
    found = file_system.run({"path": "/proc", "bytes": 1, "small": 1}, silent)
    assert judge.file_system("/proc", found).verdict == results.COULD_NOT_LOOK
    full = judge.file_system("/ckpt", {**ROOM, "error": "No space left on device", "errno": "ENOSPC"})
    assert full.verdict == results.FAIL
    little = {**ROOM, **file_system.examined(tmp_path, 4 << 20, 1, silent), "free_bytes": 1 << 20, "latency_s": 0.0}
    assert "little room" in judge.file_system("/ckpt", {**little, "write_mb_s": 900.0}).text


# --- collectives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8])
def test_pairs_of_a_round_are_disjoint_and_none_comes_twice(count: int) -> None:
    made = pairing.rounds(count, count)
    assert all(len({one for pair in pairs for one in pair}) == 2 * len(pairs) for pairs in made)
    everything = [pair for pairs in made for pair in pairs]
    assert len(set(everything)) == len(everything) == count * (count - 1) // 2
    assert pairing.rounds(1, 2) == []


@pytest.mark.parametrize("count", [4, 5, 8])
@pytest.mark.parametrize("bad", [0, 2, 3])
def test_two_rounds_name_the_one_that_is_bad(count: int, bad: int) -> None:
    pairs = [pair for made in pairing.rounds(count, 2) for pair in made]
    found = pairing.blame({pair: bad not in pair for pair in pairs})
    assert found == pairing.Blame(members=(bad,))


def test_a_pair_whose_members_do_well_with_others_is_a_link() -> None:
    pairs = [pair for made in pairing.rounds(4, 2) for pair in made]
    assert pairing.blame({pair: pair != pairs[0] for pair in pairs}) == pairing.Blame(pairs=(pairs[0],))
    assert pairing.blame({(0, 1): False}) == pairing.Blame(unclear=((0, 1),))


def gloo(command: collectives.Command | None = None, count: int = 4, turn_s: float = 20) -> list[Result]:
    env = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    given = collectives.Given("gloo", 4096, 2, start_s=120, turn_s=turn_s, env=env, python=sys.executable)
    with collectives.Ranks([collectives.Member(f"rank{n}") for n in range(count)], given, command) as ranks:
        return run.summed(ranks, False, silent, lambda: 60.0)


def one_broken(way: str, bad: int) -> collectives.Command:
    def command(rank: int, task: str, pipe: int) -> Sequence[str]:
        return [*broken(way), task, str(pipe)] if rank == bad else _sound(rank, task, pipe)

    return command


def _sound(rank: int, task: str, pipe: int) -> Sequence[str]:
    return children.command(sys.executable, "work.ranks", task, str(pipe))


def test_a_rank_that_crashes_with_partners_is_named_by_the_pairs() -> None:
    found = gloo(one_broken("rank-crash", 2))
    assert [(one.name, one.device, one.verdict) for one in found] == [
        ("loop-back", "", "pass"),
        ("all-reduce", "", "fail"),
        ("all-reduce-pairs", "rank2", "fail"),
    ]
    assert "rank2 crashed by SIGSEGV" in found[1].text
    assert "crashed by SIGSEGV" in found[2].text


@pytest.mark.slow
def test_a_rank_that_hangs_with_partners_is_named_by_the_pairs() -> None:
    found = gloo(one_broken("rank-hang", 3), turn_s=5)
    assert [(one.name, one.device, one.verdict) for one in found] == [
        ("loop-back", "", "pass"),
        ("all-reduce", "", "fail"),
        ("all-reduce-pairs", "rank3", "fail"),
    ]
    assert "rank3" in found[1].text  # who of those that wait gives up first is chance
    assert "hung: no answer" in found[2].text


def test_a_rank_that_brings_wrong_numbers_is_named() -> None:
    found = gloo(one_broken("rank-wrong", 1))
    assert [(one.name, one.device) for one in found if one.verdict == "fail"] == [
        ("loop-back", "rank1"),
        ("all-reduce", ""),
        ("all-reduce-pairs", "rank1"),
    ]
    assert "1 elements of the sum are wrong" in found[0].text


def test_a_slow_sum_on_linked_gpus_is_held_against_their_links() -> None:
    fast = {rank: collectives.Answer("ok", seconds=1e-3, bytes=256 << 20) for rank in range(8)}
    assert judge_collectives.together([*"abcdefgh"], H100, fast).verdict == "pass"
    slow = {rank: collectives.Answer("ok", seconds=1e-2, bytes=256 << 20) for rank in range(8)}
    assert judge_collectives.together([*"abcdefgh"], H100, slow).verdict == "fail"


# --- a whole run ------------------------------------------------------------------------------------------------------

ALONE = machine.Machine(gpus=0, cores=(0,), nodes={"0": 0}, memory_bytes=1 << 30)


def test_what_cannot_be_run_is_skipped_with_the_reason_and_is_not_passed() -> None:
    found = run.Checks(run.Options(only=("gpus", "memory", "peer-copies")), ALONE).run()
    assert {one.verdict for one in found} == {"skipped"}
    document = results.document("n0", False, found, 0.1)
    assert document["verdict"] == "could-not-look"
    assert "this machine has no NVIDIA GPU" in document["sentence"]


def test_gpus_that_torch_cannot_use_are_no_pass() -> None:
    eight = machine.Machine(gpus=8, cores=(0,), nodes={"0": 0}, memory_bytes=1 << 30)
    found = run.Checks(run.Options(only=("gpus", "memory")), eight).run()
    assert [one.name for one in found] == ["gpus", "memory"]
    assert (found[0].verdict, found[0].bound) in (("could-not-look", 8.0), ("fail", 8.0))
    assert found[1].verdict == "skipped"


def counted(monkeypatch: pytest.MonkeyPatch, do: Callable[[dict[str, Any]], dict[str, Any]], gpus: int = 4) -> Any:
    """Checks on a machine whose children are answered by ``do``."""

    def answered(task: Any, deadline_s: float, *about: Any, **more: Any) -> children.Outcome:
        return children.Outcome(children.DONE, 0.1, do({**task, "env": about[-1] if about else None}))

    monkeypatch.setattr(children, "run", answered)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return machine.Machine(gpus=gpus, cores=(0, 1), nodes={"0": 0}, memory_bytes=1 << 30)


def test_each_gpu_is_tried_alone_and_one_that_is_missing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def do(task: dict[str, Any]) -> dict[str, Any]:
        if task["work"] == "gpus":
            return {"torch": "2.6.0", "cuda": "12.4", "count": 3, "nccl": True}
        assert task["index"] == 0
        return {"model": H100, "gb_s": 2900.0 + int(task["env"]["CUDA_VISIBLE_DEVICES"]), "bytes": 1 << 30, "wrong": 0}

    there = counted(monkeypatch, do)
    found = run.Checks(run.Options(only=("gpus", "memory")), there).run()
    assert [(one.name, one.device, one.verdict) for one in found] == [
        ("gpus", "", "fail"),
        *(("memory", f"gpu{at}", "pass") for at in range(3)),
    ]
    assert [one.value for one in found[1:]] == [2900.0, 2901.0, 2902.0]
    (one,) = run.Checks(run.Options(only=("memory",), gpus=(1,)), there).run()[1:]
    assert one.device == "gpu1"


def test_time_that_is_over_is_no_pass() -> None:
    found = run.Checks(run.Options(only=("host-memory",), timeout_s=0.1), ALONE).run()
    assert (found[0].verdict, found[0].text) == ("could-not-look", "no time is left of 0.1 s")


def test_the_worst_verdict_is_the_nodes() -> None:
    words = ["pass", "skipped", "warn", "could-not-look", "fail"]
    worst = [results.overall([Result("x", "", word, "t") for word in words[:at]]) for at in range(6)]
    assert worst == ["could-not-look", "pass", "pass", "warn", "could-not-look", "fail"]
    failed = [Result("memory", "gpu3", "fail", "8 words wrong"), Result("matmul", "gpu3", "pass", "")]
    assert results.sentence("n7", failed) == "n7 failed memory of gpu3 (8 words wrong); 1 of 2 checks passed"


# --- the sweep --------------------------------------------------------------------------------------------------------


def test_a_sweep_is_judged_by_its_gravest_observation() -> None:
    seen = {"kind": "gpu-lost", "severity": "fatal", "device": "gpu3", "text": "gone"}
    signals = [{"name": "nvml", "state": "ok"}, {"name": "edac", "state": "absent"}]
    assert judge.sweep({"observations": [seen], "signals": signals}).verdict == "fail"
    assert judge.sweep({"observations": [{**seen, "severity": "warning"}], "signals": signals}).verdict == "warn"
    assert (
        judge.sweep({"observations": [], "signals": signals}).text == "1 of 2 signals answered and found nothing wrong"
    )
    assert judge.sweep({"observations": [], "signals": signals[1:]}).verdict == "could-not-look"


def test_a_sweep_that_hangs_or_says_nothing_is_a_verdict() -> None:
    hung = sweeping.look((), 0.5, (sys.executable, "-c", "import time; time.sleep(600)"))
    assert (hung.state, judge.ended("sweep", "", hung).verdict) == (children.HUNG, "fail")
    crashed = sweeping.look((), 30, (sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(signal.SIGABRT)})"))
    assert crashed.text == "crashed by SIGABRT"
    lacks = "import sys; sys.exit(\"outrider: this command needs the package 'msgspec', which is not installed\")"
    assert judge.ended("sweep", "", sweeping.look((), 30, (sys.executable, "-c", lacks))).verdict == "skipped"
