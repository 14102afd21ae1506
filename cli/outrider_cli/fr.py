"""``outrider fr analyze``, ``fr digest`` and ``fr merge``: which rank broke the collective, from flight recorder dumps.

    files -> processes with bounded memory (outrider_agent.flight_recorder) -> digests -> verdict -> words

Needs no controller and no torch. Progress and what was passed over go to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import resource
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from outrider import mesh as meshes
from outrider import vocabulary
from outrider_cli import errors, fr_answer, parsing, progress_line

MANY: Final = 64  # files from which on progress is shown
DIGEST_BYTES_MAX: Final = 512 << 20  # 16,384 ranks of full rings take 190 MB
MEMORY_BYTES: Final = 64 << 20
MEMORY_EACH: Final = 6  # for each byte of a digest: its text, and the lists and texts made of it
GROUPS_BYTES_MAX: Final = 64 << 20

EXAMPLES = """\
A dump's rank is in its file's name. Exit status 0 when nothing is stuck, 1 with a verdict, 2 when nothing could be
read.

examples:
  outrider fr analyze /tmp/nccl_trace_rank_*
  outrider fr analyze dumps/ --mesh dp=2,pp=4,cp=1,tp=8
  outrider fr digest dumps/ -o node-7.json          on each node; then, where the digests are:
  outrider fr merge node-*.json
"""


def add_to(commands: Any) -> None:
    """Add the sub-commands."""
    parser = commands.add_parser(
        "fr",
        help="name the rank that broke a collective, from flight recorder dumps",
        description="Reads torch's flight recorder dumps, of all ranks or of some, and says who holds up whom.",
        epilog=EXAMPLES,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    analyze = actions.add_parser(
        "analyze", help="dumps in, verdict out", description="Dumps in, verdict out.", epilog=EXAMPLES
    )
    analyze.add_argument("paths", metavar="PATH", nargs="+", help="dumps, or folders of them")
    analyze.set_defaults(handler=analyze_dumps)
    digest = actions.add_parser(
        "digest",
        help="dumps in, one small digest out",
        description="Reduces the dumps of a node to what a verdict needs. Exit 2 when none could be read.",
    )
    digest.add_argument("paths", metavar="FILE", nargs="+", help="dumps, or folders of them")
    digest.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="file for the digest; - is standard output"
    )
    digest.set_defaults(handler=digest_dumps)
    merge = actions.add_parser(
        "merge", help="digests in, verdict out", description="Digests in, verdict out, as analyze gives it."
    )
    merge.add_argument("paths", metavar="DIGEST", nargs="+", help="what `outrider fr digest` wrote, or folders of it")
    merge.add_argument("-o", "--output", metavar="OUT", help="write one digest of them all instead of a verdict")
    merge.set_defaults(handler=merge_digests)
    for each in (analyze, digest):
        each.add_argument("--copied", action="store_true", help="the files are copies: their times are not the dumps'")
    for each in (analyze, merge):
        each.add_argument(
            "--groups",
            metavar="FILE",
            help='JSON of groups that dumps do not tell: {name: {"desc", "ranks"}}; a groups.json beside dumps counts '
            "without being named",
        )
        each.add_argument("--mesh", metavar="MESH", help="the job's mesh, as dp=2,pp=2,cp=1,tp=2")
        each.add_argument("--world", metavar="N", type=parsing.at_least(1), help="how many ranks the job has")
        each.add_argument("--json", action="store_true", help="one JSON document on standard output")


def analyze_dumps(options: argparse.Namespace) -> int:
    """Judge dumps."""
    knows = _knowledge(options)
    found, notes = _read(options.paths, options.copied)
    wall = found.wall_s
    busy = found.read_s + found.digest_s
    read_s = wall * found.read_s / busy if busy else wall
    seconds = {"read": read_s, "digest": wall - read_s}
    return _judged(options, knows, found.nodes, found.unreadable, seconds, notes)


def digest_dumps(options: argparse.Namespace) -> int:
    """Write one digest of many dumps."""
    from outrider_analysis.flight_recorder import model

    found, _ = _read(options.paths, options.copied)
    node = model.join(found.nodes)
    node = model.NodeDigest(node.ranks, node.memberships, node.signatures, tuple(found.unreadable))
    for file, why in node.unreadable:
        print(f"{_shown(file)}: {_shown(why)}", file=sys.stderr)
    if not node.ranks:
        raise errors.CommandError(
            f"no dump could be read in {', '.join(options.paths)}; their names end with the rank, as in rank_5; "
            "no digest was written"
        )
    _write(options.output, json.dumps(model.to_json(node), separators=(",", ":")))
    return vocabulary.EXIT_DONE


def merge_digests(options: argparse.Namespace) -> int:
    """Judge digests, or write them as one that can be merged again."""
    began = time.monotonic()
    with _no_collector():
        nodes, unreadable = _read_digests(options.paths)
    if not options.output:
        seconds = {"read": time.monotonic() - began, "digest": 0.0}
        return _judged(options, _knowledge(options), nodes, unreadable, seconds, [])
    from outrider_analysis.flight_recorder import merge, model

    for file, why in unreadable:
        print(f"{_shown(file)}: {_shown(why)}", file=sys.stderr)
    if not any(node.ranks for node in nodes):
        raise errors.CommandError("none of the digests could be read; none was written")
    whole = merge.combine(nodes)
    whole = model.NodeDigest(whole.ranks, whole.memberships, whole.signatures, tuple(sorted(set(unreadable))))
    _write(options.output, json.dumps(model.to_json(whole), separators=(",", ":")))
    return vocabulary.EXIT_DONE


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Nothing that is read has cycles, and looking for them among millions of small things takes half of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _read_digests(given: Sequence[str]) -> tuple[list[Any], list[tuple[str, str]]]:
    """The digests, and what could not be read: files, and what their own makers could not."""
    from outrider_analysis.flight_recorder import model

    nodes: list[Any] = []
    unreadable: list[tuple[str, str]] = []
    known: dict[str, tuple[int, ...]] = {}
    line = progress_line.ProgressLine(sys.stderr)
    paths = [path for each in given for path in _digests(each)]
    for at, path in enumerate(paths):
        try:
            node = model.from_json(_bounded_json(path), known)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            unreadable.append(
                (path, f"no digest, or one that was cut off; `outrider fr digest` makes one of dumps ({error})")
            )
            continue
        except (OSError, ValueError, RecursionError) as error:
            unreadable.append((path, error.strerror or str(error) if isinstance(error, OSError) else str(error)))
            continue
        except MemoryError:
            unreadable.append((path, "takes too much memory for a digest of its size"))
            continue
        nodes.append(node)
        unreadable += node.unreadable
        if len(paths) >= MANY:
            line.show(f"reading digests: {at + 1} of {len(paths)}")
    line.clear()
    return nodes, unreadable


def _digests(path: str) -> list[str]:
    """The file, or the JSON files of the folder."""
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.endswith(".json")]


class _Knowledge:
    """What was told about the job beside its dumps."""

    def __init__(self, groups: dict[str, Any], mesh: meshes.Mesh | None, world: int | None) -> None:
        self.groups, self.mesh, self.world = groups, mesh, world


def _knowledge(options: argparse.Namespace) -> _Knowledge:
    from outrider_analysis.flight_recorder import ranges

    groups = _groups(options.groups) if options.groups is not None else {}
    try:
        mesh = meshes.parse(options.mesh) if options.mesh is not None else None
    except meshes.MeshError as error:
        raise errors.CommandError(f"--mesh: {error}") from error
    if mesh is not None and mesh.world_size > ranges.RANKS_MAX:
        raise errors.CommandError(f"--mesh: {mesh} has {mesh.world_size} ranks; at most {ranges.RANKS_MAX} are judged")
    if options.world and options.world > ranges.RANKS_MAX:
        raise errors.CommandError(f"--world {options.world}: at most {ranges.RANKS_MAX} ranks are judged")
    if mesh is not None and options.world and mesh.world_size != options.world:
        raise errors.CommandError(
            f"--world {options.world}: the mesh {mesh} has {mesh.world_size} ranks; leave one out"
        )
    return _Knowledge(groups, mesh, options.world)


def _groups(path: str) -> dict[str, Any]:
    """The groups of the file; one without members (torch writes such) tells nothing. Raises CommandError."""
    from outrider_analysis.flight_recorder import merge

    try:
        groups = _json(path, GROUPS_BYTES_MAX)
    except (OSError, ValueError, RecursionError) as error:
        raise errors.CommandError(f"--groups {path}: {getattr(error, 'strerror', '') or error}") from error
    expected = f'--groups {path}: an object {{name: {{"desc", "ranks"}}}} was expected'
    if not isinstance(groups, dict):
        raise errors.CommandError(f"{expected}, not {type(groups).__name__}")
    for name, value in groups.items():
        each = value if isinstance(value, list) else [value]
        if not all(
            isinstance(one, dict) and (one.get("ranks") in ("", "[]", []) or merge.told_group(one)) for one in each
        ):
            raise errors.CommandError(f'{expected}, and the "ranks" of {_shown(name)!r} are no list of ranks')
    return groups


def _read(paths: Sequence[str], copied: bool) -> tuple[Any, list[str]]:
    """What the dumps hold, and what has to be said about the set of them."""
    from outrider_agent.flight_recorder import files, pool, times

    sources = files.find(paths)
    line = progress_line.ProgressLine(sys.stderr)
    tell: Callable[[int, int], None] | None = None
    if len(sources.files) >= MANY:

        def tell(done: int, total: int) -> None:
            line.show(f"reading dumps: {done} of {total}")

    try:
        found = pool.read(sources.files, tell=tell)
    except pool.PoolError as error:
        raise errors.CommandError(str(error)) from error
    finally:
        line.clear()
    found.nodes = times.checked(found.nodes, copied)
    found.unreadable += sources.unreadable
    notes = []
    if sources.passed_over:
        words = "file names no rank and looks like no dump; it was passed over"
        if sources.passed_over > 1:
            words = "files name no rank and look like no dump; they were passed over"
        notes.append(f"{sources.passed_over} {words}")
    return found, notes


def _judged(
    options: argparse.Namespace,
    knows: _Knowledge,
    nodes: Sequence[Any],
    unreadable: Sequence[tuple[str, str]],
    seconds: dict[str, float],
    notes: list[str],
) -> int:
    from outrider_analysis.flight_recorder import merge, verdict
    from outrider_analysis.flight_recorder.verdict import drawing

    began = time.monotonic()
    with _no_collector():
        merged = merge.merge(nodes, knows.groups, knows.mesh, knows.world)
        judged = verdict.judge(merged)
        document = judged.to_json() | drawing.draw(judged)
    seconds["merge"] = time.monotonic() - began
    document["unreadable"] = [{"file": file, "error": why} for file, why in sorted(unreadable)]
    document["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
    document["notes"] = [*notes, *merged.problems]
    if not document["ranks_read"]:
        document["verdict"], document["confidence"] = "unknown", 0.0
        document["sentence"] = f"No {_what(options)} could be read."
        document["notes"] += _hints(options, document)
    if options.json:
        print(json.dumps(document))
        for note in document["notes"]:
            print(f"outrider fr: {_shown(note)}", file=sys.stderr)
    else:
        print("\n".join(fr_answer.lines(judged, document, _colours())))
    if not document["ranks_read"]:
        raise errors.CommandError(f"no {_what(options)} could be read")
    return vocabulary.EXIT_DONE if document["verdict"] == "none" else vocabulary.EXIT_PROBLEM


def _what(options: argparse.Namespace) -> str:
    return "digest" if options.action == "merge" else "dump"


def _hints(options: argparse.Namespace, document: dict[str, Any]) -> Iterator[str]:
    """Where nothing could be read: what was expected."""
    if not document["unreadable"] and not document["notes"]:
        yield f"there is no {_what(options)} in {', '.join(options.paths)}"
    if options.action == "merge":
        yield "a digest is what `outrider fr digest DUMPS -o FILE.json` writes; in a folder, names end with .json"
    else:
        yield "the name of a dump ends with its rank, as in rank_5; digests are read by `outrider fr merge`"


def _colours() -> bool:
    """On a terminal that takes them, and where nobody said no (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _json(path: str, bytes_max: int) -> Any:
    """The JSON of a file. Raises OSError and ValueError."""
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())  # room is made for as much as is asked for
        data = file.read((min(bytes_max, status.st_size) if stat.S_ISREG(status.st_mode) else bytes_max) + 1)
    if len(data) > bytes_max:
        raise ValueError(f"more than {bytes_max} bytes")
    return json.loads(data)


def _bounded_json(path: str) -> Any:
    """The JSON of a digest, in as much memory as one of its size needs. Raises OSError, ValueError and MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform != "linux":
        return _json(path, DIGEST_BYTES_MAX)
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    bound = taken + MEMORY_BYTES + MEMORY_EACH * os.path.getsize(path)
    resource.setrlimit(resource.RLIMIT_AS, (min([bound, *(each for each in (soft, hard) if each >= 0)]), hard))
    try:
        return _json(path, DIGEST_BYTES_MAX)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _write(path: str, text: str) -> None:
    """All of it or nothing."""
    if path == "-":
        print(text)
        return
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="ascii")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise errors.CommandError(f"-o {path}: {error.strerror or error}") from error


def _shown(text: str) -> str:
    return fr_answer.printable(text)
