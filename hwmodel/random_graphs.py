"""Random workloads for tests and for scaling: a chain of operations with skip connections."""

import math

import numpy as np

from .workload import LARGEST, Edge, Kind, Operation, Workload

_WEIGHTED: tuple[Kind, ...] = ("conv", "dwconv", "dense")
_WEIGHTLESS: tuple[Kind, ...] = ("pool", "act", "add", "norm", "softmax", "layout")


def random_workload(
    seed: int | np.random.Generator,
    operations: int = 20,
    skip_probability: float = 0.3,
    *,
    weighted_probability: float = 0.7,
    tied_probability: float = 0.0,
    partial_probability: float = 0.0,
    output_probability: float = 0.0,
    weight_elems: tuple[int, int] = (1, 1 << 18),
    output_elems: tuple[int, int] = (1, 1 << 16),
    macs: tuple[int, int] = (0, 1 << 26),
) -> Workload:
    """`operations` nodes; the same seed gives the same workload.

    Each operation reads the one before it and, with `skip_probability`, one earlier operation, too. Sizes are
    log-uniform in the given ranges, both ends included.

    Args:
        seed: a whole number, or a generator, which is advanced.
        operations: number of nodes, at least 1.
        skip_probability: of a second parent.
        weighted_probability: of an operation with weights.
        tied_probability: that an operation with weights uses those of an earlier one.
        partial_probability: that an edge reads only a part of the tensor.
        output_probability: that an operation other than the last one is a graph output.
        weight_elems: smallest and largest number of weights of an operation.
        output_elems: the same for outputs.
        macs: the same for multiply-accumulates.
    """
    if operations < 1:
        raise ValueError(f"operations must be at least 1, got {operations}")
    probabilities = {
        "skip_probability": skip_probability,
        "weighted_probability": weighted_probability,
        "tied_probability": tied_probability,
        "partial_probability": partial_probability,
        "output_probability": output_probability,
    }
    for name, value in probabilities.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {value}")
    ranges = {"weight_elems": (weight_elems, 1), "output_elems": (output_elems, 1), "macs": (macs, 0)}
    for name, ((low, high), least) in ranges.items():
        if not least <= low <= high <= LARGEST:
            raise ValueError(f"{name} must be a range within [{least}, 2^53], got {(low, high)}")
    rng = np.random.default_rng(seed)
    made: list[Operation] = []
    owners: list[int] = []  # of weights
    for i in range(operations):
        producers = [i - 1] if i else []
        if i > 1 and rng.random() < skip_probability:
            producers.append(int(rng.integers(i - 1)))
        parents = []
        for producer in producers:
            whole = made[producer].o_elems
            part = int(rng.integers(1, whole + 1)) if rng.random() < partial_probability else whole
            parents.append(Edge(producer, part))
        stored, tie = 0, -1
        if rng.random() < weighted_probability:
            tied = bool(owners) and rng.random() < tied_probability
            tie = owners[int(rng.integers(len(owners)))] if tied else i
            stored = made[tie].w_elems if tied else _log_uniform(rng, weight_elems)
            owners += [] if tied else [i]
        kinds = _WEIGHTED if stored else _WEIGHTLESS
        elems = _log_uniform(rng, output_elems)
        sizes = (1, 1, elems)
        made.append(
            Operation(
                name=f"operation{i}",
                kind=kinds[int(rng.integers(len(kinds)))],
                macs=_log_uniform(rng, macs),
                w_elems=stored,
                w_reads=stored,
                w_id=tie,
                bias_elems=0,
                o_elems=elems,
                parents=tuple(parents),
                ifm=(1, 1, parents[0].elems) if parents else sizes,
                ofm=sizes,
                ext_in=0 if parents else elems,
                is_output=i == operations - 1 or bool(rng.random() < output_probability),
            )
        )
    return Workload(tuple(made), name=f"random{operations}")


def _log_uniform(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    low, high = bounds
    value = math.exp(rng.uniform(math.log(low + 1), math.log(high + 1))) - 1
    return min(max(round(value), low), high)
