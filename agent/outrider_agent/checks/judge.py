"""From what a child measured, or from how it ended, to verdicts. Pure.

In: outcomes of ``children`` and measurements of ``work``. Out: results. Wrong content always fails; slowness fails
below a share of what the maker promises, or of what the other devices of the node do.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, Final

from outrider_agent.checks import bounds, children
from outrider_agent.checks.results import COULD_NOT_LOOK, FAIL, PASS, SKIPPED, WARN, Result

NO_ROOM: Final = frozenset({"MemoryError", "OutOfMemoryError"})
COMPARED: Final = frozenset({"matmul", "memory", "host-copies"})  # of GPUs: one is held against the others
SIBLINGS_MIN: Final = 3
NOT_THE_DISK: Final = frozenset({"EACCES", "EPERM", "ENOENT", "ENOTDIR"})
SLOW_NAMED_MAX: Final = 4


def ended(name: str, device: str, outcome: children.Outcome) -> Result:
    """A check whose child did not answer: hung, crashed, raised, or could not be begun."""
    verdict, text = FAIL, outcome.text
    if outcome.error == "ModuleNotFoundError":
        verdict = SKIPPED
    elif outcome.error in NO_ROOM or outcome.error == "ImportError" or outcome.state == children.UNSTARTED:
        verdict = COULD_NOT_LOOK
    elif outcome.state == children.CRASHED and "SIGKILL" in text:
        verdict = COULD_NOT_LOOK  # somebody killed it, and that tells nothing of the device
    return Result(name, device, verdict, text, seconds=outcome.seconds)


def skipped(names: Sequence[str], why: str) -> list[Result]:
    """Checks that are not run, and why."""
    return [Result(name, "", SKIPPED, why) for name in names]


def matmul(device: str, found: dict[str, Any]) -> Result:
    """Products on one GPU; the value is that of bf16."""
    by = {one["precision"]: one for one in found["found"]}
    model, text = found["model"], ", ".join(f"{name} {one['tflops']:.4g}" for name, one in by.items())
    wrong = [
        f"{name} in {one['wrong']} of {one['repeats']} ({one['elements'][0]})"
        for name, one in by.items()
        if one["wrong"]
    ]
    value, peak = float(by["bf16"]["tflops"]), bounds.peak_tflops(model, "bf16")
    if wrong:
        return Result("matmul", device, FAIL, f"wrong results: {'; '.join(wrong)}", value, "TFLOP/s")
    good = f"{model}: every result exact; TFLOP/s: {text}"
    return _fast(Result("matmul", device, PASS, good, value, "TFLOP/s"), peak, bounds.MATMUL, "its bf16 peak")


def cores(found: dict[str, Any]) -> Result:
    """Products on each core; the value is the slowest core's in fp32."""
    wrong = sorted({one["where"] for one in found["found"] if one["wrong"]}, key=_number)
    speeds = {one["where"]: 1e3 * float(one["tflops"]) for one in found["found"] if one["precision"] == "fp32"}
    median, slowest = statistics.median(speeds.values()), min(speeds, key=lambda where: speeds[where])
    value, bound = speeds[slowest], bounds.CORES.warn * median
    if wrong:
        first = next(one for one in found["found"] if one["wrong"])
        text = f"wrong results on {', '.join(wrong)}: {first['precision']} {first['elements'][0]}"
        return Result("matmul", "cpu", FAIL, text, value, "GFLOP/s", bound)
    slow = [where for where, speed in speeds.items() if speed < bound]
    text = f"{len(speeds)} cores, every result exact; median {median:.4g} GFLOP/s in fp32"
    if slow:
        text += f"; below half of it: {', '.join(slow[:SLOW_NAMED_MAX])} (or something else runs there)"
    return Result("matmul", "cpu", WARN if slow else PASS, text, value, "GFLOP/s", bound)


def memory(device: str, found: dict[str, Any]) -> Result:
    """The memory of a GPU."""
    value, model = float(found["gb_s"]), found["model"]
    if found["wrong"]:
        text = f"{found['wrong']} words of {_size(found['bytes'])} read back wrong: {'; '.join(found['places'])}"
        return Result("memory", device, FAIL, text, value, "GB/s")
    good = Result("memory", device, PASS, f"{_size(found['bytes'])} written and read back alike", value, "GB/s")
    peak = bounds.MEMORY_GB_S.get(bounds.device_of(model))
    return _fast(good, peak, bounds.DEVICE_MEMORY, "its memory's bandwidth")


def host_memory(found: dict[str, Any]) -> Result:
    """The host's memory; the value is the slowest NUMA node's copy by one core."""
    speeds = {one["where"]: float(one["gb_s"]) for one in found["copies"]}
    slowest = min(speeds, key=lambda where: speeds[where])
    value = speeds[slowest]
    if found["wrong"]:
        text = f"{found['wrong']} MiB of {_size(found['bytes'])} read back wrong: {'; '.join(found['places'])}"
        return Result("host-memory", "", FAIL, text, value, "GB/s", bounds.HOST_COPY_GB_S)
    text = f"{_size(found['bytes'])} written and read back alike; one core copies"
    bound = max(bounds.HOST_COPY_GB_S, bounds.CORES.warn * statistics.median(speeds.values()))
    verdict = WARN if value < bound else PASS
    text += f" slowest on {slowest}" if len(speeds) > 1 or verdict == WARN else ""
    return Result("host-memory", "", verdict, text, value, "GB/s", bound)


def host_copies(device: str, found: dict[str, Any]) -> Result:
    """Copies between the host and one GPU; the value is the slower way."""
    down, up = float(found["to_device_gb_s"]), float(found["from_device_gb_s"])
    if found["wrong"]:
        return Result("host-copies", device, FAIL, f"{found['wrong']} bytes came back wrong", min(down, up), "GB/s")
    text = f"to the device {down:.3g} GB/s, from it {up:.3g} GB/s, what came back is what was sent"
    peak = bounds.PCIE_GB_S.get(bounds.device_of(found["model"]))
    return _fast(Result("host-copies", device, PASS, text, min(down, up), "GB/s"), peak, bounds.PCIE, "its PCIe link")


def peer_copies(names: Sequence[str], found: dict[str, Any]) -> list[Result]:
    """Copies from each GPU to each other: one result for each pair that is wrong, or one for all."""
    pairs = found["pairs"]
    models = [bounds.device_of(model) for model in found["models"]]
    bad = [one for one in (_peer(names, models, pair) for pair in pairs) if one.verdict != PASS]
    speeds = [float(pair["gb_s"]) for pair in pairs]
    if len(bad) > len(names):  # many pairs: name the GPU that they have in common before the pairs
        common = [name for name in names if all(name in one.device.split("-") for one in bad if one.verdict == FAIL)]
        if len(common) == 1 and any(one.verdict == FAIL for one in bad):
            text = f"every one of the {len(bad)} pairs that fail has it: {bad[0].device}: {bad[0].text}"
            return [Result("peer-copies", common[0], FAIL, text, min(speeds), "GB/s", bad[0].bound)]
    if bad:
        return bad
    bound = min((_peer(names, models, pair).bound or 0.0 for pair in pairs), default=0.0) or None
    text = f"{len(pairs)} pairs, what arrived is what was sent; fastest {max(speeds):.3g} GB/s"
    return [Result("peer-copies", "", PASS, text, min(speeds), "GB/s", bound)]


def file_system(mount: str, found: dict[str, Any]) -> Result:
    """One file system; the value is how fast a large file is on the disk."""
    if found.get("error"):
        verdict = COULD_NOT_LOOK if found.get("errno") in NOT_THE_DISK else FAIL
        return Result("file-system", mount, verdict, f"could not be written: {found['error']}")
    value, late = float(found["write_mb_s"]), float(found["latency_s"])
    text = (
        f"{_size(found['bytes'])} written with fsync, read back at {found['read_mb_s']:.0f} MB/s; 4 KiB take "
        f"{1e3 * found['median_s']:.3g} ms, at most {1e3 * late:.3g} ms; {_size(found['free_bytes'])} free"
    )
    result = Result("file-system", mount, PASS, text, value, "MB/s", bounds.FILE_WRITE_MB_S)
    if not found["same"]:
        return _worse(result, FAIL, "what was read is not what was written")
    if late > bounds.FILE_LATENCY_S.fail:
        return _worse(result, FAIL, f"a small write took {late:.1f} s")
    reasons = [f"a small write took {late:.1f} s"] if late > bounds.FILE_LATENCY_S.warn else []
    reasons += [f"{value:.3g} MB/s"] if value < bounds.FILE_WRITE_MB_S else []
    little = max(bounds.FILE_FREE_BYTES_MIN, bounds.FILE_FREE_SHARE_MIN * found["size_bytes"])
    reasons += ["little room"] if found["free_bytes"] < little else []
    reasons += ["few inodes"] if found["inodes"] and found["free_inodes"] < 0.01 * found["inodes"] else []
    return _worse(result, WARN, " and ".join(reasons)) if reasons else result


def sweep(found: dict[str, Any]) -> Result:
    """What the agent's signals see, in one look."""
    seen = found["observations"]
    grave = [one for one in seen if one["severity"] in ("fatal", "error")]
    warned = [one for one in seen if one["severity"] == "warning"]
    looked = sum(one["state"] in ("ok", "partial") for one in found["signals"])
    if not looked:
        return Result("sweep", "", COULD_NOT_LOOK, "no signal could be read")
    text = f"{looked} of {len(found['signals'])} signals answered"
    told = "; ".join(
        f"{one['kind']} {one['device']}: {one['text']}".strip() for one in (grave or warned)[:SLOW_NAMED_MAX]
    )
    verdict = FAIL if grave else WARN if warned else PASS
    return Result("sweep", "", verdict, f"{told}; {text}" if told else f"{text} and found nothing wrong")


def siblings(found: Sequence[Result]) -> list[Result]:
    """The same results, where one GPU is far below the median of the node's others as a warning or a failure."""
    judged = []
    for one in found:
        others = [
            each.value
            for each in found
            if each.name == one.name and each.device != one.device and each.device.startswith("gpu") and each.value
        ]
        compared = one.name in COMPARED and one.value is not None and len(others) + 1 >= SIBLINGS_MIN
        if not compared or not one.device.startswith("gpu") or one.verdict not in (PASS, WARN):
            judged.append(one)
            continue
        median = statistics.median(others)
        share = (one.value or 0.0) / median
        verdict = FAIL if share < bounds.SIBLINGS.fail else WARN if share < bounds.SIBLINGS.warn else PASS
        why = f"{share:.0%} of what the node's other GPUs do ({median:.4g} {one.unit})"
        judged.append(one if verdict == PASS else _worse(one, FAIL if FAIL in (one.verdict, verdict) else WARN, why))
    return judged


def _peer(names: Sequence[str], models: Sequence[str], pair: dict[str, Any]) -> Result:
    source, target = pair["from"], pair["to"]
    name, value = f"{names[source]}-{names[target]}", float(pair["gb_s"])
    if pair["wrong"]:
        return Result("peer-copies", name, FAIL, f"{pair['wrong']} bytes arrived wrong", value, "GB/s")
    links = bounds.NVLINK_GB_S.get(models[source])
    good = Result("peer-copies", name, PASS, f"{value:.3g} GB/s", value, "GB/s")
    if links is not None and not pair["p2p"]:
        return _worse(good, FAIL, "the driver lets them not reach each other, and this board has NVLink")
    if links is None and not pair["p2p"]:
        return good  # through the host; boards without links often are so
    return _fast(good, links, bounds.NVLINK, "its NVLinks one way") if links else good


def _fast(good: Result, full: float | None, share: bounds.Share, what: str) -> Result:
    """A result held against a share of what is promised; as it is where nothing is promised."""
    assert good.value is not None
    if full is None:
        return dataclasses.replace(good, text=f"{good.text}; no bound is known for this device")
    held = dataclasses.replace(good, bound=share.fail * full)
    reached = good.value / full
    if reached < share.fail:
        return _worse(held, FAIL, f"{reached:.0%} of {what}")
    if reached < share.warn:
        return _worse(dataclasses.replace(held, bound=share.warn * full), WARN, f"{reached:.0%} of {what}")
    return held


def _worse(result: Result, verdict: str, why: str) -> Result:
    return dataclasses.replace(result, verdict=verdict, text=f"{why}; {result.text}")


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _number(where: str) -> int:
    return int(where.rpartition(" ")[2])
