"""Flight records of a job that stands still: digests in, as its nodes answer, one verdict out, bounded whatever comes.

In: what each node's agent says under ``flight_recorder`` of a capture, and what a look at the ranks told. Out:
the contract's verdict (``outrider fr analyze --json``) with its drawing, small enough for a row of the ledger.

Nothing here runs on the event loop but the taking. Once half of the nodes have answered a first verdict is made of what
is there; it stands should the last one not come about. A digest that is too large, damaged, of ranks that are not the
node's, or at which the analysis fails, costs that node's digest alone and is said under ``notes``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from outrider import mesh as meshes
from outrider import records as spoken
from outrider_analysis import stalls
from outrider_analysis.flight_recorder import merge, model, verdict
from outrider_analysis.flight_recorder.verdict import drawing, hints
from outrider_controller import flight_record_bounds as bounds
from outrider_controller import flight_record_numbers as numbers

NODE_BYTES_MAX: Final = 256 * 1024  # of one node's digest, and as many again
RANK_BYTES_MAX: Final = 64 * 1024  # for each of its ranks; agents keep below 12 KB a rank
JUDGED_S_MAX: Final = 60.0  # 16,384 ranks take seconds; what takes longer is let go of
NODES_NAMED: Final = 3  # that say the same
ALONE_MAX: Final = 2_048  # ranks whose stacks are read one by one
TWICE_MAX: Final = 4_096  # ranks of which a second verdict, without the looks, takes no time that anybody waits for
NOTES_MAX: Final = 32
NOTE_CHARS_MAX: Final = 300
KEY: Final = "flight_recorder"

log = logging.getLogger(__name__)

Json = spoken.Json


class Gathering:
    """The digests of one look. ``ranks``: the ranks of each node that was asked; ``mesh``: the job's, or empty."""

    def __init__(self, job: str, ranks: Mapping[str, Sequence[int]], mesh: str, world: int) -> None:
        self._job, self._ranks, self._world, self._mesh = job, dict(ranks), world, mesh
        self._told: dict[str, Json] = {}
        self._evidence: list[Any] = []
        self._answered = 0
        self._mine = threading.Lock()  # of the thread that reads or judges, with what is said of digests below
        self._nodes: dict[str, model.NodeDigest] = {}
        self._numbers: dict[str, numbers.Numbers] = {}  # of nodes where a launcher of the job's own has numbered ranks
        self._apart: dict[str, model.NodeDigest] = {}  # of nodes whose ranks are numbered otherwise than on most
        self._notes: dict[str, None] = {}
        self._seen: set[str] = set()
        self._known: dict[str, tuple[int, ...]] = {}  # members of groups, which most nodes tell alike
        self._highest: dict[str, int] = {}  # of them
        self._first: asyncio.Task[Json] | None = None
        self._reading: asyncio.Task[None] | None = None

    def take(self, node: str, answer: Json) -> None:
        """One node's answer, as soon as it is there."""
        self._answered += 1
        looks = answer.get("ranks")
        self._evidence += looks[: len(self._ranks.get(node, ()))] if isinstance(looks, list) else []
        told = answer.get(KEY)
        if isinstance(told, Mapping) and node in self._ranks:
            self._told[node] = dict(told)
            if self._reading is None or self._reading.done():  # so that little is left to do after the last answer
                self._reading = asyncio.create_task(asyncio.to_thread(self._read_ahead), name=f"digests-{self._job}")
        half = self._answered * 2 >= len(self._ranks) > self._answered
        if half and self._told and self._first is None:
            given, seen = dict(self._told), list(self._evidence)
            self._first = asyncio.create_task(asyncio.to_thread(self._judge, given, seen), name=f"records-{self._job}")

    async def judged(self) -> Json | None:
        """The verdict over all that has come; None where no node said anything of flight records. Raises nothing."""
        first = await self._partial()
        if not self._told:
            return None
        try:
            work = asyncio.to_thread(self._judge, dict(self._told), list(self._evidence))
            return await asyncio.wait_for(work, JUDGED_S_MAX)
        except Exception as error:
            log.exception("flight records could not be judged", extra={"job": self._job})
            why = f"the records of all {len(self._told)} nodes could not be judged: {type(error).__name__}: {error}"
            found = first or {**_NOTHING, "ranks_read": 0, "sentence": "The flight records could not be judged."}
            return {**found, "notes": [why[:NOTE_CHARS_MAX], *found.get("notes", ())][:NOTES_MAX]}

    async def _partial(self) -> Json | None:
        """The first verdict, where one was begun; it is over before the last one begins, since they share digests."""
        if self._first is None:
            return None
        try:
            found = await asyncio.wait_for(self._first, JUDGED_S_MAX)
        except Exception:  # whatever it was, the last verdict meets it too, and says so
            log.exception("a first part of the flight records could not be judged", extra={"job": self._job})
            return None
        about = {"job": self._job, "nodes": found["nodes_read"], "of": len(self._ranks), "verdict": found["verdict"]}
        log.info("a first verdict of the flight records", extra=about)
        return found

    # --- in a thread --------------------------------------------------------------------------------------------------

    def _read_ahead(self) -> None:
        """Read what is there, so long as there is more."""
        while new := [node for node in list(self._told) if node not in self._seen]:
            for node in new:
                with self._mine:
                    self._read(node, self._told[node])

    def _judge(self, told: Mapping[str, Json], evidence: Sequence[Any]) -> Json:
        with self._mine:
            return self._judge_all(told, evidence)

    def _judge_all(self, told: Mapping[str, Json], evidence: Sequence[Any]) -> Json:
        began = time.monotonic()
        for node, given in told.items():
            self._read(node, given)
        read = time.monotonic()
        self._agree()
        launched = self._launched()
        seen = hints.Hints() if launched else _hints(evidence)  # looks are at the launcher, not at its ranks
        try:
            found = self._verdict(self._nodes.values(), seen)
        except Exception:
            log.exception("flight records are judged without those that it failed at", extra={"job": self._job})
            self._sift()
            found = self._verdict(self._nodes.values(), seen)
        merged = time.monotonic()
        found["seconds"] = {"read": round(read - began, 3), "digest": 0.0, "merge": round(merged - read, 3)}
        found |= {"nodes_read": len(self._nodes), "nodes_asked": len(self._ranks), "notes": self._said(told, found)}
        found["files"] = _files(told, found)
        if launched:
            found[numbers.KEY] = numbers.said(launched, found)
            found["sentence"] = f"{str(found['sentence']).rstrip('. ')} ({numbers.BY})."
            found["notes"] = [numbers.note(found[numbers.KEY])[:NOTE_CHARS_MAX], *found["notes"]][:NOTES_MAX]
        return bounds.bounded(found)

    def _read(self, node: str, given: Json) -> None:
        """The node's digest, or a note why it does not count; once."""
        if node in self._seen:
            return
        self._seen.add(node)
        if given.get("digest") is None:
            return
        try:
            theirs = numbers.of_node(given, self._ranks[node])
            mine = set(theirs.ours if theirs is not None else self._ranks[node])
            digest = self._digest(len(mine), theirs.world if theirs is not None else self._world, given["digest"])
        except Exception as error:  # noqa: BLE001 - a stranger's document may fail anywhere, and costs itself alone
            self._refuse(node, f"its digest does not count: {_words(error)}")
            return
        if theirs is not None:
            self._numbers[node] = theirs
        foreign = [item.rank for item in digest.ranks if item.rank not in mine]
        if foreign:
            self._note(f"{node}: its digest tells of rank {stalls.ranges(foreign)}, which it does not hold; left out")
        ranks = tuple(item for item in digest.ranks if item.rank in mine)
        self._nodes[node] = model.NodeDigest(ranks, digest.memberships, digest.signatures, digest.unreadable)

    def _agree(self) -> None:
        """Go on with the nodes whose ranks are numbered as on most of them: as the job has, or by a launcher."""
        self._nodes |= self._apart
        worlds = {node: self._numbers[node].world if node in self._numbers else 0 for node in self._nodes}
        world = max(worlds.values(), key=list(worlds.values()).count, default=0)
        self._apart = {node: digest for node, digest in self._nodes.items() if worlds[node] != world}
        self._nodes = {node: digest for node, digest in self._nodes.items() if worlds[node] == world}

    def _launched(self) -> dict[str, numbers.Numbers]:
        """How a launcher of the job's own has numbered the ranks that are judged; nothing where none has."""
        return {node: one for node, one in self._numbers.items() if node in self._nodes}

    def _digest(self, ranks: int, world: int, given: object) -> model.NodeDigest:
        most = NODE_BYTES_MAX + RANK_BYTES_MAX * ranks
        size = len(msgspec.json.encode(given))
        if size > most:
            raise ValueError(f"it has {size} bytes, and {most} are taken")
        digest = model.from_json(given, self._known)
        for key, named in digest.memberships.items():
            if key not in self._highest:
                self._highest[key] = max(named, default=-1)
            if (highest := self._highest[key]) >= world:
                # A rank of that numbering is none of ours, and would be looked for on the wrong node.
                raise ValueError(
                    f"its groups name rank {highest} and the job has {world} ranks, so whoever wrote it numbers "
                    "them in another way, as torchrun does below a rank of ours"
                )
        return digest

    def _verdict(self, nodes: Iterable[model.NodeDigest], seen: hints.Hints) -> Json:
        world = max((one.world for one in self._launched().values()), default=self._world)
        merged = merge.merge(nodes, None, _mesh(self._mesh, world), world)
        seen = _telling(seen, merged)
        found = verdict.judge(merged, seen)
        document = found.to_json()
        if seen.ranks:  # what the looks had no part in: whoever weighs both must not count them twice
            document["without_looks"] = _without_looks(merged)
        if not merged.ranks:
            document |= _NOTHING
        for problem in merged.problems:
            self._note(problem)
        return document | {"world": merged.world} | drawing.draw(found)

    def _sift(self) -> None:
        """Leave out the digests that the analysis fails at by themselves."""
        for node, digest in list(self._nodes.items()):
            try:
                self._verdict([digest], hints.Hints())
            except Exception as error:  # noqa: BLE001 - as above
                del self._nodes[node]
                self._refuse(node, f"its digest does not count: the analysis fails at it ({_words(error)})")

    def _refuse(self, node: str, why: str) -> None:
        self._note(f"{node}: {why}")

    def _note(self, text: str) -> None:
        self._notes.setdefault(text[:NOTE_CHARS_MAX])

    def _said(self, told: Mapping[str, Json], found: Json) -> list[str]:
        """Our own notes first, then those of the nodes."""
        nodes: dict[str, list[str]] = {}  # that say the same
        for node, given in told.items():
            for note in notes[:NOTES_MAX] if isinstance(notes := given.get("notes"), list) else ():
                nodes.setdefault(str(note), []).append(node)
        theirs = [f"{_named(sorted(who))}: {note}"[:NOTE_CHARS_MAX] for note, who in nodes.items()]
        away = len(self._ranks) - self._answered
        late = [f"{away} of {len(self._ranks)} nodes had not answered"] if away > 0 else []
        apart = [f"{_named(sorted(self._apart))}: ranks are numbered otherwise there, so its digest does not count"]
        said = [*late, *self._notes, *apart * bool(self._apart), *theirs]
        more = [f"and {len(said) - NOTES_MAX + 1} more notes"] if len(said) > NOTES_MAX else []
        return [*said[: NOTES_MAX - len(more)], *more]


def _named(nodes: Sequence[str]) -> str:
    """``n0, n1 and 14 more``."""
    more = len(nodes) - NODES_NAMED
    return ", ".join(nodes[:NODES_NAMED]) + (f" and {more} more" if more > 0 else "")


_NOTHING: Final[Json] = {"verdict": "unknown", "culprits": [], "confidence": 0.0, "findings": [], "where": None}


def _hints(evidence: Sequence[Any]) -> hints.Hints:
    """What the looks told; ranks that do the same are read once where there are many."""
    groups = stalls.from_plain(evidence)
    return hints.from_groups(groups if len(groups) <= ALONE_MAX else stalls.group(item.evidence for item in groups))


def _without_looks(merged: merge.Merged) -> Json:
    """The verdict by the records alone, as far as there is time for a second one."""
    if len(merged.ranks) > TWICE_MAX:
        return {"verdict": "unknown", "culprits": [], "confidence": 0.0}
    found = verdict.judge(merged)
    return {"verdict": found.kind, "culprits": list(found.culprits), "confidence": round(found.confidence, 3)}


def _telling(seen: hints.Hints, merged: merge.Merged) -> hints.Hints:
    """Without those that say only that a rank has ended where its record tells what it died in, or where all have."""
    alive = any(hint.state not in ("gone", "unknown") for hint in seen.ranks.values())
    return hints.Hints(
        {
            rank: hint
            for rank, hint in seen.ranks.items()
            if hint.state != "gone" or (alive and rank not in merged.ranks)
        }
    )


def _mesh(text: str, world: int) -> meshes.Mesh | None:
    """The mesh where it fits the job; a wrong one would put ranks where they are not."""
    try:
        found = meshes.parse(text) if text else None
    except meshes.MeshError:
        return None
    return found if found is not None and found.world_size == world else None


def _files(told: Mapping[str, Json], found: Json) -> Json:
    """Where the nodes keep the dumps of those whom the verdict names: ``{rank: "node:path"}``."""
    named = {rank for one in found["findings"] for rank in (*one["culprits"], *one["candidates"])}
    kept: Json = {}
    for node, given in told.items():
        files = given.get("files")
        for rank, path in files.items() if isinstance(files, Mapping) else ():
            if str(rank).isdigit() and int(rank) in named and isinstance(path, str) and len(kept) < bounds.FILES_MAX:
                kept[str(rank)] = f"{node}:{path}"
    return dict(sorted(kept.items(), key=lambda item: int(item[0])))


def _words(error: Exception) -> str:
    return f"{error}" if isinstance(error, ValueError) and str(error) else f"{type(error).__name__}: {error}"
