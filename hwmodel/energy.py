"""Energy of one inference: what computes and what moves, each at its price; linear in the placement.

E = Σ_i MAC_i e_mac(bits) + Σ_k (bytes read from level k + bytes written to it) e_k
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .placements import as_levels
from .problem import Problem


def energy_j(problem: Problem, placement: Int[Array, "*M N 2"]) -> Float[Array, "*M"]:
    """Joules of one inference, whether or not the tensors fit; of a batch of placements, one each.

    Graph inputs and outputs count where the chip has an `external_io`; the copies of `move_cost` and what
    leaks while time passes do not. Levels out of range are taken as the nearest level, as in `latency`.

    Raises:
        ValueError: the chip reports no energy for some level or rate, or placements of another shape.
    """
    mac_j, level_j = problem.compute_j, problem.level_j_per_byte
    if mac_j is None or level_j is None:
        raise ValueError(
            "the chip reports no energy: give energy_j_per_byte for all levels and energy_j_per_mac for all "
            "rates"
        )
    n = problem.shape[0]
    if placement.ndim not in (2, 3) or placement.shape[-1] != 2 or placement.shape[-2] > n:
        raise ValueError(
            f"placement must be (N, 2) or (M, N, 2) with N at most {n} operations, got {placement.shape}"
        )
    more = [(0, 0)] * (placement.ndim - 2) + [(0, n - placement.shape[-2]), (0, 0)]
    weight, output, batch = as_levels(problem, jnp.pad(placement, more))
    weight_j, output_j = level_j[weight[problem.weight_of].T], level_j[output.T]
    made = problem.output_bytes.astype(level_j.dtype)
    read = jnp.zeros(made.shape, level_j.dtype).at[problem.parent].add(problem.parent_bytes)

    def dot(price: Array, amount: Array) -> Array:
        return jnp.matmul(price, amount, precision=jax.lax.Precision.HIGHEST)

    fixed = jnp.sum(mac_j) + jnp.sum(problem.external_bytes) * jnp.sum(problem.external_level * level_j)
    total = fixed + dot(weight_j, problem.weight_traffic_bytes) + dot(output_j, made + read)
    return total if batch else total[0]
