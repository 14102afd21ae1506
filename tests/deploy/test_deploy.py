"""What is shipped for clusters holds together: units verify, options exist, scripts drain what they should."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrider_cli import agent, main
from tests.style import tree

DEPLOY = tree.ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
AGENTS = [DEPLOY / "systemd" / name for name in ("outrider-agent.service", "outrider-watch.service")]
FOLDER = "/opt/outrider/bin"
PROGRAM = f"{FOLDER}/outrider"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_accepts_every_unit(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(PROGRAM, shutil.which("true") or "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60)
    if "Failed to" in done.stderr and "initialize manager" in done.stderr:
        pytest.skip(f"systemd-analyze cannot run here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_units_call_options_that_exist(unit: Path) -> None:
    line = next(one for one in unit.read_text().splitlines() if one.startswith("ExecStart="))
    words = shlex.split(line.removeprefix("ExecStart="))
    assert words[0] == PROGRAM
    _accepted([word for word in words[1:] if not word.startswith("$")])


@pytest.mark.parametrize("unit", AGENTS, ids=lambda path: path.stem)
def test_the_agents_may_ask_how_the_clock_is_kept_and_not_set_it(unit: Path) -> None:
    """adjtimex is in @clock, which @system-service lacks: unlisted, it kills the agent at its first look."""
    lines = _lines(unit)
    if "SystemCallFilter" in lines:
        assert {"adjtimex", "clock_adjtime", "clock_adjtime64"} <= set(lines["SystemCallFilter"].split())
        assert lines["SystemCallErrorNumber"] == "EPERM"
    assert "CAP_SYS_TIME" not in lines["CapabilityBoundingSet"]


@pytest.mark.parametrize("unit", AGENTS, ids=lambda path: path.stem)
def test_the_agents_reach_the_clock_the_kernel_log_and_the_gpus(unit: Path) -> None:
    """ProtectClock filters adjtimex and, in older systemd, implies a DeviceAllow that closes every other device."""
    assert not {"ProtectClock", "ProtectKernelLogs", "PrivateDevices", "DeviceAllow", "DevicePolicy"} & set(
        _lines(unit)
    )


@pytest.mark.parametrize("unit", AGENTS, ids=lambda path: path.stem)
def test_the_spool_outlives_a_restart_of_the_agent(unit: Path) -> None:
    lines = _lines(unit)
    assert lines["Environment"] == f"OUTRIDER_RUNTIME=/run/{lines['RuntimeDirectory']}"
    assert lines["RuntimeDirectoryPreserve"] == "yes"


def test_ranks_inherit_neither_a_bound_on_pinned_memory_nor_a_filter() -> None:
    """NCCL pins its buffers for InfiniBand, and a job's system calls are its own affair."""
    lines = _lines(DEPLOY / "systemd/outrider-agent.service")
    assert lines["LimitMEMLOCK"] == "infinity"
    assert "SystemCallFilter" not in lines


def test_the_environment_and_the_settings_file_are_understood() -> None:
    lines = [one for one in (DEPLOY / "systemd/agent.env").read_text().splitlines() if not one.startswith("#")]
    given = dict(one.split("=", 1) for one in lines)
    _accepted(["agent", *shlex.split(given["OUTRIDER_AGENT_OPTIONS"])])
    assert agent._file(DEPLOY / "systemd/agent.toml")["expect_gpus"] == 8


def test_the_daemon_set_gives_the_agent_what_it_asks_for() -> None:
    made = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes/daemonset.yaml").read_text())}
    pod = made["DaemonSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    options = _accepted([*container["command"][1:], *container["args"]])
    mounted = {one["mountPath"] for one in container["volumeMounts"]}
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    assert options.state in mounted
    assert Path(options.config).parent.as_posix() in mounted
    settings: dict[str, Any] = agent.tomllib.loads(made["ConfigMap"]["data"]["agent.toml"])
    assert set(settings) <= set(agent.WATCHED)
    assert {settings["sysfs"], settings["procfs"]} <= mounted


def test_the_daemon_set_may_open_the_kernel_log() -> None:
    """The device control group refuses /dev/kmsg to whatever is not privileged; the API refuses both lines at once."""
    made = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes/daemonset.yaml").read_text())}
    (container,) = made["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    assert "/dev/kmsg" in {one["mountPath"] for one in container["volumeMounts"]}
    context = container["securityContext"]
    assert context["privileged"] is True
    assert "allowPrivilegeEscalation" not in context
    assert context["readOnlyRootFilesystem"] is True
    assert made["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"


def _seen(severity: str, recovery: str, text: str) -> dict[str, Any]:
    return {"kind": "any", "severity": severity, "device": "gpu0", "text": text, "evidence": {}, "recovery": recovery}


USER_XID = _seen("error", "restart_app", "Xid 13 on gpu0: graphics engine exception")
NOTHING_TO_DO = _seen("error", "none", "said for the record")
WARM = _seen("warning", "drain", "gpu0 is at 88 C")
LOST = _seen("fatal", "reboot", 'gpu0 is lost; "ask" $(its) `driver`')
DISK = _seen("error", "replace", "nvme0 is worn out")


def _prints(*seen: dict[str, Any], status: int = 1) -> str:
    return f"echo {shlex.quote(json.dumps({'node': 'n0', 'observations': seen}))}; exit {status}"


FIT = {
    "well": _prints(status=0),
    "only a warning": _prints(WARM, status=0),
    "a user's Xid": _prints(USER_XID, NOTHING_TO_DO, WARM),
    "garbage": "echo 'n0: 1 fatal'; exit 1",
    "nothing": "exit 1",
    "a document of another kind": "echo '[]'; exit 1",
    "half a document": _prints(LOST).replace('"}]}', ""),
    "could not look": "echo 'error: no such file' >&2; exit 2",
    "a crash": "echo 'Traceback (most recent call last):' >&2; exit 1",
    "not executable": "exit 126",
    "not found": "exit 127",
    "killed": "kill -KILL $$",
    "killed after its document": _prints(LOST, status=137),
    "hangs": "exec sleep 60",
    "hangs and ignores SIGTERM": "trap '' TERM; while :; do sleep 1; done",
}
UNFIT = {
    "a lost GPU": (_prints(LOST), LOST),
    "a lost GPU after a user's Xid": (_prints(WARM, USER_XID, NOTHING_TO_DO, LOST, DISK), LOST),
    "a worn disk": (_prints(DISK), DISK),
}


@pytest.mark.parametrize("name", ["prolog.sh", "epilog.sh"])
@pytest.mark.parametrize("case", FIT)
def test_prolog_and_epilog_act_on_nothing_that_asks_for_no_repair(name: str, case: str, tmp_path: Path) -> None:
    assert _script(name, FIT[case], tmp_path).returncode == 0
    assert not _told(tmp_path, "scontrol")
    assert not _told(tmp_path, "logger")


@pytest.mark.parametrize("case", UNFIT)
def test_the_prolog_refuses_a_node_that_is_not_fit_and_says_why(case: str, tmp_path: Path) -> None:
    prints, cause = UNFIT[case]
    done = _script("prolog.sh", prints, tmp_path)
    assert (done.returncode, done.stderr) == (1, f"outrider: {cause['text']}\n")
    assert _told(tmp_path, "logger") == ["-t", "outrider-prolog", cause["text"]]


@pytest.mark.parametrize("case", UNFIT)
def test_the_epilog_drains_a_node_that_is_not_fit_with_the_sentence(case: str, tmp_path: Path) -> None:
    prints, cause = UNFIT[case]
    assert _script("epilog.sh", prints, tmp_path).returncode == 0
    words = ["update", "NodeName=n0", "State=DRAIN", f"Reason=outrider: {cause['text']}"]
    assert _told(tmp_path, "scontrol") == words


@pytest.mark.parametrize(("xid", "refused"), [("13, pid=812, name=python", 0), ("79, GPU has fallen off the bus.", 1)])
def test_the_prolog_understands_what_the_agent_prints(xid: str, refused: int, tmp_path: Path) -> None:
    log = tmp_path / "kernel.log"
    log.write_text(f"[  100.5] NVRM: Xid (PCI:0000:3b:00): {xid}\n")
    words = [sys.executable, "-m", "outrider_cli", "agent", "--once", "--json", "--kernel-log", str(log)]
    shown = tmp_path / "shown"
    prints = f"cd {tree.ROOT}; {shlex.join(words)} >{shown}; status=$?; cat {shown}; exit $status"
    done = _script("prolog.sh", prints, tmp_path)
    # Both are grave; what is to be done tells them apart.
    assert {"fatal", "error"} & {one["severity"] for one in json.loads(shown.read_text())["observations"]}
    assert done.returncode == refused
    assert ("Xid 79" in done.stderr) == bool(refused)


@pytest.mark.parametrize("name", ["prolog.sh", "epilog.sh"])
def test_a_program_that_is_missing_drains_nothing(name: str, tmp_path: Path) -> None:
    assert _script(name, None, tmp_path).returncode == 0
    assert not _told(tmp_path, "scontrol")


@pytest.mark.parametrize("name", ["prolog.sh", "epilog.sh"])
def test_a_child_that_keeps_the_pipe_open_holds_no_job_up(name: str, tmp_path: Path) -> None:
    """A helper stuck in the driver, in a session of its own, is not reached by the end of the sweep."""
    left = tmp_path / "left"
    try:
        assert _script(name, f"setsid sleep 300 & echo $! >{left}; exec sleep 300", tmp_path).returncode == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(left.read_text()), signal.SIGKILL)
    assert not _told(tmp_path, "scontrol")


def _lines(unit: Path) -> dict[str, str]:
    """The unit's settings by name; the last one of each name."""
    lines = (one for one in unit.read_text().splitlines() if "=" in one and not one.startswith("#"))
    return dict(one.split("=", 1) for one in lines)


def _script(name: str, prints: str | None, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of the folder with stand-ins for what it calls, and seconds where it gives the sweep a minute.

    ``prints``: what `outrider` does, in sh; None: there is none.
    """
    if prints is not None:
        _stand_in(folder / "outrider", prints)
    _stand_in(folder / "python3", f'exec {sys.executable} "$@"')
    for called in ("scontrol", "logger"):
        _stand_in(folder / called, f'printf "%s\\n" "$@" >{folder}/{called}.told')
    text = (DEPLOY / "slurm" / name).read_text()
    hangs = prints is not None and "sleep" in prints
    for given, here in ((f"bin={FOLDER}\n", f"bin={folder}\n"), ("-k 5 55 ", "-k 1 1 "), ("-k 1 61 ", "-k 1 3 ")):
        assert text.count(given) == 1
        if hangs or given.startswith("bin="):
            text = text.replace(given, here)
    script = folder / name
    script.write_text(text)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "SLURMD_NODENAME": "n0"}
    words = ["sh", str(script)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)


def _told(folder: Path, called: str) -> list[str]:
    """The words that a stand-in was called with; none where it was not called."""
    told = folder / f"{called}.told"
    return told.read_text().splitlines() if told.exists() else []


def _stand_in(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def _accepted(words: list[str]) -> Any:
    return main.build().parse_args(words)
