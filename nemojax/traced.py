"""A network's function with its workload at every batch size that it is run with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hwmodel import Operation, Workload, chunk_within, trace

from .batches import Inputs, count, standard
from .interpreter import Folded, Quantize, carried, execute
from .lowering import Lowering

# A micro-batch on a CPU should stay in its caches: four images of EfficientNet-Lite0 at 160², say.
CPU_ACTIVATION_BYTES = 10_000_000
DEVICE_IMAGES = 256


@dataclass(frozen=True, eq=False)
class Traced:
    """`apply(params, inputs)` as the interpreter runs it; hashed by identity, so a static argument of jit."""

    apply: Callable[[Any, Any], Any]
    params: Any  # pytree of ShapeDtypeStruct
    sample: Any  # pytree of ShapeDtypeStruct: one sample of the inputs, without their leading axis
    quantize_pooled_input: bool
    lowering: Lowering
    _workloads: dict[int, Workload] = field(default_factory=dict)
    compilations: list[tuple[int, ...]] = field(default_factory=list)  # shapes that `compiled_logits` met
    parts: dict[str, "Traced"] = field(default_factory=dict)  # of `headless`, by the operation left out
    name: str = "network"

    def workload(self, batch: int = 1) -> Workload:
        """The workload at a batch size; points and operations are the same at all of them."""
        if batch not in self._workloads:
            inputs = jax.tree.map(lambda s: jax.ShapeDtypeStruct((batch, *s.shape), s.dtype), self.sample)
            work = trace(
                self.apply,
                self.params,
                inputs,
                quantize_pooled_input=self.quantize_pooled_input,
                name=self.name,
            )
            if len(work.program.outputs) != 1:
                raise ValueError(
                    f"the function gives {len(work.program.outputs)} arrays: return one, its logits, alone"
                )
            for other in self._workloads.values():
                if _shape_free(work) != _shape_free(other):
                    raise ValueError(
                        "the function computes other steps at another batch size, so it cannot be calibrated "
                        "at one and run at another: make its weights' shapes independent of the batch"
                    )
            self._workloads[batch] = work
        return self._workloads[batch]

    @property
    def micro_batch(self) -> int:
        """Samples run together: a power of two whose largest activation fits the caches (CPU), or as many as
        `hwmodel.memory_budget` has room for, `DEVICE_IMAGES` at most.
        """
        work = self.workload()
        if self.lowering != "cpu":
            return chunk_within(DEVICE_IMAGES, partial(activation_bytes, work))
        largest = 4 * max(op.o_elems for op in work.operations)
        return max(1, 1 << (max(1, CPU_ACTIVATION_BYTES // largest).bit_length() - 1))

    def run(
        self, folded: Folded, inputs: Inputs, quantize: Quantize | None = None, chunk: int | None = None
    ) -> jax.Array:
        """Logits (N, ...) of N samples, at most `chunk` (default: `micro_batch`) at a time.

        The chunk changes memory and speed, and the result by rounding alone: samples do not meet each other.
        """
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        inputs, total = standard(inputs), count(inputs)
        size = min(chunk or self.micro_batch, total)
        work = self.workload(size)

        def step(batch: Inputs) -> jax.Array:
            leaves = tuple(jax.tree.leaves(batch))
            return execute(work, folded, leaves, lowering=self.lowering, quantize=quantize)[0]

        if size == total:
            return step(inputs)
        short = -total % size  # the last chunk is filled up with the last sample, which is dropped again

        def rows(leaf: jax.Array) -> jax.Array:
            padded = jnp.pad(leaf, [(0, short)] + [(0, 0)] * (leaf.ndim - 1), mode="edge")
            return padded.reshape(-1, size, *leaf.shape[1:])

        logits = jax.lax.map(step, jax.tree.map(rows, inputs))
        return logits.reshape(-1, *logits.shape[2:])[:total]


def activation_bytes(work: Workload, chunk: int) -> int:
    """Bytes of the activations of `chunk` samples at the fullest moment, in float32: an estimate.

    An output lives until its last reader has run. That of the running operation counts twice: before its
    quantizer and behind it. A candidate needs its own quantized kernels besides (`candidate_bytes`).
    """
    last = {e.producer: i for i, op in enumerate(work.operations) for e in op.parents}
    alive = most = 0
    for i, op in enumerate(work.operations):
        alive += op.o_elems
        most = max(most, alive + op.o_elems)
        alive -= sum(work.operations[p].o_elems for p in {e.producer for e in op.parents} if last[p] == i)
    return 4 * chunk * most


def _shape_free(work: Workload) -> object:
    """What must be alike in the traces at all batch sizes: equations, the points, and the shapes of the
    weights that are carried from one trace to the others."""
    program = work.program
    equations = [(eqn.name, eqn.inputs, eqn.outputs) for eqn in program.equations]
    kernels = [program.equations[op.equations[0]].inputs[1] for op in work.operations if _multiplies(op)]
    shapes = [program.values[v].shape for v in (*kernels, *carried(work))]
    return equations, shapes, work.point_names


def _multiplies(op: Operation) -> bool:
    return op.weight_point >= 0 and op.kind != "gather"
