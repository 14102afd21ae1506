"""Incidents that point at files which are gone say so, and what an open incident may need is asked to be kept."""

from __future__ import annotations

import pytest

from outrider import records as spoken
from outrider_controller import incident_documents, removed, runbook_files
from outrider_controller.core import jobs, records
from tests.core.world import World

POLICY = runbook_files.load()


def told(world: World, node: str, paths: list[str], shared: bool = False) -> records.Observed:
    """What an agent tells once it has removed ``paths``."""
    evidence = {"paths": paths, "why": "removed after 20 attempts", "shared": shared}
    seen = spoken.Observation(1, "logs-removed", "info", world.now, node, "old logs", world.name, evidence=evidence)
    return records.Observed(world.now, world.name, seen)


def test_a_row_of_evidence_whose_log_is_gone_says_after_what() -> None:
    world = World(policy=POLICY).submit().train(9)
    gone = removed.Removed([told(world, "n1", ["/logs/j/attempt-0", "/logs/j/flight-records/n1/2026"])])
    row = {"source": "n1", "text": "last lines in /logs/j/attempt-0/rank_3.log"}
    assert gone.evidence(row)["text"] == f"{row['text']} (removed after 20 attempts)"
    for other in ({**row, "source": "n2"}, {**row, "text": "in /logs/j/attempt-01/rank_3.log"}, {"source": "n1"}):
        assert gone.evidence(other) == other
    found = {
        "files": {"3": "n1:/logs/j/flight-records/n1/2026/rank_3", "4": "n2:/logs/j/flight-records/n2/2027/rank_4"}
    }
    assert gone.record(found) == {
        "files": {**found["files"], "3": "n1:/logs/j/flight-records/n1/2026/rank_3 (removed after 20 attempts)"}
    }
    assert gone.record(None) is None
    everywhere = removed.Removed([told(world, "n1", ["/logs/j/attempt-0"], shared=True)])
    assert "removed after" in everywhere.evidence({**row, "source": "n2"})["text"], "the disk is one for all"


def test_an_incidents_document_says_which_of_its_files_are_gone() -> None:
    world = World(policy=POLICY).submit().train(9).die(3, signal="SIGKILL").train(12)
    [before] = incident_documents.incidents(world.rows, world.name, world.now)
    log = next(row for row in world.rows if isinstance(row, records.Diagnosed))
    node, path = str(log.evidence[0]["source"]), "/logs/j/attempt-0/rank_3.log"
    added = {**log.evidence[0], "text": f"last lines in {path}"}
    rows = [
        records.Diagnosed(**{**vars(row), "evidence": (*row.evidence, added)}) if row is log else row
        for row in world.rows
    ]
    [after] = incident_documents.incidents([*rows, told(world, node, ["/logs/j/attempt-0"])], world.name, world.now)
    assert after["evidence"][-1]["text"] == f"last lines in {path} (removed after 20 attempts)"
    assert after["evidence"][:-1] == before["evidence"]


def test_the_attempt_of_an_open_incident_is_kept_and_each_start_says_from_where_on() -> None:
    world = World(policy=POLICY).submit().train(9).die(3, signal="SIGKILL").train(12)
    starts = [r.args for r in world.rows if isinstance(r, records.EffectRequested) and r.name == "start-attempt"]
    assert [(args["attempt"], args["keep_from"]) for args in starts] == [(0, 0), (1, 0)]


def test_the_bounds_are_the_jobs() -> None:
    found = jobs.parse({"name": "j", "command": ["x"], "limits": {"attempts_kept": 3, "logs_bytes": 10**9}})
    assert (found.limits.attempts_kept, found.limits.logs_bytes) == (3, 10**9)
    for key in ("attempts_kept", "logs_bytes"):
        with pytest.raises(jobs.JobError, match=rf"limits\.{key}: -1 must not be below 0"):
            jobs.parse({"name": "j", "command": ["x"], "limits": {key: -1}})
