"""Multi-objective test problems with known fronts, as JAX functions: ZDT (Zitzler, Deb & Thiele 2000), DTLZ.

DTLZ (Deb, Thiele, Laumanns & Zitzler 2002) is here with three objectives. Numbers of variables and bounds are
pymoo's defaults. All objectives are minimised.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

OBJECTIVES = 3  # of the DTLZ problems


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """d variables in a box, M objectives, and what a hypervolume of its fronts is measured against."""

    name: str
    costs: Callable[[Float[Array, "N d"]], Float[Array, "N M"]]
    lower: Float[np.ndarray, " d"]
    upper: Float[np.ndarray, " d"]
    reference: Float[np.ndarray, " M"]  # of the hypervolume
    best_hypervolume: float  # of the whole true front: a finite set stays below

    @property
    def num_variables(self) -> int:
        return self.lower.size

    @property
    def num_objectives(self) -> int:
        return self.reference.size


def _zdt(shape):
    """f = (x₁, g h(x₁, g)) with g = 1 + 9 Σ_{i>1} x_i / (d − 1), for a given h."""

    def costs(x):
        first = x[:, 0]
        g = 1 + 9 * jnp.mean(x[:, 1:], axis=1)
        return jnp.stack([first, g * shape(first, g)], axis=1)

    return costs


zdt1 = _zdt(lambda f, g: 1 - jnp.sqrt(f / g))
zdt2 = _zdt(lambda f, g: 1 - (f / g) ** 2)
zdt3 = _zdt(lambda f, g: 1 - jnp.sqrt(f / g) - f / g * jnp.sin(10 * jnp.pi * f))


def zdt4(x: Float[Array, "N d"]) -> Float[Array, "N 2"]:
    """ZDT1's front behind 21^(d−1) local ones: g = 1 + Σ_{i>1} (10 + x_i² − 10 cos 4π x_i)."""
    first, rest = x[:, 0], x[:, 1:]
    g = 1 + jnp.sum(10 + rest**2 - 10 * jnp.cos(4 * jnp.pi * rest), axis=1)
    return jnp.stack([first, g * (1 - jnp.sqrt(first / g))], axis=1)


def zdt6(x: Float[Array, "N d"]) -> Float[Array, "N 2"]:
    """Unevenly spread: f₁ = 1 − exp(−4 x₁) sin⁶ 6π x₁, g = 1 + 9 (mean_{i>1} x_i)^¼, h = 1 − (f₁/g)²."""
    first = 1 - jnp.exp(-4 * x[:, 0]) * jnp.sin(6 * jnp.pi * x[:, 0]) ** 6
    g = 1 + 9 * jnp.mean(x[:, 1:], axis=1) ** 0.25
    return jnp.stack([first, g * (1 - (first / g) ** 2)], axis=1)


def _chain(head, tail):
    """(a₁ a₂ ..., a₁ a₂ ... b_last, ..., b₁): what DTLZ1 and DTLZ2 build their objectives of."""
    count = head.shape[1]
    products = [jnp.prod(head[:, : count - k], axis=1) for k in range(count + 1)]
    return jnp.stack([products[0], *(p * tail[:, count - k] for k, p in enumerate(products[1:], 1))], axis=1)


def dtlz1(x: Float[Array, "N d"]) -> Float[Array, "N 3"]:
    """Front: the plane Σ f = ½, behind 11^k − 1 local ones, with k = d − 2."""
    head, rest = x[:, : OBJECTIVES - 1], x[:, OBJECTIVES - 1 :] - 0.5
    g = 100 * jnp.sum(1 + rest**2 - jnp.cos(20 * jnp.pi * rest), axis=1)
    return 0.5 * (1 + g)[:, None] * _chain(head, 1 - head)


def dtlz2(x: Float[Array, "N d"]) -> Float[Array, "N 3"]:
    """Front: the part of the unit sphere with f ≥ 0, at x_i = ½ for i ≥ 3."""
    angle = x[:, : OBJECTIVES - 1] * (jnp.pi / 2)
    g = jnp.sum((x[:, OBJECTIVES - 1 :] - 0.5) ** 2, axis=1)
    return (1 + g)[:, None] * _chain(jnp.cos(angle), jnp.sin(angle))


def dtlz7(x: Float[Array, "N d"]) -> Float[Array, "N 3"]:
    """Front in four pieces: f₃ = 3 (1 + g) − Σ_{i<3} f_i (1 + sin 3π f_i), f_i = x_i, g = 1 + 9 mean x."""
    first = x[:, : OBJECTIVES - 1]
    g = 1 + 9 * jnp.mean(x[:, OBJECTIVES - 1 :], axis=1)
    waves = jnp.sum(first * (1 + jnp.sin(3 * jnp.pi * first)), axis=1)
    return jnp.concatenate([first, (OBJECTIVES * (1 + g) - waves)[:, None]], axis=1)


def _unit_box(costs, name, variables, reference, best):
    return Problem(name, costs, np.zeros(variables), np.ones(variables), np.array(reference), best)


def _problems():
    two, three = (1.1, 1.1), (1.1, 1.1, 1.1)
    ends = np.array([0.0] + 9 * [-5.0]), np.array([1.0] + 9 * [5.0])
    return [
        _unit_box(zdt1, "zdt1", 30, two, 0.876667),
        _unit_box(zdt2, "zdt2", 30, two, 0.543333),
        _unit_box(zdt3, "zdt3", 30, two, 1.33176),
        Problem("zdt4", zdt4, *ends, np.array(two), 0.876667),
        _unit_box(zdt6, "zdt6", 10, two, 0.507878),
        _unit_box(dtlz1, "dtlz1", 7, (0.55, 0.55, 0.55), 0.55**3 - 0.5**3 / 6),
        _unit_box(dtlz2, "dtlz2", 10, three, 1.1**3 - np.pi / 6),
        _unit_box(dtlz7, "dtlz7", 10, (1.1, 1.1, 6.6), 2.701895),
    ]


PROBLEMS: Mapping[str, Problem] = {problem.name: problem for problem in _problems()}


def scaled(problem: Problem, unit: Float[Array, "N d"]) -> Float[Array, "N M"]:
    """Costs of points of the unit box, stretched to the problem's."""
    lower = jnp.asarray(problem.lower, unit.dtype)
    span = jnp.asarray(problem.upper - problem.lower, unit.dtype)
    return jax.jit(problem.costs)(lower[None] + span[None] * unit)
