"""Why a job stands still, told from one look at all of its ranks: who waits, who is elsewhere, who is stopped.

In: what each rank was doing (records.RankEvidence), equal ranks together, so that 16,384 of them cost as much as the
few kinds there are. Out: a Verdict with the culprits, who waits for whom, and a sentence. This is the seam for a fuller
analyzer: ``judge`` is a function of the evidence, and whoever knows more may stand in its place.
"""

from outrider_analysis.stalls.groups import Group, from_plain, group, plain, ranges
from outrider_analysis.stalls.reading import Reading, awaited, outside, read, stands_in
from outrider_analysis.stalls.verdict import HUNG, VERDICTS, Row, Verdict, common, judge

__all__ = [
    "HUNG",
    "VERDICTS",
    "Group",
    "Reading",
    "Row",
    "Verdict",
    "awaited",
    "common",
    "from_plain",
    "group",
    "judge",
    "outside",
    "plain",
    "ranges",
    "read",
    "stands_in",
]
