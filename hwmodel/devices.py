"""Rows over the devices of a mesh: what an algorithm measures at once is split here, and nowhere inside it.

A mesh names its axes: "pop" splits what is measured (candidates, maps), "images" the samples on which it is,
where a function says that it takes that axis, too::

    mesh = jax.make_mesh((4,), ("pop",), axis_types=(jax.sharding.AxisType.Auto,))
    mesh = jax.make_mesh((2, 2), ("pop", "images"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

POP, IMAGES = "pop", "images"
_REMEDY = "jax.make_mesh((4,), ('pop',), axis_types=(jax.sharding.AxisType.Auto,))"


def check_mesh(mesh: Any, axes: Sequence[str] = (POP,)) -> None:
    """For the first line of what takes a mesh.

    Raises:
        ValueError: no mesh, an axis that is none of `axes`, axes that are not `Auto`, or devices of another
            process.
    """
    if not isinstance(mesh, Mesh):
        raise ValueError(f"mesh must be a jax.sharding.Mesh, got {mesh!r:.60}: make one by {_REMEDY}")
    unknown = [name for name in mesh.axis_names if name not in axes]
    if unknown or not mesh.axis_names:
        names = " and ".join(map(repr, axes))
        raise ValueError(
            f"mesh has the axes {mesh.axis_names}, here they may be {names}: make it by {_REMEDY}"
        )
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(f"mesh has axes of {mesh.axis_types}, all must be Auto: make it by {_REMEDY}")
    if any(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise ValueError(
            "mesh has devices of other processes: give devices=jax.local_devices() to make_mesh, and "
            "hosts=hwmodel.Hosts() to share the work between processes"
        )


def pieces(mesh: Mesh | None, axis: str = POP) -> int:
    """Into how many parts an axis of the mesh splits; 1 without."""
    return 1 if mesh is None else mesh.shape.get(axis, 1)


def placed(mesh: Mesh, tree: Any, axis: str | None = None) -> Any:
    """The arrays on the mesh's devices: whole on each, or split along their leading axis where it divides."""

    def put(leaf: Any) -> jax.Array:
        split = axis in mesh.axis_names and leaf.shape[0] % pieces(mesh, axis or "") == 0
        return jax.device_put(leaf, NamedSharding(mesh, _spec(axis if split else None)))

    return jax.tree.map(put, tree)


def sharded(
    function: Callable[..., Any],
    mesh: Mesh,
    axes: Sequence[str | None],
    out: Sequence[str | None] = (POP,),
) -> Callable[..., Any]:
    """A function of rows, each device of the mesh calling it with its own: to be jitted by the caller.

    Rows that do not divide are filled up with the last one, whose results are dropped again. Each device runs
    the program of its rows alone, so that a row's numbers are those that one device computes of as many rows.

    Args:
        function: of pytrees of arrays; rows must not depend on each other.
        axes: of each argument, the mesh's axis that splits its leading axis; None: whole on every device. An
            axis that the mesh lacks is None.
        out: the same of the leading axes of the results, which have as many rows as the arguments.
    """
    here = [axis if axis in mesh.axis_names else None for axis in axes]
    own = [axis if axis in mesh.axis_names else None for axis in out]

    def run(*arguments: Any) -> Any:
        counts: dict[str, int] = {}
        filled = []
        for axis, tree in zip(here, arguments, strict=True):
            if axis is not None:
                counts[axis] = len(jax.tree.leaves(tree)[0])
                tree = jax.tree.map(lambda leaf, size=mesh.shape[axis]: _filled(leaf, size), tree)
            filled.append(tree)
        specs = tuple(_spec(axis) for axis in here)
        split = jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(*own), check_vma=False
        )
        wanted = tuple(slice(None if axis is None else counts[axis]) for axis in own)
        return jax.tree.map(lambda leaf: leaf[wanted], split(*filled))

    return run


def _spec(axis: str | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(axis)


def _filled(leaf: Any, size: int) -> jax.Array:
    """A multiple of `size` rows; the last is repeated."""
    leaf = jnp.asarray(leaf)
    rows = len(leaf)
    return leaf if rows % size == 0 else leaf[jnp.minimum(jnp.arange(rows + -rows % size), rows - 1)]
