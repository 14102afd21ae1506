"""The measurements that make a promise, run whole; what they print beside it is for people."""

import re
import subprocess
import sys

import pytest

from tests.style import tree


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_first_dead_rank_and_its_signal_are_named_in_twenty_of_twenty_kills() -> None:
    assert "named rightly: 20 of 20" in measure("first_dead.py", "--kills", "20")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_warm_restart_is_at_least_two_and_a_half_times_faster_than_a_cold_one() -> None:
    ratio = re.search(r"cold / warm, kill to next step: ([\d.]+)", measure("restart.py", "--kills", "2"))
    assert ratio is not None
    assert float(ratio.group(1)) >= 2.5


def measure(script: str, *arguments: str) -> str:
    command = [sys.executable, str(tree.ROOT / "bench" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
