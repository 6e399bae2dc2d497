"""Sub-structure neuroevolution: crossover and mutation of networks that respect tensors, layers and rows.

The members are flat vectors; a `Genome` tells where each entry belongs. Three kinds, chosen statically:

- "tensor": NEMO (Miret et al. 2022): each tensor is crossed over uniformly with probability cr_dist, and
  mutated with probability mut_dist. The paper says no more; what happens to a tensor that mutates is
  taken from ERL.
- "patent": NEMO's patent: crossover takes the average of two randomly chosen layers, mutation adds
  Gaussian noise to a random layer. We read that as one layer of the child, drawn uniformly: it becomes the
  mean of that layer of both parents.
- "erl": the public code of evolutionary reinforcement learning (Khadka & Tumer 2018): crossover by rows,
  and a probability of mutating that is drawn for each tensor.

Which members are crossed or mutated at all is the caller's choice. Random numbers are nearly all the cost
on a CPU, so each operator draws for what may change: bits for entries, numbers for rows or for one entry
in twenty.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from .genomes import Genome

Kind = Literal["tensor", "patent", "erl"]
_BLOCK = 20  # entries of a tensor of which at most one mutates at a time
_WORD = 32


@struct.dataclass
class SSNERates:
    """Probabilities, shares and strengths, all traced.

    "ERL" marks starting values, ERL: from that public code, not NEMO's, whose own are not known.
    """

    cr_dist: jax.Array | float = 0.5  # tensor: probability that a tensor is crossed over; ours
    mut_dist: jax.Array | float = 0.5  # tensor: probability that a tensor mutates; ours
    noise: jax.Array | float = 0.1  # patent: standard deviation of what is added; ours
    fraction: jax.Array | float = 0.05  # of a tensor's entries that mutate, at most 0.05; ERL
    strength: jax.Array | float = 0.1  # an entry w becomes w (1 + strength · normal); ERL
    super_strength: jax.Array | float = 10.0  # the same for a few of them; ERL
    super_rate: jax.Array | float = 0.05  # share of mutations that are so strong; ERL
    reset_rate: jax.Array | float = 0.02  # share of mutations that draw a new entry; ERL
    reset_std: jax.Array | float = 0.1  # standard deviation of a new entry; ERL
    clamp: jax.Array | float = 1e7  # bound on the size of a mutated entry; ERL
    row_share: jax.Array | float = 0.3  # erl: of a matrix's rows, at most, that are crossed over; ERL
    bias_share: jax.Array | float = 0.04  # erl: a bias's probability of mutating against a matrix's; ERL


def crossover(
    key: jax.Array,
    a: Float[Array, "k P"],
    b: Float[Array, "k P"],
    genome: Genome,
    rates: SSNERates,
    kind: Kind = "tensor",
) -> Float[Array, "k P"]:
    """One child each of k pairs of parents: a's entries, but for what it takes from b.

    - "tensor": in a tensor that is crossed over, each entry is either parent's with probability 1/2.
    - "patent": one layer of the child is the mean of both parents'.
    - "erl": of each tensor a share of the rows, drawn uniformly from [0, row_share], is b's in expectation;
      every row for itself, and an entry of a bias is a row. (ERL draws their number, swaps them between two
      children, and takes fewer rows of biases.)

    Raises:
        ValueError: an unknown kind, or members of another size than the genome's.
    """
    _check(a, genome, kind)
    k, tensors = len(a), len(genome.shapes)
    k_part, k_entry = jax.random.split(key)
    if kind == "tensor":
        crossed = _uniform(k_part, k, tensors) < rates.cr_dist
        return jnp.where(crossed[:, genome.segments] & _coins(k_entry, k, genome.size), b, a)
    if kind == "patent":
        layer = jax.random.randint(k_part, (k, 1), 0, int(genome.layers.max()) + 1)
        return jnp.where(layer == genome.layers[None], 0.5 * (a + b), a)
    row, tensor = _rows(genome)
    share = rates.row_share * _uniform(k_part, k, tensors)
    return jnp.where((_uniform(k_entry, k, len(tensor)) < share[:, tensor])[:, row], b, a)


def mutate(
    key: jax.Array,
    x: Float[Array, "k P"],
    genome: Genome,
    rates: SSNERates,
    kind: Kind = "tensor",
) -> Float[Array, "k P"]:
    """k members with some of their entries changed.

    - "tensor": a tensor that mutates has each entry changed with probability `fraction`. Most are multiplied
      by 1 + strength · normal; a share super_rate of them with super_strength; a share reset_rate becomes
      reset_std · normal. What was changed is clipped to ± clamp.
    - "erl": the same, but a tensor mutates with probability min(1, p), p ~ U(0, 2) drawn for each, times
      bias_share for a bias; and its fraction is drawn from U(0, fraction).
    - "patent": noise · normal is added to all entries of one layer.

    Departs from ERL: it draws the entries with replacement. Here each tensor is cut into blocks of 20 and
    one entry of a block mutates with probability 20 · fraction, so that the same numbers do for the block;
    a fraction above 1/20 acts as 1/20.

    Raises:
        ValueError: an unknown kind, or members of another size than the genome's.
    """
    _check(x, genome, kind)
    k, tensors = len(x), len(genome.shapes)
    k_part, k_entry = jax.random.split(key)
    if kind == "patent":
        layers = genome.layers
        layer = jax.random.randint(k_part, (k, 1), 0, int(layers.max()) + 1)
        place, widest = _places(layers)
        noise = rates.noise * jax.random.normal(k_entry, (k * widest,)).reshape(k, widest)
        return jnp.where(layer == layers[None], x + noise[:, place], x)
    if kind == "tensor":
        mutates = _uniform(k_part, k, tensors) < rates.mut_dist
        fraction = jnp.where(mutates, rates.fraction, 0)
    else:
        chance, level, share = _uniform(k_part, 3, k * tensors).reshape(3, k, tensors)
        is_bias = np.array([len(shape) < 2 for shape in genome.shapes])
        rate = 2 * level * jnp.where(is_bias, rates.bias_share, 1.0)[None]
        fraction = jnp.where(chance < rate, rates.fraction * share, 0)
    return _change_entries(k_entry, x, fraction, genome, rates)


def mutated(
    w: Float[Array, "*n"], kind: Float[Array, "*n"], normal: Float[Array, "*n"], rates: SSNERates
) -> Float[Array, "*n"]:
    """Entries w after ERL's mutation, for one uniform draw `kind` in [0, 1) and one normal draw each."""
    strength = jnp.where(kind < rates.super_rate, rates.super_strength, rates.strength)
    reset = (kind >= rates.super_rate) & (kind < rates.super_rate + rates.reset_rate)
    changed = jnp.where(reset, rates.reset_std * normal, w * (1 + strength * normal))
    return jnp.clip(changed, -rates.clamp, rates.clamp)


def _change_entries(
    key: jax.Array, x: Float[Array, "k P"], fraction: Float[Array, "k T"], genome: Genome, rates: SSNERates
) -> Float[Array, "k P"]:
    """Each entry mutated with the probability of its tensor."""
    k, size = x.shape
    start, length, tensor = _blocks(genome)
    k_uniform, k_normal = jax.random.split(key)
    hit, place, kind = _uniform(k_uniform, 3, k * len(start)).reshape(3, k, len(start))
    normal = jax.random.normal(k_normal, (k * len(start),)).reshape(k, len(start))

    # A block may be shorter than its fellows: a place beyond its end changes nothing.
    offset = (_BLOCK * place).astype(jnp.int32)
    changes = (hit < _BLOCK * fraction[:, tensor]) & (offset < length[None])
    where = jnp.where(changes, start[None] + offset, size)
    member = jnp.arange(k)[:, None]
    old = x.at[member, where].get(mode="fill", fill_value=0)
    return x.at[member, where].set(mutated(old, kind, normal, rates), mode="drop")


def _blocks(
    genome: Genome,
) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    """First entry, number of entries and tensor of each block of the genome, int32."""
    ends = np.cumsum(genome.sizes)
    start = [np.arange(end - size, end, _BLOCK) for size, end in zip(genome.sizes, ends, strict=True)]
    tensor = np.repeat(np.arange(len(ends)), [len(part) for part in start])
    first = np.concatenate(start)
    length = np.minimum(ends[tensor] - first, _BLOCK)
    return first.astype(np.int32), length.astype(np.int32), tensor.astype(np.int32)


def _rows(genome: Genome) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " R"]]:
    """The row of each entry, counted through the genome, and the tensor of each of these R rows."""
    pairs = np.stack([genome.segments, genome.rows], 1)
    unique, row = np.unique(pairs, axis=0, return_inverse=True)
    return row.reshape(-1).astype(np.int32), unique[:, 0]


def _places(groups: Int[np.ndarray, " P"]) -> tuple[Int[np.ndarray, " P"], int]:
    """The place of each entry within its group, and the size of the largest group."""
    counts = np.bincount(groups)
    order = np.argsort(groups, kind="stable")
    place = np.empty(len(groups), np.int32)
    place[order] = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place, int(counts.max())


def _uniform(key: jax.Array, k: int, n: int) -> Float[Array, "k n"]:
    """Drawn flat: XLA:CPU compiles a draw along several axes four times as long."""
    return jax.random.uniform(key, (k * n,)).reshape(k, n)


def _coins(key: jax.Array, k: int, n: int) -> Bool[Array, "k n"]:
    """Fair coins, 32 from one random word."""
    words = -(-n // _WORD)
    bits = jax.random.bits(key, (k * words,), jnp.uint32).reshape(k, words, 1)
    shifts = jnp.arange(_WORD, dtype=jnp.uint32)
    return ((bits >> shifts[None, None]) & jnp.uint32(1)).astype(bool).reshape(k, -1)[:, :n]


def _check(x: Float[Array, "k P"], genome: Genome, kind: Kind) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {get_args(Kind)}, got {kind!r}")
    if x.shape[1] != genome.size:
        raise ValueError(f"members must have the genome's {genome.size} entries, got {x.shape[1]}")
