"""Some steps of an epoch as one compiled loop: a pure function of the state, the key and the data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from ..backbones import Preprocess
from ..objectives import Objective
from .batches import balanced, shifted
from .config import TrainConfig

Apply = Callable[..., Any]  # of a linen module: (variables, images, train=, mutable=)


@struct.dataclass
class TrainState:
    """Everything that changes."""

    params: Any  # {"backbone": ..., "head": ...}
    statistics: Any  # the running ones of batch norms
    kept: Any  # exponential mean of {"params", "batch_stats", "head"}: what the training is for
    optimizer: Any
    step: Array  # () int32
    loss: Array  # () float32, sum over the steps of the epoch so far
    error: Array  # () float32, likewise: share of the batch whose likeliest class is wrong


class Data(NamedTuple):
    """What is trained on, as arguments of the compiled program."""

    inputs: Num[Array, "N ..."]  # uint8 images (N, H, W, C), or float32 features (N, F)
    labels: Int[Array, " N"]
    table: Int[Array, "classes P"]  # see `class_table`; without rows where epochs are shuffled
    counts: Int[Array, " classes"]


def begin(variables: Any, head: Any, config: TrainConfig, steps: int) -> TrainState:
    """The state before the first step, of a module's variables and the objective's parameters."""
    # Types of their own: weak ones, which some initializers leave, turn strong in a step: two compilations.
    variables, head = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), (variables, head))
    params = {"backbone": variables["params"], "head": head}
    statistics = variables.get("batch_stats", {})
    kept = {"params": params["backbone"], "batch_stats": statistics, "head": head}
    zero = jnp.asarray(0.0, jnp.float32)
    moments = optimizer(config, steps).init(params)
    return TrainState(params, statistics, kept, moments, jnp.asarray(0, jnp.int32), zero, zero)


def optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """`steps` in all: the learning rate rises linearly, then falls as a cosine."""
    warmup = round(config.warmup_epochs * steps / config.epochs)
    rate = optax.warmup_cosine_decay_schedule(
        0.0 if warmup else config.learning_rate, config.learning_rate, warmup, steps
    )

    def arrays(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    decay = optax.add_decayed_weights(config.weight_decay, arrays)
    if config.optimizer == "adam":
        return optax.chain(optax.scale_by_adam(), decay, optax.scale_by_learning_rate(rate))
    return optax.chain(decay, optax.sgd(rate, config.momentum, nesterov=True))


def averaged(kept: Any, now: Any, step: Int[Array, ""], ema: float) -> Any:
    """The exponential mean of weights after one more step: `step` were done before.

    It starts as the weights themselves, and its horizon grows with the steps until `ema` limits it.
    """
    before = step.astype(jnp.float32)
    share = jnp.minimum(ema, before / (before + 10.0))
    return jax.tree.map(lambda old, new: share * old + (1 - share) * new, kept, now)


def prepared(
    key: PRNGKeyArray, inputs: Num[Array, "B ..."], preprocess: Preprocess | None, config: TrainConfig
) -> Float[Array, "B ..."]:
    """What the network is given: images moved, mirrored and normalised; features as they are."""
    if preprocess is None:
        return inputs
    if config.padding or config.mirror:
        inputs = shifted(key, inputs, config.padding, config.mirror)
    return preprocess.normalize(inputs)


def _run(
    key: PRNGKeyArray,
    state: TrainState,
    data: Data,
    steps: Int[Array, ""],
    apply: Apply,
    preprocess: Preprocess | None,
    objective: Objective,
    config: TrainConfig,
) -> TrainState:
    """The next `steps` steps, all of the epoch that the state stands in.

    An epoch's order follows from the key and its number, a batch from the number of the step: it does not
    matter how an epoch is cut into calls.
    """
    count = len(data.labels)
    per_epoch = config.steps(count)
    rule = optimizer(config, per_epoch * config.epochs)
    k_order, k_steps = jax.random.split(jax.random.fold_in(key, state.step // per_epoch))
    order = jax.random.permutation(k_order, count)

    def rows(key: PRNGKeyArray, done: Array) -> Array:
        if config.ways is not None:
            return balanced(key, data.table, data.counts, config.ways, config.per_class)
        return jax.lax.dynamic_slice(order, (done * config.batch,), (config.batch,))

    def step(_: Array, state: TrainState) -> TrainState:
        done = state.step % per_epoch
        k_rows, k_augment = jax.random.split(jax.random.fold_in(k_steps, state.step))
        chosen = rows(k_rows, done)
        x, labels = prepared(k_augment, data.inputs[chosen], preprocess, config), data.labels[chosen]

        def loss(params: Any) -> tuple[Array, Any]:
            variables = {"params": params["backbone"], "batch_stats": state.statistics}
            features, updates = apply(variables, x, train=True, mutable=["batch_stats"])
            value, log_probabilities = objective.loss(params["head"], features, labels)
            wrong = jnp.mean((jnp.argmax(log_probabilities, axis=1) != labels).astype(jnp.float32))
            return value, (updates.get("batch_stats", {}), wrong)

        (value, (statistics, wrong)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules multiply counts by rates
            updates, moments = rule.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        now = {"params": params["backbone"], "batch_stats": statistics, "head": params["head"]}
        kept = averaged(state.kept, now, state.step, config.ema)
        losses, errors = (jnp.where(done == 0, 0.0, total) for total in (state.loss, state.error))
        return TrainState(params, statistics, kept, moments, state.step + 1, losses + value, errors + wrong)

    return jax.lax.fori_loop(0, steps, step, state)  # the number is traced: one compilation for all


run = jax.jit(_run, static_argnums=(4, 5, 6, 7))
