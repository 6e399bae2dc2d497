"""What a measured map is worth to the search (Khadka et al. 2021, section 3; constants are not known to us).

::

    strict      r = scale · (reference / latency)^power   if nothing was re-assigned,   else -eps
    rectified   r = scale · (reference / latency)^power - penalty · eps

with eps the bytes that the compiler had to re-assign over all bytes, and the reference a compiler's own map.
"strict" is the method's: a map that does not fit gives no latency. "rectified" takes the latency of what the
compiler made of it [ours].
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from hwmodel import check_fields

Fitness = Literal["rectified", "strict"]


@dataclass(frozen=True)
class RewardConfig:
    """Hashed by value.

    Raises:
        ValueError: an unknown fitness, a scale or power not above 0, a negative penalty.
    """

    fitness: Fitness = "rectified"  # ours; "strict" is the paper's
    scale: float = 5.0  # remembered, not read
    power: float = 1.0  # ours
    penalty: float = 0.0  # ours; of "rectified"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.fitness not in get_args(Fitness):
            raise ValueError(f"fitness must be one of {get_args(Fitness)}, got {self.fitness!r}")
        for name in ("scale", "power"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not self.penalty >= 0:
            raise ValueError(f"penalty must be at least 0, got {self.penalty}")

    def __str__(self) -> str:
        """The formula, for reports."""
        speed = f"{self.scale:g} · speedup" + (f"^{self.power:g}" if self.power != 1 else "")
        if self.fitness == "strict":
            return f"{speed} if nothing is re-assigned, else -eps"
        return speed + (f" - {self.penalty:g} · eps" if self.penalty else "")


def reward(
    speedup: Float[Array, "*M"], moved: Float[Array, "*M"], config: RewardConfig
) -> Float[Array, "*M"]:
    """The reward of maps, larger is better; -inf where the speed-up is NaN or not above 0: it failed.

    Under "strict" a map that does not fit needs no speed-up.

    Args:
        speedup: reference latency / latency, as measured.
        moved: eps, of `hwmodel.evaluate`.
    """
    gain = config.scale * speedup**config.power
    if config.fitness == "strict":
        return jnp.where(moved > 0, -moved, jnp.where(speedup > 0, gain, -jnp.inf))
    return jnp.where(speedup > 0, gain - config.penalty * moved, -jnp.inf)
