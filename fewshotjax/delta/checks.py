"""Does the Delta-encoder do what it says? Numbers to look at: codes that carry something, samples that
differ.

None of these is a test that passes or fails; what they come to is reported, whatever it is.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..distances import squared_distances
from .encoder import BLOCK, DeltaEncoder, code_bank
from .losses import sample_losses
from .model import decode
from .synthesis import generate


class Reconstruction(NamedTuple):
    """Mean loss of x̂ against x, without dropout. Expected: code < shuffled and code < copy."""

    code: float  # x̂ = D(y, z) with the pair's own code
    shuffled: float  # with the code of another pair: what z carries
    copy: float  # x̂ = y: what is gained over copying the reference


class Spread(NamedTuple):
    """Of samples of one seed, over codes; a collapsed decoder makes the same of all of them."""

    std: float  # mean over seeds and features of the standard deviation over codes
    share: float  # of seeds and features where it is above 1e-3 of the feature's over all the samples


class Nearest(NamedTuple):
    """The real example that is nearest to each sample: what was imagined."""

    rows: Int[np.ndarray, " S"]  # into the real ones
    distances: Float[np.ndarray, " S"]  # Euclidean


class Probes(NamedTuple):
    """Share of held-out samples whose seen class a linear map finds. Expected: code far below feature."""

    code: float
    feature: float
    chance: float  # the largest class's share of what is held out


def reconstruction(
    key: PRNGKeyArray,
    delta: DeltaEncoder,
    features: Float[Array | np.ndarray, "N D"],
    references: Int[Array | np.ndarray, " N"],
    *,
    chunk: int = BLOCK,
) -> Reconstruction:
    """Over all pairs (x, y) of unscaled features, by the config's own loss.

    The shuffled codes are those of the next pair around a random circle, never a pair's own.
    """
    x = delta.scaling(jnp.asarray(features, jnp.float32))
    codes = code_bank(delta.params, delta.config, x, references, chunk=chunk)
    found = _reconstruction(key, delta, x, jnp.asarray(references), codes, min(chunk, len(x)))
    return Reconstruction(*(float(np.mean(np.asarray(one), dtype=np.float64)) for one in found))


@partial(jax.jit, static_argnums=5)
def _reconstruction(
    key: PRNGKeyArray,
    delta: DeltaEncoder,
    x: Float[Array, "N D"],
    references: Int[Array, " N"],
    codes: Float[Array, "N code"],
    chunk: int,
) -> tuple[Array, ...]:
    count = len(x)
    order = jax.random.permutation(key, jnp.arange(count, dtype=jnp.int32))
    other = jnp.zeros(count, jnp.int32).at[order].set(jnp.roll(order, -1))
    rows = jnp.arange(-(-count // chunk) * chunk).reshape(-1, chunk) % count

    def block(own: Int[Array, " chunk"]) -> tuple[Array, ...]:
        real, y = x[own], x[references[own]]
        made = [decode(delta.params, delta.config, y, z) for z in (codes[own], codes[other[own]])]
        return tuple(sample_losses(delta.config, real, xhat) for xhat in (*made, y))

    return tuple(one.reshape(-1)[:count] for one in jax.lax.map(block, rows))


def code_spread(
    key: PRNGKeyArray, delta: DeltaEncoder, seeds: Float[Array | np.ndarray, "S D"], count: int = 64
) -> Spread:
    """Of `count` samples of each unscaled seed.

    Raises:
        ValueError: a single seed, whose spread there is nothing to compare with.
    """
    if len(seeds) < 2:
        raise ValueError(f"seeds are {len(seeds)}: give 2 or more, the spread is compared with theirs")
    scaled = delta.scaling(jnp.asarray(seeds, jnp.float32))
    samples = np.asarray(_samples(key, delta, scaled, count), np.float64)
    std = samples.std(axis=1)  # (S, D)
    return Spread(float(std.mean()), float((std > 1e-3 * samples.std(axis=(0, 1))).mean()))


@partial(jax.jit, static_argnums=3)
def _samples(
    key: PRNGKeyArray, delta: DeltaEncoder, seeds: Float[Array, "S D"], count: int
) -> Float[Array, "S count D"]:
    return generate(key, delta, seeds, count)


def within_class_spread(
    features: Float[Array | np.ndarray, "N D"], labels: Int[Array | np.ndarray, " N"]
) -> float:
    """Root of the mean squared distance from the class mean, over N - classes: divide two of them for a
    ratio.

    Raises:
        ValueError: every class has a single sample.
    """
    x, of_class = np.asarray(features, np.float64), np.unique(np.asarray(labels), return_inverse=True)[1]
    counts = np.bincount(of_class)
    if len(counts) == len(x):
        raise ValueError(f"labels: all {len(x)} classes have a single sample: give more of them")
    totals = np.zeros((len(counts), x.shape[1]))
    np.add.at(totals, of_class, x)
    squared = np.sum((x - (totals / counts[:, None])[of_class]) ** 2)
    return float(np.sqrt(squared / (len(x) - len(counts))))


def nearest_real(
    samples: Float[Array | np.ndarray, "S D"],
    real: Float[Array | np.ndarray, "R D"],
    *,
    chunk: int = BLOCK,
) -> Nearest:
    """Of each sample, both in one space: `delta.scaling(features)`.

    Raises:
        ValueError: rows that are not finite, or none.
    """
    _finite("samples", samples), _finite("real", real)
    rows, distances = _nearest(jnp.asarray(samples), jnp.asarray(real), min(chunk, max(1, len(samples))))
    return Nearest(np.asarray(rows), np.asarray(distances))


@partial(jax.jit, static_argnums=2)
def _nearest(samples: Float[Array, "S D"], real: Float[Array, "R D"], chunk: int) -> tuple[Array, Array]:
    def one(rows: Int[Array, " chunk"]) -> tuple[Array, Array]:
        squared = squared_distances(samples[rows], real)
        return jnp.argmin(squared, axis=1).astype(jnp.int32), jnp.sqrt(jnp.min(squared, axis=1))

    count = len(samples)
    rows = jnp.minimum(jnp.arange(-(-count // chunk) * chunk).reshape(-1, chunk), count - 1)
    found, distances = jax.lax.map(one, rows)
    return found.reshape(-1)[:count], distances.reshape(-1)[:count]


def linear_probes(
    key: PRNGKeyArray,
    delta: DeltaEncoder,
    features: Float[Array | np.ndarray, "N D"],
    labels: Int[Array | np.ndarray, " N"],
    references: Int[Array | np.ndarray, " N"],
    *,
    held_out: float = 0.3,
    regularization: float = 1e-2,
) -> Probes:
    """Ridge regression onto one-hot classes of standardised inputs, tested on a random share held out.

    Args:
        features: unscaled, of seen classes.
        references: of the pairs whose codes are probed.
        regularization: λ of (XᵀX/n + λI) W = XᵀY/n.

    Raises:
        ValueError: features that are not finite, `held_out` that is not in (0, 1), or leaves nothing on one
            side.
    """
    _finite("features", features)
    test = round(held_out * len(features))
    if not 0 < held_out < 1 or not 0 < test < len(features):
        raise ValueError(f"held_out must be in (0, 1) and leave samples on both sides, got {held_out}")
    x = delta.scaling(jnp.asarray(features, jnp.float32))
    codes = code_bank(delta.params, delta.config, x, references)
    order = np.asarray(jax.random.permutation(key, len(x)))
    of_class = np.unique(np.asarray(labels), return_inverse=True)[1]
    code, feature = (
        _ridge(np.asarray(inputs, np.float64), of_class, order[test:], order[:test], regularization)
        for inputs in (codes, x)
    )
    return Probes(code, feature, float(np.bincount(of_class[order[:test]]).max() / test))


def separability(
    key: PRNGKeyArray,
    samples: Float[Array | np.ndarray, "S D"],
    sample_labels: Int[Array | np.ndarray, " S"],
    real: Float[Array | np.ndarray, "R D"],
    real_labels: Int[Array | np.ndarray, " R"],
    *,
    held_out: float = 0.3,
    regularization: float = 1e-2,
) -> float:
    """Share of held-out rows that a linear map tells to be synthetic or real; 0.5 where it cannot.

    Both in one space, `delta.scaling(features)`, and of each class as many of each: a random part of the
    larger side. Whole classes are held out, since the samples of a seed lie close together. The map is that
    of `linear_probes`.

    Args:
        sample_labels, real_labels: classes; those that are on one side alone are left out.

    Raises:
        ValueError: rows that are not finite or do not fit, fewer than two classes on both sides, or
            `held_out` that is not in (0, 1) or leaves nothing on one side.
    """
    sides = [
        (_finite(name, part), np.asarray(labels))
        for name, part, labels in (("samples", samples, sample_labels), ("real", real, real_labels))
    ]
    classes = np.intersect1d(sides[0][1], sides[1][1])
    test = round(held_out * len(classes))
    if not 0 < held_out < 1 or not 0 < test < len(classes):
        raise ValueError(
            f"held_out must be in (0, 1) and leave classes on both sides, got {held_out} of {len(classes)} "
            "classes that are in samples and real"
        )
    if sides[0][0].shape[1] != sides[1][0].shape[1]:
        raise ValueError(f"samples have width {sides[0][0].shape[1]}, real {sides[1][0].shape[1]}")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    rows, kinds, tested = [], [], []
    for rank, label in enumerate(rng.permutation(classes)):
        own = [rng.permutation(np.flatnonzero(labels == label)) for _, labels in sides]
        count = min(map(len, own))
        for kind, (part, _) in enumerate(sides):
            rows.append(part[own[kind][:count]])
            kinds.append(np.full(count, kind))
            tested.append(np.full(count, rank < test))
    held, every = np.concatenate(tested), np.concatenate(kinds)
    train, asked = np.flatnonzero(~held), np.flatnonzero(held)
    return _ridge(np.concatenate(rows), every, train, asked, regularization)


def _finite(name: str, rows: Array | np.ndarray) -> np.ndarray:
    """Float64; ValueError for what no check may be made of."""
    found = np.asarray(rows, np.float64)
    if not found.size:
        raise ValueError(f"{name} is empty, of shape {found.shape}: give rows")
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        raise ValueError(f"{name} holds NaN or infinite values, row {row} the first: leave such rows out")
    return found


def _ridge(
    inputs: np.ndarray, of_class: np.ndarray, train: np.ndarray, test: np.ndarray, regularization: float
) -> float:
    mean, std = inputs[train].mean(axis=0), inputs[train].std(axis=0)
    x = (inputs - mean) / np.where(std > 0, std, 1.0)
    wanted = np.eye(int(of_class.max()) + 1)[of_class[train]]
    middle = wanted.mean(axis=0)
    gram = x[train].T @ x[train] / len(train) + regularization * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x[train].T @ (wanted - middle) / len(train))
    return float(np.mean(np.argmax(x[test] @ weights + middle, axis=1) == of_class[test]))
