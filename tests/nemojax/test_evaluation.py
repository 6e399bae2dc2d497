"""Evaluation over batches: counts against a NumPy loop, intervals against SciPy, one compilation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from nemojax.data import Batch
from nemojax.evaluation import evaluate_batches, wilson_interval
from nemojax.networks import Network
from nemojax.preprocess import Preprocess
from nemojax.quantized import QuantizedNetwork, quantize

CLASSES, SIDE = 7, 8


def apply(params, x):
    """A dense layer, and a NaN for an image of zeros."""
    mean = jnp.mean(x, axis=(1, 2))
    return jnp.maximum(mean @ params["first"], 0) @ params["second"] / jnp.sum(mean, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def network() -> Network:
    first, second = (
        np.random.default_rng(i).normal(size=s).astype(np.float32)
        for i, s in ((0, (3, 16)), (1, (16, CLASSES)))
    )
    params = {"first": jnp.asarray(first), "second": jnp.asarray(second)}
    return Network("tiny", apply, params, Preprocess(SIDE))


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 1, (count, SIDE, SIDE, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def quantized(network) -> QuantizedNetwork:
    return quantize(network, images(4, seed=9))


def labels_of(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, CLASSES, count).astype(np.int32)


def cut(x: np.ndarray, y: np.ndarray, size: int) -> list[Batch]:
    """As the pipeline does it: the last batch is filled up with zeros under a mask."""
    found = []
    for start in range(0, len(x), size):
        short = size - len(x[start : start + size])
        mask = np.arange(size) < size - short
        found.append(
            Batch(
                np.pad(x[start : start + size], [(0, short)] + [(0, 0)] * 3),
                np.pad(y[start : start + size], (0, short)),
                mask,
                np.where(mask, start + np.arange(size), -1),
            )
        )
    return found


def misses_by_loop(logits: np.ndarray, labels: np.ndarray, k: int) -> int:
    count = 0
    for row, label in zip(logits, labels, strict=True):
        best = sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]
        count += label not in best
    return count


one_at_a_time = jax.jit(QuantizedNetwork.quantized_logits)


def some_bits(quantized: QuantizedNetwork) -> np.ndarray:
    n = len(quantized.workload.points)
    return np.stack([np.full(n, 32), np.full(n, 2), np.random.default_rng(0).integers(2, 9, n)]).astype(
        np.int32
    )


@pytest.mark.parametrize("size", [1, 5, 23, 30])
def test_counts_against_a_plain_loop(quantized, size):
    x, y, bits = images(23), labels_of(23), some_bits(quantized)
    found = evaluate_batches((quantized, bits), cut(x, y, size), top_k=(1, 3, 5), compare=True)
    assert (found.images, found.top_k) == (23, (1, 3, 5))
    logits = [np.asarray(one_at_a_time(quantized, jnp.asarray(row), x)) for row in bits]
    reference = scipy.special.log_softmax(np.asarray(quantized.logits(x), np.float64), axis=1)
    for i, own in enumerate(logits):
        for k in (1, 3, 5):
            misses = misses_by_loop(own, y, k)
            assert found.misses[i, found.top_k.index(k)] == misses
            assert found.error(k)[i] == misses / 23
        log_p = scipy.special.log_softmax(own.astype(np.float64), axis=1)
        kl = (np.exp(reference) * (reference - log_p)).sum(1).mean()
        np.testing.assert_allclose(found.kl[i], kl, rtol=1e-4, atol=1e-6)
        assert found.disagreement[i] == (own.argmax(1) != reference.argmax(1)).mean()
    assert found.kl[0] == 0
    assert found.kl[1] > 0.01  # two bits are not full precision
    np.testing.assert_array_equal(found.failed, 0)


def test_configurations_do_not_meet_each_other(quantized):
    x, y, bits = images(23), labels_of(23), some_bits(quantized)
    together = evaluate_batches((quantized, bits), cut(x, y, 8), compare=True)
    for i, row in enumerate(bits):
        alone = evaluate_batches((quantized, row), cut(x, y, 8), compare=True)
        np.testing.assert_array_equal(alone.misses[0], together.misses[i])
        np.testing.assert_allclose(alone.kl[0], together.kl[i], atol=1e-7)
        assert alone.disagreements[0] == together.disagreements[i]


def test_a_network_as_it_is_and_in_full_precision(network, quantized):
    x, y = images(23), labels_of(23)
    plain = evaluate_batches(network, cut(x, y, 6))
    full = evaluate_batches(quantized, cut(x, y, 6))
    by_bits = evaluate_batches((quantized, some_bits(quantized)[0]), cut(x, y, 6))
    want = [misses_by_loop(np.asarray(apply(network.params, x)), y, k) for k in (1, 5)]
    for found in (plain, full, by_bits):
        np.testing.assert_array_equal(found.misses, [want])
        assert found.kl_sum is None
    with pytest.raises(ValueError, match="full precision did not run along: evaluate with compare=True"):
        plain.kl  # noqa: B018


def test_one_compilation_whatever_the_number_of_batches(network):
    quantized = quantize(network, images(4, seed=9))
    bits = some_bits(quantized)
    evaluate_batches((quantized, bits), cut(images(23), labels_of(23), 5), compare=True)
    evaluate_batches((quantized, bits[::-1]), cut(images(17), labels_of(17), 5), compare=True)
    assert len(quantized.traced.compilations) == 1  # full precision is among them and does not run twice


def test_a_nan_is_a_failure_where_it_is_of_a_picture(quantized):
    x, y, bits = images(9), labels_of(9), some_bits(quantized)
    found = evaluate_batches((quantized, bits), cut(x, y, 4), compare=True)
    assert np.isfinite(found.kl).all()  # filled-up images are zeros, whose logits are NaN
    x[6] = 0
    found = evaluate_batches((quantized, bits), cut(x, y, 4), compare=True)
    np.testing.assert_array_equal(found.failed, 1)
    for column in (found.error(1), found.error(5), found.kl, found.disagreement, found.interval(1)):
        assert np.isposinf(column).all()


def test_progress_is_told_after_each_batch(quantized):
    x, y, heard = images(10), labels_of(10), []
    found = evaluate_batches(quantized, cut(x, y, 4), on_batch=heard.append)
    assert [one.images for one in heard] == [4, 8, 10]
    assert heard[-1] is found
    logits = np.asarray(quantized.logits(x))
    assert [one.misses[0, 0] for one in heard] == [misses_by_loop(logits[:n], y[:n], 1) for n in (4, 8, 10)]
    assert 0 <= found.waiting_s <= found.seconds
    assert found.images_per_s == 10 / found.seconds


def test_only_one_batch_is_asked_for_at_a_time(quantized):
    """So that memory does not grow with the data."""
    alive = []

    def stream():
        for i, batch in enumerate(itertools.repeat(cut(images(4), labels_of(4), 4)[0], 6)):
            alive.append(i)
            yield batch

    asked = []
    evaluate_batches(quantized, stream(), on_batch=lambda found: asked.append(len(alive)))
    assert asked == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("images", [1, 7, 500, 50_000])
def test_wilsons_interval_against_scipy(images, confidence):
    misses = np.unique(np.clip([0, 1, images // 3, images // 2, images - 1, images], 0, images))
    found = wilson_interval(misses, images, confidence)
    for row, m in zip(found, misses.tolist(), strict=True):
        want = scipy.stats.binomtest(m, images).proportion_ci(confidence, method="wilson")
        np.testing.assert_allclose(row, (want.low, want.high), atol=1e-12)
    assert (found[:, 0] <= misses / images + 1e-12).all()
    assert (found[:, 1] >= misses / images - 1e-12).all()


def test_the_interval_holds_what_it_promises():
    """Of 95 % intervals about 95 % hold the true rate."""
    draws = np.random.default_rng(0).binomial(200, 0.12, 4000)
    low, high = wilson_interval(draws, 200).T
    assert 0.93 < ((low <= 0.12) & (high >= 0.12)).mean() < 0.97


def test_an_evaluation_has_the_interval_of_its_counts(quantized):
    found = evaluate_batches((quantized, some_bits(quantized)), cut(images(23), labels_of(23), 8))
    for k in (1, 5):
        want = wilson_interval(found.misses[:, found.top_k.index(k)], 23)
        np.testing.assert_array_equal(found.interval(k), want)
    assert (np.diff(found.interval(1, 0.5)) < np.diff(found.interval(1))).all()


def test_wrong_arguments(network, quantized):
    good = cut(images(5), labels_of(5), 5)
    bits = some_bits(quantized)

    def refused(message, subject, batches=good, **arguments):
        with pytest.raises(ValueError, match=message) as error:
            evaluate_batches(subject, batches, **arguments)
        assert "\n" not in str(error.value)

    refused("batches hold no image", quantized, [])
    refused("batches hold no image", quantized, [good[0]._replace(mask=np.zeros(5, bool))])
    refused("compare needs a quantized network", network, compare=True)
    refused("compare needs bits to compare", quantized, compare=True)
    refused(r"top_k must be numbers of 1-7, the network's classes, got \(1, 8\)", quantized, top_k=(1, 8))
    refused("top_k must be numbers of 1-7", quantized, top_k=())
    refused("bits must have one column for each", (quantized, bits[:, :-1]))
    refused("a bit-width is 2-16, or 32", (quantized, np.ones_like(bits)))
    refused("bits hold no configuration", (quantized, bits[:0]))
    labels = good[0].labels.copy()
    labels[2] = 7
    refused(
        "an image has label 7, but the network has 7 classes", quantized, [good[0]._replace(labels=labels)]
    )
    grey = [good[0]._replace(images=images(5)[..., :1])]
    refused(r"inputs has shape \(5, 8, 8, 1\)", quantized, grey)
    refused(r"tiny takes no images \(5, 8, 8, 1\)", network, grey)
    with pytest.raises(ValueError, match=r"k must be one of \(1, 5\), which were counted, got 3"):
        evaluate_batches(quantized, good).error(3)
    with pytest.raises(ValueError, match=r"confidence must be between 0 and 1, got 1\.0"):
        wilson_interval(np.array([1]), 5, 1.0)


def test_labels_under_the_mask_are_not_looked_at(quantized):
    batch = cut(images(3), labels_of(3), 5)[0]
    strange = batch._replace(labels=np.where(batch.mask, batch.labels, 99).astype(np.int32))
    np.testing.assert_array_equal(
        evaluate_batches(quantized, [strange]).misses, evaluate_batches(quantized, [batch]).misses
    )
