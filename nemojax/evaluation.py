"""Errors of a network on a whole data set, batch after batch, for several configurations of bits at once.

Each picture is decoded once and met by all configurations; nothing but counts and one sum is kept, so memory
does not grow with the data. Rates come with Wilson's score interval (Wilson 1927): for m misses of n images,
p = m/n and the normal quantile z,

    (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special
from jaxtyping import Array, Bool, Float, Int

from .batches import fitting
from .configuration import checked_bits
from .data.pipeline import Batch
from .networks.network import Network
from .objectives import top_k_misses
from .quantized import QuantizedNetwork, compiled_logits
from .quantizers import FULL_BITS

Subject = Network | QuantizedNetwork | tuple[QuantizedNetwork, Any]


class _Runner(NamedTuple):
    logits: Callable[[Any], Array]  # images (B, ...) -> (rows, B, classes)
    reported: int  # K, of the rows that are reported: the first ones
    reference: int | None  # the row in full precision, where it is compared with


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What K configurations make of the same images. A configuration with a NaN logit has failed: +inf."""

    images: int
    top_k: tuple[int, ...]
    misses: np.ndarray  # (K, len(top_k)) int64, images whose label is not among the k likeliest
    failed: np.ndarray  # (K,) int64, images with a NaN among their logits
    seconds: float  # of the whole evaluation
    waiting_s: float  # of these, for batches: reading and decoding that nothing hid
    kl_sum: np.ndarray | None = None  # (K,) float64, nats; None: not compared with full precision
    disagreements: np.ndarray | None = None  # (K,) int64, images whose likeliest class is another

    def error(self, k: int) -> Float[np.ndarray, " K"]:
        """Top-k error, a share of the images."""
        return self._or_failed(self.misses[:, self._column(k)] / self.images)

    def interval(self, k: int, confidence: float = 0.95) -> Float[np.ndarray, "K 2"]:
        """Wilson's interval of `error(k)`."""
        bounds = wilson_interval(self.misses[:, self._column(k)], self.images, confidence)
        return np.where(self.failed[:, None] > 0, np.inf, bounds)

    @property
    def kl(self) -> Float[np.ndarray, " K"]:
        """Mean KL divergence from the full-precision network, in nats."""
        mean = _compared(self.kl_sum) / self.images
        return self._or_failed(np.where(np.isfinite(mean), mean, np.inf))

    @property
    def disagreement(self) -> Float[np.ndarray, " K"]:
        """Share of images whose likeliest class is not the full-precision network's."""
        return self._or_failed(_compared(self.disagreements) / self.images)

    @property
    def images_per_s(self) -> float:
        """Images over seconds, each met by all K configurations."""
        return self.images / self.seconds

    def _column(self, k: int) -> int:
        if k not in self.top_k:
            raise ValueError(f"k must be one of {self.top_k}, which were counted, got {k}")
        return self.top_k.index(k)

    def _or_failed(self, values: Any) -> np.ndarray:
        return np.where(self.failed > 0, np.inf, values)


def evaluate_batches(
    subject: Subject,
    batches: Iterable[Batch],
    *,
    top_k: Sequence[int] = (1, 5),
    compare: bool = False,
    on_batch: Callable[[Evaluation], None] | None = None,
) -> Evaluation:
    """Counts misses over all batches.

    Args:
        subject: a network as it is; a quantized one, in full precision; or (quantized, bits) with bits
            (n,) or (K, n), 2-16 or 32.
        batches: of equal shape, as `nemojax.data.batches` gives them, so that one program is compiled.
        top_k: which top-k errors are counted.
        compare: also KL divergence and agreement with full precision, which then runs along.
        on_batch: told what is known after each batch.

    Raises:
        ValueError: the network does not take such images, a label is none of its classes, no image came,
            or `compare` for a network that is not quantized.
    """
    run, rows, reference = _runner(subject, compare)
    top_k = tuple(top_k)
    misses = np.zeros((rows, len(top_k)), np.int64)
    failed, differing = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    kl_sum = np.zeros(rows)
    images, waiting_s, start = 0, 0.0, time.perf_counter()
    found = None
    iterator = iter(batches)
    while True:
        asked = time.perf_counter()
        batch = next(iterator, None)
        waiting_s += time.perf_counter() - asked
        if batch is None:
            break
        logits = run(batch.images)
        _check(logits.shape[-1], batch, top_k)
        labels, mask = jnp.asarray(batch.labels), jnp.asarray(batch.mask)
        counts = _counts(logits[:rows], labels, mask, top_k)
        misses, failed = misses + np.asarray(counts[0]), failed + np.asarray(counts[1])
        if reference is not None:
            divergence, differs = _against(logits[:rows], logits[reference], mask)
            kl_sum, differing = kl_sum + np.asarray(divergence), differing + np.asarray(differs)
        images += int(batch.mask.sum())
        compared = (kl_sum, differing) if compare else (None, None)
        found = Evaluation(images, top_k, misses, failed, time.perf_counter() - start, waiting_s, *compared)
        if on_batch is not None:
            on_batch(found)
    if found is None or not images:
        raise ValueError("batches hold no image: give at least one")
    return found


def wilson_interval(
    misses: Int[np.ndarray, "*s"], images: int, confidence: float = 0.95
) -> Float[np.ndarray, "*s 2"]:
    """Lower and upper bound of a rate, inside [0, 1]."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    z = scipy.special.ndtri((1 + confidence) / 2)
    p = np.asarray(misses) / images
    centre = p + z * z / (2 * images)
    half = z * np.sqrt(p * (1 - p) / images + (z / (2 * images)) ** 2)
    return np.clip(np.stack([centre - half, centre + half], axis=-1) / (1 + z * z / images), 0, 1)


@partial(jax.jit, static_argnums=3)
def _counts(
    logits: Float[Array, "K B classes"],
    labels: Int[Array, " B"],
    mask: Bool[Array, " B"],
    top_k: tuple[int, ...],
) -> tuple[Int[Array, "K T"], Int[Array, " K"]]:
    """Misses for each k, and images with a NaN."""

    def one(row: Array) -> tuple[Array, Array]:
        missed = jnp.stack([top_k_misses(row, labels, k) for k in top_k])
        return jnp.sum(missed & mask[None], axis=1), jnp.sum(jnp.isnan(row).any(axis=1) & mask)

    return jax.vmap(one)(logits)


@jax.jit
def _against(
    logits: Float[Array, "K B classes"], reference: Float[Array, "B classes"], mask: Bool[Array, " B"]
) -> tuple[Float[Array, " K"], Int[Array, " K"]]:
    """Summed KL(p_reference ‖ p), and images whose likeliest class differs."""
    log_reference, likeliest = jax.nn.log_softmax(reference, axis=1), jnp.argmax(reference, axis=1)

    def one(row: Array) -> tuple[Array, Array]:
        divergence = optax.losses.kl_divergence_with_log_targets(
            jax.nn.log_softmax(row, axis=1), log_reference
        )
        differs = top_k_misses(row, likeliest, 1)
        return jnp.sum(jnp.where(mask, divergence, 0.0)), jnp.sum(differs & mask)

    return jax.vmap(one)(logits)


def _runner(subject: Subject, compare: bool) -> _Runner:
    if isinstance(subject, Network):
        if compare:
            raise ValueError("compare needs a quantized network: give (quantize(network, ...), bits)")
        return _Runner(_plain(subject), 1, None)
    if isinstance(subject, QuantizedNetwork):
        if compare:
            raise ValueError("compare needs bits to compare: give (quantized, bits)")
        return _Runner(_full_precision(subject), 1, None)
    quantized, bits = subject
    names = quantized.workload.point_names
    rows = checked_bits(np.atleast_2d(np.asarray(bits)), names)
    full = np.full((1, len(names)), FULL_BITS, np.int32)
    if not len(rows):
        raise ValueError("bits hold no configuration: give at least one")
    everything = np.concatenate([rows, full]) if compare else rows
    reference = int((everything == FULL_BITS).all(axis=1).argmax()) if compare else None
    if reference is not None and reference < len(rows):  # it is among them, and need not run twice
        everything = rows
    table = jnp.asarray(everything)

    def logits(images: Any) -> Array:
        return compiled_logits(quantized, table, fitting(images, quantized.traced.sample))

    return _Runner(logits, len(rows), reference)


def _full_precision(network: QuantizedNetwork) -> Callable[[Any], Array]:
    """Without quantizers in it, the program compiles faster."""
    run = jax.jit(QuantizedNetwork.logits)
    return lambda images: run(network, fitting(images, network.traced.sample))[None]


def _plain(network: Network) -> Callable[[Any], Array]:
    run = jax.jit(network.apply)

    def logits(images: Any) -> Array:
        try:
            return run(network.params, jnp.asarray(images))[None]
        except (TypeError, ValueError, flax.errors.FlaxError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{network.name} takes no images {np.shape(images)}: {reason}") from None

    return logits


def _check(classes: int, batch: Batch, top_k: tuple[int, ...]) -> None:
    if not top_k or not all(1 <= k <= classes for k in top_k):
        raise ValueError(f"top_k must be numbers of 1-{classes}, the network's classes, got {top_k}")
    labels = batch.labels[batch.mask]
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise ValueError(f"an image has label {wrong[0]}, but the network has {classes} classes: check them")


def _compared(values: np.ndarray | None) -> np.ndarray:
    if values is None:
        raise ValueError("full precision did not run along: evaluate with compare=True")
    return values
