"""Episodes from one table of all inner products: a pair of examples is multiplied once, not once an episode.

What a method learns and predicts from distances alone, such as class means, needs no features then.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .episode_task import EpisodeTask
from .memory import memory_budget
from .methods.by_products import Products, by_products
from .methods.method import Method

CHUNK = 8  # episodes at once: their reads of the table fit the caches
_BLOCKS = 8  # of rows, of which each is multiplied with what is not below the diagonal
# A multiplication of the table, and a read of it, in reads of an episode's feature: from single timings
# (2 cores of an Intel Xeon, 2026-11-30), which no benchmark repeats.
_MULTIPLY, _READ = 0.0085, 8.5
_MOST_BYTES = 2**30
_SPREAD = 100.0  # most squared distance from the mean of all, in spreads of the tightest class


def table_pays(task: EpisodeTask, method: Method) -> bool:
    """Whether the table is there for the method, quicker than features, and small enough; on a CPU, since on
    accelerators it was not tried.

    It depends on no mesh, so that any number of devices goes the same way.
    """
    if by_products(method) is None or jax.default_backend() != "cpu" or task.features.ndim != 2:
        return False
    (examples, width), config = task.features.shape, task.config
    support = config.ways * config.parts * config.most
    rows = support + config.ways * config.parts * config.queries
    seen = len(task.episodes.classes) * rows
    if _MULTIPLY * examples**2 * width + _READ * seen * support >= seen * width:
        return False
    size = 4 * examples * (examples * (1 + 1 / _BLOCKS) + width)  # with a block and the centred features
    return size <= min(_MOST_BYTES, memory_budget())


def product_table(task: EpisodeTask) -> Float[Array, "M M"] | None:
    """[i, j], i ≤ j: (x_i - m)·(x_j - m) with m the mean of all; nothing below the diagonal.

    None: rounding might tell. Products are as inexact as the largest of them, so that of a class that is
    tight compared with what lies far off nothing would be left. Below the limit no prediction of
    `tests/fewshotjax/test_products.py` differs from one in float64.
    """
    table = _table(jnp.asarray(task.features))
    return table if _is_exact(table, task) else None


@jax.jit
def _table(features: Float[Array, "M D"]) -> Float[Array, "M M"]:
    x = features - jnp.mean(features, axis=0, keepdims=True)
    table = jnp.zeros((len(x), len(x)), x.dtype)
    step = -(-len(x) // _BLOCKS)
    for first in range(0, len(x), step):
        block = jnp.matmul(x[first : first + step], x[first:].T, precision="highest")
        table = table.at[first : first + step, first:].set(block)
    return table


def _is_exact(table: Array, task: EpisodeTask) -> bool:
    """By the first example and the first query of each class of all episodes: one class, two examples."""
    support, query = (
        np.asarray(part[..., 0]).reshape(-1) for part in (task.episodes.support, task.episodes.query)
    )
    away = np.asarray(jnp.diagonal(table))
    first, second = np.minimum(support, query), np.maximum(support, query)
    apart = away[support] + away[query] - 2 * np.asarray(_at(table, jnp.asarray(first), jnp.asarray(second)))
    label = np.asarray(task.episodes.classes).reshape(-1)
    seen = np.bincount(label)
    spread = np.bincount(label, np.maximum(apart, 0))[seen > 0] / seen[seen > 0] / 2
    return bool(away.max() <= _SPREAD * spread.min())


def products_of(table: Float[Array, "M M"], support: Int[Array, " S"], query: Int[Array, " Q"]) -> Products:
    """Those of an episode, by the rows of its examples."""
    read = partial(_read, table)
    return Products(read(support, support), read(query, support), _at(table, query, query))


def _read(table: Array, rows: Array, columns: Array) -> Array:
    rows, columns = rows[:, None], columns[None]
    return _at(table, jnp.minimum(rows, columns), jnp.maximum(rows, columns))


def _at(table: Array, rows: Array, columns: Array) -> Array:
    """table[rows, columns], whose bounds were checked on the host."""
    return table.at[rows, columns].get(mode="promise_in_bounds")
