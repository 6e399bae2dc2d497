"""Draws and exact entropy, with decisions that have no choice."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egrljax import decisions

_ALLOWED = np.ones((3, 2, 3), bool)
_ALLOWED[0, 0] = [True, False, False]  # nothing to choose
_ALLOWED[1, 1] = [True, False, True]
_ALLOWED[2] = [[False, False, True], [True, True, False]]
ALLOWED = jnp.asarray(_ALLOWED)


@pytest.fixture
def logits():
    return 2 * jax.random.normal(jax.random.key(0), (3, 2, 3))


def probabilities(logits):
    p = np.exp(np.asarray(logits, np.float64)) * _ALLOWED
    return p / p.sum(-1, keepdims=True)


def test_draws_have_the_softmax_of_what_is_allowed(logits):
    many = jnp.broadcast_to(logits[None], (40_000, 3, 2, 3))
    drawn = np.asarray(decisions.draw(jax.random.key(1), many, ALLOWED))
    assert drawn.dtype == np.int32
    found = np.stack([(drawn == k).mean(0) for k in range(3)], axis=-1)
    np.testing.assert_allclose(found, probabilities(logits), atol=0.01)
    assert (drawn[:, 0, 0] == 0).all()
    assert (drawn[:, 2, 0] == 2).all()
    assert (drawn[:, 1, 1] != 1).all()


def test_entropy_is_that_of_all_maps_over_the_number_of_decisions(logits):
    """By enumeration: decisions are independent, so the entropy of maps is the sum of theirs."""
    p = probabilities(logits)
    total = 0.0
    for choice in itertools.product(range(3), repeat=6):
        q = np.prod([p[i // 2, i % 2, k] for i, k in enumerate(choice)])
        total -= q * np.log(q) if q > 0 else 0
    open_ = (_ALLOWED.sum(-1) > 1).sum()
    np.testing.assert_allclose(decisions.entropy(logits, ALLOWED), total / open_, rtol=1e-5)
    batch = decisions.entropy(jnp.stack([logits, 0 * logits]), ALLOWED)
    assert batch.shape == (2,)
    np.testing.assert_allclose(batch[0], total / open_, rtol=1e-5)
    np.testing.assert_allclose(batch[1], np.log(_ALLOWED.sum(-1)).sum() / open_, rtol=1e-5)


def test_entropy_has_finite_gradients_and_is_zero_without_a_choice(logits):
    gradient = jax.grad(decisions.entropy)(100 * logits, ALLOWED)
    assert jnp.isfinite(gradient).all()
    none = np.zeros((3, 2, 3), bool)
    none[..., 1] = True
    assert float(decisions.entropy(logits, jnp.asarray(none))) == 0
    assert jnp.isfinite(jax.grad(decisions.entropy)(logits, jnp.asarray(none))).all()
