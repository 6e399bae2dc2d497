"""The Delta-encoder's two networks (Schwartz et al. 2018), as in the authors' released code.

    z = E(x, y):  [x, y] ─ dense, leaky ReLU, dropout ─ dense ─▶ z     what leads from y to x, both of a class
    x̂ = D(y, z):  [y, z] ─ dense, leaky ReLU, dropout ─ dense ─▶ x̂

In the decoder's first layer W [y; z] = W_y y + W_z z: what depends on y is computed once for all codes.
"""

from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .config import DeltaConfig


def init_delta(key: PRNGKeyArray, config: DeltaConfig, width: int) -> dict[str, Any]:
    """Parameters for features of `width`: {"encoder": {"layer_0": {"kernel", "bias"}, ...}, "decoder": ...}.

    The last layer of each is the linear one.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    hidden = (config.hidden,) * config.layers
    encoder, decoder = (2 * width, *hidden, config.code), (width + config.code, *hidden, width)
    return _drawn(key, encoder, decoder, jnp.asarray(config.init_std, jnp.float32))


def encode(
    params: Any,
    config: DeltaConfig,
    x: Float[Array, "B D"],
    y: Float[Array, "B D"],
    key: PRNGKeyArray | None = None,
) -> Float[Array, "B code"]:
    """z = E(x, y). With a key, dropout is on: training."""
    first = _dense(params["encoder"]["layer_0"], jnp.concatenate([x, y], axis=1))
    return _rest(params["encoder"], config, first, key)


def decode(
    params: Any,
    config: DeltaConfig,
    y: Float[Array, "B D"],
    z: Float[Array, "B code"],
    key: PRNGKeyArray | None = None,
) -> Float[Array, "B D"]:
    """x̂ = D(y, z). With a key, dropout is on: training."""
    first = _dense(params["decoder"]["layer_0"], jnp.concatenate([y, z], axis=1))
    return _rest(params["decoder"], config, first, key)


def seed_part(params: Any, seeds: Float[Array, "S D"]) -> Float[Array, "S hidden"]:
    """W_y y + b of the decoder's first layer: once for each seed, whatever the number of codes."""
    layer = params["decoder"]["layer_0"]
    return seeds @ layer["kernel"][: seeds.shape[1]] + layer["bias"][None]


def decode_from(
    params: Any, config: DeltaConfig, parts: Float[Array, "#B hidden"], z: Float[Array, "B code"]
) -> Float[Array, "B D"]:
    """`decode` without dropout, from `seed_part` of each row's seed, or of the one seed of all rows."""
    kernel = params["decoder"]["layer_0"]["kernel"]
    return _rest(params["decoder"], config, parts + z @ kernel[kernel.shape[0] - z.shape[1] :], None)


@partial(jax.jit, static_argnums=(1, 2))
def _drawn(
    key: PRNGKeyArray, encoder: tuple[int, ...], decoder: tuple[int, ...], std: Float[Array, ""]
) -> dict[str, Any]:
    """All kernels in one draw: to compile one for each takes longer."""
    shapes = {"encoder": tuple(pairwise(encoder)), "decoder": tuple(pairwise(decoder))}
    sizes = [inputs * outputs for layers in shapes.values() for inputs, outputs in layers]
    every = iter(jnp.split(std * jax.random.normal(key, (sum(sizes),), jnp.float32), np.cumsum(sizes)[:-1]))
    return {
        name: {
            f"layer_{i}": {"kernel": next(every).reshape(shape), "bias": jnp.zeros(shape[1], jnp.float32)}
            for i, shape in enumerate(layers)
        }
        for name, layers in shapes.items()
    }


def _dense(layer: Any, inputs: Float[Array, "B I"]) -> Float[Array, "B O"]:
    return inputs @ layer["kernel"] + layer["bias"][None]


def _rest(
    layers: Any, config: DeltaConfig, values: Float[Array, "B hidden"], key: PRNGKeyArray | None
) -> Float[Array, "B O"]:
    """From the first layer's sums on."""
    for i in range(1, len(layers)):
        values = jnp.where(values > 0, values, config.slope * values)
        if key is not None and config.dropout:
            kept = kept_units(jax.random.fold_in(key, i), config.dropout, *values.shape)
            values = jnp.where(kept, values / (1 - config.dropout), 0.0)
        values = _dense(layers[f"layer_{i}"], values)
    return values


def kept_units(key: PRNGKeyArray, dropout: float, rows: int, columns: int) -> Bool[Array, "B H"]:
    """Units that dropout leaves in, each with probability 1 - dropout.

    Of random words no more bits are drawn than the probability needs, one a unit for a half: drawing one word
    a unit takes about as long as a tenth of the rest of a training step.
    """
    bits = next((b for b in (1, 2, 4, 8) if float(dropout * 2**b).is_integer()), None)
    if bits is None:
        return jax.random.bernoulli(key, 1 - dropout, (rows, columns))
    each = 32 // bits  # units that share a word
    words = jax.random.bits(key, (rows, -(-columns // each)), jnp.uint32)
    shifts = bits * jnp.arange(each, dtype=jnp.uint32)
    drawn = (words[:, :, None] >> shifts[None, None]) & jnp.uint32(2**bits - 1)
    return drawn.reshape(rows, -1)[:, :columns] >= jnp.uint32(dropout * 2**bits)
