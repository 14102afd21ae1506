"""What is written of one observation, and what becomes of a spool that cannot be read."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path
from typing import Final

import msgspec

from outrider import records

OBSERVATION_BYTES_MAX: Final = 128 * 1024


def body(observation: records.Observation) -> bytes:
    """JSON of ``observation`` within OBSERVATION_BYTES_MAX; the evidence gives way, because the text says it all."""
    whole = msgspec.json.encode(observation)
    if len(whole) <= OBSERVATION_BYTES_MAX:
        return whole
    clipped = {"clipped": f"the evidence had {len(whole)} bytes, an observation has at most {OBSERVATION_BYTES_MAX}"}
    small = {key: value for key, value in observation.evidence.items() if len(msgspec.json.encode(value)) < 1024}
    less = dataclasses.replace(observation, text=observation.text[:4096], evidence={**small, **clipped})
    part = msgspec.json.encode(less)
    return (
        part if len(part) <= OBSERVATION_BYTES_MAX else msgspec.json.encode(dataclasses.replace(less, evidence=clipped))
    )


def is_damage(error: sqlite3.OperationalError) -> bool:
    """Whether the file itself is what is wrong."""
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "no such column" in str(
        error
    )


def set_aside(path: Path) -> None:
    """Keep the damaged file beside the new one for whoever wants to look; only the latest is kept."""
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.replace(path.with_name(f"{path.name}.damaged{suffix}"))
