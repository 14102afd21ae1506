"""What is shipped for clusters holds together: units verify, options exist, scripts drain what they should."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrider_cli import agent, main
from tests.style import tree

DEPLOY = tree.ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROGRAM = "/opt/outrider/bin/outrider"


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
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SYSLOG"]}


@pytest.mark.parametrize(("code", "drained"), [(0, False), (1, True), (2, False)])
def test_the_epilog_drains_what_is_unfit_and_only_that(code: int, drained: bool, tmp_path: Path) -> None:
    done = _script("epilog.sh", code, tmp_path)
    assert done.returncode == 0
    told = tmp_path / "scontrol.told"
    assert told.exists() == drained
    if drained:
        assert "State=DRAIN Reason=outrider: n0: 1 fatal" in told.read_text()


@pytest.mark.parametrize(("code", "refused"), [(0, 0), (1, 1), (2, 0), (124, 0)])
def test_the_prolog_refuses_a_job_only_where_something_was_found(code: int, refused: int, tmp_path: Path) -> None:
    assert _script("prolog.sh", code, tmp_path).returncode == refused


def _script(name: str, code: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of the folder with stand-ins for what it calls."""
    program = _stand_in(folder / "outrider", f"echo 'n0: 1 fatal'; exit {code}")
    _stand_in(folder / "scontrol", f'echo "$@" >{folder}/scontrol.told')
    _stand_in(folder / "logger", "exit 0")
    script = folder / name
    script.write_text((DEPLOY / "slurm" / name).read_text().replace(PROGRAM, str(program)))
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "SLURMD_NODENAME": "n0"}
    words = ["bash", str(script)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)


def _stand_in(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


def _accepted(words: list[str]) -> Any:
    return main.build().parse_args(words)
