"""The verdict of the flight recorder as a page of a terminal: the answer, the place, who waits for whom.

Names of groups and lines of stacks come from strangers' files, so whatever a terminal would act on is written out.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from outrider_analysis.flight_recorder.merge import Merged
    from outrider_analysis.flight_recorder.verdict import Finding, Verdict, Where

WIDTH: Final = 100
LABEL: Final = 12
STACK_MAX: Final = 12
CHAIN_MAX: Final = 12  # lines of the wait chain
FILES_MAX: Final = 6
RUNS_MAX: Final = 8
CULPRITS_MAX: Final = 4  # whose coordinates are written out one by one
STATES: Final = ("finished", "waits", "behind", "not there", "no dump")


def lines(judged: Verdict, document: Mapping[str, Any]) -> Iterator[str]:
    """The page. ``document`` is what ``--json`` prints."""
    for line in _page(judged, document):
        yield printable(line)


def printable(text: str) -> str:
    """Without what a terminal would act on."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _page(judged: Verdict, document: Mapping[str, Any]) -> Iterator[str]:
    if not judged.findings:
        yield from _wrapped(judged.sentence)
    for number, finding in enumerate(judged.findings, start=1):
        if number > 1:
            yield ""
        many = f"{number}. " if len(judged.findings) > 1 else ""
        yield from _wrapped(many + finding.sentence)
        yield from _finding(judged.merged, finding)
    chain = list(_chain(judged))
    if chain:
        yield ""
        yield f"Who waits for whom ({_count(len(judged.victims), 'rank')})"
        yield from chain
    yield ""
    yield from _read(judged.merged, document)


def _finding(merged: Merged, finding: Finding) -> Iterator[str]:
    yield ""
    yield from _row("verdict", f"{finding.kind}, confidence {finding.confidence:.2f}")
    for label, ranks in (("culprit", finding.culprits), ("candidates", finding.candidates)):
        if ranks:
            yield from _row(label if len(ranks) == 1 or label != "culprit" else "culprits", _ranks(merged, ranks))
    for evidence in finding.evidence:
        yield from _row("because", evidence)
    stack = finding.stack
    if stack:
        yield from _row("stack", stack[0])
        for frame in stack[1:STACK_MAX]:
            yield from _row("", frame)
        if len(stack) > STACK_MAX:
            yield from _row("", f"and {len(stack) - STACK_MAX} more")
    if finding.where is not None:
        yield ""
        yield from _table(merged, finding.where)


def _table(merged: Merged, where: Where) -> Iterator[str]:
    """Who of the group finished the operation, who waits in it, who is not there."""
    name = where.description if where.description not in ("", "undefined") else where.group
    if where.pair is not None:
        yield from _wrapped(f"Group {name}: the {where.op} from rank {where.pair[0]} to rank {where.pair[1]}")
    else:
        yield from _wrapped(f"Group {name}: {where.op} number {where.seq} of {_count(len(where.ranks), 'rank')}")
    states: dict[str, list[int]] = {}
    for rank in where.pair or where.ranks:
        states.setdefault(_state(merged, where, rank), []).append(rank)
    for state in sorted(states, key=lambda state: (STATES.index(state.partition(",")[0]), state)):
        word, _, more = state.partition(",")
        yield from _row(f"  {word}", _ranks(merged, states[state]) + (f", {more.strip()}" if more else ""))


def _state(merged: Merged, where: Where, rank: int) -> str:
    at = next(
        (n for n, group in enumerate(merged.groups) if (group.name, group.ranks) == (where.group, where.ranks)), -1
    )
    if rank not in merged.ranks:
        return "no dump"
    seen = merged.seen(rank, at) if at >= 0 else None
    if seen is None:
        return "not there, has called nothing on this group"
    if where.pair is not None:
        place = where.ranks.index(where.pair[rank == where.pair[0]])
        slot = merged.groups[at].slots[rank]
        pending = any(op.group == slot and op.p2p and op.peer == place for op in merged.ranks[rank].unfinished)
        return "waits" if pending else "not there"
    if seen.enqueued is None or seen.enqueued < where.seq:
        last = f"has called up to number {seen.enqueued}" if seen.enqueued and seen.enqueued > 0 else "has called none"
        return f"not there, {last}"
    completed = seen.completed or 0
    if completed >= where.seq:
        return "finished"
    return "waits" if completed == where.seq - 1 else f"behind, in number {completed + 1}"


def _chain(judged: Verdict) -> Iterator[str]:
    """Lines of who waits for whom, those nearest to the culprits first, each for those who are nearer than itself."""
    near = _distance(judged)
    far = len(near) + 1
    described = _described(judged.merged)
    joined: dict[tuple[int, str], tuple[list[int], set[int]]] = {}
    for rank, group, ranks in judged.waits:
        steps = near.get(rank, far)
        waiting, awaited = joined.setdefault((steps, described.get(group, f"group {group}")), ([], set()))
        waiting.append(rank)
        awaited.update([other for other in ranks if near.get(other, far) < steps] or ranks)
    shown = sorted(joined.items())
    for (_, group), (waiting, awaited) in shown[:CHAIN_MAX]:
        who = f"{'rank' if len(waiting) == 1 else 'ranks'} {_runs(waiting)}"
        verb = "waits" if len(waiting) == 1 else "wait"
        yield from _wrapped(f"  {who} {verb} in {group} for {_runs(awaited)}", "      ")
    if len(shown) > CHAIN_MAX:
        left = sum(len(waiting) for _, (waiting, _) in shown[CHAIN_MAX:])
        yield f"  and {_count(left, 'rank')} further away (--json lists all)"


def _distance(judged: Verdict) -> dict[int, int]:
    """For each victim over how many waits it hangs on a culprit (or on the first blocked operation)."""
    back: dict[int, list[int]] = {}
    for rank, _, ranks in judged.waits:
        for other in ranks:
            back.setdefault(other, []).append(rank)
    ends = set(judged.culprits)
    for finding in judged.findings:
        if not finding.culprits:
            ends |= set(finding.candidates or (finding.where.ranks if finding.where else ()))
    found = dict.fromkeys(ends, 0)
    queue = sorted(ends)
    for rank in queue:
        for other in back.get(rank, ()):
            if other not in found:
                found[other] = found[rank] + 1
                queue.append(other)
    return found


def _described(merged: Merged) -> dict[str, str]:
    return {group.name: group.description for group in merged.groups if group.description not in ("", "undefined")}


def _read(merged: Merged, document: Mapping[str, Any]) -> Iterator[str]:
    seconds = sum(document["seconds"].values())
    yield from _wrapped(f"{_count(len(merged.ranks), 'rank')} of {merged.world} read in {seconds:.1f} s.")
    if merged.absent and merged.ranks:
        yield from _wrapped(f"No dump that could be read of {_ranks(merged, merged.absent)}.")
    unreadable = document["unreadable"]
    for item in unreadable[:FILES_MAX]:
        yield from _wrapped(f"{item['file']}: {item['error']}", "    ")
    if len(unreadable) > FILES_MAX:
        yield f"and {len(unreadable) - FILES_MAX} more files that could not be read (--json lists all)"
    for note in document["notes"]:
        yield from _wrapped(f"{note}.")


def _ranks(merged: Merged, ranks: Sequence[int]) -> str:
    """``5 (dp=0, pp=1)`` or ``0-3 (dp=0, pp=1, tp=0-3)`` where the mesh is known."""
    if 1 < len(ranks) <= CULPRITS_MAX and not _place(merged, ranks):
        return ", ".join(f"{rank}{_place(merged, (rank,))}" for rank in sorted(ranks))
    return f"{_runs(ranks)}{_place(merged, ranks)}"


def _place(merged: Merged, ranks: Sequence[int]) -> str:
    """Where these ranks are on the mesh; nothing where they fill no part of it that can be said."""
    coords = [merged.coords.get(rank) for rank in ranks]
    first = coords[0] if coords else None
    if not first or any(each is None or each.keys() != first.keys() for each in coords):
        return ""
    sizes = dict(merged.mesh.axes) if merged.mesh is not None else {}
    axes = {axis: {each[axis] for each in coords if each} for axis in first if sizes.get(axis, 2) > 1}
    filled = 1
    for indices in axes.values():
        filled *= len(indices)
    if not axes or filled != len(ranks):
        return ""
    return f" ({', '.join(f'{axis}={_runs(indices)}' for axis, indices in axes.items())})"


def _runs(ranks: Iterable[int]) -> str:
    """``0-3, 8-14 by 2``: a long list is cut and counted."""
    from outrider_analysis.flight_recorder import ranges

    parts = ranges.encode(sorted(ranks)).split(",")
    shown = ", ".join(part.replace(":", " by ") for part in parts[:RUNS_MAX])
    left = len(ranges.decode(",".join(parts[RUNS_MAX:])))
    return f"{shown} and {left} more" if left else shown


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _row(label: str, text: str) -> Iterator[str]:
    yield from _wrapped(f"{label:<{LABEL}} {text}", " " * (LABEL + 1))


def _wrapped(text: str, indent: str = "") -> Iterator[str]:
    yield from textwrap.wrap(
        printable(text), WIDTH, subsequent_indent=indent, break_on_hyphens=False, drop_whitespace=True
    ) or [""]
