"""Primitives that move elements: most only relabel axes, and the graph gets a node where it must."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hwmodel import Equation

from .emitter import Emitter
from .shapes import Batch, Dim, Unsupported, ints
from .tensors import Tensor, dropped, relabelled, reshaped

Rule = Callable[[Emitter, Equation], Any]
_END = np.iinfo(np.int64).max


def _transpose(em: Emitter, eqn: Equation) -> Tensor:
    (x,), permutation = em.operands(eqn), eqn.params["permutation"]
    if x.array is not None:
        return Tensor.constant(x.array.transpose(permutation))
    return relabelled(x, np.argsort(permutation).tolist(), x.rank)


def _broadcast_in_dim(em: Emitter, eqn: Equation) -> Tensor:
    (x,) = em.operands(eqn)[:1]
    rank = len(em.shape(eqn.outputs[0]))
    return relabelled(x, ints(eqn.params["broadcast_dimensions"]), rank)


def _squeeze(em: Emitter, eqn: Equation) -> Tensor:
    return dropped(em.graph, em.operands(eqn)[0], ints(eqn.params["dimensions"]))


def _expand_dims(em: Emitter, eqn: Equation) -> Tensor:
    (x,), new = em.operands(eqn), ints(eqn.params["dimensions"])
    rank = x.rank + len(new)
    return relabelled(x, [a for a in range(rank) if a not in new], rank)


def _reshape(em: Emitter, eqn: Equation) -> Tensor:
    if eqn.params.get("dimensions") is not None:
        raise Unsupported("a reshape that also transposes")
    source, target = em.shape(eqn.inputs[0]), em.shape(eqn.outputs[0])
    x = em.tensor(eqn.inputs[0])
    if _without_units(source) == _without_units(target):
        x = dropped(em.graph, x, [a for a, d in enumerate(source) if d == 1])
        return relabelled(x, [a for a, d in enumerate(target) if d != 1], len(target))
    x = em.whole(eqn.inputs[0])
    in_order = x.wide(x.order) == sorted(x.wide(x.order))
    name = x.name if in_order and x.array is None else em.plain(x)
    before = [x.shape[a] for a in x.order] if in_order and x.array is None else list(x.shape)
    return Tensor(tuple(range(len(target))), target, reshaped(em.graph, name, before, target))


def _without_units(shape: Sequence[Dim]) -> list[Dim]:
    return [d for d in shape if d != 1]


def _slice(em: Emitter, eqn: Equation) -> Tensor:
    starts, limits = ints(eqn.params["start_indices"]), ints(eqn.params["limit_indices"])
    steps = ints(eqn.params["strides"] or (1,) * len(starts))
    here = em.program.values[eqn.inputs[0]].shape
    cuts = {
        axis: (start, limit, step)
        for axis, (start, limit, step) in enumerate(zip(starts, limits, steps, strict=True))
        if (start, limit, step) != (0, here[axis], 1)
    }
    return cut(em, eqn, cuts)


def cut(em: Emitter, eqn: Equation, cuts: dict[int, tuple[int, int, int]]) -> Tensor:
    """One Slice: axis -> (start, limit, step) as ONNX counts them."""
    shape = em.shape(eqn.inputs[0])
    if any(isinstance(shape[axis], Batch) for axis in cuts):
        raise Unsupported("a slice of the batch: give batch=a number")
    if not cuts:
        return em.tensor(eqn.inputs[0])
    x = em.whole(eqn.inputs[0])
    order = x.order
    axes = sorted(cuts)
    columns = [em.graph.ints([cuts[a][k] for a in axes]) for k in range(3)]
    places = em.graph.ints([x.axis(a) for a in axes])
    name = em.node("Slice", [em.laid(x, order), columns[0], columns[1], places, columns[2]])
    return Tensor(order, em.shape(eqn.outputs[0]), name)


def _rev(em: Emitter, eqn: Equation) -> Tensor:
    return cut(em, eqn, dict.fromkeys(ints(eqn.params["dimensions"]), (-1, -_END, -1)))


def _concatenate(em: Emitter, eqn: Equation) -> Tensor:
    parts = [em.whole(v) for v in eqn.inputs]
    moving = [x for x in parts if x.array is None] or parts
    order = moving[0].order
    names = [em.laid(x, order) for x in parts]
    axis = order.index(eqn.params["dimension"])
    name = em.node("Concat", names, axis=axis) if len(names) > 1 else names[0]
    return Tensor(order, em.shape(eqn.outputs[0]), name)


def _split(em: Emitter, eqn: Equation) -> list[Tensor]:
    axis = eqn.params["axis"]
    if isinstance(em.shape(eqn.inputs[0])[axis], Batch):
        raise Unsupported("a split of the batch: give batch=a number")
    x = em.whole(eqn.inputs[0])
    names = em.node(
        "Split",
        [em.laid(x, x.order), em.graph.ints(eqn.params["sizes"])],
        outputs=len(eqn.outputs),
        axis=x.axis(axis),
    )
    names = [names] if isinstance(names, str) else names
    return [Tensor(x.order, em.shape(v), name) for v, name in zip(eqn.outputs, names, strict=True)]


def _pad(em: Emitter, eqn: Equation) -> Tensor:
    config = [ints(row) for row in eqn.params["padding_config"]]
    if any(interior for _, _, interior in config):
        raise Unsupported("a pad between elements")
    if all((low, high) == (0, 0) for low, high, _ in config):
        return em.tensor(eqn.inputs[0])
    x = em.whole(eqn.inputs[0])
    value = em.plain(em.tensor(eqn.inputs[1]))
    name = padded(em, em.laid(x, x.order), [(config[a][0], config[a][1]) for a in x.order], value)
    return Tensor(x.order, em.shape(eqn.outputs[0]), name)


def padded(em: Emitter, name: str, ends: Sequence[tuple[int, int]], value: str = "") -> str:
    """A Pad by (low, high) along each axis of the graph; below 0 it crops."""
    pads = em.graph.ints([low for low, _ in ends] + [high for _, high in ends])
    return em.node("Pad", [name, pads, value] if value else [name, pads])


def _tile(em: Emitter, eqn: Equation) -> Tensor:
    x, reps = em.whole(eqn.inputs[0]), eqn.params["reps"]
    if any(isinstance(x.shape[a], Batch) and r != 1 for a, r in enumerate(reps)):
        raise Unsupported("a repetition of the batch: give batch=a number")
    name = em.node("Tile", [em.laid(x, x.order), em.graph.ints([reps[a] for a in x.order])])
    return Tensor(x.order, em.shape(eqn.outputs[0]), name)


def _dynamic_slice(em: Emitter, eqn: Equation) -> Tensor:
    """At constant places, clamped so that the slice stays inside, as JAX does."""
    here = em.program.values[eqn.inputs[0]].shape
    sizes = eqn.params["slice_sizes"]
    cuts = {}
    for axis, (value, n, size) in enumerate(zip(eqn.inputs[1:], here, sizes, strict=True)):
        if n == size:
            continue
        number = em.number(value)
        if number is None:
            raise Unsupported("a slice at a computed place")
        start = min(max(int(number), 0), n - size)
        cuts[axis] = (start, start + size, 1)
    return cut(em, eqn, cuts)


LAYOUT: dict[str, Rule] = {
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast_in_dim,
    "squeeze": _squeeze,
    "expand_dims": _expand_dims,
    "reshape": _reshape,
    "slice": _slice,
    "rev": _rev,
    "concatenate": _concatenate,
    "split": _split,
    "pad": _pad,
    "tile": _tile,
    "dynamic_slice": _dynamic_slice,
}
