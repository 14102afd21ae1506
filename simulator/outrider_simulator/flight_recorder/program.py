"""What each rank of a 4D job calls in a step: the pipeline's schedule with tensor, context and data traffic in it.

Flow: Shape (how the job is written) -> one list of Calls for each role. A role is a place on the pipeline: all ranks
of one stage run the same code and differ in their groups and peers alone, which are resolved where a call is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from outrider_simulator.flight_recorder import interleaved
from outrider_simulator.flight_recorder import layout as layouts

COLLECTIVE, P2P, SYNC, STOP = "collective", "p2p", "sync", "stop"
NEXT, PREVIOUS = 1, -1
ALL_TO_ALL: Final = "all_to_all"

Sizes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Part:
    """One send or recv. ``step`` is the peer's distance on the group's axis, round the corner for a ring."""

    direction: str  # "send" or "recv"
    step: int
    sizes: tuple[int, ...]
    dtype: str = "BFloat16"


@dataclass(frozen=True)
class Member:
    """One collective within a coalesced batch of them."""

    op: str
    inputs: Sizes
    outputs: Sizes


@dataclass(frozen=True, eq=False)
class Call:
    """One line of the training script that reaches the communication library (or waits for the device).

    ``blocking``: the computation that follows needs the result. ``compute_us``: device work between the call before
    and this one. ``batched`` sends and recvs are one coalesced operation, and so are collectives with ``members``.
    """

    what: str
    kind: str = ""  # kind of the group
    op: str = ""
    inputs: Sizes = ()
    outputs: Sizes = ()
    dtype: str = "BFloat16"
    parts: tuple[Part, ...] = ()
    batched: bool = False
    blocking: bool = True
    compute_us: float = 200.0
    place: str = ""  # what the line is for; becomes the stack
    members: tuple[Member, ...] = ()

    @property
    def signature(self) -> tuple[object, ...]:
        """What all members of the group have to agree on. Tokens go to experts unevenly, so all_to_all has no size."""
        if self.op == ALL_TO_ALL:
            return (self.op, self.dtype)
        return (self.op, self.inputs, self.outputs, self.dtype, self.members)

    @property
    def operations(self) -> int:
        """Logical operations, as the recorder counts them."""
        return len(self.parts) or len(self.members) or 1

    @property
    def entries(self) -> int:
        """Entries that a recorder of format 2.7 or newer makes of it."""
        return self.operations + (self.batched or bool(self.members))


@dataclass(frozen=True)
class Shape:
    """How the job is written."""

    layers: int = 1  # of each stage
    microbatches: int = 2
    schedule: str = "1f1b"  # or "gpipe", or "interleaved"
    chunks: int = 2  # of the model on each stage, with the interleaved schedule
    batched: bool = True  # pipeline's sends and recvs by batch_isend_irecv
    sequence: bool = True  # tensor parallelism with sequence parallelism: all_gather and reduce_scatter
    ring: bool = False  # context parallelism by a ring of sends; else by all_gather of keys and values
    sharded: bool = True  # data parallelism with sharded weights; else one all_reduce for each layer
    barrier: bool = False  # a barrier of the world closes each step
    old_names: bool = True  # _all_gather_base rather than all_gather_single
    bundled: bool = False  # a step's weights, and its gradients, go in one coalesced batch each


HIDDEN: Final = 4096
_GATHER, _SCATTER = "_all_gather_base", "_reduce_scatter_base"
TOKENS: Final = 8192


def step(layout: layouts.Layout, shape: Shape, stage: int) -> list[Call]:
    """The calls of one training step on one pipeline stage."""
    writer = _Writer(layout, shape, stage)
    writer.gather_weights()
    writer.pipeline()
    writer.finish()
    return writer.calls


class _Writer:
    """Writes the calls of one stage, in order."""

    def __init__(self, layout: layouts.Layout, shape: Shape, stage: int) -> None:
        self.calls: list[Call] = []
        self._shape = shape
        self._stage = stage
        self._sizes = dict(layout.mesh.axes)
        self._stages = self._sizes["pp"]
        self._data = "dp_cp" if self._sizes["cp"] > 1 and self._sizes["dp"] > 1 else "dp"
        if self._sizes["dp"] == 1 and self._sizes["cp"] > 1:
            self._data = "cp"
        self._embedding = any(group.kind == layouts.EMBEDDING for group in layout.groups)
        kinds = {group.kind for group in layout.groups}
        self._experts = layouts.EXPERT in kinds
        self._data_size = self._sizes["dp"] * self._sizes["cp"]
        self._model = layouts.MODEL in kinds and self._data_size > 1
        self._tokens = TOKENS // self._sizes["cp"]

    def gather_weights(self) -> None:
        if self._shape.sharded and self._data_size > 1 and self._shape.bundled:
            self._bundle(_GATHER, "fsdp_gather", "BFloat16")
        elif self._shape.sharded and self._data_size > 1:
            for layer in range(self._shape.layers):
                self._gather(
                    self._data, (HIDDEN * (layer + 3) * 16 // self._data_size,), self._data_size, "fsdp_gather"
                )

    def pipeline(self) -> None:
        if self._shape.schedule == "gpipe":
            self._gpipe()
        elif self._shape.schedule == "interleaved":
            self._interleaved()
        else:
            self._one_forward_one_backward()

    def finish(self) -> None:
        if self._data_size > 1 and self._shape.sharded and self._shape.bundled:
            self._bundle(_SCATTER, "fsdp_reduce", "Float")
        elif self._data_size > 1:
            for layer in reversed(range(self._shape.layers)):
                size = HIDDEN * (layer + 3) * 16
                if self._shape.sharded:
                    self._scatter(self._data, (size // self._data_size,), self._data_size, "fsdp_reduce", "Float")
                else:
                    self._collective(self._data, "all_reduce", ((size,),), ((size,),), "ddp_reduce", "Float", False)
        if self._embedding and self._stage in (0, self._stages - 1):
            self._reduce(layouts.EMBEDDING, (128256 // self._sizes["tp"], HIDDEN), "embedding_reduce", "Float")
        if self._model:
            self._reduce(layouts.MODEL, (), "grad_norm", "Float")
            self._reduce(self._data, (), "loss", "Float")
        else:
            self._reduce(layouts.WORLD, (), "grad_norm", "Float")
        self.calls.append(Call(SYNC, place="loss_item", compute_us=50.0))
        if self._shape.barrier:
            self._collective(layouts.WORLD, "all_reduce_barrier", ((1,),), ((1,),), "barrier", "Float")
            self.calls.append(Call(SYNC, place="barrier", compute_us=10.0))

    def _gpipe(self) -> None:
        for _ in range(self._shape.microbatches):
            self._transfer(("recv", PREVIOUS))
            self._compute("forward")
            self._transfer(("send", NEXT))
        for _ in range(self._shape.microbatches):
            self._transfer(("recv", NEXT))
            self._compute("backward")
            self._transfer(("send", PREVIOUS))

    def _one_forward_one_backward(self) -> None:
        warmup = min(self._shape.microbatches, self._stages - self._stage - 1)
        steady = self._shape.microbatches - warmup
        for _ in range(warmup):
            self._transfer(("recv", PREVIOUS))
            self._compute("forward")
            self._transfer(("send", NEXT))
        if steady:
            self._transfer(("recv", PREVIOUS))
        for index in range(steady):
            self._compute("forward")
            self._transfer(("send", NEXT), ("recv", NEXT))
            self._compute("backward")
            last = index == steady - 1
            self._transfer(("send", PREVIOUS), *(() if last else (("recv", PREVIOUS),)))
        for _ in range(warmup):
            self._transfer(("recv", NEXT))
            self._compute("backward")
            self._transfer(("send", PREVIOUS))

    def _interleaved(self) -> None:
        last = self._stages * self._shape.chunks - 1
        for row in interleaved.table(self._stages, self._shape.chunks, self._shape.microbatches):
            own = row[self._stage]
            if own is not None:
                self._compute(own.direction)
            if self._stages > 1:
                self._hand(interleaved.handed(row, self._stage, last), batched=True)

    def _transfer(self, *wanted: tuple[str, int]) -> None:
        """Sends and recvs to stages that exist."""
        found = [(direction, step) for direction, step in wanted if 0 <= self._stage + step < self._stages]
        self._hand(found, self._shape.batched)

    def _hand(self, wanted: list[tuple[str, int]], batched: bool) -> None:
        """Sends and recvs of activations; together when batched, one after another otherwise."""
        sizes = (self._tokens // (self._sizes["tp"] if self._shape.sequence else 1), 1, HIDDEN)
        parts = tuple(Part(direction, step, sizes) for direction, step in wanted)
        if not parts:
            return
        place = "pipeline_" + "_".join(part.direction for part in parts)
        if batched:
            self.calls.append(Call(P2P, "pp", "coalesced", parts=parts, batched=True, place=place, compute_us=30.0))
            return
        # On a pair's own communicator both ends may not send first, so stages of odd index receive first.
        for part in sorted(parts, key=lambda part: part.direction, reverse=self._stage % 2 == 0):
            blocking = part.direction == "recv"
            self.calls.append(
                Call(P2P, "pp", part.direction, parts=(part,), blocking=blocking, place=place, compute_us=20.0)
            )

    def _compute(self, direction: str) -> None:
        for _ in range(self._shape.layers):
            self._tensor(f"{direction}_attention")
            self._context(direction)
            if self._experts:
                self._exchange(f"{direction}_dispatch")
                self._exchange(f"{direction}_combine")
            else:
                self._tensor(f"{direction}_mlp")

    def _exchange(self, place: str) -> None:
        sizes = ((self._tokens, HIDDEN),)
        self._collective(layouts.EXPERT, ALL_TO_ALL, sizes, sizes, place)

    def _bundle(self, op: str, place: str, dtype: str) -> None:
        """One coalesced batch of what would be a collective for each layer."""
        if not self._shape.old_names:
            op = {_GATHER: "all_gather_single", _SCATTER: "reduce_scatter_single"}[op]
        members = []
        for layer in range(self._shape.layers + 1):
            whole = ((HIDDEN * (layer + 3) * 16,),)
            part = ((HIDDEN * (layer + 3) * 16 // self._data_size,),)
            members.append(Member(op, part, whole) if "gather" in op else Member(op, whole, part))
        blocking = "gather" in op
        call = Call(
            COLLECTIVE, self._data, "coalesced", dtype=dtype, blocking=blocking, place=place, members=tuple(members)
        )
        self.calls.append(call)

    def _tensor(self, place: str) -> None:
        tp = self._sizes["tp"]
        if tp == 1:
            return
        if not self._shape.sequence:
            self._reduce("tp", (self._tokens, 1, HIDDEN), place)
            return
        self._gather("tp", (self._tokens // tp, 1, HIDDEN), tp, f"{place}_gather")
        self._scatter("tp", (self._tokens // tp, 1, HIDDEN), tp, f"{place}_scatter", blocking=True)

    def _context(self, direction: str) -> None:
        cp = self._sizes["cp"]
        if cp == 1:
            return
        heads = (2, self._tokens, 8 * 128 // self._sizes["tp"])
        if self._shape.ring:
            parts = (Part("send", NEXT, heads), Part("recv", PREVIOUS, heads))
            for _ in range(cp - 1):
                place = f"{direction}_ring"
                self.calls.append(Call(P2P, "cp", "coalesced", parts=parts, batched=True, place=place))
        elif direction == "forward":
            self._gather("cp", heads, cp, "forward_keys")
        else:
            self._scatter("cp", heads, cp, "backward_keys", blocking=True)

    def _gather(self, kind: str, part: tuple[int, ...], ranks: int, place: str) -> None:
        op = _GATHER if self._shape.old_names else "all_gather_single"
        self._collective(kind, op, (part,), ((part[0] * ranks, *part[1:]),), place)

    def _scatter(
        self, kind: str, part: tuple[int, ...], ranks: int, place: str, dtype: str = "BFloat16", blocking: bool = False
    ) -> None:
        op = _SCATTER if self._shape.old_names else "reduce_scatter_single"
        self._collective(kind, op, ((part[0] * ranks, *part[1:]),), (part,), place, dtype, blocking)

    def _reduce(self, kind: str, sizes: tuple[int, ...], place: str, dtype: str = "BFloat16") -> None:
        self._collective(kind, "all_reduce", (sizes,), (sizes,), place, dtype)

    def _collective(
        self,
        kind: str,
        op: str,
        inputs: Sizes,
        outputs: Sizes,
        place: str,
        dtype: str = "BFloat16",
        blocking: bool = True,
    ) -> None:
        self.calls.append(Call(COLLECTIVE, kind, op, inputs, outputs, dtype, blocking=blocking, place=place))


def stop() -> Call:
    """The line at which a rank's host stands for ever."""
    return Call(STOP, place="stuck")
