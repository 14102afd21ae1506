"""The helper: the only process that opens the driver. Started by ``process`` through ``begin``; ends with the agent.

It gets one message with what to begin with, calls nvmlInit, says who is there, and then answers each question with one
message a GPU and a last one for the node. Messages are JSON, one to a packet of the socket. It holds nothing that
another could not find out again, so it may be killed at any moment.

A thread waits for the agent's end of the lifeline to close and ends the process at once, also out of a call that hangs.
(The kernel's death signal would come at the end of the thread that started the helper, not of the agent.)

Two of these run beside every agent, so little is imported: argparse, dataclasses and pathlib alone are 3 MiB.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Collection
from typing import Any, Final

import pynvml as n

from outrider_agent.nvml import announce, event_wait, gpu, plan

SONAME: Final = "libnvidia-ml.so.1"
LIBRARY_NOT_FOUND: Final = 12
REQUEST_BYTES_MAX: Final = 65_536
RESIDENT_BYTES_MAX: Final = 128 * 1024 * 1024  # a helper that grows beyond it makes room for a new one
GPUS_MAX: Final = 64
Message = dict[str, Any]
_encode: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def main() -> int:
    """Serve until the agent hangs up. Exit status 0 is an end in order. Words: descriptors of the socket, of the memory
    for calls and of the lifeline, ``read`` or ``events``, and the library if one was named.
    """
    door_, call, lifeline = map(int, sys.argv[1:4])
    events, library = sys.argv[4] == "events", sys.argv[5] if len(sys.argv) > 5 else None
    threading.Thread(target=_die_with_the_agent, args=(lifeline,), daemon=True).start()
    with socket.socket(fileno=door_) as door:
        link = Link(door)
        begin = link.hear()
        helper = Helper(link, announce.Announcer(call), library)
        if begin is None or not helper.begin(begin):
            return 0
        if events:
            event_wait.run(helper.gpus, helper.announcer, link.say)
        else:
            helper.serve()
    return 0


class Link:
    """Messages with the agent. ``hear`` gives None once it has hung up."""

    def __init__(self, door: socket.socket) -> None:
        self._door = door

    def hear(self) -> Message | None:
        """The next question."""
        packet = self._door.recv(REQUEST_BYTES_MAX)
        return json.loads(packet) if packet else None

    def say(self, message: Message) -> None:
        """Answer. An agent that has gone ends this process."""
        try:
            self._door.send(_encode(message).encode())
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)


class Helper:
    """One nvmlInit and what is read under it."""

    def __init__(self, link: Link, announcer: announce.Announcer, library: str | None) -> None:
        self.announcer = announcer
        self.gpus: dict[int, gpu.Gpu] = {}
        self._link = link
        self._library = library

    def begin(self, begin: Message) -> bool:
        """nvmlInit, and the hello; False where the driver does not let us in."""
        try:
            loaded = _load(self._library)
            self.announcer.call(announce.NODE, "nvmlInit", n.nvmlInit)
        except OSError as error:
            self._link.say({"init": LIBRARY_NOT_FOUND, "error": str(error)})
            return False
        except n.NVMLError as error:
            self._link.say({"init": gpu.code_of(error), "error": str(error)})
            return False
        known = {int(number): str(pci) for number, pci in begin["roster"]}
        blocked = frozenset(begin["blocked"])
        found, count = self._found(known, blocked, bool(begin.get("alone")))
        mine = [(number, pci) for number, pci in sorted(found.items()) if number not in blocked]
        self.gpus = {number: gpu.Gpu(number, pci, self.announcer) for number, pci in mine}
        hello = {
            "init": 0,
            "driver_version": self._version("nvmlSystemGetDriverVersion"),
            "nvml_version": self._version("nvmlSystemGetNVMLVersion"),
            "simulated": hasattr(loaded, "outriderSimulated"),
            "roster": sorted(found.items()),
            "count": count,
        }
        self._link.say(hello)
        return True

    def serve(self) -> None:
        """Answer questions."""
        while (question := self._link.hear()) is not None:
            begun, number, periods = time.monotonic(), question["n"], question["periods"]
            leave = {int(which): functions for which, functions in question["leave"].items()}
            try:
                for which, pci in question["gpus"]:
                    one = self.gpus.setdefault(which, gpu.Gpu(which, pci, self.announcer))
                    self._link.say({"n": number, **self._read(one, periods, leave.get(which, ()))})
                node = self._node(periods, leave)
            except gpu.Again as error:
                self._link.say({"n": number, "again": error.code, "error": str(error)})
                return
            self._link.say({"n": number, "done": True, "took_s": time.monotonic() - begun, **node})
            if plan.SLOW in periods and _resident() > RESIDENT_BYTES_MAX:
                return

    def _read(self, one: gpu.Gpu, periods: Collection[str], leave: Collection[str]) -> Message:
        rows, code = one.read(periods, leave)
        answer: Message = {"gpu": one.number, "rows": rows, "code": code, "links": one.links}
        if code != gpu.LOST and gpu.SAMPLES not in leave:
            answer["power"] = one.samples()
        answer["samples"] = one.samples_supported
        return answer

    def _node(self, periods: Collection[str], leave: dict[int, list[str]]) -> Message:
        node: Message = {}
        left = leave.get(announce.NODE, ())
        if plan.USUAL in periods and "nvmlDeviceGetCount_v2" not in left:
            node["count"] = self._count()
        if plan.RARE in periods:
            node["p2p_broken"], node["p2p_seen"] = self._peers(leave)
        return node

    def _peers(self, leave: dict[int, list[str]]) -> tuple[int, int]:
        """Pairs that cannot reach each other though they have links, and pairs that answered."""
        function = "nvmlDeviceGetP2PStatus"
        able = [g for g in self.gpus.values() if g.links and function not in leave.get(g.number, ())]
        broken = seen = 0
        for at, one in enumerate(able):
            for other in able[at + 1 :]:
                statuses = [
                    self._answer(one.number, function, n.nvmlDeviceGetP2PStatus, a.handle(), b.handle(), over)
                    for a, b in ((one, other), (other, one))
                    for over in (0, 2)  # reading each other's memory, by whatever way and by NVLink
                ]
                told = [status for status in statuses if status is not None]
                seen += bool(told)
                broken += any(told)
        return broken, seen

    def _found(self, known: dict[int, str], blocked: frozenset[int], alone: bool) -> tuple[dict[int, str], int | None]:
        """Number -> PCI address. Those known before keep their number, others get the next ones. While a GPU must not
        be touched nobody new is looked for, because nobody knows which index it has.
        """
        count = self._count()
        if not known:
            indices = range(min(count or 0, GPUS_MAX))
            return {index: "" if index in blocked else self._address(index) for index in indices}, count
        found = {number: pci or self._address(number) for number, pci in known.items() if number not in blocked}
        if count is not None and count > len(known) and not blocked and not alone:
            for pci in [self._address(index) for index in range(min(count, GPUS_MAX))]:
                if pci and pci not in found.values():
                    found[max(found, default=-1) + 1] = pci
        return found, count

    def _address(self, index: int) -> str:
        """ "" for one that does not say it, as a lost GPU does not."""
        handle = self._answer(index, "nvmlDeviceGetHandleByIndex_v2", n.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            return ""
        info = self._answer(index, "nvmlDeviceGetPciInfo_v3", n.nvmlDeviceGetPciInfo, handle)
        address = getattr(info, "busId", b"")
        text = address.decode() if isinstance(address, bytes) else str(address)
        return text.lower()[-12:]  # as sysfs writes it: NVML gives the domain eight digits

    def _count(self) -> int | None:
        count = self._answer(announce.NODE, "nvmlDeviceGetCount_v2", n.nvmlDeviceGetCount)
        return None if count is None else int(count)

    def _version(self, function: str) -> str:
        return str(self._answer(announce.NODE, function, getattr(n, function)) or "")

    def _answer(self, which: int, function: str, make: Any, *arguments: Any) -> Any:
        """None for an error."""
        try:
            return self.announcer.call(which, function, make, *arguments)
        except (n.NVMLError, AttributeError, ctypes.ArgumentError):
            return None


def _load(path: str | None) -> ctypes.CDLL:
    """The driver's library, as pynvml is going to find it. Raises OSError."""
    if path is None:
        return ctypes.CDLL(SONAME)
    given = ctypes.CDLL(path)
    with contextlib.suppress(OSError):
        if ctypes.CDLL(SONAME)._handle == given._handle:
            return given
    raise OSError(f"{path} does not call itself {SONAME}, so that the loader would take another; name one that does")


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _die_with_the_agent(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass
    os._exit(0)
