"""A job file's keys, each wrong in its own way, and named."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_controller.core import jobs

GOOD: dict[str, Any] = {"name": "llama", "command": ["python", "train.py"], "nodes": 2, "ranks_per_node": 4}


def test_job_document_reads_back_to_an_equal_job() -> None:
    spec = jobs.parse({**GOOD, "mesh": "dp=2,pp=2,tp=2", "limits": {"grace_s": 5}, "env": {"A": "1"}})
    assert jobs.parse(jobs.document(spec)) == spec
    assert spec.world_size == 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "blue"}, "colour: is not a key of a job; the keys are"),
        ({"limits": {"grase_s": 1}}, "limits.grase_s: is not a key"),
        ({"limits": 3}, "limits: 3 is not a table"),
        ({"name": "Über"}, "name: 'Über' must be"),
        ({"name": ""}, "name: '' must be"),
        ({"command": []}, "command: is empty"),
        ({"command": "python train.py"}, "command: 'python train.py' is not a list of texts"),
        ({"command": ["a", 1]}, "command: ['a', 1] is not a list of texts"),
        ({"nodes": 0}, "nodes: 0 must be at least 1"),
        ({"nodes": "two"}, "nodes: 'two' is not a whole number"),
        ({"nodes": True}, "nodes: True is not a whole number"),
        ({"mesh": "dp=2,qq=4"}, "mesh: mesh 'dp=2,qq=4': 'qq=4' is not AXIS=SIZE"),
        ({"mesh": "dp=2,tp=2"}, "mesh: dp=2,tp=2 has 4 ranks"),
        ({"checkpoint_layout": "zip"}, "checkpoint_layout: 'zip' is not one of dcp, megatron"),
        ({"resume": ["--load"]}, "nowhere says {checkpoint}"),
        ({"env": {"A": 1}}, "env: every name and value must be a text"),
        ({"master_port": 70000}, "master_port: 70000 is not a port"),
        ({"limits": {"grace_s": 0}}, "limits.grace_s: 0.0 must be above 0"),
        ({"limits": {"grace_s": float("nan")}}, "limits.grace_s: nan is not a number of seconds"),
        ({"checkpoint_keep": -1}, "checkpoint_keep: -1 must not be below 0"),
        ({"peak_tflops": -1.0}, "peak_tflops: -1.0 must not be below 0"),
        ({"peak_tflops": float("inf")}, "peak_tflops: inf is not a finite number"),
        ({"limits": {"memory_bytes": -1}}, "limits.memory_bytes: -1 must not be below 0"),
    ],
)
def test_wrong_key_is_named_with_its_value_and_the_way_out(change: dict[str, Any], words: str) -> None:
    with pytest.raises(jobs.JobError) as caught:
        jobs.parse({**GOOD, **change})
    assert words in str(caught.value)


@pytest.mark.parametrize("missing", ["name", "command"])
def test_missing_key_is_named(missing: str) -> None:
    with pytest.raises(jobs.JobError, match=f"{missing}: is missing"):
        jobs.parse({key: value for key, value in GOOD.items() if key != missing})
