"""Cross-layer equalization (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
Correction", section 4.1): the scale of a channel moves from one operation to the next.

    W1 <- S⁻¹ W1,  b1 <- S⁻¹ b1,  W2 <- W2 S,   s_i = √(r1_i r2_i) / r2_i          Eq. (11)

r1_i and r2_i are the largest magnitudes of channel i among the first operation's outputs and the second one's
inputs; both are √(r1_i r2_i) afterwards. Pairs are visited in order until no scale moves any more, which also
settles chains such as convolution, depthwise convolution, convolution. In full precision the network computes
what it did, to rounding.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..interpreter import Folded
from ..traced import Traced
from .bounds import bounded
from .pairs import Pair, find_pairs

_TOLERANCE = 1e-4  # of the largest |log s| in a round
_ROUNDS = 100
_DEAD = 1e-3  # of the largest channel's range: [ours] what is smaller has no weights to speak of


def equalize(traced: Traced, folded: Folded, pairs: Sequence[Pair] | None = None) -> tuple[Traced, Folded]:
    """The equalized network: its weights, biases and bounds, and the trace that takes bounds per channel.

    Args:
        pairs: default: all that `find_pairs` finds.
    """
    work = traced.workload()
    pairs = find_pairs(work) if pairs is None else pairs
    axis = {op.name: op.weight_axis for op in work.operations}
    kernels = {name: np.array(kernel) for name, kernel in folded.kernels.items()}
    biases = {name: np.array(bias) for name, bias in folded.biases.items()}
    # Departs from the paper (its section 5.1.1 puts ReLU in the place of ReLU6): a channel takes its bound
    # along, because without bounds EfficientNet-Lite0 loses half of its accuracy before any quantization.
    clips = [clip for pair in pairs for clip in pair.clips]
    bounds = {clip: np.asarray(folded.constants.get(str(clip.value), clip.bound)) for clip in clips}
    for _ in range(_ROUNDS):
        moved = 0.0
        for pair in pairs:
            first, second = kernels[pair.first], kernels[pair.second]
            s = scales(_ranges(first, axis[pair.first]), _ranges(second, pair.input_axis))
            kernels[pair.first] = first / _along(s, axis[pair.first], first.ndim)
            biases[pair.first] = biases[pair.first] / s
            kernels[pair.second] = second * _along(s, pair.input_axis, second.ndim)
            for clip in pair.clips:
                bounds[clip] = bounds[clip] / _along(s, clip.axis, clip.rank)
            moved = max(moved, float(np.abs(np.log(s)).max()))
        if moved < _TOLERANCE:
            break
    now = Folded(
        {name: jnp.asarray(kernel) for name, kernel in kernels.items()},
        {name: jnp.asarray(bias) for name, bias in biases.items()},
        {**folded.constants, **{str(c.value): jnp.asarray(b, jnp.float32) for c, b in bounds.items()}},
    )
    return bounded(traced, [clip.value for clip in bounds]), now


def scales(r1: Float[np.ndarray, " c"], r2: Float[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
    """s of Eq. (11); 1 for a channel that has next to no weights on one side.

    Batch norms with a scale near 0 leave such channels: weights of 1e-8, folded, and a bias that lives. Their
    s would raise the bias by orders of magnitude, and a range per tensor would be spent on a constant.
    """
    used = (r1 > _DEAD * r1.max()) & (r2 > _DEAD * r2.max())
    return np.where(used, np.sqrt(np.where(used, r1 / np.where(used, r2, 1), 1)), 1).astype(np.float32)


def _ranges(kernel: np.ndarray, axis: int) -> np.ndarray:
    return np.abs(kernel).max(tuple(i for i in range(kernel.ndim) if i != axis))


def _along(s: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return s.reshape([-1 if i == axis else 1 for i in range(rank)])
