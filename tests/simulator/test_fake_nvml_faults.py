"""Faults of the fake library, met by real pynvml in processes of their own."""

import pathlib
import subprocess
import time

import pytest

from outrider_simulator import fake_nvml
from tests.simulator import children

READ_WHEN_TOLD = """
n.nvmlInit()
h = gpus()[3]
tell("ready")
for _ in sys.stdin:
    tell(code(n.nvmlDeviceGetTemperature, h, 0))
"""


@pytest.fixture
def world(tmp_path: pathlib.Path) -> fake_nvml.World:
    return fake_nvml.World(tmp_path)


def test_a_lost_gpu_answers_lost_to_every_call_until_it_is_cleared(world: fake_nvml.World) -> None:
    with children.start(world, READ_WHEN_TOLD) as child:
        assert children.line(child) == "ready"
        with world.lose_gpu(3):
            children.go_on(child)
            assert children.line(child) == 15
            others = """
            n.nvmlInit()
            tell([n.nvmlDeviceGetCount(), [code(n.nvmlDeviceGetHandleByIndex, index) for index in range(8)]])
            """
            assert children.told(world, others) == [8, [0, 0, 0, 15, 0, 0, 0, 0]]
        children.go_on(child)
        assert children.line(child) == 0
        child.communicate(timeout=30)


def test_one_that_waits_for_a_reset_still_says_who_it_is_and_what_it_needs(world: fake_nvml.World) -> None:
    world.count_up(3, "ecc_volatile_uncorrected_dram")
    world.require_reset(3)
    source = """
    n.nvmlInit()
    h = gpus()[3]
    fields = n.nvmlDeviceGetFieldValues(h, [226, 230, 82])
    tell([code(n.nvmlDeviceGetPowerUsage, h), n.nvmlDeviceGetIndex(h), [v.nvmlReturn for v in fields],
          fields[1].value.uiVal])
    """
    assert children.told(world, source) == [16, 3, [0, 0, 16], 1]
    world.reset_gpu(3)
    after = """
    n.nvmlInit()
    h = gpus()[3]
    tell([n.nvmlDeviceGetTotalEccErrors(h, 1, age) for age in (0, 1)])
    """
    assert children.told(world, after) == [0, 1]


def test_a_removed_gpu_is_not_counted_and_the_others_move_up(world: fake_nvml.World) -> None:
    world.remove_gpu(0)
    source = "n.nvmlInit(); tell([n.nvmlDeviceGetCount(), n.nvmlDeviceGetPciInfo(gpus()[0]).bus])"
    assert children.told(world, source) == [7, 0x2A]


def test_a_hung_call_holds_its_thread_alone_and_goes_on_when_cleared(world: fake_nvml.World) -> None:
    hung = world.hang(3, "nvmlDeviceGetTemperature")
    source = """
    import threading
    n.nvmlInit()
    hs = gpus()
    other = threading.Thread(target=lambda: tell(n.nvmlDeviceGetTemperature(hs[3], 0)))
    other.start()
    other.join(0.3)
    tell([other.is_alive(), n.nvmlDeviceGetTemperature(hs[2], 0), n.nvmlDeviceGetPowerUsage(hs[3]) > 0])
    other.join()
    """
    with children.start(world, source) as child:
        assert children.line(child) == [True, 30, True]
        hung.clear()
        assert children.line(child) == 30
        child.communicate(timeout=30)


def test_a_process_that_hangs_for_ever_can_be_given_up(world: fake_nvml.World) -> None:
    world.hang(None)
    with children.start(world, "tell('going'); n.nvmlInit(); tell('never')") as child:
        assert children.line(child) == "going"
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        child.kill()
        out, _ = child.communicate(timeout=30)
        assert out == ""


def test_slow_calls_and_short_hangs_answer_in_the_end(world: fake_nvml.World) -> None:
    world.slow(3, "nvmlDeviceGetPower*", 0.2)
    world.hang(3, "nvmlDeviceGetTemperature", 0.2)
    source = """
    n.nvmlInit()
    h = gpus()[3]
    took = []
    for call in (lambda: n.nvmlDeviceGetPowerUsage(h), lambda: n.nvmlDeviceGetTemperature(h, 0)):
        began = time.monotonic()
        call()
        took.append(time.monotonic() - began >= 0.2)
    tell(took)
    """
    assert children.told(world, source) == [True, True]


def test_a_trip_strikes_after_so_many_calls_and_stays_for_every_process(world: fake_nvml.World) -> None:
    fault = world.lose_gpu(3, after=5)
    source = """
    n.nvmlInit()
    h = n.nvmlDeviceGetHandleByIndex(3)
    tell([code(n.nvmlDeviceGetTemperature, h, 0) for _ in range(6)])
    """
    assert children.told(world, source) == [0, 0, 0, 0, 15, 15]  # the handle was the first call
    late = "n.nvmlInit(); tell(code(n.nvmlDeviceGetHandleByIndex, 3))"
    assert children.told(world, late) == 15
    fault.clear()
    world.lose_gpu(3, after=5)
    assert children.told(world, late) == 0


def test_chance_is_seeded(tmp_path: pathlib.Path) -> None:
    source = """
    n.nvmlInit()
    h = gpus()[3]
    tell([code(n.nvmlDeviceGetTemperature, h, 0) for _ in range(200)])
    """
    runs = []
    for number, seed in enumerate((1, 1, 2)):
        world = fake_nvml.World(tmp_path / str(number), seed=seed)
        world.fail(3, "nvmlDeviceGetTemperature", 999, chance=0.1, passing=True)
        runs.append(children.told(world, source))
    assert runs[0] == runs[1] != runs[2]
    assert 5 <= runs[0].count(999) <= 45


def test_functions_and_fields_can_fail_with_any_code(world: fake_nvml.World) -> None:
    world.unsupported(None, "nvmlDeviceGetMarginTemperature")
    world.fail(3, "field:82", 3)
    world.fail(None, "nvmlDeviceGetCount_v2", 17, system=True)
    source = """
    n.nvmlInit()
    h = n.nvmlDeviceGetHandleByIndex(3)
    tell([code(n.nvmlDeviceGetMarginTemperature, h), [v.nvmlReturn for v in n.nvmlDeviceGetFieldValues(h, [82, 83])],
          code(n.nvmlDeviceGetCount)])
    """
    assert children.told(world, source) == [3, [3, 0], 17]


def test_a_driver_that_is_not_loaded_or_is_another_one_fails_the_init(world: fake_nvml.World) -> None:
    source = "tell(code(n.nvmlInit))"
    with world.fail(None, "nvmlInit", 9, system=True):
        assert children.told(world, source) == 9
    world.kernel_driver = "560.35.03"
    world.write()
    assert children.told(world, source) == 18


def test_events_reach_the_sets_that_wait_for_them_once(world: fake_nvml.World) -> None:
    world.xid(3, 13)  # before anybody registered
    source = """
    n.nvmlInit()
    hs = gpus()
    event_set = n.nvmlEventSetCreate()
    for h in hs:
        n.nvmlDeviceRegisterEvents(h, 0xA, event_set)
    tell("waiting")
    for _ in range(2):
        e = n.nvmlEventSetWait_v2(event_set, 30_000)
        tell([n.nvmlDeviceGetIndex(e.device), e.eventType, e.eventData])
    tell(code(n.nvmlEventSetWait_v2, event_set, 50))
    sys.stdin.readline()
    tell(code(n.nvmlEventSetWait_v2, event_set, 30_000))
    """
    with children.start(world, source) as child:
        assert children.line(child) == "waiting"
        world.event(2, "pstate", 0)  # not registered for
        world.xid(3, 79)
        assert children.line(child) == [3, 8, 79]
        world.event(5, "double-bit-ecc", 0)
        assert children.line(child) == [5, 2, 0]
        assert children.line(child) == 10
        world.lose_gpu(3)
        children.go_on(child)
        assert children.line(child) == 15
        child.communicate(timeout=30)


def test_eight_processes_read_one_world_and_its_log_gets_each_line_once(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "kmsg"
    world = fake_nvml.World(tmp_path / "node", kernel_log=log)
    source = """
    n.nvmlInit()
    hs = gpus()
    tell("ready")
    reads = 0
    while n.nvmlDeviceGetTemperature(hs[0], 0) != 77:
        reads += 1
        time.sleep(0.002)
    tell([reads >= 0, n.nvmlDeviceGetMemoryInfo(hs[7]).total >> 20])
    """
    running = [children.start(world, source) for _ in range(8)]
    assert [children.line(child) for child in running] == ["ready"] * 8
    for step in range(40):  # each a file put in place while eight processes read it
        world.set(0, "temperature", 30 + step)
    world.xid(3, 79, at_s=world.now() + 0.2)
    world.sxid(1, 20034, at_s=world.now() + 0.2)
    time.sleep(0.4)
    world.set(0, "temperature", 77)
    assert [children.line(child) for child in running] == [[True, 81559]] * 8
    for child in running:
        child.communicate(timeout=30)
    records = [record.split(";", 1) for record in log.read_text().splitlines()]
    assert [text for _, text in records] == [
        "NVRM: Xid (PCI:0000:5d:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        "nvidia-nvswitch1: SXid (PCI:0000:06:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
    ]
    assert [head.split(",")[0::3] for head, _ in records] == [["4", "-"], ["3", "-"]]
    assert [head.split(",")[1] for head, _ in records] == ["1000", "1001"]


def test_lines_reach_the_kernel_log_without_any_other_process(tmp_path: pathlib.Path) -> None:
    world = fake_nvml.World(tmp_path / "node", kernel_log=tmp_path / "kmsg")
    world.xid(0, 63)
    world.kernel_line("NVRM: GPU 0000:18:00.0: GPU has fallen off the bus.")
    world.set(0, "temperature", 50)
    lines = (tmp_path / "kmsg").read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].endswith(";NVRM: GPU 0000:18:00.0: GPU has fallen off the bus.")
