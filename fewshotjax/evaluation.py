"""Thousands of episodes in one call: accuracy of a method with its 95 % interval."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key, PRNGKeyArray

from .devices import check_mesh, pieces, sharded
from .episode_task import EpisodeTask, episode_task
from .episodes import FIT, Episode
from .memory import chunk_within
from .methods.by_products import by_products
from .methods.held import held_bytes
from .methods.method import Method
from .methods.registry import by_name
from .products import CHUNK, product_table, products_of, table_pays
from .results import Comparison, EpisodeResult

BLOCK = 2_048  # episodes of one call of the compiled function, at most; `on_chunk` is told between
# Of examples at once: what fits the caches, or keeps a device busy; the latter was not tried on one.
_CPU_BYTES, _DEVICE_BYTES = 2**21, 2**28
_CPU_CHUNK = 256
_HELD = 6  # bytes that a method has alive, over those of its examples, at most: matching 5.4, prototypes 1.2


class EpisodesChunk(NamedTuple):
    """What `on_chunk` is told."""

    done: int  # episodes
    total: int
    note: str = ""  # the method's name, of `compare`


OnChunk = Callable[[EpisodesChunk], Any]


def evaluate(
    key: PRNGKeyArray,
    method: Method | str,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    ways: int = 5,
    shots: int | tuple[int, int] = 1,
    queries: int = 15,
    parts: int = 1,
    episodes: int = 1_000,
    classes: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    drawn: Episode | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    on_chunk: OnChunk | None = None,
) -> EpisodeResult:
    """A method's accuracy over episodes drawn from labelled examples.

    Args:
        key: decides the episodes, which are the same for every method, and what a method draws.
        method: of `fewshotjax.methods`, any `Method(fit, predict)`, or a name for `by_name`.
        features: (M, D), or whatever the method takes: (M, H, W, C) images for one that embeds them.
        labels: (M,) class of each example, whole numbers from 0.
        ways, shots, queries: of every episode; `shots=(1, 10)` draws each class's number of examples.
        parts: classes merged to one, at random in each episode, with `shots` and `queries` of each.
        episodes: how many.
        classes: labels to draw from; None: all. Classes with too few examples are left out and named in the
            result.
        names: of the classes, for tables; None: the labels.
        drawn: episodes to use in place of drawing (`draw_many`, `load_episodes`, another result's). Ways and
            so on are theirs, but for `parts`, which must be what they were drawn with.
        chunk: episodes alive at once; None: as many as suit the device and `memory_budget`. It
            changes no result beyond rounding.
        mesh: devices that share the episodes by its one axis, "pop", each in chunks of its own: the
            predictions of one device, bit for bit.
        on_chunk: progress, such as `progress("episodes")`; told an `EpisodesChunk`.

    Raises:
        ValueError: features that are not finite or not as many as labels, labels below 0, too few classes or
            examples, episodes of other rows or with a query in the support, a mesh of other axes.

    Warns:
        UserWarning: examples that are equal, number for number: in one episode they may be support and query.
    """
    task = episode_task(
        key,
        features,
        labels,
        ways=ways,
        shots=shots,
        queries=queries,
        parts=parts,
        episodes=episodes,
        classes=classes,
        names=names,
        drawn=drawn,
    )
    return _evaluate(task, {"": method}, chunk, on_chunk, mesh)[""]


def compare(
    key: PRNGKeyArray,
    methods: Mapping[str, Method | str],
    features: np.ndarray,
    labels: np.ndarray,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    on_chunk: OnChunk | None = None,
    **options: Any,
) -> Comparison:
    """Several methods on the same episodes, with intervals of their paired differences.

    Args:
        methods: by the name that the table shows.
        chunk, mesh: as of `evaluate`.
        on_chunk: as of `evaluate`, for each method anew.
        options: ways, shots and so on, as of `evaluate`.
    """
    if not methods:
        raise ValueError("methods is empty: give at least one, such as {'prototypes': prototypes()}")
    task = episode_task(key, features, labels, **options)
    return Comparison(_evaluate(task, methods, chunk, on_chunk, mesh))


def _evaluate(
    task: EpisodeTask,
    methods: Mapping[str, Method | str],
    chunk: int | None,
    on_chunk: OnChunk | None,
    mesh: Mesh | None,
) -> dict[str, EpisodeResult]:
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    check_mesh(mesh)
    resolved = {name: _method(method) for name, method in methods.items()}
    pool = jnp.asarray(task.features)
    quicker = {name: table_pays(task, method) for name, method in resolved.items()}
    table = product_table(task) if any(quicker.values()) else None
    results = {}
    for name, method in resolved.items():
        told = None if on_chunk is None else partial(_tell, on_chunk, name)
        if table is not None and quicker[name]:
            found = _predictions(task, method, table, chunk or CHUNK, told, mesh, tabled=True)
        else:
            size = 1 if method.sequential else chunk or _suited(task, method)
            found = _predictions(task, method, pool, size, told, mesh)
        results[name] = EpisodeResult(found, task.episodes, task.classes, task.excluded, task.settings)
    return results


def _method(method: Any) -> Method:
    if isinstance(method, str):
        return by_name(method)
    if not isinstance(method, Method):
        raise ValueError(f"method must be a Method or a name, such as prototypes(), got {method!r}")
    return method


def _tell(on_chunk: OnChunk, name: str, done: int, total: int) -> None:
    on_chunk(EpisodesChunk(done, total, name))


def _predictions(
    task: EpisodeTask,
    method: Method,
    pool: Array,
    chunk: int,
    told: Callable[[int, int], None] | None,
    mesh: Mesh | None,
    tabled: bool = False,
) -> Int[np.ndarray, "E W Q"]:
    total = len(task.episodes.classes)
    together = chunk * pieces(mesh)
    calls = math.ceil(total / max(BLOCK * pieces(mesh), together))
    block = together * math.ceil(total / calls / together)  # whole chunks, so that all calls are alike
    equal = task.config.shot_range[0] == task.config.most
    found = []
    for first in range(0, total, block):
        # The last call repeats the last episode.
        rows = np.minimum(np.arange(first, first + block), total - 1)
        part = jax.tree.map(lambda leaf, rows=rows: leaf[rows], task.episodes)
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(task.key, i), FIT))(rows)
        found.append(np.asarray(_run(keys, part, pool, method, equal, chunk, mesh, tabled))[: total - first])
        if told is not None:
            told(min(first + block, total), total)
    return np.concatenate(found)


@partial(jax.jit, static_argnums=(3, 4, 5, 6, 7))
def _run(
    keys: Key[Array, " E"],
    episodes: Episode,
    pool: Array,
    method: Method,
    equal_shots: bool,
    chunk: int,
    mesh: Mesh | None,
    tabled: bool,
) -> Int[Array, "E W Q"]:
    """The predicted class of each query within its episode; W where a method returned NaN.

    `pool` has the examples, or where `tabled` their products.
    """
    ways, shots = episodes.support.shape[1:]
    queries = episodes.query.shape[2]
    known = np.repeat(np.arange(ways, dtype=np.int32), shots)

    def one(pool: Array, item: tuple[PRNGKeyArray, Episode]) -> Array:
        key, episode = item
        labels = known if equal_shots else jnp.where(episode.shown.reshape(-1), known, ways)
        shown, asked = jnp.ravel(episode.support), jnp.ravel(episode.query)
        of_products = by_products(method) if tabled else None
        if of_products is not None:
            scores = of_products(products_of(pool, shown, asked), labels, ways)
        else:
            support, query = _rows(pool, shown), _rows(pool, asked)
            scores = method.predict(method.fit(key, support, labels, ways), query)
        failed = jnp.any(jnp.isnan(scores), axis=1)
        best = jnp.argmax(jnp.where(failed[:, None], -jnp.inf, scores), axis=1)
        return jnp.where(failed, ways, best).astype(jnp.int16).reshape(ways, queries)

    def own(pool: Array, items: tuple[Array, Episode]) -> Array:
        each = partial(one, pool)
        return jax.lax.map(each, items) if chunk == 1 else jax.lax.map(each, items, batch_size=chunk)

    return sharded(own, mesh)(pool, (keys, episodes))


def _rows(pool: Array, index: Array | np.ndarray) -> Array:
    """pool[index], whose bounds were checked on the host."""
    return pool.at[index].get(mode="promise_in_bounds")


def _suited(task: EpisodeTask, method: Method) -> int:
    """Episodes at once whose examples take no more than the device likes, and all they hold than there is."""
    config, on_cpu = task.config, jax.default_backend() == "cpu"
    each = config.ways * config.parts * config.needed * task.features[0].size * 4
    fit = (_CPU_BYTES if on_cpu else _DEVICE_BYTES) // each
    most = int(np.clip(fit, 1, _CPU_CHUNK if on_cpu else BLOCK))
    told = held_bytes(method)
    held = 0 if told is None else told(config.ways, config.parts * config.most, task.features[0].size)
    return chunk_within(most, lambda chunk: max(_HELD * each, held) * chunk)
