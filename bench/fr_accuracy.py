"""How often is the verdict about flight recorder dumps right, and how often is torch's own, on the same dumps?

Cases are made from seeds by the simulator: a job of a random mesh runs until a fault has blocked it (or runs on), and
every rank's dump is written as torch writes it. The simulator knows nothing of either analyzer. Printed are the
outcomes by fault, the verdict's word against the truth's, how often answers were right by the confidence they stated,
and the same for torch's fr_trace.

- exact: every culprit and nobody else. subset: some of them and nobody else. unknown: nobody named. missed: nobody
  named and said to be healthy. wrong: an innocent rank is named. confident wrong: the same with a confidence of at
  least 0.7. Where nobody is to blame, exact means that nobody is named and the word is right.
- "must" rows count the cases that the dumps decide; in the others innocent ranks look the same, or what would tell is
  lost, so that unknown is as good an answer as the truth.
- fr_trace reads pickles only and of one version only; what bench/_fr_trace.py makes of its words is said there.

    python bench/fr_accuracy.py [--cases 500] [--seed 0] [--ranks-max 1024] [--no-peer] [--only FAULT]
        [--peer-ranks-max 128] [--peer-limit-s 20] [--times] [--keep FOLDER] [--json FILE]
    python bench/fr_accuracy.py --add-up FILE...        one table of several runs' --json files
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import _fr_ours
import _fr_trace

from outrider_simulator import flight_recorder
from outrider_simulator.flight_recorder import score as scores

SHOWN_MAX: Final = 25


@dataclass
class Peer:
    """Torch's analyzer in a process of its own."""

    limit_s: float
    process: subprocess.Popen[str] = field(init=False)
    end_of_last: str = ""

    def __post_init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("_fr_trace.py"))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, folder: Path) -> tuple[dict[str, Any], list[int], float]:
        """Its answer, everybody it named, and the seconds it took."""
        to, back = self._pipes()
        to.write(json.dumps({"folder": str(folder / "dumps"), "limit_s": self.limit_s}) + "\n")
        to.flush()
        found = json.loads(back.readline())
        self.end_of_last = found["end"]
        answer, everybody = _fr_trace.read(found["text"], found["end"])
        return answer, everybody, found["seconds"]

    def end(self) -> None:
        """Let it go."""
        self._pipes()[0].close()
        self.process.wait(30)

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        if self.process.stdin is None or self.process.stdout is None:
            raise AssertionError("opened without pipes")
        return self.process.stdin, self.process.stdout


@dataclass
class Results:
    """What came of all cases so far."""

    ours: list[scores.Score] = field(default_factory=list)
    peers: list[scores.Score] = field(default_factory=list)
    everybody: list[scores.Score] = field(default_factory=list)  # torch's, by all its messages
    beside: list[scores.Score] = field(default_factory=list)  # ours on the cases that torch was asked about
    seconds: list[float] = field(default_factory=list)
    peer_seconds: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        """One more case."""
        self.rows.append(row)
        self.ours.append(_score(row["ours"]))
        self.seconds.append(row["seconds"])
        self.ranks.append(row["truth"]["ranks"])
        if self.ours[-1].outcome in ("wrong", "confident wrong"):
            self.wrong.append(row)
        if "fr_trace" in row:
            self.peers.append(_score(row["fr_trace"]))
            self.everybody.append(_score(row["fr_trace_all"]))
            self.beside.append(self.ours[-1])
            self.peer_seconds.append(row["fr_trace_end"]["seconds"])
            self.ends[row["fr_trace_end"]["end"]] += 1


def _score(row: dict[str, Any]) -> scores.Score:
    return scores.Score(**row | {"named": tuple(row["named"])})


def main() -> None:
    """Make the cases, ask both, print."""
    options = _options()
    results = Results()
    if options.add_up:
        _add_up(options, results)
        return
    peer = None if options.no_peer else Peer(options.peer_limit_s)
    began = time.monotonic()
    place = Path(options.keep or tempfile.mkdtemp(prefix="fr-accuracy-"))
    try:
        for seed in range(options.seed, options.seed + options.cases):
            _one(seed, options, peer, place, results)
            if (seed - options.seed + 1) % 50 == 0:
                said = f"{seed - options.seed + 1} cases, {time.monotonic() - began:.0f} s"
                print(said, file=sys.stderr, flush=True)
    finally:
        if peer is not None:
            peer.end()
        if not options.keep:
            shutil.rmtree(place, ignore_errors=True)
    _show(options, results, time.monotonic() - began)
    if options.json:
        Path(options.json).write_text(json.dumps(results.rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the others follow")
    parser.add_argument("--ranks-max", type=int, default=1024)
    parser.add_argument("--no-peer", action="store_true", help="leave torch's analyzer out")
    parser.add_argument("--peer-ranks-max", type=int, default=128, help="larger jobs are not given to torch's")
    parser.add_argument("--peer-limit-s", type=float, default=20.0)
    parser.add_argument("--only", default="", choices=("", *flight_recorder.NAMES), metavar="FAULT")
    parser.add_argument("--times", action="store_true", help="tell the analysis when each dump was taken")
    parser.add_argument("--keep", default="", help="folder that keeps dumps and truth of cases answered wrongly")
    parser.add_argument("--json", default="", help="file for one row a case")
    parser.add_argument("--add-up", nargs="+", metavar="FILE", help="files of --json: make no case, show their sum")
    return parser.parse_args()


def _one(seed: int, options: argparse.Namespace, peer: Peer | None, place: Path, results: Results) -> None:
    case = flight_recorder.make(seed, options.ranks_max, options.only)
    folder = place / str(seed)
    flight_recorder.write(case, folder)
    truth = case.document()
    answer, seconds = _fr_ours.analyze(folder / "dumps", options.times)
    ours = scores.score(truth, answer)
    row = {"truth": truth, "ours": dataclasses.asdict(ours), "sentence": answer.get("sentence"), "seconds": seconds}
    if peer is not None and truth["ranks"] <= options.peer_ranks_max:
        theirs, everybody, took = peer.ask(folder)
        row["fr_trace"] = dataclasses.asdict(scores.score(truth, theirs))
        row["fr_trace_all"] = dataclasses.asdict(scores.score(truth, theirs | {"culprits": everybody}))
        row["fr_trace_end"] = {"seconds": took, "end": peer.end_of_last}
    results.add(row)
    if not options.keep or ours.outcome in ("exact", "subset"):
        shutil.rmtree(folder)


def _add_up(options: argparse.Namespace, results: Results) -> None:
    """Show the sum of earlier runs; a seed that is in several files counts once."""
    known: dict[int, dict[str, Any]] = {}
    for name in options.add_up:
        known |= {row["truth"]["seed"]: row for row in json.loads(Path(name).read_text())}
    for _, row in sorted(known.items()):
        results.add(row)
    if not results.rows:
        raise SystemExit("no case in these files")
    _show(options, results, sum(results.seconds) + sum(results.peer_seconds))


def _show(options: argparse.Namespace, results: Results, took: float) -> None:
    load = os.getloadavg()
    ranks = sorted(results.ranks)
    first = min(row["truth"]["seed"] for row in results.rows)
    print(f"{len(results.ours)} cases from seed {first}, {ranks[0]} to {ranks[-1]} ranks, median", end=" ")
    print(f"{ranks[len(ranks) // 2]}; {took:.0f} s in all; load {load[0]:.1f} {load[1]:.1f} {load[2]:.1f}\n")
    print(scores.table(results.ours))
    _line("must", [each for each in results.ours if each.identifiable == "yes"])
    _line("may", [each for each in results.ours if each.identifiable != "yes"])
    print(f"\n{scores.confusion(results.ours)}\n\n{scores.calibration(results.ours)}")
    print(f"\nseconds for a case: {_spread(results.seconds)}")
    for row in results.wrong[:SHOWN_MAX]:
        truth, ours = row["truth"], row["ours"]
        print(
            f"wrong: seed {truth['seed']} {truth['mesh']} {truth['fault']}: culprits {truth['culprits']}, named",
            end=" ",
        )
        print(f"{list(ours['named'])[:8]} as {ours['verdict']} with {ours['confidence']:.2f}")
    if not results.peers:
        return
    print(f"\ntorch's fr_trace on the {len(results.peers)} cases of at most {options.peer_ranks_max} ranks", end=" ")
    print(f"(ended: {dict(results.ends)}); its confidence counts as 1, as it states none\n")
    print(scores.table(results.peers))
    print(f"\n{'on these cases':24}" + "".join(f" {word:>15}" for word in scores.OUTCOMES))
    _compared("outrider", results.beside)
    _compared("fr_trace, first message", results.peers)
    _compared("fr_trace, all messages", results.everybody)
    print(f"\nseconds for a case: {_spread(results.peer_seconds)}")


def _line(word: str, found: list[scores.Score]) -> None:
    counts = ", ".join(f"{outcome} {sum(each.outcome == outcome for each in found)}" for outcome in scores.OUTCOMES)
    print(f"{word:5} tell: {len(found)} cases: {counts}")


def _compared(word: str, found: list[scores.Score]) -> None:
    shares = (sum(each.outcome == outcome for each in found) / len(found) for outcome in scores.OUTCOMES)
    print(f"{word:24}" + "".join(f" {share:>15.1%}" for share in shares))


def _spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"median {ordered[len(ordered) // 2]:.2f}, most {ordered[-1]:.2f}"


if __name__ == "__main__":
    main()
