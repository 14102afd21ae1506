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
SAID: Final = ("left no dump", "TORCH_NCCL_ENABLE_TIMING")  # in a limit and in evidence that tells as much
NO_STACK: Final = "none in its dump; while it lives, py-spy dump --pid PID tells"

Line = tuple[str, str]  # how it is coloured, what it says


def lines(judged: Verdict, document: Mapping[str, Any], colour: bool = False) -> Iterator[str]:
    """The page. ``document`` is what ``--json`` prints; ``colour`` for a terminal alone."""
    for style, text in _page(judged, document):
        shown = printable(text)
        yield f"\x1b[{style}m{shown}\x1b[0m" if colour and style and shown else shown


def _page(judged: Verdict, document: Mapping[str, Any]) -> Iterator[Line]:
    several = len(judged.findings) > 1
    if judged.merged.ranks and not judged.findings:
        yield from _wrapped(judged.sentence, style=BOLD)
        yield "", ""
        yield from _verdict("none", judged.confidence)
    elif several:
        yield from _wrapped(_headline(judged), style=RED if judged.culprits else YELLOW)
    for number, finding in enumerate(judged.findings[:FINDINGS_MAX], start=1):
        if several:
            yield "", ""
        yield from _wrapped(f"{number}. " * several + _capital(finding.sentence), style=ANSWERS.get(finding.kind, RED))
        yield "", ""
        yield from _finding(judged, document, number)
        yield from _table(document["tables"], number, finding)
    yield from _others(judged)
    if judged.merged.ranks and len(judged.findings) != 1:
        yield from _open(judged, document, judged.confidence)
    yield from _chain(judged)
    if judged.merged.ranks:
        yield "", ""
    yield from _read(judged, document)


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _headline(judged: Verdict) -> str:
    named, found = judged.culprits, len(judged.findings)
    if not named:
        return f"{found} independent problems."
    who = "rank" if len(named) == 1 else "ranks"
    open_ = sum(not finding.culprits for finding in judged.findings)
    more = f", and {open_} in which nobody is named" if open_ else ""
    return f"{found} independent faults: {who} {fr_words.runs(named)}{more}."


def _finding(judged: Verdict, document: Mapping[str, Any], number: int) -> Iterator[Line]:
    finding, told = judged.findings[number - 1], document["findings"][number - 1]
    yield from _verdict(finding.kind, finding.confidence)
    names = (("culprit", finding.culprits), ("may be", finding.candidates))
    for label, ranks in names:
        if ranks:
            yield from _row(label, fr_words.ranks(judged.merged, ranks))
    for evidence in finding.evidence[:EVIDENCE_MAX]:
        below = finding.stack and finding.stack[0] in evidence
        if evidence not in finding.sentence and not below:
            yield from _row("because", evidence)
    if len(judged.findings) == 1:
        yield from _open(judged, document, finding.confidence)
    yield from _stack(judged, finding, told)
    if told["next"]:
        yield from _row("next", told["next"])


def _verdict(kind: str, confidence: float) -> Iterator[Line]:
    yield from _row("verdict", f"{kind}, {_how_sure(confidence)} ({confidence:.2f})")


def _open(judged: Verdict, document: Mapping[str, Any], confidence: float) -> Iterator[Line]:
    """What keeps the answer from being surer, as far as it is not told as evidence."""
    if confidence >= SURE:
        return
    if len(judged.findings) > 1:
        yield "", ""
    known = " ".join(evidence for finding in judged.findings for evidence in finding.evidence)
    way_out = "--groups FILE tells" if judged.merged.mesh is not None else "--mesh or --groups FILE tells"
    for reason in document["limits"]:
        if not any(words in reason and words in known for words in SAID):
            yield from _row("not surer", reason + (f" ({way_out})" if "guessed" in reason else ""))


def _how_sure(confidence: float) -> str:
    return "sure" if confidence >= SURE else "fairly sure" if confidence >= FAIRLY_SURE else "not sure"


def _stack(judged: Verdict, finding: Finding, told: Mapping[str, Any]) -> Iterator[Line]:
    """Innermost first, a line each; the end of a path that is too long is what matters."""
    if len(finding.culprits) != 1:
        return
    frames = told["stack"]
    if not frames:
        read = finding.culprits[0] in judged.merged.ranks
        yield from _row("stack", NO_STACK if read else "it left no dump")
        return
    label = "last call" if told["stack_of"] == "last-call" else "stack"
    for frame in frames[:STACK_MAX]:
        yield "", f"{label:<{LABEL}} {fr_words.tail(printable(frame), fr_words.WIDTH - LABEL - 1)}"
        label = ""
    if len(frames) > STACK_MAX:
        yield from _row("", f"and {len(frames) - STACK_MAX} more (--json)")


def _table(tables: Sequence[Mapping[str, Any] | None], number: int, finding: Finding) -> Iterator[Line]:
    """Who of the group finished the operation, who waits in it, who is absent."""
    table = tables[number - 1]
    if table is None:
        return
    yield "", ""
    name = fr_words.group(table)
    if table["from_to"]:
        said = f"First blocked: {table['op']} from rank {table['from_to'][0]} to rank {table['from_to'][1]} in {name}"
    else:
        said = f"First blocked: {table['op']} {table['seq']} in {name}, {fr_words.count(table['size'], 'rank')}"
    if table in tables[: number - 1]:
        yield from _wrapped(f"{said}: as above", style=BOLD)
        return
    yield from _wrapped(said, style=BOLD)
    if not table["from_to"] and not any(row["state"] == "finished" for row in table["rows"]):
        yield "", f"  {'finished':<9} {'0':>6}"
    blamed = fr_words.runs(finding.culprits)
    for row in table["rows"]:
        more = ", ".join(text for text in (row["more"], row["call"] and f"called {row['call']}") if text)
        ranks = fr_words.shown(row["ranks"])
        text = f"  {fr_words.STATES[row['state']]:<9} {row['count']:>6,}  {ranks}{fr_words.place(row['coords'])}"
        style = YELLOW if row["state"] in ("not-there", "no-dump", "behind") else ""
        yield from _wrapped(text + (f": {more}" if more else ""), " " * 20, RED if ranks == blamed else style)


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
    merged = judged.merged
    seconds = sum(document["seconds"].values())
    if merged.ranks:
        yield DIM, f"{len(merged.ranks):,} of {merged.world:,} ranks read in {seconds:.1f} s."
    if merged.absent and merged.ranks:
        yield from _wrapped(f"No dump of rank{'s' * (len(merged.absent) > 1)} {fr_words.runs(merged.absent)}.")
    yield from _unreadable(document["unreadable"])
    for note in document["notes"]:
        yield from _wrapped(f"Note: {note}{'' if note.endswith(('.', '?')) else '.'}", "      ", YELLOW)


def _unreadable(files: Sequence[Mapping[str, str]]) -> Iterator[Line]:
    """Those of one reason together."""
    if files:
        yield "", f"{fr_words.count(len(files), 'file')} could not be read:"
    reasons: dict[str, list[str]] = {}
    for item in files:
        reasons.setdefault(item["error"], []).append(item["file"])
    for why, names in list(reasons.items())[:FILES_MAX]:
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        yield from _wrapped(f"  {names[0]}{more}: {why}", "      ")
    left = sum(len(names) for names in list(reasons.values())[FILES_MAX:])
    if left:
        yield "", f"  and {left:,} more (--json)"


def _row(label: str, text: str) -> Iterator[Line]:
    yield from _wrapped(f"{label:<{LABEL}} {text}", " " * (LABEL + 1))


def _wrapped(text: str, indent: str = "", style: str = "") -> Iterator[Line]:
    found: Sequence[str] = textwrap.wrap(
        printable(text), fr_words.WIDTH, subsequent_indent=indent, break_on_hyphens=False
    ) or [""]
    for line in found:
        yield style, line
