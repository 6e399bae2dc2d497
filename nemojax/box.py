"""What a search needs to know of its space, and a box of real numbers for test functions.

`BitSpace` is the space of bit-widths. `Box` has the same methods, so that the algorithm runs unchanged on
problems whose best trade-offs are known, such as ZDT and DTLZ.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hwmodel import check_fields


@runtime_checkable
class Space(Protocol):
    """Configurations of n decisions; hashable, so it can be a static argument of jit.

    `nearest`, `floor` and `snap` are unbatched JAX functions, to be vmapped by the caller.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """(n,) one per decision, unique."""

    @property
    def size(self) -> int:
        """Number of decisions n."""

    @property
    def dtype(self) -> np.dtype:
        """Of a configuration."""

    @property
    def low(self) -> np.ndarray:
        """(n,) float32: lowest value of each decision."""

    @property
    def high(self) -> np.ndarray:
        """(n,) float32: highest value of each decision."""

    def nearest(self, genotype: Array) -> Array:
        """The legal configuration (n,) nearest to real genes (n,)."""

    def floor(self, genotype: Array) -> Array:
        """The legal configuration (n,) that rounds genes (n,) down."""

    def snap(self, configuration: Array) -> Array:
        """A legal configuration near any other; a legal one stays as it is."""

    def sample(self, key: jax.Array, count: int) -> Array:
        """(count, n) random legal configurations."""

    def contains(self, configurations: np.ndarray) -> np.ndarray:
        """(N,) bool: which rows are legal."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Box:
    """n real numbers, low_i <= x_i <= high_i; equal boxes have equal hashes.

    Raises:
        ValueError: bounds of different lengths, not finite, or with low >= high; fewer than one step; names
            that are repeated or of another number.
    """

    low: Any  # (n,) float32, read-only; any sequence of numbers may be given
    high: Any  # (n,) float32, read-only; likewise
    steps: int | None = 64  # `floor` rounds down to a grid of so many intervals per axis; None: it only clips
    names: tuple[str, ...] = ()  # one per axis; "x1", "x2", ... where none are given

    def __post_init__(self):
        check_fields(self)
        for field in ("low", "high"):
            object.__setattr__(self, field, _frozen(getattr(self, field), field))
        names = tuple(self.names) or tuple(f"x{i + 1}" for i in range(len(self.low)))
        object.__setattr__(self, "names", names)
        if self.low.shape != self.high.shape:
            raise ValueError(
                f"low has {len(self.low)} numbers, high has {len(self.high)}: give one each per axis"
            )
        if not (self.low < self.high).all():
            i = int(np.argmin(self.low < self.high))
            raise ValueError(f"low must be below high, got {self.low[i]} and {self.high[i]} on axis {i}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, or None for no grid, got {self.steps}")
        if len(names) != self.size or len(set(names)) != self.size:
            raise ValueError(f"names must be {self.size} different ones, got {names}")

    @property
    def size(self) -> int:
        """Number of axes n."""
        return len(self.low)

    @property
    def dtype(self) -> np.dtype:
        """Of a configuration: float32."""
        return np.dtype(np.float32)

    def nearest(self, genotype: Float[Array, " n"]) -> Float[Array, " n"]:
        """Genes clipped to the box; NaN becomes low."""
        return jnp.minimum(jnp.fmax(genotype, self.low), self.high)

    def floor(self, genotype: Float[Array, " n"]) -> Float[Array, " n"]:
        """The highest grid value not above each gene, the lowest one where all are above.

        The grid is a table: values computed anew could round differently, and floor(floor(x)) would
        drift down.
        """
        genes = self.nearest(genotype)
        if self.steps is None:
            return genes
        share = np.linspace(0.0, 1.0, self.steps + 1)
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        grid = (low[:, None] * (1 - share[None]) + high[:, None] * share[None]).astype(np.float32)
        index = jnp.sum(grid[:, 1:] <= genes[:, None], axis=1)
        return jnp.asarray(grid)[jnp.arange(self.size), index]

    def snap(self, configuration: Float[Array, " n"]) -> Float[Array, " n"]:
        """The nearest point of the box."""
        return self.nearest(configuration)

    def sample(self, key: jax.Array, count: int) -> Float[Array, "count n"]:
        """Independent uniform points, (count, n) float32."""
        share = jax.random.uniform(key, (count, self.size))
        return jnp.clip(
            self.low[None] + share * (self.high - self.low)[None], self.low[None], self.high[None]
        )

    def contains(self, points: Float[np.ndarray, "N n"]) -> np.ndarray:
        """(N,) bool: which rows lie in the box, its borders included."""
        points = np.asarray(points)
        return ((points >= self.low) & (points <= self.high)).all(-1)

    def _identity(self) -> tuple:
        return self.low.tobytes(), self.high.tobytes(), self.steps, self.names

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        return f"Box({self.size} axes, {self.low.min():g} to {self.high.max():g}, steps={self.steps})"


def _frozen(bounds: Any, name: str) -> np.ndarray:
    """(n,) float32, read-only."""
    try:
        values = np.array(bounds, np.float32)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be a row of numbers, one per axis, got {bounds!r:.60}") from None
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"{name} must be a row of finite numbers, one per axis, got {bounds}")
    values.flags.writeable = False
    return values
