"""Some steps of an epoch as one compiled loop: a pure function of the state, the key and the features."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .config import DeltaConfig, DeltaTrainConfig
from .losses import sample_losses
from .model import decode, encode
from .pairs import make_pairs


@struct.dataclass
class DeltaState:
    """Everything that changes in training."""

    params: Any
    moments: Any  # Adam's
    step: Array  # () int32
    rate: Array  # () float32, the learning rate of this epoch
    least: Array  # () float32, mean loss of the best epoch so far; infinite before the first
    loss: Array  # () float32, sum over the pairs of the epoch so far


def begin(params: Any, config: DeltaTrainConfig) -> DeltaState:
    """The state before the first step."""
    rate, least, loss = (jnp.asarray(v, jnp.float32) for v in (config.learning_rate, jnp.inf, 0.0))
    return DeltaState(params, jax.jit(_ADAM.init)(params), jnp.asarray(0, jnp.int32), rate, least, loss)


def pairs_loss(
    params: Any,
    config: DeltaConfig,
    x: Float[Array, "B D"],
    y: Float[Array, "B D"],
    there: Float[Array, " B"],
    key: PRNGKeyArray | None,
) -> Float[Array, ""]:
    """Mean of `sample_losses` of D(y, E(x, y)) over the pairs that are there (1.0; padding: 0.0)."""
    k_encoder, k_decoder = (None, None) if key is None else jax.random.split(key)
    z = encode(params, config, x, y, k_encoder)
    each = sample_losses(config, x, decode(params, config, y, z, k_decoder))
    return jnp.sum(each * there) / jnp.sum(there)


# Departs from the authors' code in where ε stands: optax, like PyTorch, adds it to the corrected root of the
# second moment, TensorFlow 1's Adam to the uncorrected one.
_ADAM = optax.scale_by_adam()


@partial(jax.jit, static_argnums=(7, 8), donate_argnums=1)
def run(
    key: PRNGKeyArray,
    state: DeltaState,
    features: Float[Array, "N D"],
    labels: Int[Array, " N"],
    nearest: Int[Array, " N"] | None,
    steps: Int[Array, ""],
    decay: Float[Array, ""],
    config: DeltaConfig,
    batch: int,
) -> DeltaState:
    """The next `steps` steps, all of the epoch that the state stands in; the state given is used up.

    Pairs and order of an epoch follow from the key and its number, dropout from the number of the step: it
    does not matter how an epoch is cut into calls. The last batch of an epoch is filled with padding.
    """
    count = len(labels)
    per_epoch = -(-count // batch)
    k_epoch = jax.random.fold_in(key, state.step // per_epoch)
    k_pairs, k_order, k_steps = jax.random.split(k_epoch, 3)
    references = make_pairs(k_pairs, labels, config.pairs, nearest)
    order = jax.random.permutation(k_order, jnp.arange(count, dtype=jnp.int32))
    order = jnp.pad(order, (0, per_epoch * batch - count))

    def step(_: Array, state: DeltaState) -> DeltaState:
        done = state.step % per_epoch
        first = done * batch
        rows = jax.lax.dynamic_slice(order, (first,), (batch,))
        there = (first + jnp.arange(batch) < count).astype(jnp.float32)
        x, y = features[rows], features[references[rows]]
        k_step = jax.random.fold_in(k_steps, done)
        value, gradient = jax.value_and_grad(pairs_loss)(state.params, config, x, y, there, k_step)
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies counts by rates
            updates, moments = _ADAM.update(gradient, state.moments)
        # The rate plus nothing, but so that each update waits for the last gradient to be taken: XLA then
        # sees that no gradient reads a weight after its update, and writes in place what it would copy each
        # step, the decoder's weights.
        rate = state.rate + 0.0 * gradient["encoder"]["layer_0"]["bias"][0]
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        loss = jnp.where(done == 0, 0.0, state.loss) + value * jnp.sum(there)
        # The rule of the authors' code, at the last step of an epoch.
        mean, ended = loss / count, done == per_epoch - 1
        worse = mean > state.least
        rate = jnp.where(ended & worse, decay * state.rate, state.rate)
        least = jnp.where(ended & ~worse, mean, state.least)
        return DeltaState(params, moments, state.step + 1, rate, least, loss)

    return jax.lax.fori_loop(0, steps, step, state)  # the number is traced: one compilation for all
