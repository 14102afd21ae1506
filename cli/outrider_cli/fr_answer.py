"""The verdict of the flight recorder as a page of a terminal: the answer, why, the place, who waits for whom.

The first sentence is the answer; everything below says how it is known. A job of 16,384 ranks takes no more lines than
one of 8: ranks are given as ranges, and who waits for the same is one line. Names of groups and lines of stacks come
from strangers' files, so whatever a terminal would act on is written out.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from outrider_cli import fr_chain, fr_words
from outrider_cli.fr_words import printable

if TYPE_CHECKING:
    from outrider_analysis.flight_recorder.verdict import Finding, Verdict

__all__ = ["lines", "printable"]

LABEL: Final = 10
STACK_MAX: Final = 10
EVIDENCE_MAX: Final = 6
FINDINGS_MAX: Final = 3  # in full; the others are a sentence
SENTENCES_MAX: Final = 8
FILES_MAX: Final = 5
SURE: Final = 0.9
FAIRLY_SURE: Final = 0.7
BOLD, RED, YELLOW, DIM = "1", "1;31", "1;33", "2"
ANSWERS: Final = {"none": BOLD, "unknown": YELLOW, "all-joined-stuck": YELLOW, "straggler": YELLOW}
STATES: Final = {
    "finished": "finished",
    "waits": "waits",
    "behind": "behind",
    "not-there": "absent",
    "no-dump": "no dump",
}
NEXT: Final = {
    "rank-missing": "look at that rank's process, stack and node; the others only wait",
    "collective-mismatch": "compare the two calls in the code; is there a branch on rank or data?",
    "size-mismatch": "find where that rank's tensor gets its shape; the others agree",
    "dtype-mismatch": "find where that rank's tensor gets its type; the others agree",
    "order-mismatch": "look for a branch on rank or on data before that call",
    "p2p-missing": "look at that rank's stack: it never made its half of the pair",
    "p2p-deadlock": "compare the order of its sends and recvs with that of its siblings",
    "device-stuck": "look at that GPU and its links (Xid, NVLink, ports), not at the code",
    "all-joined-stuck": "look at the links between these ranks and at the fabric",
    "straggler": "look at that rank's host and GPU: clocks, power, thermals, its disk",
    "unknown": "get the dumps that are missing, and the stacks of the candidates",
}

NO_STACK: Final = "none in its dump; while it lives, py-spy dump --pid PID tells"

Line = tuple[str, str]  # how it is coloured, what it says


def lines(judged: Verdict, document: Mapping[str, Any], colour: bool = False) -> Iterator[str]:
    """The page. ``document`` is what ``--json`` prints; ``colour`` for a terminal alone."""
    for style, text in _page(judged, document):
        shown = printable(text)
        yield f"\x1b[{style}m{shown}\x1b[0m" if colour and style and shown else shown


def _page(judged: Verdict, document: Mapping[str, Any]) -> Iterator[Line]:
    if not judged.findings:
        yield from _wrapped(judged.sentence, style=BOLD)
    several = len(judged.findings) > 1
    if several:
        yield from _wrapped(_headline(judged), style=RED if judged.culprits else YELLOW)
    for number, finding in enumerate(judged.findings[:FINDINGS_MAX], start=1):
        if several:
            yield "", ""
        yield from _wrapped(f"{number}. " * several + _capital(finding.sentence), style=ANSWERS.get(finding.kind, RED))
        yield "", ""
        yield from _finding(judged, document, finding)
        yield from _table(judged, document["tables"][number - 1])
    yield from _others(judged)
    yield from _chain(judged)
    yield "", ""
    yield from _read(judged, document)


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _headline(judged: Verdict) -> str:
    named, found = judged.culprits, len(judged.findings)
    if not named:
        return f"{found} independent problems."
    who = "rank" if len(named) == 1 else "ranks"
    return f"{found} independent faults: {who} {fr_words.runs(named)}."


def _finding(judged: Verdict, document: Mapping[str, Any], finding: Finding) -> Iterator[Line]:
    yield from _row("verdict", f"{finding.kind}, {_how_sure(finding.confidence)} ({finding.confidence:.2f})")
    names = (("culprit", finding.culprits), ("may be", finding.candidates))
    for label, ranks in names:
        if ranks:
            yield from _row(label, fr_words.ranks(judged.merged, ranks))
    for evidence in finding.evidence[:EVIDENCE_MAX]:
        told = finding.stack and finding.stack[0] in evidence  # stands below
        if evidence not in finding.sentence and not told:
            yield from _row("because", evidence)
    if finding.confidence < SURE:
        told = any("left no dump" in evidence for evidence in finding.evidence)
        for reason in document["limits"]:
            if not (told and "left no dump" in reason):
                yield from _row("not surer", reason + (" (--groups FILE tells)" if "guessed" in reason else ""))
    yield from _stack(judged, finding)
    if finding.kind in NEXT:
        yield from _row("next", _next(judged, finding))


def _next(judged: Verdict, finding: Finding) -> str:
    heard = set(judged.merged.ranks)
    if finding.kind == "unknown" and heard.issuperset(finding.candidates):
        return "look at the stacks of those that may be it, and at what they call"
    if finding.kind == "rank-missing" and finding.absent:
        return "see whether that process and its node still live; it wrote nothing"
    return NEXT[finding.kind]


def _how_sure(confidence: float) -> str:
    return "sure" if confidence >= SURE else "fairly sure" if confidence >= FAIRLY_SURE else "not sure"


def _stack(judged: Verdict, finding: Finding) -> Iterator[Line]:
    """Innermost first, a line each; the end of a path that is too long is what matters."""
    if len(finding.culprits) != 1:
        return
    if not finding.stack:
        read = finding.culprits[0] in judged.merged.ranks
        yield from _row("stack", NO_STACK if read else "it left no dump")
        return
    label = "stack"
    for frame in finding.stack[:STACK_MAX]:
        yield "", f"{label:<{LABEL}} {fr_words.tail(printable(frame), fr_words.WIDTH - LABEL - 1)}"
        label = ""
    if len(finding.stack) > STACK_MAX:
        yield from _row("", f"and {len(finding.stack) - STACK_MAX} more (--json)")


def _table(judged: Verdict, table: Mapping[str, Any] | None) -> Iterator[Line]:
    """Who of the group finished the operation, who waits in it, who is absent."""
    if table is None:
        return
    yield "", ""
    name = fr_words.group(table)
    if table["from_to"]:
        said = f"First blocked: {table['op']} from rank {table['from_to'][0]} to rank {table['from_to'][1]} in {name}"
    else:
        said = f"First blocked: {table['op']} number {table['seq']} in {name}, {fr_words.count(table['size'], 'rank')}"
    yield from _wrapped(said, style=BOLD)
    rows = [(STATES[row["state"]], f"{row['count']:,}", row) for row in table["rows"]]
    if not table["from_to"] and not any(row["state"] == "finished" for row in table["rows"]):
        yield "", f"  {'finished':<9} {'0':>6}"
    for state, count, row in rows:
        more = ", ".join(text for text in (row["more"], row["call"] and f"called {row['call']}") if text)
        text = f"  {state:<9} {count:>6}  {fr_words.shown(row['ranks'])}{fr_words.place(row['coords'])}"
        style = YELLOW if row["state"] in ("not-there", "no-dump", "behind") else ""
        yield from _wrapped(text + (f": {more}" if more else ""), " " * 20, style)


def _others(judged: Verdict) -> Iterator[Line]:
    others = judged.findings[FINDINGS_MAX:]
    if others:
        yield "", ""
    for number, finding in enumerate(others[:SENTENCES_MAX], start=FINDINGS_MAX + 1):
        yield from _wrapped(f"{number}. {_capital(finding.sentence)}", "   ", RED)
    if len(others) > SENTENCES_MAX:
        yield "", f"and {len(others) - SENTENCES_MAX} more (--json)"


def _chain(judged: Verdict) -> Iterator[Line]:
    found = list(fr_chain.lines(judged))
    if not found:
        return
    yield "", ""
    waiting = len(judged.victims)
    yield BOLD, f"Who waits for whom ({fr_words.count(waiting, 'rank')} {'waits' if waiting == 1 else 'wait'})"
    for role, line in found:
        yield {"culprit": RED, "candidate": YELLOW}.get(role, ""), line


def _read(judged: Verdict, document: Mapping[str, Any]) -> Iterator[Line]:
    merged, unreadable = judged.merged, document["unreadable"]
    seconds = sum(document["seconds"].values())
    yield DIM, f"{len(merged.ranks):,} of {merged.world:,} ranks read in {seconds:.1f} s."
    if merged.absent and merged.ranks:
        yield from _wrapped(f"No dump of rank{'s' * (len(merged.absent) > 1)} {fr_words.runs(merged.absent)}.")
    if unreadable:
        yield "", f"{fr_words.count(len(unreadable), 'file')} could not be read:"
    for item in unreadable[:FILES_MAX]:
        yield from _wrapped(f"  {item['file']}: {item['error']}", "      ")
    if len(unreadable) > FILES_MAX:
        yield "", f"  and {len(unreadable) - FILES_MAX} more (--json)"
    for note in document["notes"]:
        yield from _wrapped(f"{note}.")


def _row(label: str, text: str) -> Iterator[Line]:
    yield from _wrapped(f"{label:<{LABEL}} {text}", " " * (LABEL + 1))


def _wrapped(text: str, indent: str = "", style: str = "") -> Iterator[Line]:
    found: Sequence[str] = textwrap.wrap(
        printable(text), fr_words.WIDTH, subsequent_indent=indent, break_on_hyphens=False
    ) or [""]
    for line in found:
        yield style, line
