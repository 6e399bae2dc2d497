"""A sensitivity table corrected by what has been evaluated: Bayesian regression of the error on the bits.

A table holds what each quantizer adds alone, to second order. Evaluations tell how far that holds:

    error = worst · (1 - exp(-Σ_i f_i · g_{t(i), b_i} · noise_i(b_i) / noise_worst))

with a factor f of each quantizer and a factor g of each bit-width, apart for weights and activations (t).
Their logarithms have a normal prior around 0 (the table as measured) and the error's has normal noise; the
most probable ones are found by Gauss and Newton's method with Levenberg and Marquardt's damping (Nocedal &
Wright 2006, chapter 10). Ours; the paper has no table.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hwmodel import check_fields

from .prices import Prices
from .space import BitSpace

LEAST, MOST = 1e-6, 0.999  # of an error's share of the worst: beyond, a logarithm means nothing
_TINY = 1e-30
_STEPS, _DAMPING, _STUCK = 20, 1e-2, 1e8


@dataclass(frozen=True)
class Prior:
    """Standard deviations, all of natural logarithms."""

    quantizer: float = 1.0  # of f
    width: float = 1.0  # of g
    error: float = 0.1  # of what the model leaves of an error

    def __post_init__(self):
        check_fields(self)
        for name in ("quantizer", "width", "error"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"prior.{name} must be a positive number, got {getattr(self, name)}")


def corrected(
    space: BitSpace,
    prices: Prices,
    bits: np.ndarray,
    share: np.ndarray,
    resolution: float = 0.0,
    prior: Prior | None = None,
) -> Prices:
    """The prices with the noise that evaluated configurations make most probable.

    Args:
        bits: (K, n) evaluated configurations.
        share: (K,) their errors, as shares of the worst; failed ones (NaN, infinite) are left out.
        resolution: the least difference between two shares, 1/N where N images are counted. What is counted
            has the noise of counting; of none it is known that the share is below half of the resolution.

    Raises:
        ValueError: errors of another number than configurations.
    """
    if bits.ndim != 2 or bits.shape[1] != space.size or share.shape != (len(bits),):
        raise ValueError(f"bits has shape {bits.shape} and share {share.shape} for {space.size} quantizers")
    known = np.isfinite(share)
    if not known.any():
        return prices
    least, prior = max(LEAST, resolution / 2), prior or Prior()
    found = np.clip(share[known].astype(np.float64), least, MOST)
    model = _Model.of(space, prices, bits[known], np.where(found > least, _TINY, least))
    deviation = np.sqrt(prior.error**2 + resolution * (1 - found) / found)
    factors = _most_probable(model, np.log(found), deviation, prior)
    widths = np.searchsorted(space.widths, np.where(np.isinf(space.choices), space.widths[0], space.choices))
    shared = factors[space.size :][model.kind[:, None] * len(space.widths) + widths]
    scale = factors[: space.size, None] + shared
    noise = np.where(np.isinf(prices.noise), np.inf, prices.noise * np.exp(scale))
    return prices._replace(noise=noise.astype(np.float32))


@dataclass(frozen=True, eq=False)
class _Model:
    """K configurations of n quantizers, each with a factor of its own and one that it shares.

    The logarithms of the factors are one vector (n + 2·W): those of the quantizers, then those of the W
    bit-widths for activations, then for weights.
    """

    terms: np.ndarray  # (K, n) noise over the worst
    kind: np.ndarray  # (n,) 1: a weight
    shared: np.ndarray  # (K, n) place of the shared factor among the 2·W
    widths: int  # W
    least: np.ndarray  # (K,) share of the worst below which all are one

    @classmethod
    def of(cls, space: BitSpace, prices: Prices, bits: np.ndarray, least: np.ndarray) -> "_Model":
        column = np.argmax(space.choices[None] == bits[:, :, None], axis=2)
        noise = np.where(np.isinf(prices.noise), 0, prices.noise).astype(np.float64)
        kind = np.isin(np.arange(space.size), prices.weight).astype(int)
        shared = kind[None] * len(space.widths) + np.searchsorted(space.widths, bits)
        terms = noise[np.arange(space.size), column] / float(prices.worst)
        return cls(terms, kind, shared, len(space.widths), least)

    def log_share(self, factors: np.ndarray) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "K n"]]:
        """log of the error's share, and its derivative by the logarithm of each term."""
        n = self.terms.shape[1]
        terms = self.terms * np.exp(factors[:n] + factors[n:][self.shared])
        total = terms.sum(axis=1)
        share = np.maximum(-np.expm1(-total), self.least)
        slope = np.where(share > self.least, np.exp(-total) / share, 0)
        return np.log(share), terms * slope[:, None]

    def jacobian(self, slope: Float[np.ndarray, "K n"]) -> Float[np.ndarray, "K P"]:
        rows, width = len(slope), 2 * self.widths
        place = np.arange(rows)[:, None] * width + self.shared
        sums = np.bincount(place.ravel(), slope.ravel(), rows * width).reshape(rows, width)
        return np.concatenate([slope, sums], axis=1)


def _most_probable(
    model: _Model, target: Float[np.ndarray, " K"], deviation: Float[np.ndarray, " K"], prior: Prior
) -> Float[np.ndarray, " P"]:
    own, shared = model.terms.shape[1], 2 * model.widths
    weight = np.concatenate([np.full(own, prior.quantizer), np.full(shared, prior.width)]) ** -2.0
    factors = np.zeros(own + shared)

    def loss(x: np.ndarray) -> float:
        left = (model.log_share(x)[0] - target) / deviation
        return float(left @ left + weight @ x**2)

    damping, lowest = _DAMPING, loss(factors)
    for _ in range(_STEPS):
        found, slope = model.log_share(factors)
        jacobian = model.jacobian(slope) / deviation[:, None]
        hessian = jacobian.T @ jacobian + np.diag(weight)
        gradient = jacobian.T @ ((found - target) / deviation) + weight * factors
        while damping < _STUCK:
            step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), gradient)
            if (value := loss(factors - step)) <= lowest:
                break
            damping *= 4
        else:
            break
        settled = lowest - value < 1e-6 * max(lowest, 1.0)
        factors, lowest, damping = factors - step, value, damping / 3
        if settled:
            break
    return factors
