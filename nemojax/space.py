"""The search space: which bit-widths each quantizer may take."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

LOWEST_BITS, HIGHEST_BITS = 2, 16
PAPER_BITS = (2, 3, 4, 5, 6, 7, 8)  # Miret et al. 2022, section 4


@dataclass(frozen=True)
class BitSpace:
    """Allowed bit-widths per quantizer; hashable, so it can be a static argument of jit."""

    names: tuple[str, ...]  # one per quantizer, unique
    allowed: tuple[tuple[int, ...], ...]  # ascending bit-widths, one tuple per quantizer

    def __post_init__(self):
        if not self.names:
            raise ValueError("names is empty: a search space needs at least one quantizer")
        if len(self.names) != len(self.allowed):
            raise ValueError(f"allowed has {len(self.allowed)} entries for {len(self.names)} names")
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"names must be unique, got {twice[0]!r} twice")
        for name, bits in zip(self.names, self.allowed, strict=True):
            _check_bits(bits, f"allowed bits of {name!r}")

    @classmethod
    def create(
        cls,
        names: Sequence[str],
        bits: Sequence[int] = PAPER_BITS,
        pins: Mapping[str, int] | None = None,
    ) -> "BitSpace":
        """The same `bits` everywhere, but for `pins`: name or glob pattern -> one bit-width.

        Raises:
            ValueError: a bit-width outside 2-16, a pattern that matches nothing, or two patterns
                that want different bit-widths of one quantizer.
        """
        bits = _check_bits(tuple(bits), "bits")
        wanted: dict[str, tuple[int, str]] = {}
        for pattern, width in (pins or {}).items():
            _check_bits((width,), f"pin {pattern!r}")
            matches = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
            if not matches:
                raise ValueError(f"pin {pattern!r} matches no quantizer; the names are like {names[0]!r}")
            for name in matches:
                before, other = wanted.setdefault(name, (width, pattern))
                if before != width:
                    raise ValueError(
                        f"contradictory pins for {name!r}: {other!r} wants {before} bits, "
                        f"{pattern!r} wants {width}: drop one"
                    )
        return cls(tuple(names), tuple((wanted[n][0],) if n in wanted else bits for n in names))

    @property
    def size(self) -> int:
        """Number of quantizers n."""
        return len(self.names)

    @cached_property
    def low(self) -> np.ndarray:
        """(n,) float32: the lowest bit-width of each quantizer."""
        return np.array([bits[0] for bits in self.allowed], np.float32)

    @cached_property
    def high(self) -> np.ndarray:
        """(n,) float32: the highest bit-width of each quantizer."""
        return np.array([bits[-1] for bits in self.allowed], np.float32)

    @cached_property
    def choices(self) -> np.ndarray:
        """(n, B) float32: allowed bit-widths ascending, rows padded with +inf."""
        table = np.full((self.size, max(map(len, self.allowed))), np.inf, np.float32)
        for row, bits in zip(table, self.allowed, strict=True):
            row[: len(bits)] = bits
        return table

    def nearest(self, genotype: Float[Array, " n"]) -> Int[Array, " n"]:
        """The allowed bit-width nearest to each gene; ties go to the lower one."""
        distance = jnp.abs(genotype[:, None] - self.choices)
        return self._take(jnp.argmin(distance, axis=1))

    def floor(self, genotype: Float[Array, " n"]) -> Int[Array, " n"]:
        """The highest allowed bit-width not above each gene; the lowest one where all are above."""
        below = jnp.sum(self.choices <= genotype[:, None], axis=1)
        return self._take(jnp.maximum(below - 1, 0))

    def contains(self, bits: Int[np.ndarray, "N n"]) -> np.ndarray:
        """(N,) bool: which rows take an allowed bit-width everywhere."""
        return (np.asarray(bits)[..., None] == self.choices).any(-1).all(-1)

    def uniform(self, width: int) -> Int[np.ndarray, " n"]:
        """`width` bits everywhere, or the nearest allowed bit-width (ties low)."""
        return np.array([min(bits, key=lambda b: (abs(b - width), b)) for bits in self.allowed], np.int32)

    def sample(self, key: jax.Array, count: int) -> Int[Array, "count n"]:
        """Independent uniform draws from the allowed sets, (count, n) int32."""
        sizes = jnp.asarray([len(bits) for bits in self.allowed])
        index = jax.random.randint(key, (count, self.size), 0, sizes[None])
        return jax.vmap(self._take)(index)

    def _take(self, index: Int[Array, " n"]) -> Int[Array, " n"]:
        return jnp.asarray(self.choices)[jnp.arange(self.size), index].astype(jnp.int32)


def _check_bits(bits: Sequence[int], what: str) -> tuple[int, ...]:
    """Ascending unique integers in 2-16, or a ValueError that says which is not."""
    if not bits:
        raise ValueError(f"{what} is empty: give at least one bit-width in {LOWEST_BITS}-{HIGHEST_BITS}")
    for b in bits:
        if isinstance(b, bool) or int(b) != b or not LOWEST_BITS <= b <= HIGHEST_BITS:
            raise ValueError(
                f"{what} holds {b}: a bit-width is a whole number in {LOWEST_BITS}-{HIGHEST_BITS}"
            )
    if list(bits) != sorted(set(bits)):
        raise ValueError(f"{what} must be ascending without repeats, got {list(bits)}")
    return tuple(int(b) for b in bits)
