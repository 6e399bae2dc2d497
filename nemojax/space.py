"""The search space: which bit-widths each quantizer may take, alone and together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hwmodel import check_fields

from .space_pairs import Sets, check_links, feeders, leaders, narrow
from .space_rules import (
    HIGHEST_BITS as HIGHEST_BITS,
    LOWEST_BITS as LOWEST_BITS,
    Groups,
    Pairs,
    Rule,
    check_bits,
    check_pairs,
    rules,
    tied_groups,
)

PAPER_BITS = (2, 3, 4, 5, 6, 7, 8)  # Miret et al. 2022, section 4


@dataclass(frozen=True)
class BitSpace:
    """Allowed bit-widths of n quantizers; hashable, so it can be a static argument of jit.

    A configuration is legal if every quantizer takes one of its widths, tied quantizers take the same,
    and, with `pairs`, each weight and the activation that feeds it take one of these pairs. `create`
    builds a space from patterns; spaces that were built differently but are the same are equal.
    """

    names: tuple[str, ...]  # one per quantizer, unique
    allowed: Sets  # ascending bit-widths, one tuple per quantizer; each occurs in a legal configuration
    groups: Groups = ()  # of tied quantizers, ascending and disjoint
    feeds: Pairs = ()  # (weight, activation) indices that `pairs` is about; none without pairs
    pairs: Pairs = ()  # allowed (weight bits, activation bits); (): all

    def __post_init__(self):
        check_fields(self)
        if not self.names:
            raise ValueError("names is empty: a search space needs at least one quantizer")
        if len(self.names) != len(self.allowed):
            raise ValueError(f"allowed has {len(self.allowed)} entries for {len(self.names)} names")
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"names must be unique, got {twice[0]!r} twice")
        for name, bits in zip(self.names, self.allowed, strict=True):
            check_bits(bits, f"allowed bits of {name!r}")
        check_links(self.size, self.groups, self.feeds, self.pairs)
        given = [Rule(tuple(bits), "allowed") for bits in self.allowed]
        feasible = narrow(self.names, given, self.groups, self.feeds, self.pairs)
        for name, bits, fits in zip(self.names, self.allowed, feasible, strict=True):
            if tuple(bits) != fits:
                raise ValueError(
                    f"allowed bits of {name!r} are {list(bits)}, of which ties and pairs leave {list(fits)}: "
                    "make the space with BitSpace.create, which narrows them"
                )

    @classmethod
    def create(
        cls,
        names: Sequence[str],
        bits: Sequence[int] = PAPER_BITS,
        pins: Mapping[str, int] | None = None,
        *,
        sets: Mapping[str, Sequence[int]] | None = None,
        ties: Sequence[str | Sequence[str]] = (),
        pairs: Sequence[tuple[int, int]] | None = None,
        feeds: Sequence[tuple[int, int]] = (),
    ) -> "BitSpace":
        """The same `bits` everywhere, but for what the options say; patterns are names or globs.

        Args:
            names: one per quantizer.
            bits: allowed where neither a set nor a pin says otherwise.
            pins: pattern -> one bit-width.
            sets: pattern -> bit-widths.
            ties: each entry, a pattern or several, is a group whose quantizers share one bit-width.
            pairs: the (weight bits, activation bits) that the hardware multiplies, say ((8, 8), (4, 8)).
            feeds: (weight, activation) indices into `names`; `search_space` reads them from a network.

        Raises:
            ValueError: a bit-width outside 2-16, a pattern that matches nothing, options that contradict
                each other, or that leave a quantizer without a bit-width.
        """
        names = tuple(names)
        given = rules(names, check_bits(tuple(bits), "bits"), pins or {}, sets or {})
        groups, checked = tied_groups(names, ties), check_pairs(pairs)
        if checked and not feeds:
            raise ValueError("pairs needs feeds, the (weight, activation) indices that they are about")
        links = tuple(sorted({(int(w), int(a)) for w, a in feeds})) if checked else ()
        check_links(len(names), groups, links, checked)
        return cls(names, narrow(names, given, groups, links, checked), groups, links, checked)

    @property
    def size(self) -> int:
        """Number of quantizers n."""
        return len(self.names)

    @property
    def dtype(self) -> np.dtype:
        """Of a configuration: int32."""
        return np.dtype(np.int32)

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

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Every bit-width that some quantizer may take, ascending; W of them."""
        return tuple(sorted({b for bits in self.allowed for b in bits}))

    def by_choice(self, scores: Float[Array, "n W"]) -> Float[Array, "n B"]:
        """Scores of `widths` (a column means the same everywhere) as scores of `choices`."""
        column = np.searchsorted(self.widths, np.where(np.isinf(self.choices), self.widths[0], self.choices))
        return jnp.take_along_axis(scores, jnp.asarray(column), axis=1)

    def resolve(
        self, scores: Float[Array, "n B"], *, ties: Literal["first", "sum"] = "first"
    ) -> Int[Array, " n"]:
        """The legal configuration that follows the highest scores; equal scores go to the lower width.

        All but the weights under `pairs` take their best choice first. Then each of those weights takes
        its best among the choices that pair with every activation that feeds it; there always is one.

        Args:
            scores: preference for each of `choices`; padding is ignored, NaN is the lowest.
            ties: a tied group follows the scores of its first member, or the sum over its members.
        """
        if ties not in ("first", "sum"):
            raise ValueError(f"ties must be 'first' or 'sum', got {ties!r}")
        scores = _finite(scores)
        if self.groups:
            if ties == "sum":
                scores = _finite(jax.ops.segment_sum(scores, self._leader, self.size))
            scores = scores[self._leader]
        return self._decide(jnp.where(np.isinf(self.choices), -jnp.inf, scores))

    def nearest(self, genotype: Float[Array, " n"]) -> Int[Array, " n"]:
        """The allowed bit-width nearest to each gene; ties go to the lower one.

        Tied quantizers follow the gene of their first; weights under pairs take the nearest that pairs.
        """
        if self._consecutive and not self.pairs:
            genes = self._within(genotype)
            return jnp.ceil(genes - 0.5).astype(jnp.int32)  # half a bit goes down; exact in float32
        return self._decide(-jnp.abs(self._within(genotype)[:, None] - self.choices))

    def floor(self, genotype: Float[Array, " n"]) -> Int[Array, " n"]:
        """The highest allowed bit-width not above each gene; the lowest one where all are above.

        Tied quantizers and weights under pairs as in `nearest`.
        """
        if self._consecutive and not self.pairs:
            return jnp.floor(self._within(genotype)).astype(jnp.int32)
        genes = self._within(genotype)[:, None]
        return self._decide(jnp.where(self.choices <= genes, self.choices, -self.choices))

    def snap(self, bits: Int[Array, " n"]) -> Int[Array, " n"]:
        """A legal configuration near `bits`, `bits` itself if it is legal: `nearest` of whole numbers."""
        return self.nearest(bits.astype(jnp.float32))

    def step(self, genotype: Float[Array, " n"], direction: Float[Array, " n"]) -> Float[Array, " n"]:
        """Genes rounded to the nearest choice and moved -1, 0 or 1 choices further; ends stay."""
        bits = self.nearest(genotype).astype(jnp.float32)
        if self._consecutive:
            return jnp.clip(bits + direction, self.low, self.high)
        index = jnp.sum(self.choices < bits[:, None], axis=1) + direction.astype(jnp.int32)
        last = np.isfinite(self.choices).sum(axis=1) - 1
        return self._take(jnp.clip(index, 0, last)).astype(jnp.float32)

    def contains(self, bits: Int[np.ndarray, "N n"]) -> np.ndarray:
        """(N,) bool: which rows are legal configurations."""
        bits = np.asarray(bits)
        legal = (bits[..., None] == self.choices).any(-1).all(-1)
        if self.groups:
            legal &= (bits == bits[:, self._leader]).all(-1)
        if self.pairs:
            w, a = np.array(self.feeds).T
            inside = np.clip(bits, 0, HIGHEST_BITS)
            legal &= self._pairs_table[inside[:, w], inside[:, a]].all(-1)
        return legal

    def uniform(self, width: int) -> Int[np.ndarray, " n"]:
        """`width` bits everywhere, or the nearest allowed bit-width as `nearest` has it (ties low)."""
        bits = np.array([min(bits, key=lambda b: (abs(b - width), b)) for bits in self.allowed], np.int32)
        for weight, activations in zip(self._readers, self._feeders, strict=True):
            fits = [b for b in self.allowed[weight] if self._pairs_table[b, bits[activations]].all()]
            bits[weight] = min(fits, key=lambda b: (abs(b - width), b))
        return bits[self._leader]

    def sample(self, key: jax.Array, count: int) -> Int[Array, "count n"]:
        """Random legal configurations, (count, n) int32.

        Groups and activations are independent and uniform over their widths, weights under pairs over
        the widths that pair with the activations drawn.
        """
        if self.groups or self.pairs:
            return jax.vmap(self.resolve)(jax.random.uniform(key, (count, *self.choices.shape)))
        sizes = jnp.asarray([len(bits) for bits in self.allowed])
        index = jax.random.randint(key, (count, self.size), 0, sizes[None])
        return jax.vmap(self._take)(index)

    @cached_property
    def _consecutive(self) -> bool:
        """Whether each quantizer's widths are a run of whole numbers."""
        return all(bits[-1] - bits[0] == len(bits) - 1 for bits in self.allowed)

    @cached_property
    def free(self) -> np.ndarray:
        """(f,) quantizers with a choice, the first of each tied group; all if there is none."""
        chosen = [i for i, bits in enumerate(self.allowed) if len(bits) > 1 and self._leader[i] == i]
        return np.array(chosen or range(self.size), np.int32)

    @cached_property
    def _leader(self) -> np.ndarray:
        """(n,) the first of each quantizer's group, itself where it is not tied."""
        return np.array(leaders(self.size, self.groups), np.int32)

    @cached_property
    def _feeders(self) -> np.ndarray:
        """(R, K) activations that feed each of `_readers`, by leaders; the first one fills up a row."""
        found = list(feeders(self.size, self.groups, self.feeds).values())
        most = max(map(len, found), default=0)
        rows = [(*row, *[row[0]] * (most - len(row))) for row in found]
        return np.array(rows, np.int32).reshape(len(found), most)

    @cached_property
    def _readers(self) -> np.ndarray:
        """(R,) weights that must pair with an activation outside their group, by leaders."""
        return np.array(list(feeders(self.size, self.groups, self.feeds)), np.int32)

    @cached_property
    def _pairs_table(self) -> np.ndarray:
        """(17, 17) bool: [weight bits, activation bits] is an allowed pair; bits 0 is none."""
        table = np.zeros((HIGHEST_BITS + 1, HIGHEST_BITS + 1), bool)
        for w, a in self.pairs:
            table[w, a] = True
        return table

    def _decide(self, scores: Float[Array, "n B"]) -> Int[Array, " n"]:
        """`resolve` of scores that are equal within groups and -inf at the padding alone."""
        bits = self._take(jnp.argmax(scores, axis=1))
        return self._fit_pairs(scores, bits) if self._readers.size else bits

    def _fit_pairs(self, scores: Float[Array, "n B"], bits: Int[Array, " n"]) -> Int[Array, " n"]:
        """The readers choose among the widths that pair with the activations' `bits`."""
        widths = np.where(np.isinf(self.choices), 0, self.choices).astype(np.int32)[self._readers]
        pairs = jnp.asarray(self._pairs_table)
        fits = pairs[widths[:, None], bits[self._feeders][:, :, None]].all(axis=1)  # (R, B)
        best = jnp.argmax(jnp.where(fits, scores[self._readers], -jnp.inf), axis=1)
        decided = jnp.take_along_axis(jnp.asarray(widths), best[:, None], axis=1)[:, 0]
        return bits.at[self._readers].set(decided)[self._leader]

    def _within(self, genotype: Float[Array, " n"]) -> Float[Array, " n"]:
        """Genes of each group's first member, clipped to [low, high]; NaN becomes low."""
        genes = genotype[self._leader] if self.groups else genotype
        return jnp.minimum(jnp.fmax(genes, self.low), self.high)

    def _take(self, index: Int[Array, " n"]) -> Int[Array, " n"]:
        return jnp.asarray(self.choices)[jnp.arange(self.size), index].astype(jnp.int32)


def _finite(scores: Array) -> Array:
    """Above -inf, which marks what is not allowed."""
    most = float(jnp.finfo(scores.dtype).max)
    return jnp.nan_to_num(scores, nan=-most, posinf=most, neginf=-most)
