"""``/metrics`` of one agent, for Prometheus, on an address that was chosen; without one no port is open.

In: counts that the parts of the agent keep. Out: the text format, fewer than SERIES_MAX series. The server runs in the
agent's own event loop, because what it reads belongs to that loop; it speaks just enough HTTP for a scrape.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import prometheus_client
from prometheus_client import core, registry

from outrider_agent.signals import disks

log = logging.getLogger(__name__)

SERIES_MAX: Final = 300
JOBS_SHOWN_MAX: Final = 32
MOUNTS_SHOWN_MAX: Final = 12
REQUEST_BYTES_MAX: Final = 8192
REQUEST_S_MAX: Final = 5.0
SCRAPES_AT_ONCE_MAX: Final = 8
STATES: Final = ("away", "refused", "connected")


@dataclass(frozen=True)
class Reading:
    """What the agent is at one moment."""

    node: str
    simulated: bool
    version: str
    connection: str
    observations: int
    observations_waiting: int
    observations_lost: int
    acked_seq: int
    spool_on_disk: bool
    marks: Mapping[str, int]  # received, refused, stale, dropped
    orders: Mapping[str, int]  # done, failed
    ranks_alive: Mapping[str, int]  # by job
    keeper_warm: Mapping[str, bool]  # by job
    ranks_stopped: Mapping[str, int] = field(default_factory=dict)  # by job
    disks: Mapping[str, disks.Room | None] = field(default_factory=dict)  # by mount point; None: could not look


class Collector(registry.Collector):
    """Turns a Reading into metric families, every time it is asked."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def collect(self) -> Iterable[core.Metric]:
        """All families; each carries the node, and ``simulated`` where the node only pretends to be one."""
        reading = self._read()
        make = _Maker(reading)
        yield make.gauge("up", "1 while the agent runs", {(("version", reading.version),): 1})
        yield make.gauge(
            "connection",
            "1 for the state of the connection",
            {(("state", s),): s == reading.connection for s in STATES},
        )
        yield make.counter("observations", "observations numbered since this agent began", {(): reading.observations})
        yield make.gauge(
            "observations_waiting", "observations not yet acknowledged", {(): reading.observations_waiting}
        )
        yield make.counter("observations_lost", "observations that found no room", {(): reading.observations_lost})
        yield make.gauge("acked_seq", "newest observation known to be in the ledger", {(): reading.acked_seq})
        yield make.gauge("spool_on_disk", "0 while the spool's disk takes nothing", {(): reading.spool_on_disk})
        marks = {(("result", result),): count for result, count in reading.marks.items()}
        yield make.counter("marks", "datagrams on the marks socket by what came of them", marks)
        orders = {(("result", result),): count for result, count in reading.orders.items()}
        yield make.counter("orders", "orders of the controller by what came of them", orders)
        alive = {(("job", job),): count for job, count in list(reading.ranks_alive.items())[:JOBS_SHOWN_MAX]}
        yield make.gauge("ranks_alive", "ranks of a job that run on this node", alive)
        warm = {(("job", job),): on for job, on in list(reading.keeper_warm.items())[:JOBS_SHOWN_MAX]}
        yield make.gauge("keeper_warm", "1 where the keeper would fork ranks instead of starting them afresh", warm)
        stopped = {(("job", job),): count for job, count in list(reading.ranks_stopped.items())[:JOBS_SHOWN_MAX]}
        yield make.gauge("ranks_stopped", "ranks of a job whose process is stopped (SIGSTOP, a frozen cgroup)", stopped)
        yield from self._disks(make, reading.disks)

    def _disks(self, make: _Maker, rooms: Mapping[str, disks.Room | None]) -> Iterable[core.Metric]:
        """Room by mount point; a disk that could not be looked at has no figures and says so in ``disk_looked``."""
        shown = dict(list(rooms.items())[:MOUNTS_SHOWN_MAX])
        known = {(("mount", mount),): room for mount, room in shown.items() if room is not None}
        free = {labels: room.free for labels, room in known.items()}
        yield make.gauge("disk_free_bytes", "bytes that ordinary users may still write", free)
        total = {labels: room.total for labels, room in known.items()}
        yield make.gauge("disk_size_bytes", "size of the file system", total)
        inodes = {labels: room.inodes_free for labels, room in known.items() if room.inodes}
        yield make.gauge("disk_free_inodes", "files that may still be made", inodes)
        looked = {(("mount", mount),): room is not None for mount, room in shown.items()}
        yield make.gauge("disk_looked", "0 where the file system did not answer in time", looked)


_Values = Mapping[Any, float]  # labels (name, value pairs) to value


class _Maker:
    def __init__(self, reading: Reading) -> None:
        self._base = {"node": reading.node, **({"simulated": "true"} if reading.simulated else {})}

    def gauge(self, name: str, text: str, values: _Values) -> core.Metric:
        return self._fill(core.GaugeMetricFamily(f"outrider_agent_{name}", text), "", values)

    def counter(self, name: str, text: str, values: _Values) -> core.Metric:
        return self._fill(core.CounterMetricFamily(f"outrider_agent_{name}", text), "_total", values)

    def _fill(self, family: core.Metric, suffix: str, values: _Values) -> core.Metric:
        for labels, value in values.items():
            family.add_sample(f"{family.name}{suffix}", {**self._base, **dict(labels)}, float(value))
        return family


async def serve(address: tuple[str, int], read: Callable[[], Reading]) -> asyncio.Server:
    """Open ``address`` and answer scrapes; raises OSError when it cannot be had. The caller closes the server."""
    metrics = registry.CollectorRegistry()
    metrics.register(Collector(read))
    limit = asyncio.Semaphore(SCRAPES_AT_ONCE_MAX)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with limit, asyncio.timeout(REQUEST_S_MAX):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(request, metrics))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a scraper that went away, or somebody who speaks no HTTP
        finally:
            writer.close()

    return await asyncio.start_server(answer, *address, limit=REQUEST_BYTES_MAX)


def _response(request: bytes, metrics: registry.CollectorRegistry) -> bytes:
    words = request.split(b"\r\n", 1)[0].split()
    if len(words) != 3 or words[0] not in (b"GET", b"HEAD"):
        return _http("405 Method Not Allowed", "text/plain", b"GET /metrics\n")
    if words[1].partition(b"?")[0] != b"/metrics":
        return _http("404 Not Found", "text/plain", b"the metrics are at /metrics\n")
    body = prometheus_client.generate_latest(metrics)
    return _http("200 OK", prometheus_client.CONTENT_TYPE_LATEST, b"" if words[0] == b"HEAD" else body)


def _http(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
