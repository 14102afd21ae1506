"""Which GPU a rank uses where CUDA numbers them anew, against the rules of CUDA's own guide."""

import pytest

from outrider_agent import node_view, standing, visible

EIGHT = {f"gpu{number}": {"uuid": f"GPU-{number}a2b-{number}"} for number in range(8)}
SMALL = {"uuid": "GPU-d", "name": "NVIDIA DGX Display"}
MIXED = {**{name: {**about, "name": "NVIDIA A100-SXM4-80GB"} for name, about in EIGHT.items()}, "gpu3": SMALL}
UNREAD = {f"gpu{number}": {"pci": "", "uuid": None} for number in range(8)}


@pytest.mark.parametrize(
    ("given", "devices", "expected"),
    [
        ("4,6", EIGHT, ("gpu4", "gpu6")),
        (" 4 , 6 ", EIGHT, ("gpu4", "gpu6")),
        ("6,4,0", EIGHT, ("gpu6", "gpu4")),
        ("5", EIGHT, ("gpu5", "gpu5")),  # one alone: it is everybody's
        ("4,6", {}, ("gpu4", "gpu6")),  # nobody has read the GPUs
        ("4,8", EIGHT, ("gpu4", "gpu4")),  # there is no ninth, so one is seen
        ("8,4", EIGHT, ("", "")),  # what follows one that is not there is not seen
        ("-1", EIGHT, ("", "")),
        ("", EIGHT, ("", "")),
        ("none", EIGHT, ("", "")),
        ("GPU-3a2b-3,GPU-1a2b-1", EIGHT, ("gpu3", "gpu1")),
        ("gpu-3A2B,GPU-1", EIGHT, ("gpu3", "gpu1")),  # cut short, and unique
        ("GPU-,2", EIGHT, ("", "")),  # not unique
        ("GPU-9,2", EIGHT, ("", "")),  # of no GPU here
        ("GPU-3,2", UNREAD, ("", "gpu2")),
        ("GPU-3,2", {}, ("", "gpu2")),
        ("MIG-0f3a,MIG-77bc", EIGHT, ("", "")),
        ("MIG-GPU-3a2b/1/0,5", EIGHT, ("", "gpu5")),
        ("99999999999999999999,1", EIGHT, ("", "")),
    ],
)
def test_entries_name_gpus_by_number_or_uuid_and_what_cannot_be_told_is_not(
    given: str, devices: dict[str, object], expected: tuple[str, ...]
) -> None:
    assert visible.gpus(given, None, 2, devices) == expected


def test_a_rank_beyond_the_list_is_not_placed() -> None:
    assert visible.gpus("2,3", None, 4, EIGHT) == ("gpu2", "gpu3", "", "")


@pytest.mark.parametrize(
    ("given", "order", "expected"),
    [
        ("3,4", None, ("", "")),  # the fastest come first, and which these are is not known
        ("3,4", "FASTEST_FIRST", ("", "")),
        ("3,4", "PCI_BUS_ID", ("gpu3", "gpu4")),
        ("GPU-4,5", None, ("gpu4", "")),
        ("5,8", None, ("", "")),
        (None, None, ("", "")),
        (None, "PCI_BUS_ID", None),
    ],
)
def test_indices_name_no_gpu_where_gpus_differ_and_cuda_orders_them_by_speed(
    given: str | None, order: str | None, expected: tuple[str, ...] | None
) -> None:
    assert visible.gpus(given, order, 2, MIXED) == expected
    alike = {name: {**about, "name": "NVIDIA A100-SXM4-80GB"} for name, about in EIGHT.items()}
    assert visible.gpus("3,4", order, 2, alike) == ("gpu3", "gpu4")
    assert visible.gpus(None, order, 2, alike) is None


def test_metrics_show_the_gpu_of_each_rank_that_lives() -> None:
    held = standing.Standing("n0", "j", living={4: 10, 6: 12}, gone={5})
    assert node_view._gpu_of_ranks(held, EIGHT) == {4: "0", 5: "1", 6: "2"}
    held.visible_devices = "7,3"
    assert node_view._gpu_of_ranks(held, EIGHT) == {4: "7", 5: "3", 6: "unknown"}
    assert node_view._gpu_of_ranks(held, MIXED) == dict.fromkeys((4, 5, 6), "unknown")
    held.device_order = "PCI_BUS_ID"
    assert node_view._gpu_of_ranks(held, MIXED) == {4: "7", 5: "3", 6: "unknown"}
