"""Small files: a value, unsupported, unreadable; what one signal finds where there is nothing at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from outrider_agent import readings
from outrider_agent.signals import catalog, files
from tests.agent import trees

KINDS = {"count": files.Kind("C", "a file", counter=True), "word": files.Kind("", "a file")}


@pytest.fixture
def look(tmp_path: Path) -> files.Look:
    return files.Look("test", KINDS, tmp_path)


def only(look: files.Look) -> readings.Reading:
    (reading,) = look.sweep().readings
    return reading


@pytest.mark.parametrize(("said", "value"), [("7\n", 7.0), ("  -3 \n", -3.0), ("18446744073709551615", 2.0**64)])
def test_a_number_is_a_value_with_the_unit_of_its_name(
    tmp_path: Path, look: files.Look, said: str, value: float
) -> None:
    (tmp_path / "f").write_text(said)
    assert look.number("dev", "count", str(tmp_path / "f")) == value
    assert only(look) == readings.Reading("dev", "count", value, "C", counter=True)


@pytest.mark.parametrize("said", ["N/A (no PMA)", "garbage", "nan", "inf", "1 2"])
def test_text_that_is_no_number_is_unreadable(tmp_path: Path, look: files.Look, said: str) -> None:
    (tmp_path / "f").write_text(said)
    assert look.number("dev", "count", str(tmp_path / "f")) is None
    reading = only(look)
    assert (reading.state, reading.value) == ("unreadable", None)
    assert said in reading.error
    assert look.sweep().state == "failed"


@pytest.mark.parametrize("said", ["N/A", "", "Unknown\n", "n/a"])
def test_a_file_that_says_there_is_no_value_is_unsupported(tmp_path: Path, look: files.Look, said: str) -> None:
    (tmp_path / "f").write_text(said)
    look.number("dev", "count", str(tmp_path / "f"))
    look.word("dev", "word", str(tmp_path / "f"))
    assert [one.state for one in look.sweep().readings] == ["unsupported", "unsupported"]
    assert look.sweep().state == "ok"


def test_no_file_is_unsupported_and_an_error_of_the_device_unreadable(tmp_path: Path, look: files.Look) -> None:
    (tmp_path / "dying").symlink_to("/proc/self/mem")  # its first byte cannot be read: a real EIO
    look.number("a", "count", str(tmp_path / "nothing"))
    look.number("b", "count", str(tmp_path / "dying"))
    look.word("c", "word", str(tmp_path))
    found = look.sweep()
    assert [one.state for one in found.readings] == ["unsupported", "unreadable", "unreadable"]
    assert found.readings[1].error == "Input/output error"
    assert (found.state, found.error) == ("partial", "b count: Input/output error")


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (2, "unsupported"),
        (22, "unsupported"),
        (95, "unsupported"),
        (13, "unreadable"),
        (5, "unreadable"),
        (110, "unreadable"),
    ],
)
def test_errno_says_which_kind_of_none_it_is(code: int, state: str) -> None:
    assert files.state_of(OSError(code, "")) == state


def test_a_reading_under_a_name_that_the_table_lacks_is_a_mistake_of_ours(look: files.Look) -> None:
    with pytest.raises(KeyError):
        look.add("dev", "another", 1.0)


def test_names_are_sorted_as_people_count(tmp_path: Path) -> None:
    for name in ("mlx5_10", "mlx5_2", "a", "mlx5_1"):
        (tmp_path / name).touch()
    assert files.names(str(tmp_path)) == ["a", "mlx5_1", "mlx5_2", "mlx5_10"]
    assert files.names(str(tmp_path / "nothing")) == []


def test_every_sweep_says_which_boot_it_is_of(tmp_path: Path) -> None:
    node = trees.healthy(tmp_path)
    for signal in signals_of(node):
        assert signal.read().context["boot_id"] == trees.BOOT_ID, signal.name


def test_a_healthy_node_is_read_whole(tmp_path: Path) -> None:
    node = trees.healthy(tmp_path)
    for signal in signals_of(node):
        found = signal.read()
        assert (found.signal, found.state, found.error) == (signal.name, "ok", "")
        assert found.readings
        assert all(one.state in ("value", "unsupported") for one in found.readings)
        assert found == found.__class__(**vars(found)), "plain data"
        keys = [(one.device, one.name) for one in found.readings]
        assert len(keys) == len(set(keys)), f"{signal.name} says something twice"


def test_where_there_is_nothing_nothing_fails_but_what_every_host_has(tmp_path: Path) -> None:
    """An empty root: hardware that is not there is absent, and a host without /proc is not taken for healthy."""
    found = {one.name: one.read().state for one in catalog.all_signals(catalog.Roots(tmp_path, tmp_path, tmp_path))}
    for name in ("infiniband", "ethtool", "pcie", "edac", "hwmon", "nvme"):
        assert found[name] == "absent", name
    assert found["filesystems"] == "failed"
    assert set(found.values()) <= {"absent", "ok", "failed", "partial"}


def test_this_machine_is_read_without_a_failure() -> None:
    """The real /sys and /proc of wherever the tests run."""
    for signal in catalog.all_signals(catalog.Roots()):
        found = signal.read()
        assert found.state in ("ok", "absent", "partial"), f"{signal.name}: {found.error}"


def test_the_tables_say_where_each_name_comes_from() -> None:
    for signal, kinds in catalog.READINGS.items():
        for name, kind in kinds.items():
            assert kind.source, f"{signal} {name}"
            assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name), f"{signal} {name}"


def test_the_catalogue_has_a_table_for_every_signal_it_builds(tmp_path: Path) -> None:
    built = {one.name for one in catalog.all_signals(catalog.Roots(tmp_path, tmp_path))}
    assert built == set(catalog.READINGS) - {"redfish"}, "redfish is built where it is configured"
    assert all(one.deadline_s > 0 and one.period_s > 0 for one in catalog.all_signals(catalog.Roots()))


def signals_of(node: trees.Node) -> list[readings.Signal]:
    return catalog.all_signals(catalog.Roots(node.sysfs, node.procfs, expected_mounts=("/ckpt",)))
