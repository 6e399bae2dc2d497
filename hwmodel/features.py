"""Node features for policies: the 19 numbers a node that EGRL uses (Khadka et al. 2021), and extensions.

The paper lists the features; how it scales them is not known. Here a size s becomes log(1 + s) / log(1 + c)
with a fixed constant c each, so that a policy sees the same numbers for the same operation in every network.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from .bits import INT8, Bits
from .chip import KINDS, Chip
from .tensors import OUTPUT, WEIGHT, tensors
from .workload import Workload

FeatureKind = Literal["paper19", "onehot", "plus"]

# Feature after op_id -> c, about the largest value in published networks; beyond it the feature passes 1.
_LARGEST = {
    "weight_size": 2**24,
    "ifm_x": 2**10,
    "ifm_y": 2**10,
    "ifm_z": 2**12,
    "ofm_x": 2**10,
    "ofm_y": 2**10,
    "ofm_z": 2**12,
    "ifm_size": 2**24,
    "ofm_size": 2**24,
    "n_ops_left": 2**10,
    "n_w_left": 2**28,
    "groups": 2**10,
    "kernel_x": 2**4,
    "kernel_y": 2**4,
    "stride": 2**3,
    "pad": 2**3,
    "dilation": 2**3,
    "batch": 2**8,
}
FEATURES = ("op_id", *_LARGEST)
_BYTES, _STEPS, _READERS, _DOUBLINGS = 2**26, 2**10, 2**6, 10


def features(
    workload: Workload, kind: FeatureKind = "paper19", chip: Chip | None = None, bits: Bits = INT8
) -> Float[np.ndarray, "N F"]:
    """One row per operation, float32; `feature_names` tells the columns.

    Args:
        workload: N operations.
        kind: "paper19" has the operation's kind as a number; "onehot" in one column per kind; "plus" adds to
            that the bytes of weights and output, the output's lifetime and number of readers, and for each
            memory above the backing store what share of it the tensors take and how many times faster it is.
        chip: for "plus"; policies that see several chips need the same number of levels.
        bits: for "plus".
    """
    _check(kind, chip)
    size = np.stack([_scaled(values, _LARGEST[name]) for name, values in _sizes(workload).items()], 1)
    ids = np.array([KINDS.index(op.kind) for op in workload.operations])
    if kind == "paper19":
        columns = [ids[:, None] / (len(KINDS) - 1), size]
    else:
        columns = [ids[:, None] == np.arange(len(KINDS))[None], size]
    if kind == "plus" and chip is not None:
        columns.append(_plus(workload, chip, bits))
    return np.concatenate(columns, axis=1).astype(np.float32)


def feature_names(kind: FeatureKind = "paper19", chip: Chip | None = None) -> tuple[str, ...]:
    """Names of the columns of `features`."""
    _check(kind, chip)
    if kind == "paper19":
        return FEATURES
    names = (*(f"is_{k}" for k in KINDS), *_LARGEST)
    if chip is None or kind == "onehot":
        return names
    measures = ("weight_share", "output_share", "read_speed", "write_speed")
    levels = [f"{level.name}.{measure}" for level in chip.levels[1:] for measure in measures]
    return (*names, "weight_bytes", "output_bytes", "lifetime", "readers", *levels)


def _check(kind: FeatureKind, chip: Chip | None) -> None:
    if kind not in get_args(FeatureKind):
        raise ValueError(f"kind of features must be one of {', '.join(get_args(FeatureKind))}, got {kind!r}")
    if kind == "plus" and chip is None:
        raise ValueError('features of kind "plus" describe the chip, too: give chip=...')


def _sizes(workload: Workload) -> dict[str, np.ndarray]:
    """(n,) each, in the paper's order; a padding, stride or dilation is the largest of both axes."""
    n, ops = len(workload.operations), workload.operations
    ifm, ofm = (workload.column(name).reshape(n, 3) for name in ("ifm", "ofm"))
    kernel = workload.column("kernel").reshape(n, 2)
    stored = np.array([op.w_elems if op.w_id in (-1, i) else 0 for i, op in enumerate(ops)], np.int64)
    return {
        "weight_size": workload.column("w_elems"),
        **{f"ifm_{axis}": ifm[:, i] for i, axis in enumerate("xyz")},
        **{f"ofm_{axis}": ofm[:, i] for i, axis in enumerate("xyz")},
        "ifm_size": ifm.prod(1),
        "ofm_size": ofm.prod(1),
        "n_ops_left": np.arange(n)[::-1],
        "n_w_left": stored.sum() - np.cumsum(stored),
        "groups": workload.column("groups"),
        "kernel_x": kernel[:, 0],
        "kernel_y": kernel[:, 1],
        "stride": workload.column("stride").reshape(n, 2).max(1),
        "pad": workload.column("pad").reshape(n, 4).max(1),
        "dilation": workload.column("dilation").reshape(n, 2).max(1),
        "batch": workload.column("batch"),
    }


def _plus(workload: Workload, chip: Chip, bits: Bits) -> np.ndarray:
    size = np.zeros((2, len(workload.operations)))
    for t in tensors(workload, bits, chip.count_bias):
        size[t.column, t.operation] = t.bytes
    readers = np.zeros(len(workload.operations))
    for op in workload.operations:
        for producer in {edge.producer for edge in op.parents}:
            readers[producer] += 1
    columns = [
        _scaled(size[WEIGHT], _BYTES),
        _scaled(size[OUTPUT], _BYTES),
        _scaled(workload.death - np.arange(len(workload.operations)), _STEPS),
        _scaled(readers, _READERS),
    ]
    backing = chip.levels[0]
    for level in chip.levels[1:]:
        free = float(level.capacity_bytes or 0) - level.reserved_bytes
        columns += [_scaled(size[WEIGHT] / free, 1), _scaled(size[OUTPUT] / free, 1)]
        for own, slow in (
            (level.read_bytes_per_s, backing.read_bytes_per_s),
            (level.write_bytes_per_s, backing.write_bytes_per_s),
        ):
            columns.append(np.full(len(workload.operations), np.log2(own / slow) / _DOUBLINGS))
    return np.stack(columns, 1)


def _scaled(values: np.ndarray, largest: int) -> np.ndarray:
    """0 at 0, 1 at `largest`; negative paddings count as none."""
    return np.log1p(np.maximum(values, 0).astype(np.float64)) / np.log1p(largest)
