"""Lookups: rows of a table, elements along an axis, elements at computed places."""

from collections.abc import Sequence

import jax
import numpy as np

from hwmodel import Equation

from .emitter import Emitter
from .shapes import Batch, Unsupported, ints
from .tensors import Tensor, dropped


def gather(em: Emitter, eqn: Equation) -> Tensor:
    """Gather along one axis, GatherND along several; each indexed axis is read one element at a time.

    Places outside the operand: clipped where JAX clips them. JAX's own default fills with NaN there, ONNX
    leaves it open, and onnxruntime refuses to run: an error rather than a wrong number.
    """
    p, dims = eqn.params, eqn.params["dimension_numbers"]
    here = em.program.values[eqn.inputs[0]].shape
    batching = ints(dims.operand_batching_dims)
    indexed = ints(dims.start_index_map)
    single = {*dims.collapsed_slice_dims, *batching}
    for axis, (n, size) in enumerate(zip(here, p["slice_sizes"], strict=True)):
        if axis in indexed and not (axis in single and size == 1):
            raise Unsupported("a gather of windows")
        if axis not in indexed and axis not in batching and (size != n or axis in single):
            raise Unsupported("a gather of part of an axis that is not indexed")
    places = _places(em, eqn, here, indexed)
    offset = [a for a in range(len(here)) if a not in single]
    if len(indexed) == 1 and not batching:
        return _along_one_axis(em, eqn, indexed[0], places, offset)
    return _along_several(em, eqn, indexed, batching, places, offset)


def _places(em: Emitter, eqn: Equation, here: Sequence[int], indexed: Sequence[int]) -> Tensor:
    """Indices with their last axis the coordinates; clipped where the mode asks for it."""
    places = em.tensor(eqn.inputs[1])
    if eqn.params["mode"] != jax.lax.GatherScatterMode.CLIP:
        return places
    if any(isinstance(em.shape(eqn.inputs[0])[axis], Batch) for axis in indexed):
        return places  # along the batch, whose size is not known here
    dtype = em.program.values[eqn.inputs[1]].dtype
    last = np.array([here[axis] - 1 for axis in indexed], dtype).reshape((1,) * (places.rank - 1) + (-1,))
    low = em.elementwise("Max", [places, Tensor.constant(np.zeros((1,) * places.rank, dtype))])
    return em.elementwise("Min", [low, Tensor.constant(last)])


def _along_one_axis(em: Emitter, eqn: Equation, axis: int, places: Tensor, offset: Sequence[int]) -> Tensor:
    """Physical axes of the result: those of the operand before `axis`, the indices', those after it."""
    x = em.whole(eqn.inputs[0])
    flat = em.plain(em.expanded(dropped(em.graph, places, [places.rank - 1]), em.shape(eqn.inputs[1])[:-1]))
    order = x.order if x.array is None else tuple(range(x.rank))
    name = em.node("Gather", [em.laid(x, order), flat], axis=order.index(axis))
    rank = len(em.shape(eqn.outputs[0]))
    to = dict(zip(offset, eqn.params["dimension_numbers"].offset_dims, strict=True))
    lookups = [a for a in range(rank) if a not in to.values()]
    k = order.index(axis)
    out = (*(to[a] for a in order[:k]), *lookups, *(to[a] for a in order[k + 1 :]))
    return Tensor(out, em.shape(eqn.outputs[0]), name)


def _along_several(
    em: Emitter,
    eqn: Equation,
    indexed: Sequence[int],
    batching: Sequence[int],
    places: Tensor,
    offset: Sequence[int],
) -> Tensor:
    """GatherND: batch axes, then indexed ones, lie in front of the operand."""
    dims = eqn.params["dimension_numbers"]
    x, places = em.whole(eqn.inputs[0]), em.expanded(places, em.shape(eqn.inputs[1]))
    rank, at = len(em.shape(eqn.outputs[0])), places.rank - 1
    batch_at = ints(dims.start_indices_batching_dims)
    others = [a for a in range(at) if a not in batch_at]
    name = em.node(
        "GatherND",
        [
            em.laid(x, [*batching, *indexed, *offset]),
            em.cast(em.laid(places, [*batch_at, *others, at]), np.dtype(np.int64)),
        ],
        batch_dims=len(batching),
    )
    lookups = [a for a in range(rank) if a not in dims.offset_dims]  # in the order of the indices' axes
    out = (*(lookups[a] for a in (*batch_at, *others)), *dims.offset_dims)
    return Tensor(out, em.shape(eqn.outputs[0]), name)
