"""What an episode of synthesized samples computes: pure functions, one trace for all of a method's weights.

The training set of an episode are its seeds (the support) and `samples` // seeds synthesized examples of each
seed, as in the authors' code: 1,024 of one seed, 204 of each of five. Where classes have unequally many
seeds, those of a smaller class take turns, so that all classes have as many synthesized examples.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..fields import check_fields
from ..methods.method import Labels
from .classifier import ClassifierConfig, LinearFit, fit_linear, fit_rows

Memory = Literal["blocks", "scan", "whole"]
LIMIT_BYTES = 2**31  # of what an episode holds
_TICKET_BYTES = 100  # of a sample besides its features: its code, class and place in the order
_COPIES = 2  # of samples that are kept: as they were made, and behind the seeds
_HIDDEN_BYTES = 2**22  # of the hidden units that an episode has alive at once, of "blocks"


@dataclass(frozen=True)
class EpisodeFit:
    """Shapes and branches of the fit to an episode."""

    samples: int = 1024  # of each class, shared by its seeds; 0: none
    include_seeds: bool = True  # in the training set of the classifier
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    # "blocks" makes the samples a block after the other and keeps them; "scan" makes those of a batch of the
    # classifier anew each time it asks for them, and keeps none; "whole" makes all at once.
    memory: Memory = "blocks"

    def __post_init__(self):
        check_fields(self)
        if self.samples < 0:
            raise ValueError(f"samples must be a whole number that is not negative, got {self.samples}")
        if not self.samples and not self.include_seeds:
            raise ValueError("samples is 0 and include_seeds False: there is nothing to learn from")
        if self.memory not in get_args(Memory):
            raise ValueError(f"memory must be one of {', '.join(get_args(Memory))}, got {self.memory!r}")
        if self.memory == "scan" and self.classifier.kind == "lbfgs":
            raise ValueError("memory='scan' is for adam, ridge and means: lbfgs reads all samples each time")


class Sampler(Protocol):
    """What makes samples: a pytree, so that its weights are arguments and not part of a program.

    A sample is made of its seed's part and of a ticket: a code, a row of a bank or a number.
    """

    def scale(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """Features in the space where samples are made and classified."""

    def parts(self, seeds: Float[Array, "S D"]) -> Float[Array, "S P"]:
        """What all samples of a seed share."""

    def draw(self, key: PRNGKeyArray, seeds: int, each: int) -> Array:
        """Tickets (seeds, each, ...)."""

    def make(self, key: PRNGKeyArray, parts: Float[Array, "#B P"], tickets: Array) -> Float[Array, "B D"]:
        """The samples of B tickets; the same of the same ticket, whichever others are made with it."""

    def row_bytes(self) -> int:
        """What one sample takes while it is made."""


def fit_episode(
    key: PRNGKeyArray,
    sampler: Any,
    options: EpisodeFit,
    support: Float[Array, "S D"],
    labels: Labels,
    ways: int,
) -> LinearFit:
    """The classifier of an episode; its first weights do not depend on the samples' key.

    Labels that are traced are of S / ways seeds a class at most, the rest padding, as an episode has them;
    see `seeds_of`. If one of their classes has no seed, there is nothing to synthesize from, and all weights
    are NaN, which `evaluate` counts as a failed episode.

    Raises:
        ValueError: fewer samples than seeds of a class, more than memory should hold, or, of labels that are
            known, a class without a seed.
    """
    fit = _fitted(key, sampler, options, support, labels, ways)
    if isinstance(labels, np.ndarray) or not options.samples:
        return fit
    whole = (jnp.bincount(labels, length=ways) > 0).all()
    return jax.tree.map(lambda leaf: jnp.where(whole, leaf, jnp.nan), fit)


def _fitted(
    key: PRNGKeyArray,
    sampler: Any,
    options: EpisodeFit,
    support: Float[Array, "S D"],
    labels: Labels,
    ways: int,
) -> LinearFit:
    k_samples, k_fit = jax.random.split(key)
    x = sampler.scale(support)
    real, here = jnp.asarray(labels, jnp.int32), options.classifier
    padding = None if isinstance(labels, np.ndarray) and (labels < ways).all() else real < ways
    real = jnp.minimum(real, ways - 1)
    if not options.samples:
        return fit_linear(k_fit, x, real, padding, here, ways=ways)
    slots = seeds_of(labels, ways)
    each = _each(options, sampler, slots.shape[1], ways, x.shape[1])
    made = _drawn(k_samples, sampler, x[slots.reshape(-1)], each)
    count = ways * slots.shape[1] * each
    y = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), count // ways)
    if options.include_seeds:
        y = jnp.concatenate([y, real])
        padding = None if padding is None else jnp.concatenate([jnp.ones(count, bool), padding])
    else:
        padding = None
    if options.memory != "scan":
        samples = made.kept(options.memory == "blocks")
        x = jnp.concatenate([samples, x]) if options.include_seeds else samples
        return fit_linear(k_fit, x, y, padding, here, ways=ways)

    def rows(index: Int[Array, " B"]) -> Float[Array, "B D"]:
        samples = made.rows(jnp.minimum(index, count - 1))
        if not options.include_seeds:
            return samples
        seeds = x.at[jnp.maximum(index - count, 0)].get(mode="promise_in_bounds")
        return jnp.where((index < count)[:, None], samples, seeds)

    return fit_rows(k_fit, rows, x.shape[1], y, padding, here, ways=ways)


def synthesized(
    key: PRNGKeyArray,
    sampler: Any,
    options: EpisodeFit,
    seeds: Float[Array, "S D"],
    labels: Labels,
    ways: int,
) -> Float[Array, "N D"]:
    """All samples that `fit_episode` would make of scaled seeds: class after class, seed after seed."""
    slots = seeds_of(labels, ways)
    each = _each(options, sampler, slots.shape[1], ways, seeds.shape[1])
    return _drawn(key, sampler, seeds[slots.reshape(-1)], each).kept(options.memory == "blocks")


def seeds_of(labels: Labels, ways: int) -> Int[Array | np.ndarray, "ways per"]:
    """Rows of each class's seeds, repeated in turn where a class has fewer than the others.

    Traced labels say nothing about how many a class has: `per` is S / ways, rounded up, the shots of an
    episode. Seeds of a class beyond these are left out, and rows of a class without any mean nothing.
    """
    if isinstance(labels, np.ndarray):
        own = [np.flatnonzero(labels == c) for c in range(ways)]
        if not all(map(len, own)):
            raise ValueError(f"labels: class {[len(o) for o in own].index(0)} has no example to start from")
        most = max(map(len, own))
        return np.stack([np.resize(rows, most) for rows in own]).astype(np.int32)
    per = -(-labels.shape[0] // ways)
    order = jnp.argsort(labels, stable=True).astype(jnp.int32)  # padding comes last
    counts = jnp.bincount(labels, length=ways)
    turn = jnp.arange(per)[None] % jnp.maximum(counts, 1)[:, None]
    return order[(jnp.cumsum(counts) - counts)[:, None] + turn]


def episode_bytes(sampler: Any, options: EpisodeFit, ways: int, seeds: int, width: int) -> int:
    """What an episode holds, about: samples twice, what draws them, and hidden units of a block.

    Args:
        seeds: of each class.
        width: features.
    """
    count = ways * max(1, seeds) * (options.samples // max(1, seeds))
    if not count:
        return 4 * ways * seeds * width
    kept = 0 if options.memory == "scan" else _COPIES * 4 * width * count
    hidden = sampler.row_bytes() * count if options.memory == "whole" else _HIDDEN_BYTES
    return kept + hidden + _TICKET_BYTES * count


def _each(options: EpisodeFit, sampler: Any, seeds: int, ways: int, width: int) -> int:
    """Samples of a seed, checked."""
    each = options.samples // seeds
    if not each:
        raise ValueError(
            f"samples is {options.samples}, but {seeds} seeds of a class share them: give {seeds} or more, "
            "or 0 for none"
        )
    total = episode_bytes(sampler, options, ways, seeds, width)
    if total > LIMIT_BYTES:
        other = ", or keep none of them with memory='scan'" if options.memory != "scan" else ""
        raise ValueError(
            f"samples {options.samples} of {ways} classes would take {total / 2**30:.1f} GiB an episode: "
            f"lower samples{other}"
        )
    return each


class _Samples(NamedTuple):
    """Of S seeds, `each` of them of every seed, one seed after the other."""

    sampler: Any
    key: PRNGKeyArray
    parts: Float[Array, "S P"]
    tickets: Array  # (S, each, ...)

    def rows(self, index: Int[Array, " B"]) -> Float[Array, "B D"]:
        """Those of any index."""
        own = self.parts.at[index // self.tickets.shape[1]].get(mode="promise_in_bounds")
        return self.sampler.make(self.key, own, self._flat().at[index].get(mode="promise_in_bounds"))

    def kept(self, in_blocks: bool) -> Float[Array, "N D"]:
        """All of them: a block of one seed's after the other, or at once."""
        count, each = self.tickets.shape[:2]
        if not in_blocks:
            return self.rows(jnp.arange(count * each))
        blocks = -(-each * self.sampler.row_bytes() // _HIDDEN_BYTES)  # of a seed
        size = -(-each // blocks)
        more = jnp.minimum(jnp.arange(blocks * size), each - 1)  # the last one fills the last block
        tickets = self.tickets[:, more].reshape(count * blocks, size, *self.tickets.shape[2:])

        def block(item: tuple[Array, Array]) -> Array:
            return self.sampler.make(self.key, self.parts[item[0]][None], item[1])

        seeds = jnp.repeat(jnp.arange(count), blocks)
        made = jax.lax.map(block, (seeds, tickets))
        return made.reshape(count, blocks * size, -1)[:, :each].reshape(count * each, -1)

    def _flat(self) -> Array:
        return self.tickets.reshape(-1, *self.tickets.shape[2:])


def _drawn(key: PRNGKeyArray, sampler: Any, seeds: Float[Array, "S D"], each: int) -> _Samples:
    k_tickets, k_make = jax.random.split(key)
    return _Samples(sampler, k_make, sampler.parts(seeds), sampler.draw(k_tickets, len(seeds), each))
