"""A fake NVML: a library that real pynvml loads, and the world it tells of.

    world = fake_nvml.World(folder)          # eight healthy, idle H100s; folder holds the library and the world file
    world.set(None, "load", fake_nvml.steady(0.9).sine(0.05, 40))
    world.xid(3, 79)
    with world.lose_gpu(3):
        ...

docs/fake-nvml.md describes the world file and everything it can say.
"""

from outrider_simulator.fake_nvml.boards import BOARDS, Board
from outrider_simulator.fake_nvml.compile import NO_COMPILER, BuildError, build
from outrider_simulator.fake_nvml.expressions import Expression, steady
from outrider_simulator.fake_nvml.library import ImpossibleWorldError
from outrider_simulator.fake_nvml.symbols import DEFAULT_DRIVER, DRIVERS
from outrider_simulator.fake_nvml.values import LINK_VALUES, VALUES
from outrider_simulator.fake_nvml.world import Fault, World

__all__ = [
    "BOARDS",
    "DEFAULT_DRIVER",
    "DRIVERS",
    "LINK_VALUES",
    "NO_COMPILER",
    "VALUES",
    "Board",
    "BuildError",
    "Expression",
    "Fault",
    "ImpossibleWorldError",
    "World",
    "build",
    "steady",
]
