"""The three posteriors and the losses against plain NumPy, and their gradients where those break."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax import Posterior, cross_entropy, embedding_loss, log_modes, posterior, representative_loss

B, N, K = 6, 4, 3


def modes_of(seed, masked=True):
    rng = np.random.default_rng(seed)
    squared = rng.uniform(0, 4, (B, N, K)).astype(np.float32)
    mask = np.ones((N, K), bool)
    if masked:
        mask = rng.uniform(size=(N, K)) < 0.6
        mask[:, 0] |= ~mask.any(axis=1)
    return squared, mask


def retold(squared, mask, form, background, tau=15.0, sigma=0.5):
    """One embedding at a time, in probabilities and in float64."""
    out = []
    for d in squared.astype(np.float64):
        p = [[np.exp(-d[n, k] / (2 * sigma**2)) for k in range(K) if mask[n, k]] for n in range(N)]
        if form == "mixture":
            sums = np.array([sum(row) for row in p])
            out.append(sums / sums.sum())
            continue
        best = np.array([max(row) for row in p])
        if form == "maximum":
            out.append(np.r_[best, 1 - best.max()] if background else best)
            continue
        scores = best + 1e-7
        if background:
            scores = np.r_[scores, 1 + 1e-7 - best.max()]
        weights = np.exp(tau * scores)
        out.append(weights / weights.sum())
    return np.array(out)


FORMS = [("mixture", False), ("maximum", False), ("maximum", True), ("softmax", False), ("softmax", True)]


@pytest.mark.parametrize(("form", "background"), FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_posteriors_are_those_of_the_formulas(form, background, seed):
    squared, mask = modes_of(seed)
    found = posterior(
        log_modes(jnp.asarray(squared), jnp.log(0.5)), jnp.asarray(mask), form, background=background
    ).joint()
    np.testing.assert_allclose(np.exp(found), retold(squared, mask, form, background), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(("form", "background"), FORMS)
def test_a_class_without_modes_has_probability_zero_and_leaves_the_others_alone(form, background):
    squared, mask = modes_of(1)
    without = mask.copy()
    without[2] = False

    def loss(squared, mask):
        found = posterior(log_modes(squared, jnp.log(0.5)), mask, form, background=background)
        return cross_entropy(found, jnp.array([0, 1, 3, 0, 1, 3])).sum(), found

    (_, found), slope = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(squared), jnp.asarray(without))
    assert (np.asarray(found.classes[:, 2]) == -np.inf).all()
    assert np.isfinite(slope).all()
    assert (np.asarray(slope)[:, ~without] == 0).all()
    alone = posterior(
        log_modes(jnp.asarray(np.delete(squared, 2, 1)), jnp.log(0.5)),
        jnp.asarray(np.delete(mask, 2, 0)),
        form,
        background=background,
    )
    np.testing.assert_allclose(np.delete(found.classes, 2, 1), alone.classes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("form", "background"), FORMS)
@pytest.mark.parametrize("squared", [0.0, 1e-9, 4.0, 1e4])
def test_extreme_distances_give_finite_losses_and_gradients(form, background, squared):
    mask = jnp.ones((N, K), bool)

    def loss(d):
        found = posterior(log_modes(d, jnp.log(0.05)), mask, form, background=background)
        floor = 1e-7 if form == "maximum" else 0.0  # as `posterior_loss` has it
        return cross_entropy(found, jnp.arange(B) % N, floor).sum()

    value, slope = jax.value_and_grad(loss)(jnp.full((B, N, K), squared))
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


def test_one_mode_is_the_same_in_mixture_and_repeated():
    """A class whose modes coincide is a class with one mode."""
    squared, _ = modes_of(2)
    one = squared[:, :, :1]
    mixed = [
        posterior(log_modes(jnp.asarray(d), jnp.log(0.5)), jnp.ones(d.shape[1:], bool)).classes
        for d in (one, np.repeat(one, K, axis=2))
    ]
    np.testing.assert_allclose(*mixed, atol=1e-6)


def test_a_mixture_has_no_background_and_a_form_must_be_known():
    log_p, mask = jnp.zeros((1, 2, 1)), jnp.ones((2, 1), bool)
    with pytest.raises(ValueError, match="background must be False with the mixture"):
        posterior(log_p, mask, background=True)


def test_forms_are_named(as_users_have_it):
    with pytest.raises(ValueError, match="form must be mixture, maximum or softmax, got 'mean'"):
        posterior(jnp.zeros((1, 2, 1)), jnp.ones((2, 1), bool), "mean")


# Losses


@pytest.mark.parametrize("seed", range(3))
def test_embedding_loss_by_hand(seed):
    d, mask = modes_of(seed)
    labels = np.array([0, 1, 2, 3, N, 0])  # the fifth is background
    expected = []
    for row, y in zip(d, labels, strict=True):
        if y == N:
            expected.append(0.0)
            continue
        own = min(row[y, k] for k in range(K) if mask[y, k])
        other = min(row[n, k] for n in range(N) for k in range(K) if mask[n, k] and n != y)
        expected.append(max(0.0, own - other + 0.5))
    found = embedding_loss(jnp.asarray(d), jnp.asarray(mask), jnp.asarray(labels), 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    smooth = embedding_loss(jnp.asarray(d), jnp.asarray(mask), jnp.asarray(labels), 0.5, smooth=1e-3)
    np.testing.assert_allclose(smooth, expected, atol=5e-3)


def test_embedding_loss_of_worked_numbers():
    d = jnp.array([[[0.3, 0.9], [0.5, 0.1]]])
    mask = jnp.ones((2, 2), bool)
    assert float(embedding_loss(d, mask, jnp.array([0]), 0.5)[0]) == pytest.approx(0.3 - 0.1 + 0.5)
    assert float(embedding_loss(d, mask, jnp.array([1]), 0.5)[0]) == pytest.approx(0.1 - 0.3 + 0.5)


@pytest.mark.parametrize("smooth", [None, 0.1])
def test_nothing_to_compare_is_no_loss(smooth):
    """One class, or a class without modes: 0 with gradient 0, neither inf nor NaN."""

    def total(d, mask, y):
        return embedding_loss(d, mask, y, 0.5, smooth).sum()

    for mask, y in ((jnp.ones((1, 2), bool), [0]), (jnp.array([[False, False], [True, True]]), [0])):
        d = jnp.ones((1, *mask.shape))
        value, slope = jax.value_and_grad(total)(d, mask, jnp.array(y))
        assert float(value) == 0
        assert (np.asarray(slope) == 0).all()


def test_representative_loss_by_hand():
    rng = np.random.default_rng(0)
    r = rng.normal(size=(3, 2, 5)).astype(np.float32)
    mask = np.array([[True, True], [True, False], [True, True]])
    d = ((r[:, :, None, None] - r[None, None]) ** 2).sum(-1)
    each = []
    for n in range(3):
        for k in range(2):
            if mask[n, k]:
                own = max(d[n, k, n, j] for j in range(2) if mask[n, j])
                other = min(d[n, k, m, j] for m in range(3) for j in range(2) if m != n and mask[m, j])
                each.append(max(0.0, 2.0 + own - other))
    found = representative_loss(jnp.asarray(d), jnp.asarray(mask), 2.0)
    assert float(found) == pytest.approx(np.mean(each), rel=1e-5)


def test_cross_entropy_has_the_background_last():
    found = Posterior(jnp.log(jnp.array([[0.5, 0.2]])), jnp.log(jnp.array([0.3])))
    assert float(cross_entropy(found, jnp.array([2]))[0]) == pytest.approx(-np.log(0.3))
    assert float(cross_entropy(found, jnp.array([1]), 1e-7)[0]) == pytest.approx(-np.log(0.2 + 1e-7))


def test_a_label_out_of_range_is_nan_and_not_clamped():
    found = Posterior(jnp.log(jnp.array([[0.5, 0.5]] * 3)), None)
    loss = np.asarray(cross_entropy(found, jnp.array([-1, 2, 1])))
    np.testing.assert_array_equal(np.isnan(loss), [True, True, False])


@pytest.mark.parametrize("form", ["mixture", "maximum", "softmax"])
def test_nan_is_no_probability(form):
    log_p = jnp.log(jnp.full((2, 3, 1), 0.3)).at[1, 2, 0].set(jnp.nan)
    found = posterior(log_p, jnp.ones((3, 1), bool), form)
    assert jnp.isfinite(found.classes[0]).all()
    assert jnp.isnan(found.classes[1]).any()
