"""Flat vectors against pytrees written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egrljax.genomes import genome

PARAMS = {
    "params": {
        "first": {"bias": jnp.array([0.0, 1.0]), "kernel": jnp.arange(2.0, 8.0).reshape(3, 2)},
        "second": {"deep": jnp.arange(8.0, 16.0).reshape(2, 2, 2), "scalar": jnp.float32(16.0)},
    }
}


def test_a_small_tree_by_hand():
    g = genome(PARAMS)
    assert g.size == 17
    assert g.names == (
        "params/first/bias",
        "params/first/kernel",
        "params/second/deep",
        "params/second/scalar",
    )
    np.testing.assert_array_equal(g.ravel(PARAMS), np.arange(17.0))
    np.testing.assert_array_equal(g.segments, [0] * 2 + [1] * 6 + [2] * 8 + [3])
    np.testing.assert_array_equal(g.rows, [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(g.is_bias, [True] * 2 + [False] * 14 + [True])
    np.testing.assert_array_equal(g.layers, [0] * 8 + [1] * 9)
    assert g.segments.dtype == g.rows.dtype == g.layers.dtype == np.int32


def test_unravel_is_the_inverse_and_vmaps():
    g = genome(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, g.unravel(g.ravel(PARAMS)), PARAMS)
    vectors = jax.random.normal(jax.random.key(0), (4, g.size))
    stacked = jax.vmap(g.unravel)(vectors)
    np.testing.assert_array_equal(jax.vmap(g.ravel)(stacked), vectors)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2], b), stacked, g.unravel(vectors[2]))


def test_a_row_is_what_one_output_unit_is_made_of():
    g = genome(PARAMS)
    x = jnp.array([1.0, -2.0, 0.5])

    def outputs(vector):
        first = g.unravel(vector)["params"]["first"]
        return x @ first["kernel"] + first["bias"]

    changed = np.abs(jax.jacobian(outputs)(g.ravel(PARAMS))) > 0
    in_first = g.layers == 0
    for unit in range(2):
        np.testing.assert_array_equal(changed[unit], in_first & (g.rows == unit))


def test_equal_shapes_make_equal_genomes():
    other = jax.tree.map(lambda x: x + 1, PARAMS)
    assert genome(PARAMS) == genome(other)
    assert hash(genome(PARAMS)) == hash(genome(other))
    renamed = {"params": {"first": PARAMS["params"]["first"], "third": PARAMS["params"]["second"]}}
    assert genome(PARAMS) != genome(renamed)


def test_errors_name_the_tensor():
    with pytest.raises(ValueError, match="at least one tensor"):
        genome({})
    with pytest.raises(ValueError, match=r"non-empty float32 tensors, got a/b: int32\(3,\)"):
        genome({"a": {"b": jnp.zeros(3, jnp.int32)}})
    with pytest.raises(ValueError, match=r"got a: float32\(0, 2\)"):
        genome({"a": jnp.zeros((0, 2))})
    with pytest.raises(ValueError, match="params must have the tensors"):
        genome(PARAMS).ravel({"params": PARAMS["params"]["first"]})
    transposed = jax.tree.map(lambda x: x.T, PARAMS)
    with pytest.raises(ValueError, match=r"first/kernel': \(3, 2\)"):
        genome(PARAMS).ravel(transposed)
