"""Process groups of the four axes, and what they do to one stage of the model.

The groups are made here one by one, each with its time-out and its name, in place of a ready-made 4D device mesh: the
time-out given at start does not reach a mesh's groups, which would let a hang sit for half an hour. A name such as
`mesh_tp` is what a flight recorder shows.
"""

import dataclasses
import datetime
import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import device_mesh, fsdp, tensor
from torch.distributed.tensor import parallel

import llama4d_mesh as mesh
from llama4d_model import Stage
from llama4d_supervisor import Launch

# Ranks of a busy machine reach the store far apart: importing torch alone has taken from 2 to 100 s. This bounds the
# wait for the last of them; --timeout-s bounds everything after.
GATHERING_TIMEOUT_S = 600.0


@dataclasses.dataclass(frozen=True)
class Groups:
    """This rank's process group on each axis, and the two meshes that sharding speaks of."""

    layout: mesh.Mesh
    coords: dict[str, int]
    device: torch.device
    pp: dist.ProcessGroup
    cp: dist.ProcessGroup
    checkpoint: dist.ProcessGroup  # all ranks, on the host, used by nothing but checkpoints: they may run beside a step
    shard_mesh: device_mesh.DeviceMesh  # dp and cp as one: both see other tokens through equal weights
    tensor_mesh: device_mesh.DeviceMesh | None  # None when tp is 1


def start(launch: Launch, layout: mesh.Mesh, timeout_s: float) -> Groups:
    """Joins the other ranks and makes every group; returns on all ranks or raises within the time-out."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", launch.local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    timeout = datetime.timedelta(seconds=timeout_s)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=_store(launch),
        rank=launch.rank,
        world_size=launch.world_size,
        timeout=timeout,
    )
    backend = "nccl" if on_gpu else "gloo"

    def group(*axes: str) -> dist.ProcessGroup:
        # Every rank walks all lists of an axis in one order, as making a group is a collective of the world.
        mine: dist.ProcessGroup | None = None
        for ranks in layout.groups(*axes):
            made = dist.new_group(ranks, timeout=timeout, backend=backend, group_desc="mesh_" + "_".join(axes))
            mine = made if launch.rank in ranks else mine
        assert mine is not None
        return mine

    coords = layout.coords(launch.rank)
    pp, cp, shard = group("pp"), group("cp"), group("dp", "cp")
    tp = group("tp") if layout.size("tp") > 1 else None
    checkpoint = dist.new_group(timeout=timeout, backend="gloo", group_desc="checkpoint")
    shard_mesh, tensor_mesh = _meshes(layout, coords, device, shard, tp)
    return Groups(layout, coords, device, pp, cp, checkpoint, shard_mesh, tensor_mesh)


def _store(launch: Launch) -> dist.Store:  # type: ignore[name-defined]
    """The store where ranks find each other, under a prefix of this attempt.

    torchrun's store outlives an attempt, and torch 2.13 no longer keeps attempts apart in it, so a restarted rank
    would read the addresses of dead peers and fail to connect.
    """
    if launch.world_size == 1:
        return dist.HashStore()  # type: ignore[attr-defined]
    wait = datetime.timedelta(seconds=GATHERING_TIMEOUT_S)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serves = launch.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    client = dist.TCPStore(  # type: ignore[attr-defined]
        host, port, launch.world_size, serves, timeout=wait, wait_for_workers=False, multi_tenant=True
    )
    store = dist.PrefixStore(f"attempt-{launch.attempt}-generation-{launch.generation}", client)  # type: ignore[attr-defined]
    if store.add("arrived", 1) == launch.world_size:
        store.set("gathered", "yes")
    store.wait(["gathered"], wait)
    return store


def _meshes(
    layout: mesh.Mesh,
    coords: dict[str, int],
    device: torch.device,
    shard: dist.ProcessGroup,
    tp: dist.ProcessGroup | None,
) -> tuple[device_mesh.DeviceMesh, device_mesh.DeviceMesh | None]:
    """The (dp and cp, tp) mesh of this rank's pipeline stage, sliced; whatever order the axes were given in."""
    if tp is None:
        return device_mesh.DeviceMesh.from_group(shard, device.type, mesh_dim_names=("dp_cp",)), None
    rows = [ranks for ranks in layout.groups("tp") if layout.coords(ranks[0])["pp"] == coords["pp"]]
    both = device_mesh.DeviceMesh.from_group(
        [shard, tp], device.type, mesh=torch.tensor(rows), mesh_dim_names=("dp_cp", "tp")
    )
    return both["dp_cp"], both["tp"]


def shard_tensors(stage: Stage, groups: Groups) -> None:
    """Tensor parallelism with sequence parallelism, in place.

    Between the branches each rank holds a part of the tokens; a branch gathers them, works on its part of the heads
    or of the feed-forward width, and leaves the sum scattered over tokens again. Norm weights get a plan too, as the
    gradient norm and the optimizer want all parameters on one mesh. Every rank made all weights from the seed, so
    nothing is sent (`src_data_rank=None`).
    """
    if groups.tensor_mesh is None:
        return
    tokens, whole = tensor.Shard(1), tensor.Replicate()
    gather = parallel.PrepareModuleInput(input_layouts=(tokens, None, None), desired_input_layouts=(whole, None, None))
    plan: dict[str, parallel.ParallelStyle] = {
        "attention_norm": parallel.SequenceParallel(),
        "attention": gather,
        "attention.wq": parallel.ColwiseParallel(),
        "attention.wk": parallel.ColwiseParallel(),
        "attention.wv": parallel.ColwiseParallel(),
        "attention.wo": parallel.RowwiseParallel(output_layouts=tokens),
        "ffn_norm": parallel.SequenceParallel(),
        "ffn": parallel.PrepareModuleInput(input_layouts=(tokens,), desired_input_layouts=(whole,)),
        "ffn.w1": parallel.ColwiseParallel(),
        "ffn.w2": parallel.RowwiseParallel(output_layouts=tokens),
        "ffn.w3": parallel.ColwiseParallel(),
    }
    for block in stage.layers.values():
        parallel.parallelize_module(block, groups.tensor_mesh, plan, src_data_rank=None)
    ends: dict[str, parallel.ParallelStyle] = {}
    if stage.is_first:
        ends["embedding"] = parallel.RowwiseParallel(input_layouts=whole, output_layouts=tokens)
    if stage.is_last:
        ends["norm"] = parallel.SequenceParallel()
        ends["output"] = parallel.ColwiseParallel(input_layouts=tokens, output_layouts=whole)
    parallel.parallelize_module(stage, groups.tensor_mesh, ends, src_data_rank=None)


def shard_data(stage: Stage, groups: Groups, keep_gathered: bool) -> None:
    """FSDP2 over dp and cp together, in place: each block is a unit, and what is left of the stage another.

    `keep_gathered` holds weights between forward and backward, which a step of several microbatches wants: the
    pipeline's schedule and the loop over microbatches would otherwise gather them again for every one. Gradients are
    summed, as the loss is already a share of the global mean.
    """
    for block in stage.layers.values():
        fsdp.fully_shard(block, mesh=groups.shard_mesh, reshard_after_forward=not keep_gathered)
    fsdp.fully_shard(stage, mesh=groups.shard_mesh, reshard_after_forward=not keep_gathered)
    for module in stage.modules():
        if isinstance(module, fsdp.FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum


def local(value: torch.Tensor) -> torch.Tensor:
    """The part of a parameter or gradient that lies on this rank."""
    return value.to_local() if isinstance(value, tensor.DTensor) else value


def squared_norm(models: Sequence[nn.Module], groups: Groups) -> float:
    """This rank's part of the squared gradient norm, such that the sum over all ranks of the world is the whole.

    An element counts on one rank: the data shards and the pipeline stages share nothing, and what tensor parallelism
    replicates (norm weights) counts at tp index 0 alone.
    """
    norms = [
        torch.linalg.vector_norm(local(parameter.grad), dtype=torch.float64)
        for model in models
        for parameter in model.parameters()
        if parameter.grad is not None and (groups.coords["tp"] == 0 or not _replicated(parameter))
    ]
    return float(torch.stack(norms).square().sum()) if norms else 0.0


def _replicated(parameter: torch.Tensor) -> bool:
    """Whether every tensor-parallel rank holds the same elements."""
    if not isinstance(parameter, tensor.DTensor) or "tp" not in (parameter.device_mesh.mesh_dim_names or ()):
        return True
    return parameter.placements[-1].is_replicate()


def clip(models: Sequence[nn.Module], norm: float, largest: float) -> None:
    """Scales every gradient so that a norm taken over all axes is at most `largest`; NaN passes through."""
    scale = min(1.0, largest / (norm + 1e-6))
    for model in models:
        for parameter in model.parameters():
            if parameter.grad is not None:
                local(parameter.grad).mul_(scale)


def sum_over_world(values: list[float], groups: Groups) -> list[float]:
    """The sum of each value over all ranks, equal in every bit on every rank."""
    total = torch.tensor(values, dtype=torch.float64, device=groups.device)
    dist.all_reduce(total)
    return [float(value) for value in total.tolist()]
