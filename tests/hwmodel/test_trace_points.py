"""Where quantizable points stand, what tied weights and several inputs do, and how things are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import Workload, trace

X = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((3, 3, 4, 4), jnp.float32)
VECTOR = jax.ShapeDtypeStruct((4,), jnp.float32)
SCALAR = jax.ShapeDtypeStruct((), jnp.float32)


def conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def activations(work: Workload) -> list[str]:
    return [point.name for point in work.points if not point.is_weight]


def feeding(work: Workload) -> dict[str, str]:
    """operation -> the point that feeds it."""
    return {op.name: work.points[op.input_point].name for op in work.operations if op.input_point >= 0}


def test_views_vanish():
    def fn(p, x):
        y = jax.nn.relu(conv(x, p["a"])).reshape(2, 16, 4, 4)
        return jnp.squeeze(jnp.expand_dims(y, 0), 0).reshape(2, -1) @ p["fc"]

    work = trace(fn, {"a": KERNEL, "fc": jax.ShapeDtypeStruct((256, 3), jnp.float32)}, X)
    assert [(op.name, op.kind) for op in work.operations] == [("a", "conv"), ("fc", "dense")]
    assert [edge.producer for edge in work.operations[1].parents] == [0]
    assert activations(work) == ["input", "a.activation"]
    assert feeding(work)["fc"] == "a.activation"


def max_pool(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def average_pool(x):
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4.0


@pytest.mark.parametrize(
    ("pool", "pooled", "fed"),
    [
        (max_pool, True, "a.activation"),  # it only chooses among values that are quantized already
        (lambda x: max_pool(x) * 0.3, True, "pool.pool"),
        (average_pool, True, "pool.pool"),
        (average_pool, False, None),  # a mean of quantized values is not on their grid
        (lambda x: jnp.mean(x, (1, 2), keepdims=True), True, "pool.pool"),
        (lambda x: jnp.mean(x, (1, 2), keepdims=True), False, None),
        (lambda x: jax.nn.relu(average_pool(x)), False, "pool.activation"),
    ],
)
def test_which_poolings_have_a_point(pool, pooled, fed):
    def fn(p, x):
        return conv(pool(jax.nn.relu(conv(x, p["a"]))), p["b"])

    work = trace(fn, {"a": KERNEL, "b": KERNEL}, X, quantize_pooled_input=pooled)
    assert [op.kind for op in work.operations] == ["conv", "pool", "conv"]
    assert feeding(work).get("b") == fed


def test_tied_weights_are_one_tensor_and_one_point():
    def fn(p, x):
        return conv(jax.nn.relu(conv(x, p["w"]) + p["c"][None, None, None]), p["w"])

    work = trace(fn, {"w": KERNEL, "c": VECTOR}, X)
    assert [op.name for op in work.operations] == ["w", "w_2"]
    assert [op.w_id for op in work.operations] == [0, 0]
    assert [point.name for point in work.points if point.is_weight] == ["w.weight"]
    assert [op.weight_point for op in work.operations] == [1, 1]


@pytest.mark.parametrize("explicit", [False, True])
def test_a_transposed_weight_is_the_same_tensor(explicit):
    def fn(p, x):
        hidden = jax.nn.relu(x @ p["w"])
        return hidden @ p["w"].T if explicit else jnp.einsum("bk,mk->bm", hidden, p["w"])

    work = trace(
        fn, {"w": jax.ShapeDtypeStruct((6, 3), jnp.float32)}, jax.ShapeDtypeStruct((2, 6), jnp.float32)
    )
    assert [op.w_id for op in work.operations] == [0, 0]
    assert [op.weight_axis for op in work.operations] == [1, 1 if explicit else 0]
    assert len([point for point in work.points if point.is_weight]) == 1


def test_a_name_that_is_taken_is_not_given_again():
    """Two uses of "conv" would be conv and conv_2, but there is a parameter conv_2."""

    def fn(p, x):
        y = conv(conv(x, p["conv"]["kernel"]), p["conv"]["kernel"])
        return conv(y, p["conv_2"]["kernel"])

    work = trace(fn, {"conv": {"kernel": KERNEL}, "conv_2": {"kernel": KERNEL}}, X)
    assert [op.name for op in work.operations] == ["conv", "conv_2", "conv_2_2"]


def test_names_of_plain_trees_and_of_captured_weights():
    captured = np.ones((3, 3, 4, 4), np.float32)

    def fn(p, x):
        normed = p[1][0] / jnp.sqrt(p[1][1])  # the larger leaf gives the name
        return conv(conv(conv(x, p[0]["w"]), normed), captured)

    work = trace(fn, [{"w": KERNEL}, (KERNEL, SCALAR)], X)
    assert [op.name for op in work.operations] == ["0", "1/0", "constant"]
    assert work.column("w_elems").tolist() == [144, 144, 144]


def test_several_inputs_of_which_one_is_not_read():
    def fn(p, x, y, unused):
        return conv(x, p["a"]) + conv(y, p["b"])

    work = trace(fn, {"a": KERNEL, "b": KERNEL}, X, X, X)
    assert activations(work) == ["input", "input_2", "a.linear", "b.linear"]
    assert feeding(work) == {"a": "input", "b": "input_2"}
