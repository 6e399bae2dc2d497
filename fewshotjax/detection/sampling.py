"""Bilinear samples of feature maps, averaged over bins: what ROI align and deformable pooling share.

The samples of a bin form a grid, so that its value is Σ_yx w_y w_x F[y, x], with weights of each axis: of a
sample at p, in cells, max(0, 1 - abs(p - cell)). Two ways lead there and agree up to rounding.

"gather" picks the cells that have weight. "matmul" lays a bin's weights out over all cells and multiplies; it
needs R · bins · cells numbers for that. Its gradient is a product of matrices, the same in every run, where
that of "gather" adds up in an order that a GPU does not fix.

On 2 CPU cores "gather" took a third to a half of the time of "matmul" (2,000 regions, 256 channels, 16 × 16
cells); only the gradient of deformable pooling was faster by "matmul", twice. No GPU was measured.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Lowering = Literal["gather", "matmul"]
FeatureMaps = Float[Array, "H W C"] | Sequence[Float[Array, "_ _ C"]]


class Taps(NamedTuple):
    """Where the bins of R regions look along one axis, S samples each.

    The middle axes are rows and columns of bins; an axis of 1 says that all rows, or columns, look alike.
    """

    position: Float[Array, "R I J S"]  # cells, 0 to the axis's last one
    weight: Float[Array, "R I J S"]  # 0 of a sample that is left out


class Levels(NamedTuple):
    """Of R regions: the map each looks at, and that map's shape in cells per pixel and cells."""

    of: Int[Array, " R"]
    scale: Float[Array, " R"]
    height: Float[Array, " R"]
    width: Float[Array, " R"]


def as_maps(features: FeatureMaps) -> list[Array]:
    """One feature map as a pyramid of one level."""
    return list(features) if isinstance(features, Sequence) else [features]


def levels_of(
    maps: Sequence[Array], scales: float | tuple[float, ...], index: Int[Array, " R"] | None, regions: int
) -> Levels:
    """What each region has to know of its level.

    Raises:
        ValueError: not as many scales as maps, or several maps and no index.
    """
    scales = scales if isinstance(scales, tuple) else (scales,)
    if len(scales) != len(maps):
        raise ValueError(
            f"scales must have a number for each of {len(maps)} feature maps, got {len(scales)}: {scales}"
        )
    if index is None and len(maps) > 1:
        raise ValueError(f"levels must say which of {len(maps)} feature maps each box looks at, got None")
    index = jnp.zeros(regions, jnp.int32) if index is None else index
    height, width = (jnp.asarray([float(m.shape[axis]) for m in maps], jnp.float32) for axis in (0, 1))
    return Levels(index, jnp.asarray(scales, jnp.float32)[index], height[index], width[index])


def average(
    maps: Sequence[Array], levels: Levels, ys: Taps, xs: Taps, lowering: Lowering = "gather"
) -> Float[Array, "R I J C"]:
    """Σ over the samples of every bin of w_y w_x F[y, x], in the maps' dtype.

    Raises:
        ValueError: another lowering.
    """
    if lowering not in ("gather", "matmul"):
        raise ValueError(f"lowering must be gather or matmul, got {lowering!r}")
    return (_gathered if lowering == "gather" else _multiplied)(maps, levels, ys, xs)


def _multiplied(maps: Sequence[Array], levels: Levels, ys: Taps, xs: Taps) -> Array:
    """Every bin's weights over all cells of all levels, which are 0 but on its own, as one matrix."""
    weights = []
    for level, features in enumerate(maps):
        height, width, _ = features.shape
        member = (levels.of == level).astype(jnp.float32)[:, None, None, None]
        both = (_spread(ys, height) * member)[..., :, None] * _spread(xs, width)[..., None, :]
        weights.append(both.reshape(*both.shape[:3], -1))
    found = jnp.einsum(
        "rijp,pc->rijc",
        jnp.concatenate(weights, axis=-1).astype(maps[0].dtype),
        _flat(maps),
        precision="highest",
        preferred_element_type=jnp.float32,
    )
    return found.astype(maps[0].dtype)


def _spread(taps: Taps, cells: int) -> Array:
    """Σ_s w_s · max(0, 1 - abs(p_s - cell)), (R, I, J, cells)."""
    cell = jnp.arange(cells, dtype=jnp.float32)[None, None, None, None]
    away = jnp.abs(taps.position[..., None] - cell)
    return jnp.sum(taps.weight[..., None] * jax.nn.relu(1.0 - away), axis=3)


def _flat(maps: Sequence[Array]) -> Array:
    return jnp.concatenate([m.reshape(-1, m.shape[-1]) for m in maps])


def _gathered(maps: Sequence[Array], levels: Levels, ys: Taps, xs: Taps) -> Array:
    """From all levels laid end to end, one row of samples of every bin after the other."""
    cells = _flat(maps)
    starts, start = [], 0
    for m in maps:
        starts.append(start)
        start += m.shape[0] * m.shape[1]
    first = jnp.asarray(starts, jnp.int32)[levels.of][:, None, None]
    stride = jnp.asarray([m.shape[1] for m in maps], jnp.int32)[levels.of][:, None, None]
    (row, w_row), (column, w_column) = _corners(ys), _corners(xs)

    @jax.checkpoint
    def add(total: Array, one: tuple[Array, Array]) -> tuple[Array, None]:
        y, w_y = one
        found = jnp.zeros_like(total)
        for s in range(column.shape[0]):
            place = first + y * stride + column[s]
            weight = (w_y * w_column[s]).astype(cells.dtype)
            found += (weight[..., None] * cells.at[place].get(mode="clip")).astype(jnp.float32)
        return total + found, None

    regions = len(levels.of)
    shape = (regions, ys.position.shape[1], xs.position.shape[2], cells.shape[1])
    total, _ = jax.lax.scan(add, jnp.zeros(shape, jnp.float32), (row, w_row))
    return total.astype(cells.dtype)


def _corners(taps: Taps) -> tuple[Array, Array]:
    """The cells on both sides of each sample and their weights, (2S, R, I, J).

    On a cell both are that one, so that the slope there is 0, as it is of the hat max(0, 1 - abs(p - cell)).
    """
    low, high = jnp.floor(taps.position), jnp.ceil(taps.position)
    part = taps.position - low
    index = jnp.concatenate([low, high], axis=-1).astype(jnp.int32)
    weight = jnp.concatenate([taps.weight * (1 - part), taps.weight * part], axis=-1)
    return jnp.moveaxis(index, -1, 0), jnp.moveaxis(weight, -1, 0)
