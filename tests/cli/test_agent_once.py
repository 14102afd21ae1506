"""``outrider agent --once``: one look at this node, as a document and as a page; what is refused, and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from outrider_agent import node_signals, once, readings, settings
from outrider_agent.judgement import engine
from outrider_agent.signals import files, filesystems
from outrider_cli import agent, errors, main, sweep_view
from outrider_simulator import fake_nvml
from tests.agent import trees

LOST = "3,7,7000000,-;NVRM: Xid (PCI:0000:1b:00): 79, pid=1, name=python, GPU has fallen off the bus.\n"


@pytest.fixture
def bare(tmp_path: Path) -> list[str]:
    """Options of a machine that has nothing: a tree of empty folders and an empty log."""
    for name in ("sys", "proc"):
        (tmp_path / name).mkdir()
    (tmp_path / "kmsg").touch()
    roots = ["--sysfs", str(tmp_path / "sys"), "--procfs", str(tmp_path / "proc")]
    return ["agent", "--once", "--node", "n0", *roots, "--kernel-log", str(tmp_path / "kmsg")]


def test_a_machine_with_nothing_is_no_complaint(bare: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([*bare, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["node"], found["gpus"], found["simulated"]) == ("n0", [], False)
    assert {one["name"]: one["state"] for one in found["signals"]}["infiniband"] == "absent"
    assert not [one for one in found["observations"] if one["severity"] in ("fatal", "error")]


def test_eight_gpus_are_told_as_the_contract_says(bare: list[str], tmp_path: Path, capsys: Any) -> None:
    world = fake_nvml.World(tmp_path / "nvml", kernel_log=tmp_path / "kmsg")
    world.set(None, "load", 0.5)
    options = [*bare, "--nvml-library", str(world.library), "--expect-gpus", "8"]
    code = main.main([*options, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["simulated"] is True
    assert [one["index"] for one in found["gpus"]] == list(range(8))
    one = found["gpus"][3]
    assert one["uuid"].startswith("GPU-")
    assert one["name"] == "NVIDIA H100 80GB HBM3"
    assert one["readings"]["temperature"]["state"] == "value"
    assert one["readings"]["temperature"]["unit"] == "C"
    assert {each["state"] for each in one["readings"].values()} <= {"value", "unsupported", "unreadable"}
    assert set(found["signals"][0]) >= {"name", "state", "duration_s"}
    for seen in found["observations"]:
        assert set(seen) == {"kind", "severity", "device", "text", "evidence", "recovery"}
    assert code == int(once.grave(found))
    with world.lose_gpu(2):
        assert main.main(options) == 1
    page = capsys.readouterr().out
    assert "(simulated)" in page.splitlines()[0]
    assert "fatal" in page
    assert "gpu2" in page


def test_a_kernel_log_alone_is_judged_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "kmsg"
    log.write_text(LOST)
    assert main.main(["agent", "--once", "--kernel-log", str(log), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found["signals"]] == ["kernel-log"]
    (seen,) = found["observations"]
    assert (seen["kind"], seen["severity"], seen["evidence"]["xid"]) == ("xid", "fatal", 79)
    assert main.main(["agent", "--once", "--kernel-log", str(log)]) == 1
    assert capsys.readouterr().out.startswith(f"{found['node']}: 1 fatal\n\nfatal    ")
    log.write_text("")
    assert main.main(["agent", "--once", "--kernel-log", str(log)]) == 0


def test_a_signal_that_hangs_or_breaks_is_told_and_holds_nobody() -> None:
    import threading

    never = threading.Event()

    class Hangs:
        name, period_s, deadline_s = "hangs", 1.0, 0.05

        def read(self) -> readings.Sweep:
            never.wait()
            raise AssertionError

    class Breaks(Hangs):
        name = "breaks"

        def read(self) -> readings.Sweep:
            raise OSError("no such register")

    found = once.look("n0", "b", [Hangs(), Breaks()], engine.Judge("n0"), False)
    never.set()
    states = {one["name"]: (one["state"], one["error"]) for one in found["signals"]}
    assert states["hangs"] == ("overdue", "no answer within 0.05 s")
    assert states["breaks"] == ("failed", "OSError: no such register")
    page = sweep_view.text(found)
    assert "hangs could not be looked at: no answer within" in page
    assert "no such register" in page


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--once", "--kernel-log", "/nope"], "--kernel-log /nope: is missing"),
        (["--once", "--nvml-library", "/nope.so"], "--nvml-library /nope.so: is missing"),
        (["--once", "--sysfs", "/nope"], "laid out like /sys"),
        (["--once", "--expect-gpus", "99"], "--expect-gpus 99: a node has 0 to 64"),
        (["--once", "--expect-mount", "ckpt"], "give the whole path"),
        (["--once", "--probe-mount", "ckpt"], "give the whole path"),
        (["--once", "--redfish", "https://bmc.example"], "needs --redfish-credentials FILE"),
        (["--once", "--redfish", "http://bmc.example", "--redfish-credentials", "/etc/hostname"], "give https://"),
        (
            ["--once", "--redfish", "https://me:pw@bmc", "--redfish-credentials", "/etc/hostname"],
            "carries a name or pass",
        ),
        (["--once", "--redfish", "https://bmc", "--redfish-credentials", "/etc/hostname"], "others may read it"),
        (["--once", "--supervise"], "--supervise has no meaning with --once"),
        (["--json"], "--json belongs to --once"),
        (["--once", "--config", "/nope.toml"], "--config /nope.toml: cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_with_the_thing_and_the_way_out(
    words: list[str], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["agent", *words]) == 2
    assert wanted in capsys.readouterr().err


def test_a_settings_file_counts_where_the_command_line_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('expect_gpus = 8\nexpect_mount = ["/ckpt"]\nsysfs = "/sys"\n')
    options = main.build().parse_args(["agent", "--once", "--config", str(file), "--expect-gpus", "4"])
    found = agent._sources(settings, agent._given(options))
    assert (found.expect_gpus, found.expect_mounts, found.sysfs) == (4, (Path("/ckpt"),), Path("/sys"))
    file.write_text('expect_port_rate = 400\nexpect_power_limit = 650\nexpect_cores = 96\ncheckpoint_mount = ["/c"]\n')
    found = agent._sources(settings, agent._given(main.build().parse_args(["agent", "--config", str(file)])))
    expected = node_signals.judge("n0", found, simulated=False).known.expectations
    assert (expected.port_rate, expected.power_limit, expected.cores) == (400, 650, 96)
    assert expected.checkpoint_mounts == ("/c",)
    for text, wanted in (
        ("expect_gpu = 8", "did you mean expect_gpus"),
        ("expect_gpus = true", "has to be a whole number"),
        ("expect_mount = [1]", "has to be a list of texts"),
        ("= 8", "is no TOML"),
    ):
        file.write_text(text)
        with pytest.raises(errors.CommandError, match=r"agent\.toml") as refused:
            agent._file(file)
        assert wanted in str(refused.value)


def test_a_library_that_pretends_is_known_before_it_is_loaded(tmp_path: Path) -> None:
    world = fake_nvml.World(tmp_path / "nvml")
    assert settings.simulates(world.library)
    assert not settings.simulates(Path("/bin/sh"))
    assert not settings.simulates(tmp_path / "none")


@pytest.mark.parametrize("driver", ["470.182.03", "550.90.07", "570.124.06"])
def test_a_healthy_node_with_gpus_is_well(driver: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Library and module are told apart by their versions as NVML and the kernel write them."""
    node = trees.healthy(tmp_path / "node")
    version = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Release Build"
    node.put(node.procfs / "driver/nvidia/version", version)
    made = fake_nvml.World(tmp_path / "nvml", driver=driver)
    (tmp_path / "kmsg").touch()
    words = ["agent", "--once", "--json", "--nvml-library", str(made.library), "--kernel-log", str(tmp_path / "kmsg")]
    words += ["--sysfs", str(node.sysfs), "--procfs", str(node.procfs), "--expect-gpus", "8", "--expect-ports", "8"]
    assert main.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one for one in found["observations"] if one["severity"] in ("fatal", "error")] == []
    assert {one["name"]: one["state"] for one in found["signals"]}["nvml"] == "ok"


def test_what_only_counts_once_it_lasts_is_a_warning_at_one_look() -> None:
    once_rules = {rule.name: rule for rule in node_signals.judge("n0", settings.Sources(), False, once=True).rules}
    assert once_rules["gpu-warm-held"].severity == "warning"
    assert once_rules["gpu-lost"].severity == "fatal"
    assert {rule.severity for rule in once_rules.values() if rule.kind == "ports-missing"} == {"fatal", "error"}
    assert once_rules["driver-mismatch-versions"].severity == "error"


def test_the_hosts_own_trees_under_another_name_are_asked_like_the_kernels(tmp_path: Path) -> None:
    (tmp_path / "proc").symlink_to("/proc")
    (tmp_path / "sys").symlink_to("/sys")
    assert files.is_live_procfs(tmp_path / "proc")
    assert files.is_live_sysfs(tmp_path / "sys") == Path("/sys/kernel/uevent_seqnum").exists()
    node = trees.healthy(tmp_path / "node", hardware=False)
    assert not files.is_live_procfs(node.procfs)
    assert not files.is_live_sysfs(node.sysfs)
    looked = filesystems.Filesystems(tmp_path / "proc").read()
    assert {one.name: one.state for one in looked.readings if one.device == "/"}["fs_size"] == "value"


def test_a_computing_adapter_that_was_never_there_is_missed_though_others_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = trees.healthy(tmp_path / "node")
    node.remove_adapter("mlx5_0", from_bus=True)
    (tmp_path / "kmsg").touch()
    words = ["agent", "--once", "--json", "--kernel-log", str(tmp_path / "kmsg"), "--expect-ports", "8"]
    assert main.main([*words, "--sysfs", str(node.sysfs), "--procfs", str(node.procfs)]) == 1
    found = json.loads(capsys.readouterr().out)["observations"]
    (missed,) = [one for one in found if one["kind"] == "ports-missing"]
    assert (missed["severity"], missed["evidence"]["value"], missed["evidence"]["bound"]) == ("error", 7.0, 8.0)


def test_what_could_not_be_looked_at_is_an_observation_at_one_look_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = trees.healthy(tmp_path / "node", hardware=False)
    library, log = tmp_path / "libnvidia-ml.so.1", tmp_path / "kmsg"
    library.write_text("no library")
    log.touch()
    words = ["agent", "--once", "--json", "--nvml-library", str(library), "--kernel-log", str(log)]
    main.main([*words, "--sysfs", str(node.sysfs), "--procfs", str(node.procfs)])
    found = json.loads(capsys.readouterr().out)
    (blind,) = [one for one in found["observations"] if one["kind"] == "could-not-look"]
    assert (blind["severity"], blind["device"], "file too short" in blind["text"]) == ("warning", "nvml", True)
