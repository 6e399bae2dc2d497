"""Episodes over the devices of a mesh: split here, and nowhere inside a method.

::

    mesh = jax.make_mesh((4,), ("pop",), axis_types=(jax.sharding.AxisType.Auto,))
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

POP = "pop"
_REMEDY = "make it by jax.make_mesh((4,), ('pop',), axis_types=(jax.sharding.AxisType.Auto,))"


def check_mesh(mesh: Any) -> None:
    """For the first line of what takes a mesh; None is one device.

    Raises:
        ValueError: no mesh, not the one axis "pop", or one that is not `Auto`, or devices of another process.
    """
    if mesh is None:
        return
    if not isinstance(mesh, Mesh):
        raise ValueError(f"mesh must be a jax.sharding.Mesh, got {mesh!r:.60}: {_REMEDY}")
    if mesh.axis_names != (POP,):
        raise ValueError(f"mesh has the axes {mesh.axis_names}, here it has one, {POP!r}: {_REMEDY}")
    if mesh.axis_types != (AxisType.Auto,):
        raise ValueError(f"mesh has axes of {mesh.axis_types}, all must be Auto: {_REMEDY}")
    if any(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise ValueError("mesh has devices of other processes: give devices=jax.local_devices() to make_mesh")


def pieces(mesh: Mesh | None) -> int:
    """How many devices share the rows."""
    return 1 if mesh is None else mesh.shape[POP]


def sharded(function: Callable[[Any, Any], Any], mesh: Mesh | None) -> Callable[[Any, Any], Any]:
    """(shared, rows) -> rows, to be jitted by the caller: each device calls it with its own rows.

    Rows must divide by `pieces(mesh)`. Without a mesh it is the function itself.
    """
    if mesh is None:
        return function
    specs = PartitionSpec(), PartitionSpec(POP)
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False)
