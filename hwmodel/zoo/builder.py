"""The few layer types that the built-in tables are written with.

Every layer becomes one operation with its epilogue (bias or folded batch norm, activation, residual add)
fused, counted as `trace` counts it. There are no weights, no program and no quantization points.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ..workload import Edge, Kind, Operation, Workload

INPUT = -1  # producer of a graph input


class Tensor(NamedTuple):
    """The output of an operation (INPUT: none), `sizes` = (x, y, channels) of each sample."""

    operation: int
    sizes: tuple[int, int, int]


class Builder:
    """Appends operations in execution order; `batch` samples are computed in one call."""

    def __init__(self, batch: int):
        whole("batch", batch)
        self.batch = batch
        self.operations: list[Operation] = []

    def conv(
        self,
        name: str,
        x: Tensor,
        channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        residual: Tensor | None = None,
        same: bool = False,
    ) -> Tensor:
        """Convolution with folded batch norm; padded by kernel // 2, or as TensorFlow's SAME does."""
        (width, height, inputs), area = x.sizes, kernel**2
        if inputs % groups or channels % groups:
            raise ValueError(f"{name}: groups {groups} must divide channels {inputs} and {channels}")
        pad = tuple(_same(n, kernel, stride) if same else (kernel // 2,) * 2 for n in (width, height))
        sizes = (_windows(width, kernel, stride, pad[0]), _windows(height, kernel, stride, pad[1]), channels)
        return self.add(
            name,
            "dwconv" if groups == inputs > 1 else "conv",
            [x] if residual is None else [x, residual],
            sizes,
            macs=self.batch * math.prod(sizes) * inputs // groups * area,
            w_elems=inputs // groups * channels * area,
            bias_elems=channels,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            pad=pad,
            dilation=(1, 1),
            groups=groups,
        )

    def max_pool(self, name: str, x: Tensor, kernel: int, stride: int) -> Tensor:
        """Windowed maximum, padded by kernel // 2."""
        pad = (kernel // 2,) * 2
        width, height, channels = x.sizes
        sizes = (_windows(width, kernel, stride, pad), _windows(height, kernel, stride, pad), channels)
        macs = self.batch * math.prod(sizes) * kernel**2
        return self.add(
            name, "pool", [x], sizes, macs=macs, kernel=(kernel,) * 2, stride=(stride,) * 2, pad=(pad, pad)
        )

    def mean_pool(self, name: str, x: Tensor) -> Tensor:
        """Mean over all of x, y."""
        macs = self.batch * math.prod(x.sizes)
        return self.add(name, "pool", [x], (1, 1, x.sizes[2]), macs=macs, kernel=x.sizes[:2])

    def dense(
        self, name: str, x: Tensor, features: int, bias: bool = True, residual: Tensor | None = None
    ) -> Tensor:
        """Rows times a matrix, with bias."""
        rows, _, inputs = x.sizes
        return self.add(
            name,
            "dense",
            [x] if residual is None else [x, residual],
            (rows, 1, features),
            macs=self.batch * rows * inputs * features,
            w_elems=inputs * features,
            bias_elems=features if bias else 0,
        )

    def pointwise(
        self, name: str, kind: Kind, reads: Sequence[Tensor], bias_elems: int = 0, ext_in: int = 0
    ) -> Tensor:
        """One output element for every element of the first operand, one MAC each."""
        macs = self.batch * math.prod(reads[0].sizes)
        return self.add(name, kind, reads, reads[0].sizes, macs=macs, bias_elems=bias_elems, ext_in=ext_in)

    def add(
        self,
        name: str,
        kind: Kind,
        reads: Sequence[Tensor],
        sizes: tuple[int, int, int],
        macs: int = 0,
        w_elems: int = 0,
        w_reads: int | None = None,
        ext_in: int = 0,
        parents: tuple[Edge, ...] | None = None,
        **fields: object,
    ) -> Tensor:
        """Any operation: reads all of `reads` unless `parents` says otherwise."""
        index = len(self.operations)
        ifm = sizes if kind in ("layout", "gather") else reads[0].sizes
        counted = {"bias_elems": 0, "ifm": ifm, "ofm": sizes, "batch": self.batch}
        outside = sum(self.elems(t) for t in reads if t.operation == INPUT)
        edges = tuple(Edge(t.operation, self.elems(t)) for t in reads if t.operation != INPUT)
        self.operations.append(
            Operation(
                name=name,
                kind=kind,
                macs=macs,
                w_elems=w_elems,
                w_reads=w_elems if w_reads is None else w_reads,
                w_id=index if w_elems else -1,
                o_elems=self.batch * math.prod(sizes),
                parents=edges if parents is None else parents,
                ext_in=outside + ext_in,
                **(counted | fields),  # type: ignore[arg-type]
            )
        )
        return Tensor(index, sizes)

    def elems(self, x: Tensor) -> int:
        """Elements of a tensor, all samples."""
        return self.batch * math.prod(x.sizes)

    def workload(self, name: str) -> Workload:
        """What was built; the last operation makes the graph's output."""
        *rest, last = self.operations
        return Workload((*rest, replace(last, is_output=True)), name=name)


def whole(name: str, value: object, low: int = 1) -> None:
    """Raises ValueError unless `value` is a whole number of at least `low`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")


def classifier(build: Builder, x: Tensor, classes: int) -> None:
    """The end of all image networks here: mean over x and y, dense layer, softmax."""
    logits = build.dense("classifier", build.mean_pool("avgpool", x), classes)
    build.pointwise("softmax", "softmax", [logits])


def _windows(size: int, kernel: int, stride: int, pad: tuple[int, int]) -> int:
    return (size + sum(pad) - kernel) // stride + 1


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """The padding that gives ceil(size / stride) windows; an odd one goes to the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
