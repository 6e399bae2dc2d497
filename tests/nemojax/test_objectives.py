"""Errors of logits against sorting, closed forms and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from nemojax.objectives import Disagreement, KLDivergence, Score, TopKError, top_k_misses


def sorted_misses(logits, labels, k):
    """The k first of a stable descending sort: of equal logits the lower class comes first."""
    first = np.argsort(-np.asarray(logits, np.float64), axis=1, kind="stable")[:, :k]
    return ~(first == np.asarray(labels)[:, None]).any(1)


@pytest.mark.parametrize("k", [1, 2, 5, 7, 9])
@pytest.mark.parametrize("ties", [False, True])
def test_top_k_against_sorting(k, ties):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        logits = rng.integers(0, 3, (40, 7)) if ties else rng.normal(size=(40, 7))
        logits, labels = jnp.asarray(logits, jnp.float32), jnp.asarray(rng.integers(0, 7, 40))
        expected = sorted_misses(logits, labels, k)
        np.testing.assert_array_equal(top_k_misses(logits, labels, k), expected)
        assert TopKError(k)(logits, labels) == pytest.approx(expected.mean())
        if k >= 7:
            assert not expected.any()


def test_a_constant_network_knows_the_first_classes_only():
    """All logits equal: a stuck network must not look perfect."""
    logits, labels = jnp.zeros((10, 10)), jnp.arange(10)
    np.testing.assert_array_equal(top_k_misses(logits, labels, 3), np.arange(10) >= 3)


def test_nan_logits_are_misses_and_infinite_ones_are_compared():
    nan, inf = np.nan, np.inf
    logits = jnp.asarray(
        [[nan, 1, 2], [5, nan, 2], [nan, nan, nan], [inf, 1, 2], [1, -inf, -inf], [-inf, 1, inf]]
    )
    np.testing.assert_array_equal(
        top_k_misses(logits, jnp.asarray([0, 0, 0, 0, 1, 0]), 1), [1, 1, 1, 0, 1, 1]
    )
    np.testing.assert_array_equal(
        top_k_misses(logits, jnp.asarray([0, 0, 0, 0, 1, 0]), 2), [1, 1, 1, 0, 0, 1]
    )
    np.testing.assert_array_equal(top_k_misses(logits, jnp.zeros(6, int), 3), [1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_kl_against_scipy(scale):
    rng = np.random.default_rng(0)
    logits, target = (np.float32(scale * rng.normal(size=(20, 7))) for _ in range(2))
    p, q = (scipy.special.softmax(np.float64(x), axis=1) for x in (target, logits))
    expected = np.mean([scipy.stats.entropy(a, b) for a, b in zip(p, q, strict=True)])
    found = KLDivergence()(jnp.asarray(logits), jnp.asarray(target))
    assert found == pytest.approx(expected, rel=1e-5)
    if scale >= 1:  # the two directions differ
        assert KLDivergence()(jnp.asarray(target), jnp.asarray(logits)) != pytest.approx(expected, rel=1e-2)


def test_kl_closed_forms():
    """Zero for equal logits and for a constant added; two classes with p = 3/4 against 1/2."""
    logits = jax.random.normal(jax.random.key(0), (5, 4))
    assert float(KLDivergence()(logits, logits)) == pytest.approx(0, abs=1e-6)
    assert float(KLDivergence()(logits + 100.0, logits)) == pytest.approx(0, abs=1e-5)
    reference, other = jnp.log(jnp.asarray([[0.75, 0.25]])), jnp.zeros((1, 2))
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert float(KLDivergence()(other, reference)) == pytest.approx(expected, rel=1e-6)


def test_kl_of_nan_is_nan():
    """Not a number stays one here; a task makes the whole row +inf of it."""
    assert jnp.isnan(KLDivergence()(jnp.full((2, 3), jnp.nan), jnp.zeros((2, 3))))


@pytest.mark.parametrize("seed", range(4))
def test_disagreement_against_argmax(seed):
    rng = np.random.default_rng(seed)
    logits, target = (rng.integers(0, 3, (50, 5)).astype(np.float32) for _ in range(2))
    expected = (logits.argmax(1) != target.argmax(1)).mean()
    assert 0 < expected < 1
    assert Disagreement()(jnp.asarray(logits), jnp.asarray(target)) == pytest.approx(expected)
    assert Disagreement()(jnp.asarray(target), jnp.asarray(target)) == 0.0


@pytest.mark.parametrize(
    ("score", "name"),
    [
        (TopKError(1), "top1_error"),
        (TopKError(5), "top5_error"),
        (Disagreement(), "disagreement"),
        (KLDivergence(), "kl"),
    ],
)
def test_scores_have_names_and_are_hashed_by_value(score, name):
    assert isinstance(score, Score)
    assert score.name == name
    again = type(score)(5 if name == "top5_error" else 1) if isinstance(score, TopKError) else type(score)()
    assert again == score
    assert hash(again) == hash(score)
    traces = 0

    @jax.jit(static_argnums=0)
    def run(score, logits, target):
        nonlocal traces
        traces += 1
        return score(logits, target)

    target = jnp.zeros(2, jnp.int32) if isinstance(score, TopKError) else jnp.zeros((2, 3))
    for s in (score, again):
        assert run(s, jnp.zeros((2, 3)), target).dtype == jnp.float32
    assert traces == 1


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k):
    with pytest.raises(ValueError, match=f"k must be at least 1, got {k}"):
        TopKError(k)
