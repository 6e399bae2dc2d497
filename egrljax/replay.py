"""All that was measured in a run: one buffer for evolution, learner and answer, an array of static size.

flashbax's item buffer does not fit: it adds whole batches, where the last generation of a budget counts in
part; it hides its rows, where the answer of a noisy run looks at all of them; and it imports tensorstore.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from .environment import Measured


@struct.dataclass
class Replay:
    """Room for B maps; when it is full the oldest go."""

    asked: jax.Array  # (B, N, 2) int8, as the agent wished
    placement: jax.Array  # (B, N, 2) int8, as the compiler left it
    speedup: jax.Array  # (B,) float32, reference / latency as measured; 0: failed
    moved: jax.Array  # (B,) float32
    added: jax.Array  # () int32, so far; rows beyond it hold nothing


def empty(capacity: int, nodes: int) -> Replay:
    """A buffer without maps.

    Raises:
        ValueError: a capacity below 1.
    """
    if capacity < 1:
        raise ValueError(f"capacity of the replay buffer must be at least 1, got {capacity}")
    maps = jnp.zeros((capacity, nodes, 2), jnp.int8)
    number = jnp.zeros((capacity,))
    return Replay(maps, maps, number, number, jnp.zeros((), jnp.int32))


def add(
    replay: Replay,
    asked: Int[Array, "M N 2"],
    measured: Measured,
    speedup: Float[Array, " M"],
    live: Int[Array, ""],
) -> Replay:
    """The first `live` of M maps go in, the others are left out."""
    capacity = replay.speedup.shape[0]
    number = jnp.arange(asked.shape[0])
    row = jnp.where(number < live, (replay.added + number) % capacity, capacity)

    def put(old: Array, new: Array) -> Array:
        return old.at[row].set(new.astype(old.dtype), mode="drop")

    return Replay(
        put(replay.asked, asked),
        put(replay.placement, measured.placement),
        put(replay.speedup, speedup),
        put(replay.moved, measured.moved),
        replay.added + jnp.minimum(live, asked.shape[0]).astype(jnp.int32),
    )


def filled(replay: Replay) -> Bool[Array, " B"]:
    """Which rows hold a map."""
    return jnp.arange(replay.speedup.shape[0]) < replay.added


def sample(key: jax.Array, replay: Replay, size: int) -> Replay:
    """`size` rows, each drawn uniformly from those that hold a map (row 0 of an empty buffer)."""
    count = jnp.minimum(replay.added, replay.speedup.shape[0])
    rows = jax.random.randint(key, (size,), 0, jnp.maximum(count, 1))
    return Replay(
        replay.asked[rows], replay.placement[rows], replay.speedup[rows], replay.moved[rows], replay.added
    )
