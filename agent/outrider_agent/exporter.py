"""``/metrics`` of one agent, for Prometheus, on an address that was chosen; without one no port is open.

In: counts that the parts of the agent keep, and what its signals read. Out: OpenMetrics or the older text format, at
most exporter_families.SERIES_MAX series. The server runs in the agent's own event loop, because what it reads belongs
to that loop; it speaks just enough HTTP for a scrape.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import core, exposition, registry

from outrider_agent import exporter_families, exporter_node
from outrider_agent.exporter_families import Maker
from outrider_agent.signals import disks

log = logging.getLogger(__name__)

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
    hardware: exporter_node.Node = field(default_factory=exporter_node.Node)


class Collector(registry.Collector):
    """Turns a Reading into metric families, every time it is asked."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def collect(self) -> Iterable[core.Metric]:
        """All families; each carries the node, and ``simulated`` where the node only pretends to be one."""
        reading = self._read()
        simulated = {"simulated": "true"} if reading.simulated else {}
        node = exporter_node.families(reading.hardware, reading.node, Maker(simulated))
        own = self._own(reading, Maker({"node": reading.node, **simulated}))
        yield from exporter_families.bounded(itertools.chain(node, own), Maker({"node": reading.node, **simulated}))

    def _own(self, reading: Reading, make: Maker) -> Iterable[core.Metric]:
        """What the agent says of itself."""
        yield make.gauge("outrider_agent_up", "1 while the agent runs", {(("version", reading.version),): 1})
        yield make.gauge(
            "outrider_agent_connection",
            "1 for the state of the connection",
            {(("state", s),): s == reading.connection for s in STATES},
        )
        yield make.counter(
            "outrider_agent_observations", "observations numbered since this agent began", {(): reading.observations}
        )
        yield make.gauge(
            "outrider_agent_observations_waiting",
            "observations not yet acknowledged",
            {(): reading.observations_waiting},
        )
        yield make.counter(
            "outrider_agent_observations_lost", "observations that found no room", {(): reading.observations_lost}
        )
        yield make.gauge(
            "outrider_agent_acked_seq", "newest observation known to be in the ledger", {(): reading.acked_seq}
        )
        yield make.gauge(
            "outrider_agent_spool_on_disk", "0 while the spool's disk takes nothing", {(): reading.spool_on_disk}
        )
        marks = {(("result", result),): count for result, count in reading.marks.items()}
        yield make.counter("outrider_agent_marks", "datagrams on the marks socket by what came of them", marks)
        orders = {(("result", result),): count for result, count in reading.orders.items()}
        yield make.counter("outrider_agent_orders", "orders of the controller by what came of them", orders)
        alive = {(("job", job),): count for job, count in list(reading.ranks_alive.items())[:JOBS_SHOWN_MAX]}
        yield make.gauge("outrider_agent_ranks_alive", "ranks of a job that run on this node", alive)
        warm = {(("job", job),): on for job, on in list(reading.keeper_warm.items())[:JOBS_SHOWN_MAX]}
        yield make.gauge(
            "outrider_agent_keeper_warm", "1 where the keeper would fork ranks instead of starting them afresh", warm
        )
        stopped = {(("job", job),): count for job, count in list(reading.ranks_stopped.items())[:JOBS_SHOWN_MAX]}
        yield make.gauge(
            "outrider_agent_ranks_stopped",
            "ranks of a job whose process is stopped (SIGSTOP, a frozen cgroup)",
            stopped,
        )
        yield from self._disks(make, reading.disks)

    def _disks(self, make: Maker, rooms: Mapping[str, disks.Room | None]) -> Iterable[core.Metric]:
        """Room by mount point; a disk that could not be looked at has no figures and says so in ``disk_looked``."""
        shown = dict(list(rooms.items())[:MOUNTS_SHOWN_MAX])
        known = {(("mount", mount),): room for mount, room in shown.items() if room is not None}
        free = {labels: room.free for labels, room in known.items()}
        yield make.gauge("outrider_agent_disk_free_bytes", "bytes that ordinary users may still write", free)
        total = {labels: room.total for labels, room in known.items()}
        yield make.gauge("outrider_agent_disk_size_bytes", "size of the file system", total)
        inodes = {labels: room.inodes_free for labels, room in known.items() if room.inodes}
        yield make.gauge("outrider_agent_disk_free_inodes", "files that may still be made", inodes)
        looked = {(("mount", mount),): room is not None for mount, room in shown.items()}
        yield make.gauge("outrider_agent_disk_looked", "0 where the file system did not answer in time", looked)


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
    encode, kind = _format(request)
    return _http("200 OK", kind, b"" if words[0] == b"HEAD" else encode(metrics))


def _format(request: bytes) -> tuple[Callable[[Any], bytes], str]:
    """OpenMetrics for whoever accepts it, the older text for everybody else."""
    fields = [line.partition(b":") for line in request.split(b"\r\n")[1:]]
    accepts = b",".join(value for name, _, value in fields if name.strip().lower() == b"accept")
    try:
        return exposition.choose_encoder(accepts.decode("latin-1"))
    except (ValueError, TypeError):  # a version that is no number
        return exposition.choose_encoder("")


def _http(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
