"""First weights of networks whose kernels are all alike, in one draw."""

import math
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray


def draw_plain(key: PRNGKeyArray, shapes: Any) -> Any:
    """Variables of these shapes: normal kernels of variance 2 / fan-in (He et al. 2015), norms that change
    nothing.

    One long draw, as compiling one for each of 20 layers takes half a minute. A module for which this is what
    its `init` would draw says so by the class attribute `plain_weights = True`.
    """
    leaves = flax.traverse_util.flatten_dict(shapes)
    sizes = {place: math.prod(leaf.shape) for place, leaf in leaves.items() if place[-1] == "kernel"}
    normal = np.asarray(jax.random.normal(key, (sum(sizes.values()),)))
    values = dict(zip(sizes, np.split(normal, np.cumsum(list(sizes.values()))[:-1]), strict=True))
    out = {}
    for place, leaf in leaves.items():
        if place in values:
            deviation = np.float32(math.sqrt(2 / math.prod(leaf.shape[:-1])))
            out[place] = jnp.asarray(values[place].reshape(leaf.shape) * deviation)
        else:  # of norms
            out[place] = jnp.full(leaf.shape, float(place[-1] in ("scale", "var")), leaf.dtype)
    return flax.traverse_util.unflatten_dict(out)
