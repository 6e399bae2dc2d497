"""A quantized network without its classifier: the features that it makes at given bit-widths.

The traced function is cut before an operation, so that nothing of the network is rewritten, and its folded
weights and calibrated ranges stay. What is left counts in size, bit-operations and latency; the classifier,
which a few-shot learner replaces by prototypes, does not.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import hwmodel as hw

from .batches import Inputs
from .quantized import QuantizedNetwork
from .traced import Traced


@dataclass(frozen=True, eq=False)
class _Cut(Traced):
    """The function up to what the operation `before` reads."""

    whole: Traced | None = None
    before: str = ""

    def workload(self, batch: int = 1) -> hw.Workload:
        if batch not in self._workloads:
            assert self.whole is not None
            self._workloads[batch] = _cut(self.whole.workload(batch), self.before)
        return self._workloads[batch]


def headless(network: QuantizedNetwork, before: str | None = None) -> QuantizedNetwork:
    """The network up to what one of its operations reads: `quantized_logits` are then features.

    Its bit-widths are those of the points that are left, the first ones of the network's. Exports and
    training take the whole network.

    Args:
        before: name of the operation that is left out with all that follows; default: the last with weights.

    Raises:
        ValueError: no such operation, one that does not read an activation, or others that go on beside it.
    """
    work, whole = network.workload, network.traced
    if before is None:
        weighted = [op.name for op in work.operations if op.weight_point >= 0]
        if not weighted:
            raise ValueError(f"{network.name} has no operation with weights to leave out")
        before = weighted[-1]
    if before not in whole.parts:
        cut = _Cut(
            whole.apply,
            whole.params,
            whole.sample,
            whole.quantize_pooled_input,
            whole.lowering,
            name=whole.name,
            whole=whole,
            before=before,
        )
        cut.workload()
        whole.parts[before] = cut
    return network.replace(traced=whole.parts[before])  # type: ignore[attr-defined]


def quantized_features(
    network: QuantizedNetwork,
    bits: Int[Array, " n"],
    inputs: Inputs,
    *,
    before: str | None = None,
    chunk: int | None = None,
) -> Float[Array, "N ..."]:
    """What the classifier would be given, with the network's points at `bits`; a pure function.

    Args:
        bits: (n,) of all of the network's points, or of those of `headless(network, before)`.
        before, chunk: as of `headless` and `QuantizedNetwork.quantized_logits`.
    """
    part = headless(network, before)
    return part.quantized_logits(jnp.asarray(bits)[: len(part.workload.points)], inputs, chunk=chunk)


def _cut(work: hw.Workload, before: str) -> hw.Workload:
    names = [op.name for op in work.operations]
    if before not in names:
        raise ValueError(f"there is no operation {before!r}; the last ones are {', '.join(names[-3:])}")
    k, program = names.index(before), work.program
    first = work.operations[k].equations[0]
    read = [v for v in program.equations[first].inputs if not program.is_weight(v)]
    beside = [op.name for op in work.operations[:k] if max(op.equations, default=0) > first]
    source = _maker(work, read[0]) if len(read) == 1 else None
    if source is None or beside:
        why = f"{beside[0]!r} goes on after it" if beside else "it does not read one tensor of the network"
        raise ValueError(f"the network cannot be cut before {before!r}: {why}")
    operations = tuple(
        replace(op, is_output=i == source) if i == source or op.is_output else op
        for i, op in enumerate(work.operations[:k])
    )
    return hw.Workload(
        operations,
        tuple(point for point in work.points if point.operation < k),
        replace(program, equations=program.equations[:first], outputs=(read[0],)),
        work.name,
    )


def _maker(work: hw.Workload, value: int) -> int | None:
    """The operation whose output a value is, or shows; None: a graph input."""
    program = work.program
    of = {e: i for i, op in enumerate(work.operations) for e in op.equations}
    while (made_by := program.producer.get(value)) is not None:
        if made_by in of:
            return of[made_by]
        value = program.equations[made_by].inputs[0]
    return None
