"""From what ranks said in each turn to verdicts that name the bad one. Pure.

In: the answers of each rank with itself, of all together, and of each pair. Out: results. A rank that cannot even sum
with itself is named by that; else the pairs name it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from outrider_agent.checks import bounds, collectives, pairing
from outrider_agent.checks.collectives import Answer
from outrider_agent.checks.results import FAIL, PASS, WARN, Result

ALONE, ALL, PAIRS = "loop-back", "all-reduce", "all-reduce-pairs"


def alone(names: Sequence[str], answers: Mapping[int, Answer]) -> list[Result]:
    """Each rank with itself."""
    bad = [Result(ALONE, names[rank], FAIL, one.text) for rank, one in answers.items() if one.state != collectives.OK]
    return bad or [Result(ALONE, "", PASS, f"each of {len(answers)} ranks alone, every sum exact")]


def together(names: Sequence[str], model: str, answers: Mapping[int, Answer]) -> Result:
    """All at once; the value is the bus bandwidth, 2 (n - 1) / n of the bytes in the time of the slowest."""
    bad = {rank: one for rank, one in answers.items() if one.state != collectives.OK}
    if bad:
        # Who ended or hung is told before those that only noticed it.
        first = min(bad, key=lambda rank: (_SUSPECT.index(bad[rank].state), rank))
        text = f"{', '.join(names[rank] for rank in bad)}: {names[first]} {bad[first].text}"
        return Result(ALL, "", FAIL, text)
    value = _bus_gb_s(answers)
    text = f"{len(answers)} ranks, every sum exact"
    full = bounds.NVLINK_GB_S.get(bounds.device_of(model))
    if full is None:
        return Result(ALL, "", PASS, text, value, "GB/s")
    share, bound = value / full, bounds.ALL_REDUCE
    slow = f"{share:.0%} of what the links of a GPU carry one way; {text}"
    if share < bound.warn:
        verdict = FAIL if share < bound.fail else WARN
        return Result(ALL, "", verdict, slow, value, "GB/s", full * (bound.fail if verdict == FAIL else bound.warn))
    return Result(ALL, "", PASS, text, value, "GB/s", full * bound.fail)


def pairs(names: Sequence[str], rounds: Sequence[tuple[Sequence[pairing.Pair], Mapping[int, Answer]]]) -> list[Result]:
    """Two by two, in rounds in which everybody has another partner; the value is the slowest pair's."""
    found = {pair: [answers[rank] for rank in pair] for made, answers in rounds for pair in made}
    good = {pair: all(one.state == collectives.OK for one in both) for pair, both in found.items()}
    speeds = {pair: _bus_gb_s(dict(enumerate(both))) for pair, both in found.items() if good[pair]}
    blamed = pairing.blame(good)
    bad = []
    for member in blamed.members:
        with_ = [pair for pair in found if member in pair and not good[pair]]
        others = ", ".join(names[other] for pair in with_ for other in pair if other != member)
        why = _why([found[pair][pair.index(member)] for pair in with_])
        bad.append(Result(PAIRS, names[member], FAIL, f"fails with {others}, who do well with others: {why}"))
    for pair in (*blamed.pairs, *blamed.unclear):
        name = f"{names[pair[0]]}-{names[pair[1]]}"
        apart = "each does well with others, so what lies between them" if pair in blamed.pairs else "one of them"
        bad.append(Result(PAIRS, name, FAIL, f"{apart}: {_why(found[pair])}"))
    if bad:
        return bad
    slowest = min(speeds, key=lambda pair: speeds[pair])
    text = (
        f"{len(speeds)} pairs in {len(rounds)} rounds, every sum exact; slowest {names[slowest[0]]}-{names[slowest[1]]}"
    )
    return [Result(PAIRS, "", PASS, text, speeds[slowest], "GB/s")]


_SUSPECT = (collectives.ENDED, collectives.HUNG, collectives.WRONG, collectives.RAISED, collectives.OK)


def _why(answers: Sequence[Answer]) -> str:
    return min(answers, key=lambda one: _SUSPECT.index(one.state)).text


def _bus_gb_s(answers: Mapping[int, Answer]) -> float:
    count, slowest = len(answers), max(one.seconds for one in answers.values())
    size = next(iter(answers.values())).bytes
    return 2.0 * (count - 1) / count * size / max(slowest, 1e-9) / 1e9
