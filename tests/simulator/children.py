"""Processes that load the fake library as any monitor would: real pynvml, found through LD_LIBRARY_PATH."""

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

from outrider_simulator import fake_nvml

PRELUDE = """
import ctypes, json, sys, time, warnings
warnings.simplefilter("ignore")
import pynvml as n

def code(call, *arguments):
    try:
        call(*arguments)
    except n.NVMLError as error:
        return error.value
    return 0

def tell(value):
    print(json.dumps(value, default=lambda b: b.decode()), flush=True)

def gpus():
    return [n.nvmlDeviceGetHandleByIndex(index) for index in range(n.nvmlDeviceGetCount())]
"""


def start(world: fake_nvml.World, source: str, **environment: str) -> subprocess.Popen[str]:
    """A child that runs `source` after the prelude; what it tells comes on standard output."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(source)],
        env={**os.environ, **world.environment, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(world: fake_nvml.World, source: str, **environment: str) -> Any:
    """What a child that ends well tells last."""
    child = start(world, source, **environment)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def line(child: subprocess.Popen[str]) -> Any:
    """The next thing a running child tells."""
    assert child.stdout is not None
    return json.loads(child.stdout.readline())


def go_on(child: subprocess.Popen[str]) -> None:
    """Let a child that waits in `sys.stdin.readline()` go on."""
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
