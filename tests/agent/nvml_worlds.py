"""A simulated node and the signal that reads it with short deadlines, for tests that must not wait long."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from outrider_agent import readings
from outrider_agent.nvml import readers
from outrider_agent.signals import nvml
from outrider_simulator import fake_nvml

QUICK = readers.Limits(
    warn_s=0.5, act_s=1.5, init_s=20.0, read_s=10.0, retry_s=0.5, retry_s_max=1.0, restart_s=0.1, restart_s_max=0.5
)
PATIENT = readers.Limits(warn_s=60.0, act_s=60.0, init_s=60.0, read_s=60.0)  # a busy machine hangs no call
PATIENCE_S = 60.0


@contextlib.contextmanager
def reading(world: fake_nvml.World, **options: Any) -> Iterator[nvml.Nvml]:
    """The signal over a world, with no PCI function and no device file but those in the world's folder."""
    options = {"sysfs": world.folder / "sys", "devfs": world.folder / "dev", "limits": QUICK, **options}
    for folder in (options["sysfs"] / "bus/pci/devices", options["devfs"]):
        folder.mkdir(parents=True, exist_ok=True)
    signal = nvml.Nvml(world.library, **options)
    try:
        yield signal
    finally:
        signal.close()


def value(sweep: readings.Sweep, device: str, name: str) -> Any:
    """The value of a reading, its state where it has none, None where it is not in the sweep."""
    found = [one for one in sweep.readings if (one.device, one.name) == (device, name)]
    return None if not found else found[-1].value if found[-1].state == "value" else found[-1].state


def error(sweep: readings.Sweep, device: str, name: str) -> str:
    """What a reading says beside its value."""
    return next(one.error for one in sweep.readings if (one.device, one.name) == (device, name))


def until(signal: Any, wanted: Callable[[readings.Sweep], bool]) -> readings.Sweep:
    """The first sweep that is as wanted."""
    begun = time.monotonic()
    while True:
        sweep: readings.Sweep = signal.read()
        if wanted(sweep):
            return sweep
        assert time.monotonic() - begun < PATIENCE_S, (sweep.state, sweep.error)
        time.sleep(0.05)


def alive(sweep: readings.Sweep) -> set[str]:
    """GPUs whose temperature was read."""
    return {one.device for one in sweep.readings if one.name == "temperature" and one.state == "value"}
