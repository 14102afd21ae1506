"""FLOPs per token and MFU, against the published figures of Llama 3 405B."""

import pytest

from outrider_analysis import flops, peaks

LLAMA_405B = flops.Shape(126, 16384, 128, 8, 128, 53248, 128256)


def test_parameters_in_matrix_multiplies_leave_out_the_embedding() -> None:
    assert LLAMA_405B.matmul_parameters == 403_747_897_344


@pytest.mark.parametrize(
    ("sequence", "convention", "expected"),
    [
        (8192, "full", 2_625_424_588_800),
        (8192, "half", 2_523_955_986_432),
        (131072, "full", 5_669_482_659_840),
        (131072, "half", 4_045_985_021_952),
        (8192, "causal", 2_523_955_986_432 + 6 * 126 * 128 * 128),
    ],
)
def test_flops_per_token_of_each_convention(sequence: int, convention: str, expected: int) -> None:
    assert flops.flops_per_token(LLAMA_405B, sequence, convention) == expected


def test_an_unknown_convention_is_refused_with_the_good_ones() -> None:
    with pytest.raises(ValueError, match="'sparse' is not one of full, causal, half"):
        flops.flops_per_token(LLAMA_405B, 8192, "sparse")


def test_mfu_of_the_published_run_on_the_dense_peak() -> None:
    per_token = flops.flops_per_token(LLAMA_405B, 8192)
    tokens_per_s = 400e12 / per_token * 16384
    peak = flops.peak("H100-SXM5")
    assert peak is not None
    assert flops.mfu(tokens_per_s, per_token, 16384, peak.tflops) == pytest.approx(0.404, abs=5e-4)


def test_mfu_without_a_device_is_refused() -> None:
    with pytest.raises(ValueError, match="devices 0"):
        flops.mfu(1.0, 1.0, 0, 989.4)


@pytest.mark.parametrize(
    ("name", "sku"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-SXM5"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H200", "H200-SXM"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4"),
        ("NVIDIA GB200", "GB200-per-GPU-1200W"),
        ("Tesla T4", None),
    ],
)
def test_a_device_is_known_by_the_name_its_driver_gives(name: str, sku: str | None) -> None:
    assert flops.sku_of(name) == sku


def test_every_peak_is_positive_has_a_source_and_every_name_leads_to_one() -> None:
    assert all(peak.tflops > 0 and peak.source for peak in peaks.PEAKS.values())
    assert {sku for _, sku in peaks.NAMES} <= {sku for sku, precision in peaks.PEAKS if precision == "bf16"}
