"""Events of the kernel's log and of NVML: one thing is told once, by the GPU's name, with the driver's own recovery."""

from outrider import records
from outrider_agent import readings
from outrider_agent.judgement import engine, events, kernel
from outrider_analysis.kernel_log import xids
from tests.agent.judgement import drive


def xid(at: float, number: int, **more: object) -> readings.Event:
    fault = xids.BY_NUMBER.get(number)
    evidence = {
        "xid": number,
        "severity": fault.severity if fault else "error",
        "recovery": fault.recovery if fault else "contact_support",
        "boot_id": "first",
        "seq": number,
        "pci": "0000:1c:00",
        **more,
    }
    return readings.Event(at, "kernel-log", "xid", "0000:1c:00", f"GPU 0000:1c:00 reported Xid {number}", evidence)


def driver(at: float, number: int, gpu: str = "gpu3") -> readings.Event:
    return readings.Event(at, "nvml-events", "xid", gpu, "", {"data": number, "xid": number})


class Node:
    def __init__(self) -> None:
        self.judge = engine.Judge("n0")
        self.boot = "first"
        self.nvml(1.0)

    def nvml(self, at: float, *found: readings.Reading) -> list[records.Observation]:
        return self.judge.take(readings.Sweep("nvml", at, 0.0, "ok", found, context=drive.context(self.boot)))

    def hear(self, at: float, *said: readings.Event, context: records.Json | None = None) -> list[records.Observation]:
        given = {"boot_id": self.boot} if context is None else context
        return self.judge.take(readings.Sweep("kernel-log", at, 0.0, "ok", (), said, context=given))


def test_an_xid_from_both_ways_is_one_observation_whichever_comes_first() -> None:
    node = Node()
    (first,) = node.hear(10.0, xid(10.0, 79))
    assert (first.kind, first.device, first.severity, first.recovery) == ("xid", "gpu3", "fatal", "reboot_node")
    assert first.evidence["pci"].startswith("0000:1c:00")
    assert node.hear(10.3, driver(10.2, 79)) == []
    (other,) = node.hear(200.0, driver(200.0, 48))
    assert (other.device, other.severity, other.recovery) == ("gpu3", "fatal", "reset_gpu")
    assert node.hear(200.5, xid(200.1, 48)) == []


def test_an_event_that_came_before_the_gpus_were_known_is_the_same_event() -> None:
    judge = engine.Judge("n0")
    said = readings.Sweep("kernel-log", 10.0, 0.0, "ok", (), (xid(10.0, 79),), context={"boot_id": "first"})
    assert [one.device for one in judge.take(said)] == ["0000:1c:00"]
    events_seen = (driver(11.0, 79),)
    assert judge.take(readings.Sweep("nvml", 11.0, 0.0, "ok", (), events_seen, context=drive.context())) == []
    over = judge.take(readings.Sweep("nvml", 99.0, 0.0, "ok", (), context=drive.context("second")))
    assert [(one.severity, one.device) for one in over] == [("info", "0000:1c:00")], "ended by the name it was told by"


def test_every_number_of_the_table_has_its_severity_by_either_way() -> None:
    for number, fault in xids.BY_NUMBER.items():
        assert [one.severity for one in Node().hear(10.0, driver(10.0, number))] == [fault.severity], number
        assert [one.severity for one in Node().hear(10.0, xid(10.0, number))] == [fault.severity], number


def test_an_unknown_number_is_an_error() -> None:
    (one,) = Node().hear(10.0, driver(10.0, 9999))
    assert (one.severity, one.recovery) == ("error", "contact_support")


def test_the_drivers_recovery_action_outweighs_the_table() -> None:
    node = Node()
    node.nvml(9.0, readings.Reading("gpu3", "recovery_action", 2.0))
    (one,) = node.hear(10.0, xid(10.0, 31))
    assert (one.recovery, one.evidence["driver_asks"]) == ("reboot", "reboot")
    (action,) = Node().nvml(9.0, readings.Reading("gpu3", "recovery_action", 4.0))
    assert (action.kind, action.severity, action.recovery) == ("recovery-action", "fatal", "reset_gpu")


def test_a_reset_or_a_reboot_closes_an_xid() -> None:
    node = Node()
    node.nvml(5.0, readings.Reading("gpu3", "energy", 5e6, counter=True))
    node.hear(10.0, xid(10.0, 48))
    (over,) = node.nvml(100.0, readings.Reading("gpu3", "energy", 10.0, counter=True))
    assert (over.kind, over.severity, over.evidence["cleared"], over.evidence["xid"]) == ("xid", "info", True, 48)
    node.hear(200.0, xid(200.0, 79))
    node.boot = "second"
    assert [(one.severity, one.evidence["cleared_by"]) for one in node.nvml(300.0)] == [
        ("info", "the machine was started anew")
    ]


def test_what_the_application_caused_is_told_and_over() -> None:
    node = Node()
    assert [one.recovery for one in node.hear(10.0, xid(10.0, 13))] == ["restart_app"]
    node.boot = "second"
    assert node.nvml(100.0) == []


def test_a_restarted_reader_of_the_log_repeats_nothing() -> None:
    node = Node()
    assert len(node.hear(10.0, xid(10.0, 79))) == 1
    assert node.hear(11.0, xid(10.0, 79)) == []
    memory = node.judge.memory()
    node.judge = engine.Judge("n0")
    node.judge.restore(memory)
    assert node.hear(12.0, xid(10.0, 79)) == []


def test_a_rule_and_an_event_that_say_the_same_are_one() -> None:
    node = Node()
    aer = {"severity": "fatal", "recovery": "drain", "boot_id": "first", "seq": 9}
    said = readings.Event(10.0, "kernel-log", "pcie-aer", "0000:c1:00.0", "PCIe device met a fatal error", aer)
    assert len(node.hear(10.0, said)) == 1
    counter = [readings.Reading("0000:c1:00.0", "aer_fatal", value, counter=True) for value in (0.0, 1.0)]
    for at, reading in ((5.0, counter[0]), (20.0, counter[1])):
        assert node.judge.take(readings.Sweep("pcie", at, 0.0, "ok", (reading,), context={"boot_id": "first"})) == []


def test_the_first_of_a_window_is_the_cause_and_the_others_are_echoes() -> None:
    node = Node()
    told = node.nvml(
        10.0,
        readings.Reading("", "gpu_count", 8.0),
        readings.Reading("gpu3", "nvml_code", 15.0),
        readings.Reading("gpu3", "remap_failure", True),
    )
    first, echo = sorted(told, key=lambda one: one.evidence.get("echo_of", ""))
    assert (first.evidence["first"], echo.evidence["echo_of"]) == (True, f"{first.kind} on gpu3")
    (late,) = node.hear(11.0, xid(11.0, 79))
    assert late.evidence["echo_of"] == f"{first.kind} on gpu3"
    (unrelated,) = node.hear(500.0, xid(500.0, 48, seq=77))
    assert unrelated.evidence["first"] is True


def test_a_lookalike_from_user_space_stays_information() -> None:
    forged = readings.Event(
        *(10.0, "kernel-log", "user-space-lookalike", "0000:1c:00", "a process wrote a line"),
        {"severity": "info", "recovery": "none", "looks_like": "xid", "boot_id": "first", "seq": 3},
    )
    (one,) = Node().hear(10.0, forged)
    assert (one.severity, "first" in one.evidence) == ("info", False)


def test_events_of_the_driver_mean_what_the_table_says() -> None:
    for kind, meaning in kernel.NVML_EVENTS.items():
        told = Node().hear(10.0, readings.Event(10.0, "nvml-events", kind, "gpu2", "", {"data": 1}))
        assert [(one.kind, one.severity) for one in told] == ([meaning[:2]] if meaning else []), kind
    (unknown,) = Node().hear(10.0, readings.Event(10.0, "nvml-events", "event-0x9", "gpu2", "", {"data": 1}))
    assert (unknown.kind, unknown.severity) == ("gpu-event", "warning")


def test_a_storm_of_events_is_bounded() -> None:
    node = Node()
    told = [one for at in range(2000) for one in node.hear(10.0 + at, driver(10.0 + at, 31))]
    assert len(told) == 1
    for number in range(800):
        node.hear(3000.0, driver(3000.0, number, f"gpu{number % 8}"))
    assert len(node.judge.memory()["events"]) <= events.SAID_MAX
    assert node.judge.forgotten > 0


def test_what_is_fatal_by_itself_is_no_echo_of_what_is_milder_and_was_seen_at_the_same_moment() -> None:
    node = Node()
    found = node.hear(10.0, xid(10.0, 31), xid(10.0, 79, pci="0000:9b:00"))
    assert {one.severity for one in found} == {"error", "fatal"}
    (worst,) = [one for one in found if one.severity == "fatal"]
    assert worst.evidence.get("first") is True
    (milder,) = [one for one in found if one.severity == "error"]
    assert milder.evidence.get("echo_of", "").startswith("xid 79")
