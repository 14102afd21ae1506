"""Simulated hosts on this machine: one agent process for each, kept running for as long as a run needs them.

Each agent has a session, a log and a runtime directory of its own, so that it dies and lives apart from this
process. A host is its agent and its keepers. An agent that died alone is started again and adopts its keepers. A
host whose agent and keepers are gone has vanished: it stays away while the others suffice, and otherwise it returns
after RETURN_S as a machine that was booted anew. Agents that an earlier run left behind are taken over.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from outrider import places
from outrider_cli import errors, processes

WATCH_S: Final = 0.2
RETURN_S: Final = 3.0  # a machine takes minutes to boot; a simulated one lets the others notice that it was gone
SETTLE_S: Final = 0.5  # what kills an agent may be about to kill its keepers too, and their end takes a moment
LEAVE_IDLE_S: Final = 60.0
QUICK_DEATH_S: Final = 5.0  # an agent that lives shorter than this has failed to start
QUICK_DEATHS_MAX: Final = 5
END_GRACE_S: Final = 5.0
KEEPERS_MAX: Final = 256
# Where a person's own controller is says nothing about ours, which the agents find through the state directory.
NOT_HANDED_DOWN: Final = ("OUTRIDER_CONTROLLER", "OUTRIDER_TOKEN_FILE", "OUTRIDER_STATE")


@dataclass(frozen=True)
class Host:
    """One host: its node name, and the ranks it can take. ``simulated``: one of several on this machine, so that the
    machine's hardware is no host's own.
    """

    node: str
    slots: int
    options: tuple[str, ...] = ()  # what its agent is started with besides
    simulated: bool = True


@dataclass
class _Watched:
    """What is known of one host's agent: a child of ours, or one that an earlier run left behind."""

    host: Host
    runtime: Path
    child: subprocess.Popen[bytes] | None = None
    pid: int | None = None
    ticks: int | None = None
    started: float = 0.0
    quick_deaths: int = 0
    agent_gone_at: float | None = None
    vanished_at: float | None = None
    returns: bool = False  # it was taken away to be booted anew
    keepers: dict[int, int | None] = field(default_factory=dict)  # pid to start time, of those seen alive

    def agent_alive(self) -> bool:
        """Whether the agent lives; reaps it when it was a child."""
        if self.child is not None and self.child.poll() is not None:
            self.child = None
        return self.pid is not None and processes.alive(self.pid, self.ticks)


class LocalCluster:
    """The hosts of one state directory. ``needed``: how many of them the job occupies; the rest are spares.

    ``placement``: the nodes that the job occupies now, empty where it has none.
    """

    def __init__(
        self,
        state: Path,
        hosts: list[Host],
        needed: int,
        say: Callable[[str], None],
        placement: Callable[[], tuple[str, ...]],
    ) -> None:
        self._state = state
        self._needed = needed
        self._say = say
        self._placement = placement
        self._hosts = {host.node: _Watched(host=host, runtime=places.runtime_dir(state, host.node)) for host in hosts}
        self._closed = False

    def start(self) -> None:
        """Start every agent that does not run yet."""
        (self._state / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
        for watched in self._hosts.values():
            if self._adopt(watched):
                continue
            if not _keepers(watched.runtime):
                _boot_anew(watched.runtime)
            self._spawn(watched)

    async def watch(self) -> None:
        """Keep the hosts running until ``close``; raises CommandError when an agent cannot be kept alive."""
        while not self._closed:
            self.look()
            await asyncio.sleep(WATCH_S)

    def look(self) -> None:
        """Start again what has died and has to be there; raises CommandError when an agent cannot be kept alive."""
        for watched in self._hosts.values():
            self._look(watched)

    def vanish(self, node: str) -> list[int]:
        """The whole host loses power: SIGKILL for its agent, its keepers and their ranks. Returns the killed ids."""
        watched = self._hosts[node]
        keepers = list(_keepers(watched.runtime))
        ranks = [rank for keeper in keepers for rank in processes.children(keeper)]
        victims = [pid for pid in (watched.pid, *keepers, *ranks) if pid is not None]
        for pid in victims:
            processes.send(pid, signal.SIGKILL)
        watched.agent_alive()
        self._has_vanished(watched)
        return victims

    def boot(self, node: str) -> None:
        """A host that holds no ranks is booted anew: it is away for a moment."""
        self.vanish(node)
        self._hosts[node].returns = True

    def living(self) -> list[str]:
        """Nodes whose agent runs."""
        return [node for node, watched in self._hosts.items() if watched.agent_alive()]

    def why_absent(self) -> str:
        """What the agents' logs say last, when they do not reach the controller."""
        logs = [(node, self._log(node)) for node in self._hosts]
        return "; ".join(f"the agent of {node} is not there: {_last_line(log)} (log: {log})" for node, log in logs)

    def close(self, at_once: bool = False) -> list[int]:
        """End every agent and keeper; the ids of those that could not be ended (none, as a rule)."""
        self._closed = True
        agents = [watched.pid for watched in self._hosts.values() if watched.agent_alive() and watched.pid]
        keepers = [pid for watched in self._hosts.values() for pid in _keepers(watched.runtime)]
        ranks = [rank for keeper in keepers for rank in processes.children(keeper)]
        if not at_once:
            _signal_all([*agents, *keepers], signal.SIGTERM)
            self._wait(agents + keepers, END_GRACE_S)
        _signal_all([pid for pid in (*agents, *keepers, *ranks) if processes.alive(pid)], signal.SIGKILL)
        return self._wait([*agents, *keepers, *ranks], END_GRACE_S)

    def forget(self) -> None:
        """Take the runtime directories away, once everything has ended and nobody comes back to this state."""
        for watched in self._hosts.values():
            shutil.rmtree(watched.runtime, ignore_errors=True)

    def _wait(self, pids: list[int], timeout_s: float) -> list[int]:
        left = processes.wait_gone(pids, timeout_s)
        for watched in self._hosts.values():
            watched.agent_alive()
        return left

    def _look(self, watched: _Watched) -> None:
        if watched.agent_alive():
            watched.keepers = _keepers(watched.runtime)
            watched.agent_gone_at = None
        elif watched.vanished_at is not None:
            self._perhaps_return(watched)
        elif watched.agent_gone_at is None:
            watched.agent_gone_at = time.monotonic()
        elif time.monotonic() - watched.agent_gone_at >= SETTLE_S:
            if watched.keepers and not _keepers(watched.runtime):
                self._has_vanished(watched)
            else:
                self._respawn(watched)

    def _has_vanished(self, watched: _Watched) -> None:
        watched.vanished_at = time.monotonic()
        self._say(f"{watched.host.node} has vanished: its agent and its keepers are gone")

    def _perhaps_return(self, watched: _Watched) -> None:
        assert watched.vanished_at is not None
        living = self.living()
        too_few = len(living) < self._needed
        # Where no host of the job is heard any more nobody can tell that it stands still; a host that returns does.
        nobody_left = not set(living) & set(self._placement() or living)
        if (too_few or nobody_left or watched.returns) and time.monotonic() - watched.vanished_at >= RETURN_S:
            why = "without it there are too few hosts" if too_few else "no other host has ranks of the job"
            why = "it was mended" if watched.returns else why
            self._say(f"{watched.host.node} returns, booted anew: {why}")
            _boot_anew(watched.runtime)
            self._spawn(watched)

    def _respawn(self, watched: _Watched) -> None:
        lived = time.monotonic() - watched.started
        watched.quick_deaths = watched.quick_deaths + 1 if lived < QUICK_DEATH_S else 0
        log = self._log(watched.host.node)
        if watched.quick_deaths >= QUICK_DEATHS_MAX:
            raise errors.CommandError(
                f"the agent of {watched.host.node} cannot be kept running: {_last_line(log)} (log: {log})"
            )
        self._say(f"the agent of {watched.host.node} has died; another one takes over its ranks")
        self._spawn(watched)

    def _adopt(self, watched: _Watched) -> bool:
        pid = _json_pid(watched.runtime / "agent.json")
        # The id of an agent that was killed may belong to anybody by now, so its command line has to name the node.
        if pid is None or not _is_agent(pid, watched.host.node):
            return False
        watched.pid, watched.ticks = pid, processes.start_ticks(pid)
        watched.started = time.monotonic()
        return True

    def _spawn(self, watched: _Watched) -> None:
        with self._log(watched.host.node).open("ab") as log:
            # -P keeps the working directory off the module path: a job's own agent.py is none of ours.
            watched.child = subprocess.Popen(
                [sys.executable, "-P", "-m", "outrider_cli", *_agent_options(self._state, watched.host)],
                env={name: value for name, value in os.environ.items() if name not in NOT_HANDED_DOWN},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        watched.pid = watched.child.pid
        watched.ticks = processes.start_ticks(watched.child.pid)
        watched.started = time.monotonic()
        watched.agent_gone_at = watched.vanished_at = None
        watched.returns = False
        watched.keepers = {}

    def _log(self, node: str) -> Path:
        return self._state / "logs" / f"agent-{node}.log"


def _agent_options(state: Path, host: Host) -> list[str]:
    options = ["agent", "--supervise", "--node", host.node, "--state", str(state), "--slots", str(host.slots)]
    options += ["--address", "127.0.0.1", "--leave-idle-s", f"{LEAVE_IDLE_S:g}"]
    return [*options, "--allow-root", *(["--simulated"] if host.simulated else []), *host.options]


def keeper_pids(runtime: Path, job: str) -> list[int]:
    """Process ids of the living keepers of one job on one host."""
    return list(_keepers(runtime, job))


def _boot_anew(runtime: Path) -> None:
    (runtime / "boot_id").unlink(missing_ok=True)


def _keepers(runtime: Path, job: str = "*") -> dict[int, int | None]:
    """Living keepers of one host: process id to start time in ticks."""
    found: dict[int, int | None] = {}
    for file in sorted((runtime / "keepers").glob(f"{job}/keeper.json"))[:KEEPERS_MAX]:
        pid, started = _json_pid(file), _json_number(file, "started_at")
        if pid is not None and processes.alive(pid, started):
            found[pid] = started
    return found


def _is_agent(pid: int, node: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"--supervise" in words and node.encode() in words


def _json_pid(file: Path) -> int | None:
    return _json_number(file, "pid")


def _json_number(file: Path, key: str) -> int | None:
    try:
        value = json.loads(file.read_text())[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, int) else None


def _signal_all(pids: list[int], signal_number: signal.Signals) -> None:
    for pid in pids:
        processes.send(pid, signal_number)


def _last_line(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return lines[-1][:300] if lines else "it said nothing"
