"""Services that training leans on: fabric manager, persistence daemon, container runtimes, time.

In: ``systemctl show`` once a minute for all of them, with a deadline; where systemd does not run, the processes' names.
Out, a service: its state in systemd's words (``not-found``: it is not installed) and how often systemd restarted it.
The driver's own daemons may run in a container instead, so those are looked for among the processes too.
Without systemd a running process is ``active`` and one that was seen before and is gone ``inactive``; one never seen
is unsupported, since nobody can say whether it should run. Where procfs is not the kernel's own, systemd's answer lies
there as ``systemctl_show``.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from outrider import clock as clocks
from outrider_agent import readings
from outrider_agent.signals import files

NAME: Final = "services"
ANSWER_WITHIN_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 262_144
SYSTEMD: Final = "/run/systemd/system"
RECORDED: Final = "systemctl_show"
# By unit: the name of its process, as the kernel cuts it off after 15 letters.
SERVICES: Final[Mapping[str, str]] = {
    "nvidia-fabricmanager": "nv-fabricmanage",
    "nvidia-persistenced": "nvidia-persiste",
    "nvidia-imex": "nvidia-imex",
    "containerd": "containerd",
    "docker": "dockerd",
    "crio": "crio",
    "slurmd": "slurmd",
    "kubelet": "kubelet",
    "chronyd": "chronyd",
    "systemd-timesyncd": "systemd-timesyn",
    "openibd": "",  # sets up the adapters' modules and ends
}
READINGS: Final[files.Names] = {
    "service_active": files.Kind("", "systemctl show ActiveState, LoadState; else /proc/PID/comm"),
    "service_restarts": files.Kind("", "systemctl show NRestarts", counter=True),
}
_IN_CONTAINERS: Final = ("nvidia-fabricmanager", "nvidia-persistenced")
_WANTED: Final = ("Id", "LoadState", "ActiveState", "SubState", "NRestarts", "Result")

Units = dict[str, dict[str, str]]


class Services:
    """A readings.Signal. ``ask``: what systemd says of units by name; None: there is no systemd."""

    name = NAME
    period_s = 60.0
    deadline_s = 10.0

    def __init__(
        self,
        procfs: Path,
        clock: clocks.Clock | None = None,
        services: Mapping[str, str] = SERVICES,
        ask: Callable[[Iterable[str]], Units | None] | None = None,
    ) -> None:
        self._procfs = procfs
        self._clock = clock
        self._services = services
        self._ask = ask or (ask_systemd if files.is_live_procfs(procfs) else self._recorded)
        self._ran: set[str] = set()

    def read(self) -> readings.Sweep:
        """Look once."""
        look = files.Look(NAME, READINGS, self._procfs, self._clock)
        try:
            units = self._ask(self._services)
        except OSError as error:
            for service in self._services:
                look.lack(service, "service_active", "unreadable", error.strerror or str(error))
            return look.sweep(error=f"systemctl: {error.strerror or error}")
        if units is None:
            self._by_process(look)
            return look.sweep(context={"by": "processes"})
        lacking = [one for one in _IN_CONTAINERS if units.get(one, {}).get("ActiveState") != "active"]
        running = _names(str(self._procfs)) if lacking else set()
        for service, process in self._services.items():
            if service in lacking and process in running:
                look.add(service, "service_active", "active")
            else:
                self._by_unit(look, service, units.get(service, {}))
        results = {name: unit["Result"] for name, unit in units.items() if unit.get("Result", "success") != "success"}
        return look.sweep(context={"by": "systemd", "results": results})

    def _by_unit(self, look: files.Look, service: str, unit: dict[str, str]) -> None:
        with look.tried(service, "service_active"):
            state = unit.get("ActiveState", "")
            if not state:
                raise files.Unknown("unreadable", "systemd said nothing of it")
            absent = unit.get("LoadState") in ("not-found", "masked") and state == "inactive"
            look.add(service, "service_active", "not-found" if absent else state)
            if not absent and unit.get("NRestarts", "").isdigit():
                look.add(service, "service_restarts", float(unit["NRestarts"]))

    def _by_process(self, look: files.Look) -> None:
        running = _names(str(self._procfs))
        for service, process in self._services.items():
            if process and process in running:
                self._ran.add(service)
                look.add(service, "service_active", "active")
            elif service in self._ran:
                look.add(service, "service_active", "inactive")
            else:
                look.lack(service, "service_active", "unsupported", "no systemd here, and no such process was seen")

    def _recorded(self, services: Iterable[str]) -> Units | None:
        try:
            return parse(files.whole(f"{self._procfs}/{RECORDED}", ANSWER_BYTES_MAX))
        except FileNotFoundError:
            return None


def ask_systemd(services: Iterable[str]) -> Units | None:
    """What systemd says; None where it does not run. Raises OSError when it does not answer."""
    if not os.path.isdir(SYSTEMD):
        return None
    units = [f"{service}.service" for service in services]
    command = ["systemctl", "show", "--no-pager", f"--property={','.join(_WANTED)}", "--", *units]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ANSWER_WITHIN_S,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"no answer within {ANSWER_WITHIN_S:g} s") from None
    if answer.returncode:
        said = answer.stderr.decode("utf-8", "replace").strip().splitlines()
        raise OSError(said[-1][:200] if said else f"status {answer.returncode}")
    return parse(answer.stdout[:ANSWER_BYTES_MAX].decode("utf-8", "replace"))


def parse(said: str) -> Units:
    """What ``systemctl show`` prints: ``Name=value`` lines, an empty line between units; by name without its suffix."""
    found: Units = {}
    for block in said.split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if unit.get("Id"):
            found[unit["Id"].removesuffix(".service")] = unit
    return found


def _names(procfs: str) -> set[str]:
    found = set()
    for pid in files.names(procfs):
        if pid.isdigit():
            found.add(files.text(f"{procfs}/{pid}/comm"))
    return found
