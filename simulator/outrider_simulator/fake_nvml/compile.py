"""Build the library with the system's C compiler, once for each source, driver and list of absent functions.

In: the C source beside this module and the tables of boards, values and symbols. Out: the path of
`libnvidia-ml.so.1` in a folder named by the hash of all that. Two who build at once do not disturb each other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from outrider_simulator.fake_nvml import symbols
from outrider_simulator.fake_nvml.boards import BOARDS, Board
from outrider_simulator.fake_nvml.values import LINK_VALUES, VALUES, Value

SOURCE: Final = Path(__file__).parent / "source"
LIBRARY: Final = "libnvidia-ml.so.1"
# -O1: a build takes a second of one core and a call a few microseconds; more optimising gains neither.
OPTIONS: Final = ("-std=gnu11", "-O1", "-fPIC", "-shared", "-pthread", "-Wall", "-Wextra", "-Werror")
NO_COMPILER: Final = (
    "the fake NVML library is built with the system's C compiler and none was found as $CC, cc or gcc; "
    "install one (Debian and Ubuntu: gcc libc6-dev)"
)
# The highest Xid of NVIDIA's catalogue and the bounds of the NVSwitch SXids, as this project's tables have them.
XID_MAX: Final = 176
SXID_MIN: Final = 10001
SXID_MAX: Final = 30006
# How many field numbers a branch knows (NVML_FI_MAX of its header; approximate between releases).
FIELDS_KNOWN: Final = {470: 161, 510: 170, 535: 197, 550: 226, 560: 230, 565: 251, 570: 269, 575: 275, 580: 289}
# Degraded bandwidth, route recovery, route unhealthy and access timeout: false (2); configuration: none wrong (1).
# Before branch 565 the driver gave no mask for these boards.
FABRIC_HEALTHY_MASK: Final = 0x1AA


class BuildError(RuntimeError):
    """The library could not be built; the message says what the compiler said, or that there is none."""


def build(
    folder: Path | None = None, driver: str = symbols.DEFAULT_DRIVER, absent: Iterable[str] = (), compiler: str = ""
) -> Path:
    """The library of `driver` without the functions named in `absent`, built below `folder` unless it is there.

    `folder` defaults to the user's cache. BuildError where it cannot be built, ValueError for an unknown function.
    """
    gone = frozenset(absent)
    if unknown := sorted(gone - symbols.SINCE.keys()):
        raise ValueError(f"absent functions {', '.join(unknown)} are none of this library's")
    files = {
        "generated.h": generated_header(driver),
        "exports.map": version_script(symbols.exported(driver, gone)),
    }
    place = (folder or _cache()) / _digest(files)
    if not (place / LIBRARY).exists():
        _compile(place, files, compiler or _compiler())
    return place / LIBRARY


def generated_header(driver: str) -> str:
    """The tables of this package as the C source reads them."""
    branch = symbols.branch_of(driver)
    known = max(count for since, count in FIELDS_KNOWN.items() if since <= branch)
    numbers = {
        "DRIVER": f'"{driver}"',
        "BRANCH": branch,
        "CUDA": symbols.cuda_of(driver),
        "FIELDS_KNOWN": known,
        "FABRIC_HEALTHY_MASK": FABRIC_HEALTHY_MASK if branch >= 565 else 0,
        "XID_MAX": XID_MAX,
        "SXID_MIN": SXID_MIN,
        "SXID_MAX": SXID_MAX,
    }
    fields = dataclasses.fields(Board)
    types = "const char *key; " + " ".join(f"{'const char *' if f.type == 'str' else 'int '}{f.name};" for f in fields)
    rows = " ".join(_board_row(key, board) for key, board in BOARDS.items())
    lines = [f"#define {name} {number}" for name, number in numbers.items()]
    lines += [f"#define BOARD_FIELDS {types}", f"#define BOARD_ROWS {rows}"]
    lines += [f"#define VALUE_ROWS {_rows(VALUES)}", f"#define LINK_VALUE_ROWS {_rows(LINK_VALUES)}"]
    return "\n".join(lines) + "\n"


def version_script(names: list[str]) -> str:
    """What the linker exports: dlsym finds these and nothing else."""
    return "{ global: " + " ".join(f"{name};" for name in names) + " local: *; };\n"


def _board_row(key: str, board: Board) -> str:
    values = (f'"{value}"' if isinstance(value, str) else str(value) for value in dataclasses.astuple(board))
    return f'{{"{key}", {", ".join(values)}}},'


def _rows(values: tuple[Value, ...]) -> str:
    return " ".join(
        f'ROW({v.name}, {v.kind.upper()}, {v.low}, {v.high}, {"NAN" if v.default is None else v.default}, "{v.unit}")'
        for v in values
    )


def _digest(files: dict[str, str]) -> str:
    hashed = hashlib.sha256(" ".join(OPTIONS).encode())
    for path in sorted(SOURCE.glob("*.[ch]")):
        hashed.update(path.name.encode() + path.read_bytes())
    for name, text in files.items():
        hashed.update(name.encode() + text.encode())
    return hashed.hexdigest()[:20]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "outrider/fake-nvml"


def _compiler() -> str:
    for name in (os.environ.get("CC", ""), "cc", "gcc"):
        if name and (found := shutil.which(name)):
            return found
    raise BuildError(NO_COMPILER)


def _compile(place: Path, files: dict[str, str], compiler: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="building-") as scratch:
        for name, text in files.items():
            Path(scratch, name).write_text(text, encoding="utf-8")
        sources = [str(path) for path in sorted(SOURCE.glob("*.c"))]
        link = [f"-Wl,-soname,{LIBRARY}", f"-Wl,--version-script={scratch}/exports.map", "-o", f"{scratch}/{LIBRARY}"]
        command = [compiler, *OPTIONS, f"-I{scratch}", f"-I{SOURCE}", *sources, *link, "-lm", "-ldl"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise BuildError(f"{compiler} cannot be run: {error}; {NO_COMPILER}") from error
        if done.returncode != 0:
            raise BuildError(f"{compiler} ended with {done.returncode}:\n{done.stderr[-4000:]}")
        place.mkdir(exist_ok=True)
        # Whoever comes second replaces the same bytes by the same bytes.
        os.replace(f"{scratch}/{LIBRARY}", place / LIBRARY)
