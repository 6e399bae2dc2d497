"""What compilers do by rule, without a measurement: the rivals of every search."""

import numpy as np
from jaxtyping import Int

import hwmodel as hw

from ..environment import Environment


def rules(env: Environment) -> dict[str, Int[np.ndarray, "N 2"]]:
    """The placements of `hwmodel.BASELINES` by name; a function of the host. All fit; none is measured."""
    return {name: rule(env.problem) for name, rule in hw.BASELINES.items()}
