"""How long do flight recorder dumps of thousands of ranks take from files to the verdict, and how much memory?

The simulator blocks a job of each size in a tensor-parallel group and writes every rank's dump as torch does, with the
newest 300 and the newest 2,000 entries. Measured, each as a person would run it:

- whole: `outrider fr analyze FOLDER`: wall time by its parts, processor time, and the memory of its largest process;
- node: the 8 dumps of one node to a digest's JSON, in one process (median over up to 64 nodes), and its peak;
- merge: `outrider fr merge` of all nodes' digests: reading their JSON, and the verdict, which is the controller's part;
- fr_trace: torch's own analyzer on the same folder, as far as it comes within --peer-limit-s.

The files lie in the page cache. "a rank" is the whole's wall time by ranks: near-linear growth keeps it level. Exit
status 1 when a verdict is wrong.

    python bench/fr_scale.py [--ranks 64,1024,16384] [--entries 300,2000] [--no-peer] [--peer-limit-s 60] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from outrider_analysis.flight_recorder import digest, model, reading
from outrider_simulator import flight_recorder
from outrider_simulator.flight_recorder import cases, faults

NODE: Final = 8
NODES_TIMED: Final = 64
STEPS: Final = 2  # run; those before them went as the first did
MESHES: Final = {64: "dp=2,pp=4,cp=1,tp=8", 256: "dp=8,pp=4,cp=1,tp=8", 1024: "dp=16,pp=8,cp=1,tp=8"}
TREE: Final = "outrider_cli"


def main() -> int:
    """Measure every size."""
    options = _options()
    rows = []
    print(f"load of this machine before: {_load()}; {os.cpu_count()} cores")
    for entries in options.entries:
        for ranks in options.ranks:
            place = Path(tempfile.mkdtemp(prefix="fr-scale-", dir=options.folder))
            try:
                row = _size(place, ranks, entries, options)
            finally:
                shutil.rmtree(place, ignore_errors=True)
            rows.append(row)
            _show(row)
    print(f"load of this machine after: {_load()}")
    if options.json:
        Path(options.json).write_text(json.dumps(rows))
    wrong = [row for row in rows if not row["right"]]
    for row in wrong:
        print(f"wrong at {row['ranks']} ranks x {row['entries']}: named {row['named']}, it was {row['truth']}")
    return int(bool(wrong))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=_numbers, default=[64, 256, 1024, 4096, 16384], help="default %(default)s")
    parser.add_argument("--entries", type=_numbers, default=[300, 2000], help="default %(default)s")
    parser.add_argument("--folder", help="where to write (default: the system's temporary folder)")
    parser.add_argument("--no-peer", action="store_true", help="leave torch's analyzer out")
    parser.add_argument("--peer-limit-s", type=float, default=60.0, help="default %(default)s")
    parser.add_argument("--json", help="file for the rows")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _size(place: Path, ranks: int, entries: int, options: argparse.Namespace) -> dict[str, Any]:
    mesh = MESHES.get(ranks, f"dp={ranks // 128},pp=16,cp=1,tp=8")
    truth, held = _alone(_write, place / "dumps", mesh, entries)[0]
    row: dict[str, Any] = {"ranks": ranks, "entries": entries, "mesh": mesh, "truth": truth, "held": held}
    row["load"] = _load()
    whole, answer = _command("analyze", [str(place / "dumps")], mesh)
    row |= {"whole": whole, "named": answer["culprits"], "verdict": answer["verdict"]}
    nodes, peak = _alone(_nodes, place, ranks)
    row["node"] = {"median_s": statistics.median(nodes[:NODES_TIMED]), "peak": peak}
    row["digest_bytes"] = sum(path.stat().st_size for path in (place / "digests").iterdir())
    merged, again = _command("merge", [str(path) for path in sorted((place / "digests").iterdir())], mesh)
    row |= {"merge": merged, "right": answer["culprits"] == again["culprits"] == truth}
    if not options.no_peer:
        row["fr_trace"] = _peer(place / "dumps", options.peer_limit_s)
    return row


def _write(folder: Path, mesh: str, entries: int) -> tuple[list[int], int]:
    """Every rank's dump, by as many processes as there are cores; the culprits, and the entries of the first dump."""
    folder.mkdir()
    layout = flight_recorder.lay_out(mesh)
    sizes = dict(layout.mesh.axes)
    stages = [flight_recorder.step(layout, flight_recorder.Shape(), stage) for stage in range(sizes["pp"])]
    plan = flight_recorder.Plan(layout, stages, steps=STEPS, ahead=8, first_step=200, seed=1)
    fault = faults.stuck(faults.Job(layout, stages, random.Random(1)), "tp")
    assert fault is not None
    run = flight_recorder.Run(faults.apply(plan, [fault]))
    recorder = flight_recorder.Recorder(run, cases.START_NS, {})
    settings = flight_recorder.Settings(ring=entries, stacks=False)
    workers = len(os.sched_getaffinity(0))
    children = []
    for worker in range(workers):
        pid = os.fork()
        if pid == 0:
            for rank in range(worker, layout.world, workers):
                data = flight_recorder.encode(recorder.dump(rank, settings))
                (folder / f"{cases.PREFIX}{rank}").write_bytes(data)
            os._exit(0)
        children.append(pid)
    for pid in children:
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("a process that writes dumps has failed")
    return [fault.rank], len(recorder.dump(0, settings).entries)


def _nodes(place: Path, ranks: int) -> list[float]:
    """A digest for every node of 8; the seconds of each, from the dumps' bytes on disk to the digest's on disk."""
    (place / "digests").mkdir()
    seconds = []
    for first in range(0, ranks, NODE):
        began = time.perf_counter()
        digester = digest.Digester()
        found = []
        for rank in range(first, first + NODE):
            dump = reading.read((place / "dumps" / f"{cases.PREFIX}{rank}").read_bytes())
            assert isinstance(dump, reading.Dump)
            found.append(digester.rank(rank, dump))
        text = json.dumps(model.to_json(digester.node(found)), separators=(",", ":"))
        (place / "digests" / f"node_{first // NODE:05}.json").write_text(text)
        seconds.append(time.perf_counter() - began)
    return seconds


def _alone(work: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """What ``work`` returns in a process of its own, and that process's peak memory in bytes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(work, arguments)
        return found, pool.apply(_peak)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _command(action: str, paths: list[str], mesh: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """One run of the command: its figures, and its answer."""
    began = time.monotonic()
    command = [sys.executable, "-m", TREE, "fr", action, *paths, "--mesh", mesh, "--json"]
    with tempfile.TemporaryFile() as beside:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=beside)
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 1):
            beside.seek(0)
            raise RuntimeError(f"outrider fr {action} has failed: {beside.read()[-2000:].decode()}")
    answer = json.loads(said)
    figures = {
        "wall_s": time.monotonic() - began,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss * 1024,
    }
    return figures | answer["seconds"], answer


def _peer(folder: Path, limit_s: float) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("_fr_trace.py"))]
    order = json.dumps({"folder": str(folder), "limit_s": limit_s}) + "\n"
    done = subprocess.run(command, input=order, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[0])
    return {"end": found["end"], "seconds": found["seconds"]}


def _show(row: dict[str, Any]) -> None:
    whole, merge, node = row["whole"], row["merge"], row["node"]
    print(f"\n{row['ranks']} ranks x {row['held']} entries ({row['mesh']}), load {row['load']}")
    parts = f"read {whole['read']:.2f}, digest {whole['digest']:.2f}, merge {whole['merge']:.2f}"
    each = whole["wall_s"] / row["ranks"] * 1e3
    print(
        f"  whole     {whole['wall_s']:7.2f} s ({parts}), processor {whole['cpu_s']:.2f} s, "
        f"{each:.2f} ms a rank, peak {_mb(whole['peak'])}"
    )
    print(f"  node      {node['median_s']:7.3f} s for {NODE} dumps, peak {_mb(node['peak'])}")
    print(
        f"  merge     {merge['merge']:7.2f} s after {merge['read']:.2f} s of reading "
        f"{_mb(row['digest_bytes'])} of digests, peak {_mb(merge['peak'])}"
    )
    if "fr_trace" in row:
        peer = row["fr_trace"]
        print(f"  fr_trace  {peer['seconds']:7.2f} s, {peer['end']}")


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _load() -> str:
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


if __name__ == "__main__":
    sys.exit(main())
