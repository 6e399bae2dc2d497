"""Episodes from one table of all inner products: a pair of examples is multiplied once, not once an episode.

What a method learns and predicts from distances alone, such as class means, needs no features then.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .episode_task import EpisodeTask
from .memory import memory_budget
from .methods.method import Method, Products

CHUNK = 8  # episodes at once: their reads of the table fit the caches
_BLOCKS = 8  # of rows, of which each is multiplied with what is not below the diagonal
# Of the time that a feature of an episode's examples takes: a multiplication of the table, a read of it.
# Measured on 2 cores (Intel Xeon, 2026-11-30, 6,000 examples of 1,280 features).
_MULTIPLY, _READ = 0.0085, 8.5
_TABLE_BYTES = 2**31  # at most, of the table
_SPREAD = 1e3  # squared distance from the mean over the spread within classes: up to it rounding is harmless
_PROBES = 64  # episodes that the spread is taken from


def table_pays(task: EpisodeTask, method: Method, pieces: int = 1) -> bool:
    """Whether the table is the quicker way, on a CPU, and as exact.

    On accelerators it was not tried. Of examples that lie far from each other compared with those of a class
    the products round away what tells classes apart: these go the other way.

    Args:
        pieces: devices, each of which has a table.
    """
    if method.by_products is None or jax.default_backend() != "cpu" or task.features.ndim != 2:
        return False
    (examples, width), config = task.features.shape, task.config
    support = config.ways * config.parts * config.most
    rows = support + config.ways * config.parts * config.queries
    seen = len(task.episodes.classes) * rows
    if _MULTIPLY * examples**2 * width + _READ * seen * support >= seen * width:
        return False
    size = 4 * examples**2
    return size <= _TABLE_BYTES and size * pieces <= memory_budget() and _is_exact(task)


def _is_exact(task: EpisodeTask) -> bool:
    firsts = task.episodes.support[:_PROBES, :, 0], task.episodes.query[:_PROBES, :, 0]
    pairs = [jnp.asarray(rows).reshape(-1) for rows in firsts]
    within, away = _spreads(task.features, *pairs)
    return bool(away <= _SPREAD * within)


@jax.jit
def _spreads(features: Array, support: Array, query: Array) -> tuple[Array, Array]:
    """Mean squared distance of an example from its class's mean, and the largest from the mean of all."""
    pairs = features[support] - features[query]
    away = features - jnp.mean(features, axis=0, keepdims=True)
    return jnp.mean(jnp.sum(pairs**2, axis=1)) / 2, jnp.max(jnp.sum(away**2, axis=1))


@jax.jit
def product_table(features: Float[Array, "M D"]) -> Float[Array, "M M"]:
    """[i, j], i ≤ j: (x_i - m)·(x_j - m) with m the mean of all; zero or the same below the diagonal."""
    x = features - jnp.mean(features, axis=0, keepdims=True)
    table = jnp.zeros((len(x), len(x)), x.dtype)
    step = -(-len(x) // _BLOCKS)
    for first in range(0, len(x), step):
        block = jnp.matmul(x[first : first + step], x[first:].T, precision="highest")
        table = table.at[first : first + step, first:].set(block)
    return table


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
