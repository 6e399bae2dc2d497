"""The linear classifier of an episode, fitted to a few real and many synthesized features.

The authors' is one dense layer trained by Adam for 25 epochs with a rule for the learning rate (their code;
the paper was not at hand). Ridge regression, logistic regression by L-BFGS and the nearest class mean stand
beside it. All of them run under jit, take padding, and are vmapped over episodes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..fields import check_fields

Kind = Literal["adam", "ridge", "lbfgs", "means"]
# index (b,) int32 -> the examples of that index (b, D), from memory or made anew
Rows = Callable[[Int[Array, " b"]], Float[Array, "b D"]]
BLOCK = 512  # examples that ridge and means read at once
_PACKED_BITS = 14  # of an index that shares a word with its random number, which keeps 17 or more
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # of Adam (Kingma & Ba 2015)
_LEAST_RIDGE = 1e-6  # of ridge: share of the trace
_LEAST_GRADIENT = 1e-6  # of L-BFGS: largest derivative of the mean loss that counts as none


@dataclass(frozen=True)
class ClassifierConfig:
    """Defaults of "adam": the authors' code; the rest is ours. "means": nearest class mean, no settings."""

    kind: Kind = "adam"
    epochs: int = 25  # of adam
    batch: int = 100
    learning_rate: float = 1e-3
    decay: float = 0.9  # the rate times this after an epoch whose mean loss exceeds the best so far
    # λ of ridge, ‖XWᵀ + b - Y‖² + λ‖W‖², and of lbfgs, Σ CE + λ/2 ‖W‖², where scikit-learn's C is 1/λ.
    regularization: float = 1.0
    iterations: int = 50  # of lbfgs
    keep_epochs: bool = False  # also the weights after each epoch of adam

    def __post_init__(self):
        check_fields(self)
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        for name in ("epochs", "batch", "iterations"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value}")
        for name in ("learning_rate", "regularization"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be above 0 and at most 1, got {self.decay}")
        if self.keep_epochs and self.kind != "adam":
            raise ValueError(f"keep_epochs is for kind='adam', got {self.kind!r}: leave it out")


class Trace(NamedTuple):
    """By epoch of adam (T of them); of lbfgs one loss an iteration, of ridge none."""

    loss: Float[Array, " T"]  # mean over the examples, each as its batch was trained on
    learning_rate: Float[Array, " T"]  # that the epoch was trained with
    W: Float[Array, "kept ways D"]  # after each epoch, where these are kept
    b: Float[Array, "kept ways"]


class LinearFit(NamedTuple):
    """Scores x @ Wᵀ + b."""

    W: Float[Array, "ways D"]
    b: Float[Array, " ways"]
    trace: Trace


def fit_linear(
    key: PRNGKeyArray,
    X: Float[Array, "N D"],
    y: Int[Array | np.ndarray, " N"],
    mask: Bool[Array, " N"] | None,
    config: ClassifierConfig,
    *,
    ways: int,
) -> LinearFit:
    """A linear classifier of N examples; pure, for one episode.

    Args:
        key: of the first weights and of the order of the examples.
        X: features, as they are to be classified.
        y: classes, 0 to ways - 1.
        mask: False where an example is padding; None: none is, which saves a little.
        ways: number of classes.
    """

    def rows(index: Int[Array, " b"]) -> Float[Array, "b D"]:
        return X.at[index].get(mode="promise_in_bounds")

    return fit_rows(key, rows, X.shape[1], y, mask, config, ways=ways)


def fit_rows(
    key: PRNGKeyArray,
    rows: Rows,
    width: int,
    y: Int[Array | np.ndarray, " N"],
    mask: Bool[Array, " N"] | None,
    config: ClassifierConfig,
    *,
    ways: int,
) -> LinearFit:
    """`fit_linear` of examples that `rows` gives by index, so that they need not all be there at once."""
    fit: Any = {"adam": _adam, "ridge": _ridge, "lbfgs": _lbfgs, "means": _means}[config.kind]
    return fit(key, rows, width, jnp.asarray(y, jnp.int32), mask, config, ways)


def scores(fit: LinearFit, x: Float[Array, "Q D"]) -> Float[Array, "Q ways"]:
    """Log-probabilities of the classes."""
    return jax.nn.log_softmax(_affine(fit.W, fit.b, x).T, axis=1)


def _affine(W: Float[Array, "ways D"], b: Float[Array, " ways"], x: Float[Array, "N D"]) -> Array:
    """(ways, N). Classes first: of the layouts tried, XLA:CPU runs the gradient's product (ways, batch) by
    (batch, D) some eight times faster than (D, batch) by (batch, ways)."""
    return W @ x.T + b[:, None]


def _glorot(key: PRNGKeyArray, ways: int, width: int) -> Float[Array, "ways D"]:
    bound = (6 / (ways + width)) ** 0.5
    return jax.random.uniform(key, (ways, width), minval=-bound, maxval=bound)


def _adam(
    key: PRNGKeyArray,
    rows: Rows,
    width: int,
    y: Int[Array, " N"],
    mask: Bool[Array, " N"] | None,
    config: ClassifierConfig,
    ways: int,
) -> LinearFit:
    k_start, k_order = jax.random.split(key)
    count, size = len(y), min(config.batch, len(y))
    batches = -(-count // size)
    start = {"W": _glorot(k_start, ways, width), "b": jnp.zeros(ways)}
    zero = jax.tree.map(jnp.zeros_like, start)
    total = jnp.asarray(count if mask is None else jnp.maximum(jnp.sum(mask), 1), jnp.float32)

    def step(carry: Any, batch: tuple[Array, Array], rate: Array) -> tuple[Any, Array]:
        weights, first, second, number = carry
        index, known = batch
        x, of_class = rows(index), jax.nn.one_hot(y[index], ways, axis=0)
        logits = jax.nn.log_softmax(_affine(weights["W"], weights["b"], x), axis=0)
        here = jnp.sum(known)
        residual = (jnp.exp(logits) - of_class) * (known / jnp.maximum(here, 1.0))[None]
        gradient = {"W": residual @ x, "b": jnp.sum(residual, axis=1)}
        after = _adam_step((weights, first, second, number), gradient, rate)
        if mask is not None:  # a batch of padding alone is no step: momentum would move the weights
            after = jax.tree.map(partial(jnp.where, here > 0), after, carry)
        return after, -jnp.sum(jnp.sum(logits * of_class, axis=0) * known)

    def epoch(carry: Any, k_epoch: PRNGKeyArray) -> tuple[Any, Any]:
        state, best, rate = carry
        state, losses = jax.lax.scan(partial(step, rate=rate), state, _order(k_epoch, mask, batches, size, y))
        loss = jnp.sum(losses) / total
        kept = state[0] if config.keep_epochs else jax.tree.map(lambda leaf: leaf[:0], state[0])
        told = loss, rate, kept
        rate = jnp.where(loss > best, rate * config.decay, rate)
        return (state, jnp.minimum(loss, best), rate), told

    begin = (start, zero, zero, jnp.zeros(())), jnp.asarray(jnp.inf), jnp.asarray(config.learning_rate)
    keys = jax.random.split(k_order, config.epochs)
    ((weights, *_), _, _), (loss, rate, kept) = jax.lax.scan(epoch, begin, keys)
    if not config.keep_epochs:
        kept = {"W": jnp.zeros((0, ways, width)), "b": jnp.zeros((0, ways))}
    return LinearFit(weights["W"], weights["b"], Trace(loss, rate, kept["W"], kept["b"]))


def _adam_step(state: Any, gradient: Any, rate: Array) -> Any:
    """By hand, since the rate is traced and thousands of tiny steps are one fused loop this way.

    Departs from the authors' code, whose TensorFlow 1 adds ε to the root before the correction: here it is
    added to the corrected root, as in Kingma & Ba 2015, Algorithm 1. Theirs counts for more in early steps.
    """
    weights, first, second, number = state
    number = number + 1.0
    first = jax.tree.map(lambda m, g: _BETA1 * m + (1 - _BETA1) * g, first, gradient)
    second = jax.tree.map(lambda v, g: _BETA2 * v + (1 - _BETA2) * g * g, second, gradient)
    scale, root = 1 - _BETA1**number, 1 - _BETA2**number
    weights = jax.tree.map(
        lambda w, m, v: w - rate * (m / scale) / (jnp.sqrt(v / root) + _EPSILON), weights, first, second
    )
    return weights, first, second, number


def _order(
    key: PRNGKeyArray, mask: Bool[Array, " N"] | None, batches: int, size: int, y: Array
) -> tuple[Int[Array, "batches size"], Float[Array, "batches size"]]:
    """All examples in random order, padding last, in batches; 1 where there is an example, 0 elsewhere."""
    count = len(y)
    known = jnp.ones(count, bool) if mask is None else mask
    last = jnp.where(known, 0, 1).astype(jnp.uint32)
    bits = max(1, (count - 1).bit_length())
    random = jax.random.bits(key, (count,), jnp.uint32)
    if bits > _PACKED_BITS:
        index = jnp.argsort((random >> 1) | (last << 31), stable=True).astype(jnp.int32)
    else:
        # One sort of random numbers that carry their index in the lower bits: several times faster. Where the
        # upper ones of two agree, the lower index comes first.
        packed = (random >> (bits + 1)) | (last << (31 - bits))
        packed = jnp.sort((packed << bits) | jnp.arange(count, dtype=jnp.uint32))
        index = (packed & ((1 << bits) - 1)).astype(jnp.int32)
    weight = (jnp.arange(batches * size) < jnp.sum(known)).astype(jnp.float32)
    index = jnp.concatenate([index, jnp.zeros(batches * size - count, jnp.int32)])
    return index.reshape(batches, size), weight.reshape(batches, size)


def _ridge(
    key: PRNGKeyArray,
    rows: Rows,
    width: int,
    y: Int[Array, " N"],
    mask: Bool[Array, " N"] | None,
    config: ClassifierConfig,
    ways: int,
) -> LinearFit:
    """The normal equations, whose sums are taken a block of examples at a time; b is not penalised.

    λ is at least `_LEAST_RIDGE` of the trace: below that a Cholesky factor in float32 may be NaN, as of
    features in the hundreds.
    """

    def sums(x: Array, wanted: Array) -> tuple[Array, ...]:
        return x.T @ x, wanted @ x, jnp.sum(wanted, axis=1)

    # Of differences to about the mean: of features far from zero the sums of squares would cancel in float32.
    first = jnp.arange(min(BLOCK, len(y)))
    here = jnp.ones(len(first)) if mask is None else mask[: len(first)].astype(jnp.float32)
    origin = here @ rows(first) / jnp.maximum(jnp.sum(here), 1.0)
    square, cross, sum_y = _summed(lambda index: rows(index) - origin[None], y, mask, ways, sums)
    sum_x, total = jnp.sum(cross, axis=0), jnp.maximum(jnp.sum(sum_y), 1.0)
    square = square - jnp.outer(sum_x, sum_x) / total
    weight = jnp.maximum(config.regularization, _LEAST_RIDGE * jnp.trace(square))
    kernel = square + weight * jnp.eye(width)
    W = jax.scipy.linalg.solve(kernel, (cross - jnp.outer(sum_y, sum_x) / total).T, assume_a="pos").T
    return LinearFit(W, (sum_y - W @ sum_x) / total - W @ origin, _no_trace(ways, width))


def _means(
    key: PRNGKeyArray,
    rows: Rows,
    width: int,
    y: Int[Array, " N"],
    mask: Bool[Array, " N"] | None,
    config: ClassifierConfig,
    ways: int,
) -> LinearFit:
    """-‖x - c‖² as a linear function of x, up to what all classes share; -inf of a class without example."""
    cross, counts = _summed(rows, y, mask, ways, lambda x, wanted: (wanted @ x, jnp.sum(wanted, axis=1)))
    here = counts > 0
    centres = cross / jnp.maximum(counts, 1.0)[:, None]
    mean = jnp.sum(centres, axis=0) / jnp.maximum(jnp.sum(here), 1).astype(jnp.float32)
    away = jnp.where(here[:, None], centres - mean[None], 0.0)  # what all centres share drowns no difference
    b = jnp.where(here, -jnp.sum(away * (centres + mean[None]), axis=1), -jnp.inf)
    return LinearFit(2 * away, b, _no_trace(ways, width))


def _summed(
    rows: Rows, y: Int[Array, " N"], mask: Bool[Array, " N"] | None, ways: int, sums: Callable[..., Any]
) -> Any:
    """What `sums` makes of the examples of a block and their one-hot classes (ways, block), over all blocks;
    both are zero where there is padding."""
    count = len(y)
    size = min(BLOCK, count)
    more = -count % size
    known = jnp.ones(count) if mask is None else mask.astype(jnp.float32)
    known = jnp.concatenate([known, jnp.zeros(more)]).reshape(-1, size)
    index = jnp.concatenate([jnp.arange(count), jnp.zeros(more, jnp.int32)]).reshape(-1, size)

    def block(place: Array, weight: Array) -> Any:
        return sums(rows(place) * weight[:, None], jax.nn.one_hot(y[place], ways, axis=0) * weight[None])

    def add(carry: Any, item: tuple[Array, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, block(*item)), None

    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(block, index[0], known[0]))
    return jax.lax.scan(add, empty, (index, known))[0]


def _lbfgs(
    key: PRNGKeyArray,
    rows: Rows,
    width: int,
    y: Int[Array, " N"],
    mask: Bool[Array, " N"] | None,
    config: ClassifierConfig,
    ways: int,
) -> LinearFit:
    """Multinomial logistic regression from zero; b is not penalised.

    Ends where an iteration gains nothing that float32 tells, or the gradient is as good as zero: past that
    a line search tries in vain as often as it may. The trace goes on with the last loss.
    """
    x, wanted = rows(jnp.arange(len(y))), jax.nn.one_hot(y, ways, axis=0)
    known = jnp.ones(len(y)) if mask is None else mask.astype(jnp.float32)
    x, total = x * known[:, None], jnp.maximum(jnp.sum(known), 1.0)

    def loss(weights: Any) -> Array:
        logits = jax.nn.log_softmax(_affine(weights["W"], weights["b"], x), axis=0)
        penalty = 0.5 * config.regularization * jnp.sum(weights["W"] ** 2)
        return (penalty - jnp.sum(jnp.sum(logits * wanted, axis=0) * known)) / total

    rule = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def goes_on(carry: Any) -> Array:
        number, _, _, moving, _ = carry
        return (number < config.iterations) & moving

    def step(carry: Any) -> tuple[Any, ...]:
        number, weights, state, _, losses = carry
        value, gradient = value_and_grad(weights, state=state)
        losses = jnp.where(jnp.arange(config.iterations) < number, losses, value)
        steepest = jnp.max(jnp.array([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(gradient)]))
        before = losses[jnp.maximum(number - 1, 0)]
        gains = (number == 0) | (value < before)
        updates, state = rule.update(gradient, state, weights, value=value, grad=gradient, value_fn=loss)
        weights = optax.apply_updates(weights, updates)
        return number + 1, weights, state, gains & (steepest > _LEAST_GRADIENT), losses

    start = {"W": jnp.zeros((ways, width)), "b": jnp.zeros(ways)}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        begin = jnp.asarray(0), start, rule.init(start), jnp.asarray(True), jnp.zeros(config.iterations)
        _, weights, _, _, losses = jax.lax.while_loop(goes_on, step, begin)
    rate = jnp.full_like(losses, jnp.nan)
    return LinearFit(
        weights["W"], weights["b"], _no_trace(ways, width)._replace(loss=losses, learning_rate=rate)
    )


def _no_trace(ways: int, width: int) -> Trace:
    return Trace(jnp.zeros(0), jnp.zeros(0), jnp.zeros((0, ways, width)), jnp.zeros((0, ways)))
