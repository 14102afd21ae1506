"""How fast a checkpoint is verified: the metadata of a very large one, and the bytes of a plain one.

Writes a .metadata of 393,216 entries over 16,384 files with torch's own classes, and reads it in a process of its own
as the verifier does, with the files' sizes to check against. Then verifies a checkpoint of one large file through the
real verifier, and reads the same file with sha256sum and with dd, all from the page cache. Prints seconds, peak memory
and speeds beside the machine's load; exit status 1 when something whole was found damaged.

    python bench/verify.py [--files 16384] [--entries-per-file 24] [--megabytes 1024] [--folder DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import torch
from torch.distributed.checkpoint import filesystem, state_dict_saver
from torch.distributed.checkpoint import metadata as shapes

from outrider_controller import verifier

ENTRY_BYTES: Final = 4096
ROW: Final = 64  # elements of a chunk
MEASURE: Final = """
import gc, json, os, sys, time
gc.disable()
from outrider_analysis.checkpoints import metadata
path, files, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
began, used = time.perf_counter(), time.process_time()
with open(path, "rb") as file:
    found = metadata.read(file.read())
problems = [*found.problems, *metadata.sizes(found, {f"__{n}_0.distcp": size for n in range(files)})]
taken = time.perf_counter() - began, time.process_time() - used
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
about = {"s": taken[0], "cpu_s": taken[1], "peak": peak, "entries": found.entries}
print(json.dumps({**about, "problems": [str(problem) for problem in problems]}), flush=True)
os._exit(0)
"""


def main() -> int:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=16_384, help="default %(default)s")
    parser.add_argument("--entries-per-file", type=int, default=24, help="default %(default)s")
    parser.add_argument("--megabytes", type=int, default=1024, help="of the large file (default %(default)s)")
    parser.add_argument("--folder", help="where to write (default: the system's temporary folder)")
    options = parser.parse_args()
    say("load of this machine before", load())
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        wrong = metadata_part(Path(name), options.files, options.entries_per_file)
        wrong = payload_part(Path(name), options.megabytes) or wrong
    say("load of this machine after", load())
    return int(wrong)


def metadata_part(folder: Path, files: int, each: int) -> bool:
    """The metadata of a very large checkpoint; whether anything was found wrong with it."""
    path = folder / ".metadata"
    write_metadata(path, files, each)
    command = [sys.executable, "-c", MEASURE, str(path), str(files), str(each * ENTRY_BYTES)]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    size = f"{done['entries']} entries, {files} files, {path.stat().st_size / 1e6:.1f} MB"
    time_taken = f"{done['s']:.2f} s ({done['cpu_s']:.2f} s of processor)"
    say(f"metadata: {size}", f"{time_taken}, peak memory {done['peak'] / 1e9:.2f} GB")
    for problem in done["problems"]:
        print(problem)
    return bool(done["problems"])


def write_metadata(path: Path, files: int, each: int) -> None:
    """Each of ``each`` tensors is sharded over all files, one entry a file."""
    properties = shapes.TensorProperties(torch.float32)
    tensors, stored = {}, {}
    for number in range(each):
        name = f"layers.{number}.weight"
        chunks = [shapes.ChunkStorageMetadata(torch.Size([rank * ROW]), torch.Size([ROW])) for rank in range(files)]
        tensors[name] = shapes.TensorStorageMetadata(properties, torch.Size([files * ROW]), chunks)
        for rank in range(files):
            place = filesystem._StorageInfo(f"__{rank}_0.distcp", number * ENTRY_BYTES, ENTRY_BYTES)
            stored[shapes.MetadataIndex(name, [rank * ROW], rank)] = place
    with path.open("wb") as file:
        pickle.dump(shapes.Metadata(dict(tensors), storage_data=stored), file)


def payload_part(folder: Path, megabytes: int) -> bool:
    """A checkpoint with one large file, and the same file read by others; whether it was turned down."""
    checkpoint = folder / "step-00000001-attempt-000"
    data = write_payload(checkpoint, megabytes)
    others = {"sha256sum": ["sha256sum", str(data)], "dd": ["dd", f"if={data}", "of=/dev/null", "bs=4M", "status=none"]}
    rates = {}
    for word, command in others.items():
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rates[word] = data.stat().st_size / (time.perf_counter() - began) / 1e6
    verdict = asyncio.run(verifier.verify(verifier.Request(str(checkpoint), urgent=True)))
    speed = verdict["bytes"] / verdict["seconds"] / 1e6
    say(f"payload: {megabytes} MB in one file, hash and checksums", f"{speed:.0f} MB/s, {verdict['trust']}")
    for word, value in rates.items():
        say(f"payload: the same file by {word}", f"{value:.0f} MB/s")
    return bool(verdict["trust"] != "loadable")


def write_payload(folder: Path, megabytes: int) -> Path:
    """A whole checkpoint of one tensor, with its manifest; its data file."""
    state = {"weight": torch.randint(0, 256, (megabytes << 20,), dtype=torch.uint8)}
    state_dict_saver.save(state, storage_writer=filesystem.FileSystemWriter(folder), no_dist=True)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(folder.iterdir())}
    about = {"run": "bench", "attempt": 0, "generation": 1, "mesh": "", "world_size": 1}
    whole = {"format": 1, "step": 1, **about, "saved_at": "2026-01-31T03:00:00+00:00", "files": files}
    (folder / "manifest.json").write_text(json.dumps(whole))
    return folder / "__0_0.distcp"


def sha256(path: Path) -> str:
    """In hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load() -> str:
    """The load averages of this moment."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg()) + f" on {os.cpu_count()} cores"


def say(what: str, value: str) -> None:
    """One figure."""
    print(f"{what:<64} {value}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
