"""How much arithmetic a token costs, how much a device can do, and the share of it that training uses (MFU).

In: the shape of a Llama-like model, tokens a second, a device's name. Out: FLOPs per token in a named convention, peak
TFLOP/s, MFU. The conventions differ by 4 % at 8 K and 40 % at 128 K of context, so every number travels with its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from outrider_analysis import peaks

# full: 6 x parameters in matrix multiplies + 12 L H h s, as PaLM (appendix B) and torchtitan count.
# causal: 6 L H h (s + 1), exactly the scores that a causal mask keeps, the diagonal included.
# half: 6 L H h s, the rounder form in which published causal figures are usually given.
# Recomputation is counted in none of them (that would be HFU).
CONVENTIONS: Final = ("full", "causal", "half")


@dataclass(frozen=True)
class Shape:
    """A decoder with grouped-query attention, SwiGLU and an untied output projection."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int

    @property
    def matmul_parameters(self) -> int:
        """Parameters that take part in matrix multiplies: the output projection does, the input embedding does not."""
        attention = 2 * self.width * self.heads * self.head_size + 2 * self.width * self.kv_heads * self.head_size
        return self.layers * (attention + 3 * self.width * self.feed_forward) + self.width * self.vocabulary


def flops_per_token(shape: Shape, sequence: int, convention: str = "full") -> int:
    """Training FLOPs (forward and backward) per token, to the integer that a counter of matrix multiplies gives."""
    dense = 6 * shape.matmul_parameters
    scores = 6 * shape.layers * shape.heads * shape.head_size
    if convention == "full":
        return dense + 2 * scores * sequence
    if convention == "causal":
        return dense + scores * (sequence + 1)
    if convention == "half":
        return dense + scores * sequence
    raise ValueError(f"convention {convention!r} is not one of {', '.join(CONVENTIONS)}")


def mfu(tokens_per_s: float, flops_per_token: float, devices: int, peak_tflops: float) -> float:
    """Model FLOPs utilisation: observed over possible tokens a second, on the dense peak of all devices."""
    if devices < 1 or peak_tflops <= 0:
        raise ValueError(f"devices {devices}, peak {peak_tflops} TFLOP/s: both must be above 0")
    return tokens_per_s * flops_per_token / (devices * peak_tflops * 1e12)


def peak(sku: str, precision: str = "bf16") -> peaks.Peak | None:
    """Dense peak of one device by its name in the table; None where the table does not know it."""
    return peaks.PEAKS.get((sku, precision))


def sku_of(device_name: str) -> str | None:
    """The table's name for what NVML or torch calls a device (``NVIDIA H100 80GB HBM3``); None where unknown."""
    words = device_name.upper()
    for needed, sku in peaks.NAMES:
        if all(word in words for word in needed):
            return sku
    return None
