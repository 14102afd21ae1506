"""A device as the checks use it, a GPU or the CPU, so that one piece of work serves both.

In: ``gpu3`` or ``cpu``. Out: tensors put there, work timed there, memory free there. ``CUDA_VISIBLE_DEVICES`` may hide
the others, so a task says under which index torch sees its GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

STEADY_S: Final = 0.3
TIMES_MAX: Final = 5000


class Device:
    """One device. ``index``: of the GPU as torch counts here, None for the CPU."""

    def __init__(self, torch: Any, index: int | None) -> None:
        self._torch = torch
        self.index = index
        self.torch_name = "cpu" if index is None else f"cuda:{index}"
        if index is not None:
            torch.cuda.set_device(index)

    @property
    def model(self) -> str:
        """The name that the driver gives the device."""
        return "CPU" if self.index is None else str(self._torch.cuda.get_device_name(self.index))

    def put(self, tensor: Any) -> Any:
        """The tensor on this device."""
        return tensor.to(self.torch_name)

    def empty(self, size: int, dtype: Any) -> Any:
        """A tensor of ``size`` elements with whatever is in the memory."""
        return self._torch.empty(size, dtype=dtype, device=self.torch_name)

    def host(self, size: int, dtype: Any) -> Any:
        """Memory of the host that this device copies from at full speed (pinned, for a GPU)."""
        return self._torch.empty(size, dtype=dtype, pin_memory=self.index is not None)

    def wait(self) -> None:
        """Until everything asked of the device is done."""
        if self.index is not None:
            self._torch.cuda.synchronize(self.index)

    def timed(self, work: Callable[[], object], times: int) -> float:
        """Seconds for one of ``times`` repetitions, all done. On a CPU, which others use as well, the best one."""
        if self.index is None:
            return max(min(_seconds(work) for _ in range(times)), 1e-9)
        self.wait()
        began = time.perf_counter()
        for _ in range(times):
            work()
        self.wait()
        return max((time.perf_counter() - began) / times, 1e-9)

    def steady(self, work: Callable[[], object], times: int) -> float:
        """As ``timed``, after a GPU has had work for STEADY_S: from idle its clocks take a while to rise."""
        seconds = self.timed(work, times)
        if self.index is None:
            return seconds
        many = min(TIMES_MAX, max(times, int(STEADY_S / seconds)))
        self.timed(work, many)
        return self.timed(work, many)

    def free_bytes(self) -> int | None:
        """Memory that nobody uses, None where the device does not say."""
        return None if self.index is None else int(self._torch.cuda.mem_get_info(self.index)[0])

    def reaches(self, other: Device) -> bool:
        """Whether the driver lets this device write into the other's memory without the host between."""
        if self.index is None or other.index is None:
            return True
        return bool(self._torch.cuda.can_device_access_peer(self.index, other.index))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def of(task: dict[str, Any]) -> tuple[Any, Device]:
    """torch, and the device of a task: ``index`` as torch sees it, None for the CPU."""
    import torch

    index = task.get("index")
    return torch, Device(torch, index if isinstance(index, int) else None)
